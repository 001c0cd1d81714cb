"""Scenes as graphs: things with attributes and places, and how they are drawn.

A scene has two to five things. No two of them touch, and none are level with
each other, so that of any two it is clear which is further left and which
further up. Values of an attribute are alike but for their names: whatever a
text says, no value makes it likelier to be true.
"""

import json
import math
import random
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

_T = TypeVar("_T")

VALUES: dict[str, tuple[str, ...]] = {
  "size": ("small", "large"),
  "texture": ("plain", "striped", "dotted"),
  "colour": tuple("red orange yellow green cyan blue purple pink".split()),
  "shape": tuple(
    "circle square triangle star cross heart diamond ring".split()
  ),
}
# In the order in which they are said.
ATTRIBUTES = tuple(VALUES)
# Grey levels of the background by its name; between the names is a gap.
BACKGROUNDS = {"dark": (35, 65), "grey": (110, 140), "light": (205, 235)}
ROTATIONS = (-15, 0, 15)
COVERS = ("left", "right", "top", "bottom")
# (colour, shape) that only the test of unseen pairs has: one of each colour and
# one of each shape, so that each is known from the others.
HELD_OUT = frozenset(
  (colour, VALUES["shape"][(3 * i + 2) % len(VALUES["shape"])])
  for i, colour in enumerate(VALUES["colour"])
)
_PAIRS = [(c, s) for c in VALUES["colour"] for s in VALUES["shape"]]
FEWEST, MOST = 2, 5

# As shares of the image's side.
RADIUS = {"small": 0.1, "large": 0.153}
# How far each shape reaches, in radii: shapes of one size look equally large.
EXTENT = {
  "circle": 1.0,
  "square": 1.18,
  "triangle": 1.17,
  "star": 1.17,
  "cross": 1.1,
  "heart": 1.16,
  "diamond": 1.18,
  "ring": 1.05,
}
# Between two things, between their centres along each axis, and to the border.
_GAP, _APART, _MARGIN = 0.026, 0.06, 0.02

# How likely several things of a scene are alike in something: by chance alone
# hardly a scene has four things of one colour to be counted.
_THEMES = {
  ("colour",): 0.3,
  ("shape",): 0.3,
  ("colour", "shape"): 0.2,
  (): 0.2,
}


class Thing(NamedTuple):
  """One thing of a scene; `x` and `y` are its centre's, in sides of the image."""

  shape: str
  colour: str
  size: str
  texture: str
  rotation: int
  x: float
  y: float

  @property
  def radius(self) -> float:
    """How far it reaches, in sides of the image."""
    return _radius(self.shape, self.size)

  @property
  def unseen(self) -> bool:
    """Whether training has no thing of this colour and shape."""
    return (self.colour, self.shape) in HELD_OUT


class Scene(NamedTuple):
  """Things before a background, of which half may be covered."""

  background: int
  things: tuple[Thing, ...]
  cover: str = ""

  @property
  def shade(self) -> str:
    """The name of the background's grey."""
    return next(
      name
      for name, (low, high) in BACKGROUNDS.items()
      if low <= self.background <= high
    )

  def dumps(self) -> str:
    """The scene as JSON."""
    content = {
      "background": self.background,
      "cover": self.cover,
      "things": [thing._asdict() for thing in self.things],
    }
    return json.dumps(content)


def loads(text: str) -> Scene:
  """The scene that `Scene.dumps` wrote."""
  content = json.loads(text)
  things = tuple(Thing(**thing) for thing in content["things"])
  return Scene(content["background"], things, content["cover"])


# Whether the first thing is in that place of the second.
RELATIONS = {
  "left of": lambda a, b: a.x < b.x,
  "right of": lambda a, b: a.x > b.x,
  "above": lambda a, b: a.y < b.y,
  "below": lambda a, b: a.y > b.y,
}


def draw(weights: Mapping[_T, float], rng: random.Random) -> _T:
  """One of the keys, by weight."""
  return rng.choices(list(weights), weights=list(weights.values()))[0]


def sample(
  rng: random.Random, *, unseen: bool = False, clear_axis: str = ""
) -> Scene:
  """A scene drawn at random.

  If `unseen`, at least one thing is of a colour and shape in `HELD_OUT`;
  otherwise none is. No thing crosses the middle of `clear_axis`, "x" or "y".
  """
  while True:
    looks = _looks(rng.randint(FEWEST, MOST), rng, unseen)
    scene = _arranged(looks, rng, clear_axis)
    if scene is not None:
      return scene


