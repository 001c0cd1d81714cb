"""Captions: true, each of some of a scene's facts, of private ones never."""

import collections
import dataclasses
import random
from collections.abc import Collection, Iterable

from contrastive_jax.data.sets.scenes import graph, phrases

_OPENINGS = (
  "",
  "",
  "",
  "there is ",
  "a picture of ",
  "an image with ",
  "we see ",
)
_ALL_OF = ("all things are {}", "only {} things", "everything is {}")
# How often captions name an attribute that they may.
_NAMED = {"size": 0.4, "texture": 0.5, "colour": 0.9, "shape": 0.95}
_ROTATED = 0.3
_TRIES = 40


def captions(
  scene: graph.Scene,
  rng: random.Random,
  *,
  number: int,
  private: Collection[str],
) -> list[dict[str, str]]:
  """Writes captions of a scene.

  Args:
    scene: any, without a cover.
    rng: of the draws.
    number: of captions.
    private: of `settings.FACTS`, those that they do not mention.

  Returns:
    The fields of captions, different where there is enough to say. If the
    scene has a thing of a colour and shape that training lacks, the first tells
    of it.
  """
  writer = _Writer(scene, rng, private)
  unseen = [thing for thing in scene.things if thing.unseen]
  found = {writer.of_thing(rng.choice(unseen)): None} if unseen else {}
  ways = {
    way: often
    for way, often in _WAYS.items()
    if "position" not in private or way not in (_Writer.relation, _Writer.place)
  }
  for _ in range(_TRIES):
    if len(found) >= number:
      break
    found[graph.draw(ways, rng)(writer)] = None
  out = list(found)[:number]
  # With nearly everything private there are but few ways to put it.
  out += [rng.choice(out) for _ in range(number - len(out))]
  return [{"text": text} for text in out]


@dataclasses.dataclass(frozen=True)
class _Writer:
  """Writer of one scene's captions."""

  scene: graph.Scene
  rng: random.Random
  private: Collection[str]

  def some_things(self) -> str:
    """Caption of one thing or more, and of all that fit the same words."""
    things = self.scene.things
    number = self.rng.randint(1, len(things))
    return self._list_of(self.rng.sample(things, number), self._attributes())

  def all_things(self) -> str:
    """Caption of all things."""
    return self._list_of(self.scene.things, self._attributes())

  def of_thing(self, thing: graph.Thing) -> str:
    """Caption of one thing, by its colour and shape and perhaps more."""
    attributes = self._attributes()
    attributes |= {name for name in phrases.PAIR if name not in self.private}
    return self._list_of([thing], attributes)

  def number(self) -> str:
    """How many things there are, and perhaps what one of them is."""
    things = phrases.some(len(self.scene.things), "thing")
    if self.rng.random() < 0.3:
      return self._finished(things)
    one = self._one(self.rng.choice(self.scene.things))
    form = self.rng.choice(("{}, one of them {}", "{}, among them {}"))
    return self._finished(form.format(things, one))

  def share(self) -> str:
    """How many of the things have something in common."""
    allowed = [name for name in graph.ATTRIBUTES if name not in self.private]
    if not allowed:
      return self.number()
    name = self.rng.choice(allowed)
    value = getattr(self.rng.choice(self.scene.things), name)
    found = phrases.count(self.scene.things, {name: value})
    everything = len(self.scene.things)
    if name == "shape":
      return self._finished(
        phrases.some(found, value)
        if found < everything
        else f"only {phrases.plural_of(value)}"
      )
    if found == everything:
      return self.rng.choice(_ALL_OF).format(value)
    verb = "is" if found == 1 else "are"
    return (
      f"{phrases.NUMBERS[found]} of the {phrases.NUMBERS[everything]} things"
      f" {verb} {value}"
    )

  def relation(self) -> str:
    """Where a thing is from another."""
    first, second = self.rng.sample(self.scene.things, 2)
    where = self.rng.choice(
      [name for name, holds in graph.RELATIONS.items() if holds(first, second)]
    )
    one, two = self._one(first), self._one(second)
    return f"{one}{self.rng.choice((' ', ' is '))}{where} {two}"

  def place(self) -> str:
    """Where a thing is in the picture."""
    thing = self.rng.choice(self.scene.things)
    column = ("left", "", "right")[min(int(3 * thing.x), 2)]
    row = ("top", "", "bottom")[min(int(3 * thing.y), 2)]
    if row and column:
      where = f"in the {row} {column} corner"
    elif row or column:
      where = f"{'at' if row else 'on'} the {row or column}"
    else:
      where = "in the middle"
    one = self._one(thing)
    return f"{self.rng.choice(('', 'there is '))}{one} {where}"

  def _attributes(self) -> set[str]:
    """Draws the attributes of things that a caption names."""
    chosen = {
      name
      for name, often in _NAMED.items()
      if name not in self.private and self.rng.random() < often
    }
    # Without its shape it would not be clear whether a thing can be tilted.
    if "rotation" not in self.private and "shape" in chosen:
      if self.rng.random() < _ROTATED:
        chosen.add("rotation")
    return chosen

  def _one(self, thing: graph.Thing) -> str:
    return phrases.a(self._noun(thing, self._attributes()))

  def _noun(self, thing: graph.Thing, attributes: set[str]) -> str:
    text = phrases.noun(phrases.describe(thing, attributes - {"rotation"}))
    # Turned circles and rings look as before.
    if "rotation" in attributes and thing.shape not in ("circle", "ring"):
      text = f"{'tilted' if thing.rotation else 'upright'} {text}"
    return text

  def _list_of(
    self, things: Iterable[graph.Thing], attributes: set[str]
  ) -> str:
    """Names things in these words, with the number that has the same name."""
    names = collections.Counter(
      self._noun(thing, attributes) for thing in self.scene.things
    )
    chosen = dict.fromkeys(self._noun(thing, attributes) for thing in things)
    texts = [
      phrases.a(name) if names[name] == 1 else phrases.some(names[name], name)
      for name in chosen
    ]
    opening = self.rng.choice(_OPENINGS)
    if opening == "there is " and not texts[0].startswith(("a ", "an ")):
      opening = "there are "
    return self._finished(opening + phrases.listed(texts))

  def _finished(self, text: str) -> str:
    """Tells of the background, perhaps."""
    if "background" in self.private or self.rng.random() < 0.5:
      return text
    return f"{text} on a {self.scene.shade} background"


# With how often each is taken.
_WAYS = {
  _Writer.some_things: 3,
  _Writer.all_things: 2,
  _Writer.number: 1,
  _Writer.share: 1,
  _Writer.relation: 2,
  _Writer.place: 1.5,
}
