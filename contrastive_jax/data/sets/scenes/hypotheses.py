"""Hypotheses about an image that it entails, contradicts, or leaves open.

Half of many images is behind a cover. What is said of a place that it hides is
neutral, unless what is seen settles it: under the cover there may be anything,
and nothing. Each hypothesis comes three times, of images that entail it, that
contradict it and that leave it open: its words do not tell its label.
"""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from contrastive_jax.data import tasks
from contrastive_jax.data.sets.scenes import graph, phrases

CONTRADICTION, NEUTRAL, ENTAILMENT = range(len(tasks.ENTAILMENT_LABELS))
# Share of the images with a cover: a third of all labels is neutral, and those
# with a cover have others too.
COVERED = 0.75
_OPPOSITE = {
  "left": "right",
  "right": "left",
  "top": "bottom",
  "bottom": "top",
}
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
_ALTERED = 0.3
# Of a block, proposals for each hypothesis that is wanted.
_TRIES = 40


class Seen(NamedTuple):
  """What an image shows of a region.

  Attributes:
    things: that are seen there.
    is_open: whether there may be others.
  """

  things: tuple[graph.Thing, ...]
  is_open: bool


class Hypothesis(NamedTuple):
  """A sentence that an image may settle.

  Attributes:
    text: what it says.
    kind: of hypothesis.
    judge: its label for an image; None for one of which it would not be clear,
      because a thing is in both halves.
  """

  text: str
  kind: str
  judge: Callable[[graph.Scene], int | None]


def sample(rng: random.Random, *, unseen: bool = False) -> graph.Scene:
  """Draws a scene, most often with a cover.

  Args:
    rng: of the draws.
    unseen: whether a thing in `graph.HELD_OUT` is to be seen; otherwise there
      is none.

  Returns:
    The scene; its cover hides things in full or not at all.
  """
  while True:
    side = rng.choice(graph.COVERS)
    axis = "x" if side in ("left", "right") else "y"
    scene = graph.sample(rng, unseen=unseen, clear_axis=axis)
    if rng.random() < COVERED:
      scene = graph.covered(scene, side)
    if not unseen or any(thing.unseen for thing in visible(scene)):
      return scene


def visible(scene: graph.Scene) -> list[graph.Thing]:
  """The things that are not behind the cover."""
  if not scene.cover:
    return list(scene.things)
  return [t for t in scene.things if not graph.half_of(t, scene.cover)]


