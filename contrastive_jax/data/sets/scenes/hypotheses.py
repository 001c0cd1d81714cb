"""Hypotheses about an image that it entails, contradicts, or leaves open.

Half of many images is behind a cover. What is said of a place that it hides is
neutral, unless what is seen settles it: under the cover there may be anything,
and nothing. Each hypothesis comes three times, of images that entail it, that
contradict it and that leave it open: its words do not tell its label.
"""

import functools
import random
from collections.abc import Callable
from typing import NamedTuple

from contrastive_jax.data import tasks
from contrastive_jax.data.sets.scenes import claims, graph, phrases
from contrastive_jax.data.sets.scenes.claims import Claim, Scenes
from contrastive_jax.data.sets.scenes.phrases import Description

_LABELS = range(len(tasks.ENTAILMENT_LABELS))
CONTRADICTION, NEUTRAL, ENTAILMENT = _LABELS
# Share of the images with a cover: a third of all labels is neutral, and those
# with a cover have others too.
COVERED = 0.75
_OPPOSITE = dict(zip(graph.COVERS, ("right", "left", "bottom", "top")))
_REGIONS = ("", *graph.COVERS)
_SUBSETS = (
  ("colour",),
  ("shape",),
  ("texture",),
  ("size",),
  ("colour", "shape"),
  ("size", "colour"),
  ("size", "shape"),
  ("texture", "colour"),
  ("texture", "shape"),
)


class Seen(NamedTuple):
  """Visible content of a region of an image.

  Attributes:
    things: the things that are seen there.
    is_open: whether there may be others.
  """

  things: tuple[graph.Thing, ...]
  is_open: bool


def sample(rng: random.Random, *, unseen: bool) -> Scenes:
  """A scene, most often with a cover, which hides things in full or not at all.

  If `unseen`, a thing in `graph.HELD_OUT` is seen; otherwise none is there.
  """
  while True:
    side = rng.choice(graph.COVERS)
    axis = "x" if side in ("left", "right") else "y"
    scene = graph.sample(rng, unseen=unseen, clear_axis=axis)
    if rng.random() < COVERED:
      scene = scene._replace(cover=side)
    if not unseen or any(thing.unseen for thing in visible(scene)):
      return (scene,)


def visible(scene: graph.Scene) -> list[graph.Thing]:
  """The things that are not behind the cover."""
  if not scene.cover:
    return list(scene.things)
  return [t for t in scene.things if not graph.half_of(t, scene.cover)]


def look(scene: graph.Scene, region: str) -> Seen | None:
  """The visible part of a region: of `graph.COVERS`, or "" for the whole.

  None if a thing that is seen is in both halves.
  """
  things = visible(scene)
  if not region:
    return Seen(tuple(things), bool(scene.cover))
  inside = [graph.half_of(thing, region) for thing in things]
  if None in inside:
    return None
  return Seen(
    tuple(thing for thing, is_in in zip(things, inside) if is_in),
    bool(scene.cover) and scene.cover != _OPPOSITE[region],
  )


def _propose(image: Scenes, rng: random.Random, unseen: bool) -> Claim | None:
  """A hypothesis suggested by what is seen of an image."""
  (scene,) = image
  things = [t for t in visible(scene) if t.unseen == unseen]
  if not things:
    return None
  subsets = _SUBSETS
  if unseen:
    subsets = (phrases.PAIR, ("size", *phrases.PAIR))
  said = phrases.describe(rng.choice(things), rng.choice(subsets))
  if rng.random() < claims.ALTERED:
    said = phrases.altered(said, rng, unseen=unseen) or said
  return graph.draw(_MAKERS, rng)(said, scene, rng)


def _existence(
  said: Description, scene: graph.Scene, rng: random.Random
) -> Claim:
  del scene  # Any will do.
  region = rng.choice(_REGIONS)
  negated = rng.random() < 0.5
  what = f"no {phrases.noun(said)}" if negated else phrases.one(said)

  def judge(seen: Seen) -> int:
    here = phrases.count(seen.things, said)
    return _at_least(here, 1, seen.is_open, negated)

  return _about(region, f"there is {what} {_in(region)}.", "existence", judge)


