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
    kind: the family or, of the family of attributes, what is asked for.
    key: questions of one key are to have each of `choices` equally often.
    choices: the answers that questions of this key have.
    attributes: the attributes that it names or asks for, or "background".
    unseen: whether it names, or is about, a colour and shape that training does
      not have.
  """

  text: str
  answer: str
  kind: str
  key: tuple[str, ...]
  choices: tuple[str, ...]
  attributes: tuple[str, ...]
  unseen: bool


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
          rng.choice(_EXISTENCE).format(phrases.a(phrases.noun(said))),
          _yes(phrases.count(scene.things, said) > 0),
          "existence",
          ("existence", *subset),
          YES_NO,
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
    "count",
    ("count",),
    tuple(str(i) for i in range(graph.FEWEST, graph.MOST + 1)),
    (),
    False,
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
          rng.choice(_COUNT).format(phrases.noun(said, plural=True)),
          str(number),
          "count",
          ("count", *subset),
          tuple(str(i) for i in range(most + 1)),
          subset,
          phrases.is_unseen(said),
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
        yield Question(
          rng.choice(_ATTRIBUTE[name]).format(phrases.noun(said)),
          getattr(thing, name),
          name,
          ("attribute", name),
          graph.VALUES[name],
          (*said, name),
          thing.unseen,
        )
  yield Question(
    rng.choice(_BACKGROUND),
    scene.shade,
    "background",
    ("background",),
    tuple(graph.BACKGROUNDS),
    ("background",),
    False,
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
    for one, two, about in _pairs(scene, rng, without=(name,)):
      nouns = phrases.noun(one), phrases.noun(two)
      values = [getattr(thing, name) for thing in about]
      named = (*dict.fromkeys((*one, *two)), name)
      is_unseen = any(thing.unseen for thing in about)
      if name == "size" and rng.random() < 0.6:
        word = rng.choice(("larger", "smaller"))
        wanted = ["large", "small"] if word == "larger" else ["small", "large"]
        yield Question(
          f"is the {nouns[0]} {word} than the {nouns[1]}?",
          _yes(values == wanted),
          "comparison",
          ("larger",),
          YES_NO,
          named,
          is_unseen,
        )
      else:
        yield Question(
          _SAME[name].format(*nouns),
          _yes(values[0] == values[1]),
          "comparison",
          ("same", name),
          YES_NO,
          named,
          is_unseen,
        )


def relation(
  scene: graph.Scene, rng: random.Random, unseen: bool
) -> Iterator[Question]:
  """Is the red circle left of the blue star?"""
  del unseen  # Every thing is asked about.
  for one, two, about in _pairs(scene, rng):
    where = rng.choice(tuple(graph.RELATIONS))
    yield Question(
      f"is the {phrases.noun(one)} {where} the {phrases.noun(two)}?",
      _yes(graph.RELATIONS[where](*about)),
      "relation",
      ("relation",),
      YES_NO,
      (*dict.fromkeys((*one, *two)), "position"),
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
    yield Question(
      rng.choice(_ATTRIBUTE[name]).format(f"{word} thing"),
      getattr(thing, name),
      "multihop",
      ("extreme", name),
      graph.VALUES[name],
      ("position", name),
      thing.unseen,
    )
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
        yield Question(
          rng.choice(_ATTRIBUTE[name]).format(f"thing {place}"),
          getattr(found[0], name),
          "multihop",
          ("hop", name),
          graph.VALUES[name],
          (*named, name),
          anchor.unseen or found[0].unseen,
        )
      if len(found) < 4:
        yield Question(
          f"how many things are {place}?",
          str(len(found)),
          "multihop",
          # The more things there are, the more words tell one from the others.
          ("hop count", str(len(said))),
          ("0", "1", "2", "3"),
          named,
          anchor.unseen,
        )
      asked = {name: getattr(rng.choice(scene.things), name)}
      if asked[name] != getattr(anchor, name):
        yield Question(
          f"is there {phrases.a(phrases.noun(asked))} {place}?",
          _yes(phrases.count(found, asked) > 0),
          "multihop",
          ("hop existence", name),
          YES_NO,
          (*named, name),
          anchor.unseen,
        )


# With how often each is asked.
FAMILIES: dict[str, tuple[Family, float]] = {
  "existence": (existence, 1.0),
  "count": (count, 1.5),
  "attribute": (attribute, 2.5),
  "comparison": (comparison, 1.0),
  "relation": (relation, 1.0),
  "multihop": (multihop, 1.5),
}


def _yes(truth: bool) -> str:
  return "yes" if truth else "no"


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
    truth = counts[0] > counts[1] if word == "more" else counts[0] < counts[1]
    nouns = [phrases.noun(said, plural=True) for said in (first, second)]
    yield Question(
      f"are there {word} {nouns[0]} than {nouns[1]}?",
      _yes(truth),
      "comparison",
      ("more", *first),
      YES_NO,
      tuple(first),
      phrases.is_unseen(first) or phrases.is_unseen(second),
    )


def _pairs(
  scene: graph.Scene, rng: random.Random, *, without: tuple[str, ...] = ()
) -> Iterator[
  tuple[dict[str, str], dict[str, str], tuple[graph.Thing, graph.Thing]]
]:
  """Descriptions of two things each, and the things."""
  order = rng.sample(range(len(scene.things)), len(scene.things))
  for i, j in zip(order, order[1:]):
    said = [
      phrases.unique_description(scene, index, rng, without=without)
      for index in (i, j)
    ]
    if said[0] is not None and said[1] is not None:
      yield said[0], said[1], (scene.things[i], scene.things[j])