def sample_pair(
  rng: random.Random, *, unseen: bool = False
) -> tuple[Scene, Scene]:
  """Two scenes that have some things in common, in other places.

  If `unseen`, both have a thing in `HELD_OUT`; otherwise neither has.
  """
  while True:
    first = _looks(rng.randint(FEWEST, MOST), rng, unseen)
    second = _looks(rng.randint(FEWEST, MOST), rng, unseen)
    for i in range(min(len(first), len(second))):
      # The things that make a scene unseen stay.
      if rng.random() < 0.5 and not _is_held_out(second[i]):
        second[i] = dict(first[i])
        if rng.random() < 0.4:
          name = rng.choice(("size", "texture"))
          second[i][name] = rng.choice(VALUES[name])
    # Neither side is the one that was drawn first.
    both = [first, second] if rng.random() < 0.5 else [second, first]
    left, right = (_arranged(looks, rng) for looks in both)
    if left is not None and right is not None:
      return left, right


def half_of(thing: Thing, side: str) -> bool | None:
  """Whether a thing is in a half of the image, of `COVERS`; None: in both."""
  place = thing.x if side in ("left", "right") else thing.y
  if abs(place - 0.5) < thing.radius:
    return None
  return (place < 0.5) == (side in ("left", "top"))


def _looks(
  number: int, rng: random.Random, unseen: bool
) -> list[dict[str, Any]]:
  """The attributes of things, some of which are alike."""
  looks = [
    {name: rng.choice(VALUES[name]) for name in ATTRIBUTES}
    for _ in range(number)
  ]
  theme = draw(_THEMES, rng)
  alike = range(rng.randint(2, number) if theme else 0)
  common = {name: looks[0][name] for name in theme}
  if len(theme) == 2:
    allowed = [pair for pair in _PAIRS if (pair in HELD_OUT) == unseen]
    common = dict(zip(theme, rng.choice(allowed)))
  for i in alike:
    looks[i].update(common)
  chosen = rng.randrange(number) if unseen and len(theme) < 2 else -1
  for i, look in enumerate(looks):
    if i in alike and len(theme) == 2:
      continue
    # An attribute that is not in common gives way.
    free = "colour" if i in alike and theme == ("shape",) else "shape"
    while _is_held_out(look) != (i == chosen):
      look[free] = rng.choice(VALUES[free])
  if number == MOST:
    _even_sizes(looks, rng)
  rng.shuffle(looks)
  return looks


def _even_sizes(looks: list[dict[str, Any]], rng: random.Random) -> None:
  """Leaves at least two of each size, so that all find a place.

  That concerns large things; small ones are treated alike, or "large" would be
  the rarer word.
  """
  for size, other in (VALUES["size"], VALUES["size"][::-1]):
    often = [look for look in looks if look["size"] == size]
    for look in rng.sample(often, max(len(often) + 2 - len(looks), 0)):
      look["size"] = other


def _arranged(
  looks: list[dict[str, Any]], rng: random.Random, clear_axis: str = ""
) -> Scene | None:
  """Puts things of given looks into places; None if they hardly fit."""
  looks = sorted(looks, key=lambda look: -_radius(look["shape"], look["size"]))
  radii = [_radius(look["shape"], look["size"]) for look in looks]
  # One scene in a thousand is given up; sizes are as common as before.
  for _ in range(200):
    places = _places(radii, rng, clear_axis)
    if places is not None:
      break
  else:
    return None
  things = [
    Thing(**look, rotation=rng.choice(ROTATIONS), x=x, y=y)
    for look, (x, y) in zip(looks, places)
  ]
  rng.shuffle(things)
  low, high = rng.choice(tuple(BACKGROUNDS.values()))
  return Scene(rng.randint(low, high), tuple(things))


def _radius(shape: str, size: str) -> float:
  return RADIUS[size] * EXTENT[shape]


def _is_held_out(look: dict[str, Any]) -> bool:
  return (look["colour"], look["shape"]) in HELD_OUT


def _places(
  radii: list[float], rng: random.Random, clear_axis: str
) -> list[tuple[float, float]] | None:
  """Centres of discs that do not touch; None if luck was bad."""
  places: list[tuple[float, float]] = []
  for radius in radii:
    # In thousandths, which are short as text.
    low = math.ceil(1000 * (radius + _MARGIN))
    span = 1001 - 2 * low
    for _ in range(20):
      x = (low + int(span * rng.random())) / 1000
      y = (low + int(span * rng.random())) / 1000
      middle = {"x": x, "y": y}.get(clear_axis)
      if middle is not None and abs(middle - 0.5) < radius + _GAP / 2:
        continue
      if all(
        abs(x - u) >= _APART
        and abs(y - v) >= _APART
        and math.hypot(x - u, y - v) >= radius + other + _GAP
        for (u, v), other in zip(places, radii)
      ):
        places.append((x, y))
        break
    else:
      return None
  return places
