"""Meaning of texts about scenes, read again from their words alone.

Written from the texts and the JSON of scenes, without the code that makes them,
so that both must be wrong in the same way for a wrong answer to pass.
"""

import itertools
import re

SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
COLOURS = tuple("red orange yellow green cyan blue purple pink".split())
SHAPES = tuple("circle square triangle star cross heart diamond ring".split())
ATTRIBUTES = {
  **dict.fromkeys(SIZES, "size"),
  **dict.fromkeys(TEXTURES, "texture"),
  **dict.fromkeys(COLOURS, "colour"),
  **dict.fromkeys(SHAPES, "shape"),
}
NUMBERS = ("no", "one", "two", "three", "four", "five")
_ADJECTIVE = "|".join((*SIZES, *TEXTURES, *COLOURS))
_NAME = "|".join((*SHAPES, "thing"))
NOUN = rf"((?:(?:{_ADJECTIVE}) )*(?:{_NAME})(?:e?s)?)"
WHERE = "(left of|right of|above|below)"
_NUMBER = f"({'|'.join(NUMBERS)})"
_THE = r"the ([a-z ]+?)"
_SIDE = "(left|right)"


def description(noun):
  """Attributes of "large red stars"."""
  *adjectives, name = noun.split()
  name = next(n for n in (*SHAPES, "thing") if name in (n, f"{n}s", f"{n}es"))
  words = [*adjectives, *([] if name == "thing" else [name])]
  return {ATTRIBUTES[word]: word for word in words}


def matching(things, noun):
  said = description(noun)
  return [
    thing
    for thing in things
    if all(thing[name] == value for name, value in said.items())
  ]


def placed(a, b, where):
  """Whether a is there of b."""
  return {
    "left of": a["x"] < b["x"],
    "right of": a["x"] > b["x"],
    "above": a["y"] < b["y"],
    "below": a["y"] > b["y"],
  }[where]


def the(things, text):
  """The only thing that is meant; fails if it is not the only one."""
  extreme = re.fullmatch(r"(leftmost|rightmost|topmost|lowest) thing", text)
  if extreme:
    axis = "x" if extreme[1] in ("leftmost", "rightmost") else "y"
    order = sorted(things, key=lambda thing: thing[axis])
    return order[0 if extreme[1] in ("leftmost", "topmost") else -1]
  hop = re.fullmatch(rf"thing {WHERE} the {NOUN}", text)
  if hop:
    anchor = the(things, hop[2])
    found = [t for t in things if t is not anchor and placed(t, anchor, hop[1])]
  else:
    found = matching(things, text)
  assert len(found) == 1, (text, found)
  return found[0]


def yes(truth):
  return "yes" if truth else "no"


def answer(question, scene):
  """The answer to a question; fails if it has none."""
  things = scene["things"]
  for pattern, rule in _QUESTIONS:
    found = re.fullmatch(pattern, question)
    if found:
      return rule(things, *found.groups())
  if re.search("background", question):
    level = scene["background"]
    return "dark" if level < 90 else "grey" if level < 170 else "light"
  raise AssertionError(question)


def _get(name):
  return lambda things, text: the(things, text)[name]


def _more(things, word, one, two):
  a, b = len(matching(things, one)), len(matching(things, two))
  return yes(a > b if word == "more" else a < b)


def _larger(things, one, word, two):
  sizes = the(things, one)["size"], the(things, two)["size"]
  return yes(sizes == (SIZES[::-1] if word == "larger" else SIZES))


def _same(name):
  return lambda things, one, two: yes(
    the(things, one)[name] == the(things, two)[name]
  )


def _hop_count(things, where, anchor):
  centre = the(things, anchor)
  return str(sum(placed(t, centre, where) for t in things if t is not centre))


def _hop_existence(things, noun, where, anchor):
  centre = the(things, anchor)
  return yes(any(placed(t, centre, where) for t in matching(things, noun)))


