"""Questions about a scene with their answers, by families.

A family offers many questions about a scene; `asking` chooses among them so that
what is asked does not tell the answer. The answer is computed from the scene,
and whatever a question speaks of as "the ..." is there exactly once.
"""

import collections
import dataclasses
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
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


@dataclasses.dataclass(frozen=True)
class Asker:
  """Offers questions about a scene, by families.

  Attributes:
    scene: what is asked about.
    rng: of the draws.
    unseen: whether descriptions should name a colour and shape that training
      lacks.
  """

  scene: graph.Scene
  rng: random.Random
  unseen: bool

  def existence(self) -> Iterator[Question]:
    """Is there a red circle?"""
    for subset in phrases.SUBSETS:
      if subset == ("size",):
        continue  # Hardly a scene has things of one size alone.
      there = phrases.describe(self.rng.choice(self.scene.things), subset)
      for said in (there, self._absent(there)):
        if said is not None:
          text = self.rng.choice(_EXISTENCE).format(phrases.one(said))
          answer = _yes(phrases.count(self.scene.things, said) > 0)
          key, is_unseen = ("existence", *subset), phrases.is_unseen(said)
          yield Question(text, answer, key, subset, is_unseen)

  def count(self) -> Iterator[Question]:
    """How many red things are there?"""
    text = self.rng.choice(_COUNT).format("things")
    choices = _numbers(graph.FEWEST, graph.MOST)
    answer = str(len(self.scene.things))
    yield Question(text, answer, ("count",), (), False, choices)
    for subset in _COUNTED:
      # A rarer answer would be waited for in vain.
      most = 2 if len(subset) > 1 else 3 if subset[0] in _ADJECTIVES else 4
      found = collections.Counter(
        tuple(phrases.describe(thing, subset).values())
        for thing in self.scene.things
      )
      options = {number: values for values, number in found.items()}
      there = dict(zip(subset, self.rng.choice(tuple(found))))
      absent = self._absent(there)
      if absent is not None:
        options[0] = tuple(absent.values())
      for number, values in options.items():
        if number <= most:
          said = dict(zip(subset, values))
          text = self.rng.choice(_COUNT).format(phrases.many(said))
          key, is_unseen = ("count", *subset), phrases.is_unseen(said)
          choices = _numbers(0, most)
          yield Question(text, str(number), key, subset, is_unseen, choices)

  def attribute(self) -> Iterator[Question]:
    """What colour is the small star? And the background?"""
    for name in graph.ATTRIBUTES:
      for index, thing in enumerate(self.scene.things):
        if said := self._the(index, name):
          yield self._what(name, phrases.noun(said), thing, (name,), said)
    text, name = self.rng.choice(_BACKGROUND), ("background",)
    choices = tuple(graph.BACKGROUNDS)
    yield Question(text, self.scene.shade, name, name, False, choices)

  def comparison(self) -> Iterator[Question]:
    """Are there more circles than squares? Is the star larger than the ring?"""
    things, rng = self.scene.things, self.rng
    for name in graph.ATTRIBUTES:
      there = getattr(rng.choice(things), name)
      other = rng.choice([v for v in graph.VALUES[name] if v != there])
      yield from self._more({name: there}, {name: other})
      present = sorted({getattr(thing, name) for thing in things})
      if len(present) > 1:
        one, two = rng.sample(present, 2)
        yield from self._more({name: one}, {name: two})
    there = phrases.describe(rng.choice(things), phrases.PAIR)
    other = phrases.altered(there, rng, unseen=self.unseen)
    if other is not None:
      yield from self._more(there, other)
    for name in graph.ATTRIBUTES:
      for nouns, named, about, is_unseen in self._pairs(name):
        values = tuple(getattr(thing, name) for thing in about)
        key = "comparison", "same", name
        text, truth = _SAME[name].format(*nouns), values[0] == values[1]
        if name == "size" and rng.random() < 0.6:
          key = "comparison", "larger"
          word, wanted = rng.choice(tuple(_SIZES.items()))
          text = f"is the {nouns[0]} {word} than the {nouns[1]}?"
          truth = values == wanted
        yield Question(text, _yes(truth), key, (*named, name), is_unseen)

  def relation(self) -> Iterator[Question]:
    """Is the red circle left of the blue star?"""
    for nouns, named, about, is_unseen in self._pairs():
      where = self.rng.choice(tuple(graph.RELATIONS))
      text = f"is the {nouns[0]} {where} the {nouns[1]}?"
      answer = _yes(graph.RELATIONS[where](*about))
      named = (*named, "position")
      yield Question(text, answer, ("relation",), named, is_unseen)

  def multihop(self) -> Iterator[Question]:
    """What colour is the thing left of the star? And the leftmost thing?"""
    things, rng = self.scene.things, self.rng
    for name in graph.ATTRIBUTES:
      word, place = rng.choice(tuple(_EXTREMES.items()))
      thing = min(things, key=place)
      key = "multihop", "extreme", name
      yield self._what(name, f"{word} thing", thing, key, ("position",))
    for index, anchor in enumerate(things):
      for where, holds in graph.RELATIONS.items():
        found = [t for t in things if t is not anchor and holds(t, anchor)]
        # The attribute asked for is not said of the anchor: things of one scene
        # are often alike, so that one's colour would tell of the other's.
        name = rng.choice(graph.ATTRIBUTES)
        said = self._the(index, name)
        if said is None:
          continue
        named = (*said, "position")
        place = f"{where} the {phrases.noun(said)}"
        if len(found) == 1:
          key = "multihop", "hop", name
          question = self._what(name, f"thing {place}", found[0], key, named)
          yield question._replace(unseen=anchor.unseen or question.unseen)
        if len(found) < 4:
          # The more things there are, the more words tell one from others.
          key = "multihop", "hop count", str(len(said))
          text, answer = f"how many things are {place}?", str(len(found))
          choices = _numbers(0, 3)
          yield Question(text, answer, key, named, anchor.unseen, choices)
        asked = {name: getattr(rng.choice(things), name)}
        if asked[name] != getattr(anchor, name):
          text = f"is there {phrases.one(asked)} {place}?"
          answer = _yes(phrases.count(found, asked) > 0)
          key = "multihop", "hop existence", name
          yield Question(text, answer, key, (*named, name), anchor.unseen)

  def _the(self, index: int, *without: str) -> dict[str, str] | None:
    """A description of one thing alone that leaves out some attributes."""
    return phrases.unique_description(
      self.scene, index, self.rng, without=without
    )

  def _what(
    self,
    name: str,
    noun: str,
    thing: graph.Thing,
    key: tuple[str, ...],
    named: Iterable[str],
  ) -> Question:
    """A question for an attribute of a thing, which the noun means."""
    text = self.rng.choice(_ATTRIBUTE[name]).format(noun)
    answer, choices = getattr(thing, name), graph.VALUES[name]
    return Question(text, answer, key, (*named, name), thing.unseen, choices)

  def _absent(self, there: phrases.Description) -> dict[str, str] | None:
    """A description of nothing in the scene, but close to one that is."""
    unseen = self.unseen and set(phrases.PAIR) <= set(there)
    for _ in range(6):
      said = phrases.altered(there, self.rng, unseen=unseen)
      if said is not None and not phrases.count(self.scene.things, said):
        return said
    return None

  def _more(
    self, one: phrases.Description, two: phrases.Description
  ) -> Iterator[Question]:
    """Are there more of one than of two? And the other way round."""
    for pair in ((one, two), (two, one)):
      word = self.rng.choice(("more", "fewer"))
      counts = [phrases.count(self.scene.things, said) for said in pair]
      first, second = map(phrases.many, pair)
      text = f"are there {word} {first} than {second}?"
      answer = _yes(phrases.COMPARED[word](*counts))
      key = "comparison", "more", *one
      is_unseen = any(map(phrases.is_unseen, pair))
      yield Question(text, answer, key, tuple(one), is_unseen)

  def _pairs(
    self, *without: str
  ) -> Iterator[tuple[list[str], tuple[str, ...], list[graph.Thing], bool]]:
    """Nouns that mean two things, attributes in them, the things, if unseen."""
    things = self.scene.things
    order = self.rng.sample(range(len(things)), len(things))
    for i, j in itertools.pairwise(order):
      said = [s for k in (i, j) if (s := self._the(k, *without))]
      if len(said) == 2:
        nouns = [phrases.noun(description) for description in said]
        named = tuple(dict.fromkeys((*said[0], *said[1])))
        about = [things[i], things[j]]
        yield nouns, named, about, any(thing.unseen for thing in about)


Family = Callable[[Asker], Iterator[Question]]
# With how often each is asked.
FAMILIES: dict[Family, float] = {
  Asker.existence: 1.0,
  Asker.count: 1.5,
  Asker.attribute: 2.5,
  Asker.comparison: 1.0,
  Asker.relation: 1.0,
  Asker.multihop: 1.5,
}


def _yes(truth: bool) -> str:
  return "yes" if truth else "no"


def _numbers(low: int, high: int) -> tuple[str, ...]:
  return tuple(str(number) for number in range(low, high + 1))