def look(scene: graph.Scene, region: str) -> Seen | None:
  """What is seen of a region.

  Args:
    scene: any.
    region: one of `graph.COVERS`, or "" for all of the image.

  Returns:
    What is there; None if a thing that is seen is in both halves.
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


def suppose(
  scenes: Sequence[graph.Scene],
  rng: random.Random,
  *,
  number: int,
  unseen: bool = False,
) -> list[list[tuple[Hypothesis, int]]]:
  """Makes hypotheses about images.

  Args:
    scenes: a block of them, among which a hypothesis finds its three.
    rng: of the draws.
    number: of hypotheses about an image, on average.
    unseen: whether each names a colour and shape in `graph.HELD_OUT`;
      otherwise none does.

  Returns:
    For each scene its hypotheses with their labels.
  """
  out: list[list[tuple[Hypothesis, int]]] = [[] for _ in scenes]
  labels = (CONTRADICTION, NEUTRAL, ENTAILMENT)
  wanted = len(scenes) * number // len(labels)
  used: set[str] = set()
  for _ in range(_TRIES * wanted):
    if len(used) == wanted:
      break
    # About the image of which least is said.
    fewest = min(map(len, out))
    source = rng.choice([i for i, h in enumerate(out) if len(h) == fewest])
    hypothesis = _propose(scenes[source], rng, unseen)
    if hypothesis is None or hypothesis.text in used:
      continue
    judged = [hypothesis.judge(scene) for scene in scenes]
    if not set(labels) <= set(judged):
      continue
    places = [
      min(
        (i for i, found in enumerate(judged) if found == label),
        key=lambda i: (len(out[i]), rng.random()),
      )
      for label in labels
    ]
    # The only image with a label may have its share already.
    if max(len(out[place]) for place in places) > number + 1:
      continue
    used.add(hypothesis.text)
    for label, place in zip(labels, places):
      out[place].append((hypothesis, label))
  return [rng.sample(found, len(found)) for found in out]


def _propose(
  scene: graph.Scene, rng: random.Random, unseen: bool
) -> Hypothesis | None:
  """A hypothesis suggested by what is seen of a scene."""
  things = [t for t in visible(scene) if t.unseen == unseen]
  if not things:
    return None
  subsets = _SUBSETS
  if unseen:
    subsets = (phrases.PAIR, ("size", *phrases.PAIR))
  said = phrases.describe(rng.choice(things), rng.choice(subsets))
  if rng.random() < _ALTERED:
    altered = phrases.altered(said, rng, unseen=unseen)
    said = altered if altered is not None else said
  makers = list(_MAKERS)
  (make,) = rng.choices(makers, weights=[_MAKERS[m] for m in makers])
  return make(said, scene, rng)


def _existence(
  said: phrases.Description, scene: graph.Scene, rng: random.Random
) -> Hypothesis:
  del scene  # Any will do.
  region = rng.choice(_REGIONS)
  negated = rng.random() < 0.5
  noun = phrases.noun(said)
  what = f"no {noun}" if negated else phrases.a(noun)
  text = f"there is {what} {_in(region)}."
  return _about(
    region,
    text,
    "existence",
    lambda seen: _at_least(
      phrases.count(seen.things, said), 1, seen.is_open, negated
    ),
  )


def _count(
  said: phrases.Description, scene: graph.Scene, rng: random.Random
) -> Hypothesis:
  region = rng.choice(_REGIONS)
  found = phrases.count(visible(scene), said)
  number = min(max(found + rng.choice((0, 0, 1, -1)), 1), graph.MOST)
  exactly = rng.random() < 0.5
  word = "exactly" if exactly else "at least"
  verb = "is" if number == 1 else "are"
  some = phrases.some(number, phrases.noun(said))
  text = f"there {verb} {word} {some} {_in(region)}."

  def judge(seen: Seen) -> int:
    here = phrases.count(seen.things, said)
    if not exactly:
      return _at_least(here, number, seen.is_open, False)
    if here > number:
      return CONTRADICTION
    return NEUTRAL if seen.is_open else _decided(here == number)

  return _about(region, text, "count", judge)


def _universal(
  said: phrases.Description, scene: graph.Scene, rng: random.Random
) -> Hypothesis:
  del scene  # Any will do.
  region = rng.choice(_REGIONS)
  text = f"all things {_in(region)} are {phrases.noun(said, plural=True)}."
  if len(said) == 1 and "shape" not in said:
    text = f"all things {_in(region)} are {next(iter(said.values()))}."

  def judge(seen: Seen) -> int | None:
    if phrases.count(seen.things, said) < len(seen.things):
      return CONTRADICTION
    if seen.is_open:
      return NEUTRAL
    # Nothing at all is all red only to logicians.
    return ENTAILMENT if seen.things else None

  return _about(region, text, "universal", judge)


def _comparison(
  said: phrases.Description, scene: graph.Scene, rng: random.Random
) -> Hypothesis | None:
  region = rng.choice(_REGIONS)
  others = [t for t in scene.things if not t.unseen]
  if not others:
    return None
  other = phrases.describe(rng.choice(others), said)
  if other == said:
    return None
  nouns = [phrases.noun(part, plural=True) for part in (said, other)]
  text = f"there are more {nouns[0]} than {nouns[1]} {_in(region)}."

  def judge(seen: Seen) -> int:
    if seen.is_open:
      return NEUTRAL
    one, two = (phrases.count(seen.things, part) for part in (said, other))
    return _decided(one > two)

  return _about(region, text, "comparison", judge)


def _relation(
  said: phrases.Description, scene: graph.Scene, rng: random.Random
) -> Hypothesis | None:
  others = [t for t in visible(scene) if not t.unseen]
  if not others:
    return None
  subset = rng.choice((("colour",), ("shape",), ("size",)))
  other = phrases.describe(rng.choice(others), subset)
  where = rng.choice(tuple(graph.RELATIONS))
  one, two = (phrases.a(phrases.noun(part)) for part in (said, other))

  def judge(seen: Seen) -> int:
    holds = any(
      graph.RELATIONS[where](a, b)
      for a in seen.things
      if phrases.fits(a, said)
      for b in seen.things
      if a is not b and phrases.fits(b, other)
    )
    return _at_least(int(holds), 1, seen.is_open, False)

  return _about("", f"{one} is {where} {two}.", "relation", judge)


_MAKERS = {
  _existence: 4,
  _count: 2,
  _universal: 1.5,
  _comparison: 1.5,
  _relation: 1.5,
}


def _about(
  region: str,
  text: str,
  kind: str,
  judge: Callable[[Seen], int | None],
) -> Hypothesis:
  """A hypothesis that is judged by what is seen of a region."""

  def judge_scene(scene: graph.Scene) -> int | None:
    seen = look(scene, region)
    return None if seen is None else judge(seen)

  return Hypothesis(text, kind, judge_scene)


def _at_least(found: int, number: int, is_open: bool, negated: bool) -> int:
  """The label of "there are so many", or of its contrary."""
  if found >= number:
    return _decided(not negated)
  return NEUTRAL if is_open else _decided(negated)


def _decided(truth: bool) -> int:
  return ENTAILMENT if truth else CONTRADICTION


def _in(region: str) -> str:
  return f"in the {region} half" if region else "in the picture"