def _count(said: Description, scene: graph.Scene, rng: random.Random) -> Claim:
  region = rng.choice(_REGIONS)
  found = phrases.count(visible(scene), said)
  number = min(max(found + rng.choice((0, 0, 1, -1)), 1), graph.MOST)
  exactly = rng.random() < 0.5
  word = "exactly" if exactly else "at least"
  verb = "is" if number == 1 else "are"
  some = phrases.some(number, phrases.noun(said))

  def judge(seen: Seen) -> int:
    here = phrases.count(seen.things, said)
    if not exactly:
      return _at_least(here, number, seen.is_open)
    if here > number:
      return CONTRADICTION
    return NEUTRAL if seen.is_open else _decided(here == number)

  text = f"there {verb} {word} {some} {_in(region)}."
  return _about(region, text, "count", judge)


def _universal(
  said: Description, scene: graph.Scene, rng: random.Random
) -> Claim:
  del scene  # Any will do.
  region = rng.choice(_REGIONS)
  what = phrases.many(said)
  if len(said) == 1 and "shape" not in said:
    (what,) = said.values()

  def judge(seen: Seen) -> int | None:
    if phrases.count(seen.things, said) < len(seen.things):
      return CONTRADICTION
    if seen.is_open:
      return NEUTRAL
    # Nothing at all is all red only to logicians.
    return ENTAILMENT if seen.things else None

  text = f"all things {_in(region)} are {what}."
  return _about(region, text, "universal", judge)


def _comparison(
  said: Description, scene: graph.Scene, rng: random.Random
) -> Claim | None:
  region = rng.choice(_REGIONS)
  others = [t for t in scene.things if not t.unseen]
  if not others:
    return None
  other = phrases.describe(rng.choice(others), said)
  if other == said:
    return None
  nouns = f"{phrases.many(said)} than {phrases.many(other)}"

  def judge(seen: Seen) -> int:
    if seen.is_open:
      return NEUTRAL
    one, two = (phrases.count(seen.things, part) for part in (said, other))
    return _decided(one > two)

  text = f"there are more {nouns} {_in(region)}."
  return _about(region, text, "comparison", judge)


def _relation(
  said: Description, scene: graph.Scene, rng: random.Random
) -> Claim | None:
  others = [t for t in visible(scene) if not t.unseen]
  if not others:
    return None
  subset = rng.choice((("colour",), ("shape",), ("size",)))
  other = phrases.describe(rng.choice(others), subset)
  where = rng.choice(tuple(graph.RELATIONS))

  def judge(seen: Seen) -> int:
    holds = phrases.related(seen.things, said, where, other)
    return _at_least(int(holds), 1, seen.is_open)

  text = f"{phrases.one(said)} is {where} {phrases.one(other)}."
  return _about("", text, "relation", judge)


_MAKERS = {
  _existence: 4,
  _count: 2,
  _universal: 1.5,
  _comparison: 1.5,
  _relation: 1.5,
}
# Makes hypotheses about images.
suppose = functools.partial(
  claims.spread, propose=_propose, labels=_LABELS, field="hypothesis"
)


def _about(
  region: str, text: str, kind: str, judge: Callable[[Seen], int | None]
) -> Claim:
  """A hypothesis that is judged by what is seen of a region."""

  def judge_image(image: Scenes) -> int | None:
    (scene,) = image
    seen = look(scene, region)
    return None if seen is None else judge(seen)

  return Claim(text, kind, judge_image)


def _at_least(
  found: int, number: int, is_open: bool, negated: bool = False
) -> int:
  """The label of "there are so many", or of its contrary."""
  if found >= number:
    return _decided(not negated)
  return NEUTRAL if is_open else _decided(negated)


def _decided(truth: bool) -> int:
  return ENTAILMENT if truth else CONTRADICTION


def _in(region: str) -> str:
  return f"in the {region} half" if region else "in the picture"
