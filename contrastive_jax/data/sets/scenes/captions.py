"""Captions: true, each of some of a scene's facts, of private ones never."""

import collections
import random
from collections.abc import Callable, Collection, Iterable

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
  private: Collection[str] = (),
) -> list[dict[str, str]]:
  """Writes captions of a scene.

  Args:
    scene: any, without a cover.
    rng: of the draws.
    number: of captions.
    private: of `settings.FACTS`, those that they do not mention.

  Returns:
    The fields of captions, different where there is enough to say. If the scene has a
    thing of a colour and shape that training lacks, the first tells of it.
  """
  writer = _Writer(scene, rng, frozenset(private))
  ways: list[Callable[[], str]] = [
    writer.some_things,
    writer.all_things,
    writer.number,
    writer.share,
  ]
  weights = [3, 2, 1, 1]
  if "position" not in private:
    ways += [writer.relation, writer.place]
    weights += [2, 1.5]
  unseen = [thing for thing in scene.things if thing.unseen]
  found = {writer.of_thing(rng.choice(unseen)): None} if unseen else {}
  for _ in range(_TRIES):
    if len(found) >= number:
      break
    (way,) = rng.choices(ways, weights=weights)
    found[way()] = None
  out = list(found)[:number]
  # With nearly everything private there are but few ways to put it.
  out += [rng.choice(out) for _ in range(number - len(out))]
  return [{"text": text} for text in out]


class _Writer:
  """Writes of one scene."""

  def __init__(
    self, scene: graph.Scene, rng: random.Random, private: frozenset[str]
  ):
    self._scene, self._rng, self._private = scene, rng, private

  def some_things(self) -> str:
    """Of one thing or more, and of all that look like it in these words."""
    things = self._rng.sample(
      self._scene.things, self._rng.randint(1, len(self._scene.things))
    )
    return self._list_of(things, self._attributes())

  def all_things(self) -> str:
    """Of every thing."""
    return self._list_of(self._scene.things, self._attributes())

  def of_thing(self, thing: graph.Thing) -> str:
    """Of one thing, by its colour and shape and perhaps more."""
    attributes = self._attributes()
    attributes |= {name for name in phrases.PAIR if name not in self._private}
    return self._list_of([thing], attributes)

  def number(self) -> str:
    """How many things there are, and perhaps what one of them is."""
    things = phrases.some(len(self._scene.things), "thing")
    if self._rng.random() < 0.3:
      return self._finished(things)
    thing = self._rng.choice(self._scene.things)
    one = phrases.a(self._noun(thing, self._attributes()))
    form = self._rng.choice(("{}, one of them {}", "{}, among them {}"))
    return self._finished(form.format(things, one))

  def share(self) -> str:
    """How many of the things have something in common."""
    allowed = [name for name in graph.ATTRIBUTES if name not in self._private]
    if not allowed:
      return self.number()
    name = self._rng.choice(allowed)
    thing = self._rng.choice(self._scene.things)
    shared = phrases.describe(thing, (name,))
    found = phrases.count(self._scene.things, shared)
    everything = len(self._scene.things)
    if name == "shape":
      return self._finished(
        phrases.some(found, thing.shape)
        if found < everything
        else f"only {phrases.plural_of(thing.shape)}"
      )
    value = shared[name]
    if found == everything:
      return self._rng.choice(_ALL_OF).format(value)
    verb = "is" if found == 1 else "are"
    return (
      f"{phrases.NUMBERS[found]} of the {phrases.NUMBERS[everything]} things"
      f" {verb} {value}"
    )

  def relation(self) -> str:
    """Where a thing is from another."""
    first, second = self._rng.sample(self._scene.things, 2)
    where = self._rng.choice(
      [name for name, holds in graph.RELATIONS.items() if holds(first, second)]
    )
    texts = [
      phrases.a(self._noun(thing, self._attributes()))
      for thing in (first, second)
    ]
    verb = self._rng.choice((" ", " is "))
    return f"{texts[0]}{verb}{where} {texts[1]}"

  def place(self) -> str:
    """Where a thing is in the picture."""
    thing = self._rng.choice(self._scene.things)
    column = _third(thing.x, ("left", "", "right"))
    row = _third(thing.y, ("top", "", "bottom"))
    if row and column:
      where = f"in the {row} {column} corner"
    elif row or column:
      where = f"{'at' if row else 'on'} the {row or column}"
    else:
      where = "in the middle"
    one = phrases.a(self._noun(thing, self._attributes()))
    opening = self._rng.choice(("", "there is "))
    return f"{opening}{one} {where}"

  def _attributes(self) -> set[str]:
    """What a caption tells of things."""
    chosen = {
      name
      for name, often in _NAMED.items()
      if name not in self._private and self._rng.random() < often
    }
    # Without its shape it would not be clear whether a thing can be tilted.
    if "rotation" not in self._private and "shape" in chosen:
      if self._rng.random() < _ROTATED:
        chosen.add("rotation")
    return chosen

  def _noun(self, thing: graph.Thing, attributes: set[str]) -> str:
    said = phrases.describe(thing, attributes - {"rotation"})
    text = phrases.noun(said)
    # Turned circles and rings look as before.
    if "rotation" in attributes and thing.shape not in ("circle", "ring"):
      text = f"{'tilted' if thing.rotation else 'upright'} {text}"
    return text

  def _list_of(
    self, things: Iterable[graph.Thing], attributes: set[str]
  ) -> str:
    """Names things in these words, with the number that has the same name."""
    names = collections.Counter(
      self._noun(thing, attributes) for thing in self._scene.things
    )
    chosen = dict.fromkeys(self._noun(thing, attributes) for thing in things)
    texts = [
      phrases.a(name) if names[name] == 1 else phrases.some(names[name], name)
      for name in chosen
    ]
    opening = self._rng.choice(_OPENINGS)
    if opening == "there is " and not texts[0].startswith(("a ", "an ")):
      opening = "there are "
    return self._finished(opening + phrases.listed(texts))

  def _finished(self, text: str) -> str:
    """Tells of the background, perhaps."""
    if "background" in self._private or self._rng.random() < 0.5:
      return text
    return f"{text} on a {self._scene.shade} background"


def _third(place: float, names: tuple[str, str, str]) -> str:
  return names[min(int(3 * place), 2)]