_QUESTIONS = [
  (rf"is there an? {NOUN} {WHERE} the {NOUN}\?", _hop_existence),
  (
    rf"(?:is there|can you see|does the picture show) an? {NOUN}"
    r"(?: in the picture)?\?",
    lambda things, noun: yes(matching(things, noun)),
  ),
  (rf"how many things are {WHERE} the {NOUN}\?", _hop_count),
  (
    rf"(?:how many|what number of) {NOUN} "
    r"(?:are there|can you see|is in the picture)\?",
    lambda things, noun: str(len(matching(things, noun))),
  ),
  (rf"are there (more|fewer) {NOUN} than {NOUN}\?", _more),
  (rf"is the {NOUN} (larger|smaller) than the {NOUN}\?", _larger),
  (rf"do the {NOUN} and the {NOUN} have the same colour\?", _same("colour")),
  (rf"do the {NOUN} and the {NOUN} have the same shape\?", _same("shape")),
  (rf"do the {NOUN} and the {NOUN} have the same texture\?", _same("texture")),
  (rf"are the {NOUN} and the {NOUN} of the same size\?", _same("size")),
  (
    rf"is the {NOUN} {WHERE} the {NOUN}\?",
    lambda things, a, where, b: yes(
      placed(the(things, a), the(things, b), where)
    ),
  ),
  (rf"(?:what colour is|which colour does) {_THE}(?: have)?\?", _get("colour")),
  (rf"(?:what shape is|which shape does) {_THE}(?: have)?\?", _get("shape")),
  (rf"is {_THE} small or large\?", _get("size")),
  (rf"what size is {_THE}\?", _get("size")),
  (rf"is (?!the background){_THE} plain, striped or dotted\?", _get("texture")),
  (rf"what texture does {_THE} have\?", _get("texture")),
]


def truth(statement, left, right):
  """Whether a statement about two images is true."""
  images = {"left": left["things"], "right": right["things"]}
  for pattern, rule in _STATEMENTS:
    found = re.fullmatch(pattern, statement)
    if found:
      return bool(rule(images, *found.groups()))
  raise AssertionError(statement)


def _numbers(images, noun):
  return [len(matching(things, noun)) for things in images.values()]


def _sides(images, side, noun, other=None):
  here = matching(images[side], noun)
  if other is None:
    return here
  (rest,) = (images[name] for name in images if name != side)
  return here and bool(matching(rest, noun)) == (other == "so has")


def _across(images, word, one, side, two=None):
  here = len(matching(images[side], one))
  (rest,) = (images[name] for name in images if name != side)
  there = len(matching(rest, two or one))
  return here > there if word == "more" else here < there


def related(things, one, where, two):
  return any(
    placed(a, b, where)
    for a in matching(things, one)
    for b in matching(things, two)
    if a is not b
  )


_STATEMENTS = [
  (
    rf"(?:both images have an? {NOUN}|there is an? {NOUN} in each of the two"
    r" images)\.",
    lambda images, a, b: all(_numbers(images, a or b)),
  ),
  (
    rf"neither of the images has an? {NOUN}\.",
    lambda images, noun: not any(_numbers(images, noun)),
  ),
  (
    rf"only one of the images has an? {NOUN}\.",
    lambda images, noun: sum(map(bool, _numbers(images, noun))) == 1,
  ),
  (
    rf"at least one of the images has an? {NOUN}\.",
    lambda images, noun: any(_numbers(images, noun)),
  ),
  (
    rf"there is an? {NOUN} in the {_SIDE} image\.",
    lambda images, noun, side: _sides(images, side, noun),
  ),
  (
    rf"the {_SIDE} image has an? {NOUN} and the (?:left|right) one has (not)\.",
    _sides,
  ),
  (
    rf"the {_SIDE} image has an? {NOUN} and (so has) the (?:left|right) one\.",
    _sides,
  ),
  (
    rf"at least one of the images has exactly {_NUMBER} {NOUN}\.",
    lambda images, number, noun: (
      NUMBERS.index(number) in _numbers(images, noun)
    ),
  ),
  (
    rf"there (?:is|are) exactly {_NUMBER} {NOUN} in the two images together\.",
    lambda images, number, noun: (
      NUMBERS.index(number) == sum(_numbers(images, noun))
    ),
  ),
  (
    rf"the {_SIDE} image has exactly {_NUMBER} {NOUN}\.",
    lambda images, side, number, noun: (
      NUMBERS.index(number) == len(matching(images[side], noun))
    ),
  ),
  (
    rf"there are (more|fewer) {NOUN} in the {_SIDE} image than in the"
    r" (?:left|right) one\.",
    _across,
  ),
  (
    rf"there are (more|fewer) {NOUN} in the {_SIDE} image than {NOUN} in the"
    r" (?:left|right) one\.",
    _across,
  ),
  (
    rf"both images have the same number of {NOUN}\.",
    lambda images, noun: len(set(_numbers(images, noun))) == 1,
  ),
  (
    rf"in at least one of the images an? {NOUN} is {WHERE} an? {NOUN}\.",
    lambda images, a, where, b: any(
      related(things, a, where, b) for things in images.values()
    ),
  ),
  (
    rf"in the {_SIDE} image an? {NOUN} is {WHERE} an? {NOUN}\.",
    lambda images, side, a, where, b: related(images[side], a, where, b),
  ),
]


