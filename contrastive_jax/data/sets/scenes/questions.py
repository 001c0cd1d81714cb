"""Questions about a scene with their answers, by families.

A family offers many questions about a scene; `asking` chooses among them so that
what is asked does not tell the answer. The answer is computed from the scene,
and whatever a question speaks of as "the ..." is there exactly once.
"""

import collections
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from contrastive_jax.data.sets.scenes import graph, phrases

YES_NO = ("yes", "no")
# Every answer there is, in the order in which candidates are ranked.
ANSWERS = (
  *YES_NO,
  *(str(i) for i in range(graph.MOST + 1)),
  *graph.VALUES["colour"],
  *graph.VALUES["shape"],
  *graph.VALUES["size"],
  *graph.VALUES["texture"],
  *graph.BACKGROUNDS,
)
_ADJECTIVES = ("size", "texture")
_COUNTED = (
  ("colour",),
  ("shape",),
  ("size",),
  ("texture",),
  ("colour", "shape"),
  ("size", "colour"),
  ("texture", "shape"),
)
_EXISTENCE = (
  "is there {}?",
  "can you see {}?",
  "does the picture show {}?",
  "is there {} in the picture?",
)
_COUNT = (
  "how many {} are there?",
  "how many {} can you see?",
  "what number of {} is in the picture?",
)
_ATTRIBUTE = {
  "colour": ("what colour is the {}?", "which colour does the {} have?"),
  "shape": ("what shape is the {}?", "which shape does the {} have?"),
  "size": ("is the {} small or large?", "what size is the {}?"),
  "texture": (
    "is the {} plain, striped or dotted?",
    "what texture does the {} have?",
  ),
}
_BACKGROUND = (
  "what shade is the background?",
  "is the background dark, grey or light?",
)
_SAME = {
  "colour": "do the {} and the {} have the same colour?",
  "shape": "do the {} and the {} have the same shape?",
  "size": "are the {} and the {} of the same size?",
  "texture": "do the {} and the {} have the same texture?",
}
# With the sizes of two things of which it is so.
_SIZES = {"larger": ("large", "small"), "smaller": ("small", "large")}
_EXTREMES = {
  "leftmost": lambda thing: thing.x,
  "rightmost": lambda thing: -thing.x,
  "topmost": lambda thing: thing.y,
  "lowest": lambda thing: -thing.y,
}


class Question(NamedTuple):
  """A question that can be asked about a scene.

  Attributes:
    text: what is asked.
    answer: one of `choices`.
    key: its kind (the family or, of the family of attributes, what is asked
      for) and more: questions of one key are to have each of `choices` equally
      often.
    attributes: the attributes that it names or asks for, or "background".
    unseen: whether it names, or is about, a colour and shape that training does
      not have.
    choices: the answers that questions of this key have.
  """

  text: str
  answer: str
  key: tuple[str, ...]
  attributes: tuple[str, ...]
  unseen: bool
  choices: tuple[str, ...] = YES_NO

  @property
  def fields(self) -> dict[str, str]:
    """The fields of its record."""
    return {
      "question": self.text,
      "answer": self.answer,
      "kind": self.key[0],
      "attributes": ",".join(self.attributes),
    }


Family = Callable[[graph.Scene, random.Random, bool], Iterator[Question]]


def existence(
  scene: graph.Scene, rng: random.Random, unseen: bool
) -> Iterator[Question]:
  """Is there a red circle?"""
  for subset in phrases.SUBSETS:
    if subset == ("size",):
      continue  # Hardly a scene has things of one size alone.
    there = phrases.describe(rng.choice(scene.things), subset)
    for said in (there, _absent(scene, there, rng, unseen)):
      if said is not None:
        yield Question(
          rng.choice(_EXISTENCE).format(phrases.one(said)),
          _yes(phrases.count(scene.things, said) > 0),
          ("existence", *subset),
          subset,
          phrases.is_unseen(said),
        )


