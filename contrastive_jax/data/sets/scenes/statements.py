"""Statements about two images, each true of one pair and false of another.

That of which it is false has such things, if there is one in the block.
"""

import functools
import random

from contrastive_jax.data.sets.scenes import claims, graph, phrases
from contrastive_jax.data.sets.scenes.claims import Claim, Scenes
from contrastive_jax.data.sets.scenes.phrases import Description

_SIDES = ("left", "right")
# Attributes that statements name, with how often; few other pairs would have a
# thing that agrees in all of them.
_SUBSETS = {
  ("colour", "shape"): 4,
  ("colour",): 2,
  ("shape",): 2,
  ("size", "colour"): 2,
  ("size", "shape"): 2,
  ("texture", "colour"): 2,
  ("texture", "shape"): 2,
  ("size", "texture"): 1,
  ("size", "colour", "shape"): 1,
  ("texture", "colour", "shape"): 1,
}
# With how many of the two images have one.
_BOTH = (
  ("both images have {}.", (2,)),
  ("there is {} in each of the two images.", (2,)),
  ("neither of the images has {}.", (0,)),
  ("only one of the images has {}.", (1,)),
  ("at least one of the images has {}.", (1, 2)),
)
# With whether the other image has one; None is whatever it has.
_SIDE = (
  ("there is {one} in the {here} image.", None),
  ("the {here} image has {one} and the {there} one has not.", False),
  ("the {here} image has {one} and so has the {there} one.", True),
)


def _propose(pair: Scenes, rng: random.Random, unseen: bool) -> Claim | None:
  """A statement suggested by a pair, not always true of it."""
  things = [t for scene in pair for t in scene.things if t.unseen == unseen]
  subset = graph.draw(
    {
      subset: weight
      for subset, weight in _SUBSETS.items()
      if not unseen or set(phrases.PAIR) <= set(subset)
    },
    rng,
  )
  said = phrases.describe(rng.choice(things), subset)
  if rng.random() < claims.ALTERED:
    said = phrases.altered(said, rng, unseen=unseen)
    if said is None:
      return None
  return graph.draw(_MAKERS, rng)(said, pair, rng)


def _counts(pair: Scenes, said: Description) -> list[int]:
  return [phrases.count(scene.things, said) for scene in pair]


def _both(said: Description, pair: Scenes, rng: random.Random) -> Claim:
  del pair  # Any will do.
  text, needed = rng.choice(_BOTH)

  def judge(pair: Scenes) -> bool:
    return sum(map(bool, _counts(pair, said))) in needed

  return Claim(text.format(phrases.one(said)), "both", judge, (said,))


def _side(said: Description, pair: Scenes, rng: random.Random) -> Claim:
  del pair  # Any will do.
  side = rng.randrange(2)
  text, other = rng.choice(_SIDE)
  text = text.format(
    one=phrases.one(said), here=_SIDES[side], there=_SIDES[1 - side]
  )

  def judge(pair: Scenes) -> bool:
    counts = _counts(pair, said)
    return counts[side] > 0 and other in (None, counts[1 - side] > 0)

  return Claim(text, "side", judge, (said,))


def _count(said: Description, pair: Scenes, rng: random.Random) -> Claim:
  """The number is one that occurs, or next to it."""
  form = rng.choice(("any", "total", "left", "right"))

  def numbers(pair: Scenes) -> list[int]:
    counts = _counts(pair, said)
    if form == "total":
      return [sum(counts)]
    return counts if form == "any" else [counts[_SIDES.index(form)]]

  # The draw is made, and lost, for the other forms as well.
  number = rng.choice(_counts(pair, said))
  if form != "any":
    (number,) = numbers(pair)
  number += rng.choice((0, 0, 0, 1, -1))
  number = min(max(number, 1), graph.MOST)
  some = phrases.some(number, phrases.noun(said))
  if form == "any":
    text = f"at least one of the images has exactly {some}."
  elif form == "total":
    verb = "is" if number == 1 else "are"
    text = f"there {verb} exactly {some} in the two images together."
  else:
    text = f"the {form} image has exactly {some}."
  return Claim(text, "count", lambda pair: number in numbers(pair), (said,))


def _comparison(said: Description, pair: Scenes, rng: random.Random) -> Claim:
  side = rng.randrange(2)
  here, there = _SIDES[side], _SIDES[1 - side]
  many = phrases.many(said)
  other = said
  if rng.random() < 0.3:
    thing = rng.choice(pair[1 - side].things)
    if not thing.unseen:
      other = phrases.describe(thing, said)
  alike = other == said
  form = rng.choice(tuple(phrases.COMPARED)[: 3 if alike else 2])
  if form == "same":
    text = f"both images have the same number of {many}."
  else:
    others = "" if alike else f"{phrases.many(other)} "
    text = (
      f"there are {form} {many} in the {here} image than {others}in the"
      f" {there} one."
    )

  def judge(pair: Scenes) -> bool:
    counts = _counts(pair, said)[side], _counts(pair, other)[1 - side]
    return phrases.COMPARED[form](*counts)

  return Claim(text, "comparison", judge, (said, other))


def _relation(
  said: Description, pair: Scenes, rng: random.Random
) -> Claim | None:
  scenes = [s for s in pair if phrases.count(s.things, said)]
  if not scenes:
    return None
  things = [t for t in rng.choice(scenes).things if not t.unseen]
  if not things:
    return None
  subset = rng.choice((("colour",), ("shape",), ("colour", "shape")))
  other = phrases.describe(rng.choice(things), subset)
  where = rng.choice(tuple(graph.RELATIONS))
  images = {
    "in at least one of the images": (0, 1),
    "in the left image": (0,),
    "in the right image": (1,),
  }
  start = rng.choice(tuple(images))

  def judge(pair: Scenes) -> bool:
    return any(
      phrases.related(pair[i].things, said, where, other) for i in images[start]
    )

  text = f"{start} {phrases.one(said)} is {where} {phrases.one(other)}."
  return Claim(text, "relation", judge, (said, other))


_MAKERS = {_both: 3, _side: 3, _count: 3, _comparison: 3, _relation: 2}
# Makes statements about pairs: label 1 is true, 0 false.
state = functools.partial(
  claims.spread, propose=_propose, labels=(1, 0), field="statement"
)