def judge(hypothesis, scene):
  """The label of a hypothesis, by what may be behind the cover.

  Things are put behind it in many ways, and the hypothesis is true or false of
  each of these worlds.
  """
  region, holds, nouns = _read(hypothesis)
  cover = scene["cover"]
  seen = [t for t in scene["things"] if not (cover and inside(t, cover))]
  truths = set()
  for hidden in _fillings(cover, nouns):
    world = [t for t in (*seen, *hidden) if not region or inside(t, region)]
    truths.add(holds(world))
  truths.discard(None)
  assert truths, hypothesis
  return 1 if len(truths) > 1 else 2 if truths.pop() else 0


def inside(thing, half):
  return {
    "left": thing["x"] < 0.5,
    "right": thing["x"] > 0.5,
    "top": thing["y"] < 0.5,
    "bottom": thing["y"] > 0.5,
  }[half]


def region_of(hypothesis):
  found = re.search(r"in the (left|right|top|bottom) half", hypothesis)
  return found[1] if found else ""


def _fillings(cover, nouns):
  """Things that may be behind the cover."""
  yield []
  if not cover:
    return
  places = [
    {"x": x, "y": y}
    for x, y in itertools.product((0.02, 0.45, 0.55, 0.98), repeat=2)
    if inside({"x": x, "y": y}, cover)
  ]
  said = [description(noun) for noun in nouns]
  values = {
    name: [v for v, of in ATTRIBUTES.items() if of == name]
    for name in ("size", "texture", "colour", "shape")
  }
  other = {
    name: next((v for v in of if v not in [d.get(name) for d in said]), of[0])
    for name, of in values.items()
  }
  kinds = [{**other, **d} for d in said] + [other]
  for kind, place in itertools.product(kinds, places):
    for copies in range(1, 7):
      yield [{**kind, **place}] * copies
  for one, two in itertools.product(places, repeat=2):
    yield [{**kinds[0], **one}, {**kinds[-2], **two}]


def _read(hypothesis):
  region = region_of(hypothesis)
  where = r" in the (?:picture|(?:left|right|top|bottom) half)"
  found = re.fullmatch(rf"there is (no|an?) {NOUN}{where}\.", hypothesis)
  if found:
    word, noun = found.groups()
    return region, lambda w: bool(matching(w, noun)) == (word != "no"), [noun]
  found = re.fullmatch(
    rf"there (?:is|are) (exactly|at least) {_NUMBER} {NOUN}{where}\.",
    hypothesis,
  )
  if found:
    word, number, noun = found[1], NUMBERS.index(found[2]), found[3]
    return (
      region,
      lambda w: (
        len(matching(w, noun)) == number
        if word == "exactly"
        else len(matching(w, noun)) >= number
      ),
      [noun],
    )
  found = re.fullmatch(rf"all things{where} are ([a-z ]+)\.", hypothesis)
  if found:
    noun = found[1]
    if noun in ATTRIBUTES and ATTRIBUTES[noun] != "shape":
      noun += " thing"
    return (
      region,
      lambda w: len(matching(w, noun)) == len(w) if w else None,
      [noun],
    )
  found = re.fullmatch(
    rf"there are more {NOUN} than {NOUN}{where}\.", hypothesis
  )
  if found:
    one, two = found.groups()
    return (
      region,
      lambda w: len(matching(w, one)) > len(matching(w, two)),
      [one, two],
    )
  found = re.fullmatch(rf"an? {NOUN} is {WHERE} an? {NOUN}\.", hypothesis)
  assert found, hypothesis
  one, place, two = found.groups()
  return region, lambda w: related(w, one, place, two), [one, two]