def count(
  scene: graph.Scene, rng: random.Random, unseen: bool
) -> Iterator[Question]:
  """How many red things are there?"""
  yield Question(
    rng.choice(_COUNT).format("things"),
    str(len(scene.things)),
    ("count",),
    (),
    False,
    tuple(str(i) for i in range(graph.FEWEST, graph.MOST + 1)),
  )
  for subset in _COUNTED:
    # What is rarer would be waited for in vain.
    most = 2 if len(subset) > 1 else 3 if subset[0] in _ADJECTIVES else 4
    found = collections.Counter(
      tuple(phrases.describe(thing, subset).values()) for thing in scene.things
    )
    options = {number: values for values, number in found.items()}
    there = dict(zip(subset, rng.choice(tuple(found))))
    absent = _absent(scene, there, rng, unseen)
    if absent is not None:
      options[0] = tuple(absent.values())
    for number, values in options.items():
      if number <= most:
        said = dict(zip(subset, values))
        yield Question(
          rng.choice(_COUNT).format(phrases.many(said)),
          str(number),
          ("count", *subset),
          subset,
          phrases.is_unseen(said),
          tuple(str(i) for i in range(most + 1)),
        )


def attribute(
  scene: graph.Scene, rng: random.Random, unseen: bool
) -> Iterator[Question]:
  """What colour is the small star? And the background?"""
  del unseen  # Every thing is asked about.
  for name in graph.ATTRIBUTES:
    for index, thing in enumerate(scene.things):
      said = phrases.unique_description(scene, index, rng, without=(name,))
      if said is not None:
        yield _what(name, phrases.noun(said), thing, rng, (name,), tuple(said))
  yield Question(
    rng.choice(_BACKGROUND),
    scene.shade,
    ("background",),
    ("background",),
    False,
    tuple(graph.BACKGROUNDS),
  )


def comparison(
  scene: graph.Scene, rng: random.Random, unseen: bool
) -> Iterator[Question]:
  """Are there more circles than squares? Is the star larger than the ring?"""
  for name in graph.ATTRIBUTES:
    there = getattr(rng.choice(scene.things), name)
    other = rng.choice([v for v in graph.VALUES[name] if v != there])
    yield from _more({name: there}, {name: other}, scene, rng)
    present = sorted({getattr(thing, name) for thing in scene.things})
    if len(present) > 1:
      one, two = rng.sample(present, 2)
      yield from _more({name: one}, {name: two}, scene, rng)
  there = phrases.describe(rng.choice(scene.things), phrases.PAIR)
  other = phrases.altered(there, rng, unseen=unseen)
  if other is not None:
    yield from _more(there, other, scene, rng)
  for name in graph.ATTRIBUTES:
    for nouns, named, about in _pairs(scene, rng, without=(name,)):
      values = tuple(getattr(thing, name) for thing in about)
      key = "same", name
      text, truth = _SAME[name].format(*nouns), values[0] == values[1]
      if name == "size" and rng.random() < 0.6:
        key = ("larger",)
        word, wanted = rng.choice(tuple(_SIZES.items()))
        text = f"is the {nouns[0]} {word} than the {nouns[1]}?"
        truth = values == wanted
      yield Question(
        text,
        _yes(truth),
        ("comparison", *key),
        (*named, name),
        any(thing.unseen for thing in about),
      )


def relation(
  scene: graph.Scene, rng: random.Random, unseen: bool
) -> Iterator[Question]:
  """Is the red circle left of the blue star?"""
  del unseen  # Every thing is asked about.
  for nouns, named, about in _pairs(scene, rng):
    where = rng.choice(tuple(graph.RELATIONS))
    yield Question(
      f"is the {nouns[0]} {where} the {nouns[1]}?",
      _yes(graph.RELATIONS[where](*about)),
      ("relation",),
      (*named, "position"),
      any(thing.unseen for thing in about),
    )


def multihop(
  scene: graph.Scene, rng: random.Random, unseen: bool
) -> Iterator[Question]:
  """What colour is the thing left of the star? And the leftmost thing?"""
  del unseen  # Every thing is asked about.
  for name in graph.ATTRIBUTES:
    word, place = rng.choice(tuple(_EXTREMES.items()))
    thing = min(scene.things, key=place)
    key = "multihop", "extreme", name
    yield _what(name, f"{word} thing", thing, rng, key, ("position",))
  for index, anchor in enumerate(scene.things):
    for where, holds in graph.RELATIONS.items():
      found = [t for t in scene.things if t is not anchor and holds(t, anchor)]
      # What is asked for is not said of the anchor: things of one scene are
      # often alike, so that one's colour would tell of the other's.
      name = rng.choice(graph.ATTRIBUTES)
      said = phrases.unique_description(scene, index, rng, without=(name,))
      if said is None:
        continue
      named = (*said, "position")
      place = f"{where} the {phrases.noun(said)}"
      if len(found) == 1:
        key = "multihop", "hop", name
        question = _what(name, f"thing {place}", found[0], rng, key, named)
        yield question._replace(unseen=anchor.unseen or question.unseen)
      if len(found) < 4:
        yield Question(
          f"how many things are {place}?",
          str(len(found)),
          # The more things there are, the more words tell one from the others.
          ("multihop", "hop count", str(len(said))),
          named,
          anchor.unseen,
          ("0", "1", "2", "3"),
        )
      asked = {name: getattr(rng.choice(scene.things), name)}
      if asked[name] != getattr(anchor, name):
        yield Question(
          f"is there {phrases.one(asked)} {place}?",
          _yes(phrases.count(found, asked) > 0),
          ("multihop", "hop existence", name),
          (*named, name),
          anchor.unseen,
        )


# With how often each is asked.
FAMILIES: dict[Family, float] = {
  existence: 1.0,
  count: 1.5,
  attribute: 2.5,
  comparison: 1.0,
  relation: 1.0,
  multihop: 1.5,
}


def _yes(truth: bool) -> str:
  return "yes" if truth else "no"


def _what(
  name: str,
  noun: str,
  thing: graph.Thing,
  rng: random.Random,
  key: tuple[str, ...],
  named: tuple[str, ...],
) -> Question:
  """A question for an attribute of a thing, which the noun means."""
  return Question(
    rng.choice(_ATTRIBUTE[name]).format(noun),
    getattr(thing, name),
    key,
    (*named, name),
    thing.unseen,
    graph.VALUES[name],
  )


def _absent(
  scene: graph.Scene,
  there: phrases.Description,
  rng: random.Random,
  unseen: bool,
) -> dict[str, str] | None:
  """A description of nothing in the scene, but close to one that is."""
  for _ in range(6):
    unseen_pair = unseen and set(phrases.PAIR) <= set(there)
    said = phrases.altered(there, rng, unseen=unseen_pair)
    if said is not None and not phrases.count(scene.things, said):
      return said
  return None


def _more(
  one: phrases.Description,
  two: phrases.Description,
  scene: graph.Scene,
  rng: random.Random,
) -> Iterator[Question]:
  """Are there more of one than of two? And the other way round."""
  for first, second in ((one, two), (two, one)):
    word = rng.choice(("more", "fewer"))
    counts = [phrases.count(scene.things, said) for said in (first, second)]
    yield Question(
      f"are there {word} {phrases.many(first)} than {phrases.many(second)}?",
      _yes(phrases.COMPARED[word](*counts)),
      ("comparison", "more", *first),
      tuple(first),
      phrases.is_unseen(first) or phrases.is_unseen(second),
    )


def _pairs(
  scene: graph.Scene, rng: random.Random, *, without: tuple[str, ...] = ()
) -> Iterator[
  tuple[list[str], tuple[str, ...], tuple[graph.Thing, graph.Thing]]
]:
  """Nouns that mean two things each, attributes that they name, the things."""
  order = rng.sample(range(len(scene.things)), len(scene.things))
  for i, j in zip(order, order[1:]):
    said = [
      phrases.unique_description(scene, index, rng, without=without)
      for index in (i, j)
    ]
    found = [description for description in said if description is not None]
    if len(found) == 2:
      named = tuple(dict.fromkeys((*found[0], *found[1])))
      about = scene.things[i], scene.things[j]
      yield [*map(phrases.noun, found)], named, about
