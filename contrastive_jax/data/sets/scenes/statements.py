"""Statements about two images, each true of one pair and false of another."""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from contrastive_jax.data.sets.scenes import graph, phrases

Pair = tuple[graph.Scene, graph.Scene]
_SIDES = ("left", "right")
# What statements say of things, with how often; all of a thing is too much for
# another pair to have it.
_SUBSETS = (
  (("colour", "shape"), 4),
  (("colour",), 2),
  (("shape",), 2),
  (("size", "colour"), 2),
  (("size", "shape"), 2),
  (("texture", "colour"), 2),
  (("texture", "shape"), 2),
  (("size", "texture"), 1),
  (("size", "colour", "shape"), 1),
  (("texture", "colour", "shape"), 1),
)
_ALTERED = 0.3
# Of a block, proposals for each statement that is wanted.
_TRIES = 40


class Statement(NamedTuple):
  """A statement that is true of some pairs of images.

  Attributes:
    text: what it says.
    kind: of statement.
    said: the descriptions in it.
    holds: whether it is true of a pair.
  """

  text: str
  kind: str
  said: tuple[phrases.Description, ...]
  holds: Callable[[Pair], bool]

  def is_near(self, pair: Pair) -> bool:
    """Whether a pair has something of what it says, so that it misleads."""
    return any(
      phrases.fits(thing, description)
      for scene in pair
      for thing in scene.things
      for description in self.said
    )


def state(
  pairs: Sequence[Pair],
  rng: random.Random,
  *,
  number: int,
  unseen: bool = False,
) -> list[list[tuple[Statement, bool]]]:
  """Makes statements about pairs of images.

  A statement comes twice: of a pair of which it is true, and of one of which it
  is false, if possible of one with such things.

  Args:
    pairs: a block of them, among which a statement finds its two.
    rng: of the draws.
    number: of statements about a pair, on average.
    unseen: whether each names a colour and shape in `graph.HELD_OUT`;
      otherwise none does.

  Returns:
    For each pair its statements with whether they are true.
  """
  out: list[list[tuple[Statement, bool]]] = [[] for _ in pairs]
  wanted = len(pairs) * number // 2
  used: set[str] = set()
  for _ in range(_TRIES * wanted):
    if len(used) == wanted:
      break
    # About the pair of which least is said.
    fewest = min(map(len, out))
    source = rng.choice([i for i, s in enumerate(out) if len(s) == fewest])
    statement = _propose(pairs[source], rng, unseen)
    if statement is None or statement.text in used:
      continue
    truths = [statement.holds(pair) for pair in pairs]
    if all(truths) or not any(truths):
      continue
    places = [
      min(
        (i for i, found in enumerate(truths) if found == truth),
        key=lambda i: (
          len(out[i]) - 2 * statement.is_near(pairs[i]),
          rng.random(),
        ),
      )
      for truth in (True, False)
    ]
    # The only pair of which it is so may have its share already.
    if max(len(out[place]) for place in places) > number + 1:
      continue
    used.add(statement.text)
    for truth, place in zip((True, False), places):
      out[place].append((statement, truth))
  return [rng.sample(found, len(found)) for found in out]


def _propose(pair: Pair, rng: random.Random, unseen: bool) -> Statement | None:
  """A statement suggested by a pair, not always true of it."""
  said = _describe(pair, rng, unseen)
  if said is None:
    return None
  makers = list(_MAKERS)
  (make,) = rng.choices(makers, weights=[_MAKERS[m] for m in makers])
  return make(said, pair, rng)


def _describe(
  pair: Pair, rng: random.Random, unseen: bool
) -> dict[str, str] | None:
  things = [t for scene in pair for t in scene.things if t.unseen == unseen]
  subsets = [
    (subset, weight)
    for subset, weight in _SUBSETS
    if not unseen or set(phrases.PAIR) <= set(subset)
  ]
  (subset,) = rng.choices(
    [subset for subset, _ in subsets],
    weights=[weight for _, weight in subsets],
  )
  said = phrases.describe(rng.choice(things), subset)
  if rng.random() < _ALTERED:
    return phrases.altered(said, rng, unseen=unseen)
  return said


def _both(
  said: phrases.Description, pair: Pair, rng: random.Random
) -> Statement:
  del pair  # Any will do.
  one = phrases.a(phrases.noun(said))
  text, needed = rng.choice(
    [
      (f"both images have {one}.", (2,)),
      (f"there is {one} in each of the two images.", (2,)),
      (f"neither of the images has {one}.", (0,)),
      (f"only one of the images has {one}.", (1,)),
      (f"at least one of the images has {one}.", (1, 2)),
    ]
  )

  def holds(pair: Pair) -> bool:
    return sum(phrases.count(s.things, said) > 0 for s in pair) in needed

  return Statement(text, "both", (said,), holds)


def _side(
  said: phrases.Description, pair: Pair, rng: random.Random
) -> Statement:
  del pair  # Any will do.
  one = phrases.a(phrases.noun(said))
  side = rng.randrange(2)
  here, there = _SIDES[side], _SIDES[1 - side]
  text, other = rng.choice(
    [
      (f"there is {one} in the {here} image.", None),
      (f"the {here} image has {one} and the {there} one has not.", False),
      (f"the {here} image has {one} and so has the {there} one.", True),
    ]
  )

  def holds(pair: Pair) -> bool:
    has = [phrases.count(scene.things, said) > 0 for scene in pair]
    return has[side] and other in (None, has[1 - side])

  return Statement(text, "side", (said,), holds)


def _count(
  said: phrases.Description, pair: Pair, rng: random.Random
) -> Statement:
  """The number is one that occurs, or next to it."""
  noun = phrases.noun(said)
  counts = [phrases.count(scene.things, said) for scene in pair]
  form = rng.choice(("any", "total", "left", "right"))
  real = {"total": sum(counts), "left": counts[0], "right": counts[1]}
  number = real.get(form, rng.choice(counts)) + rng.choice((0, 0, 0, 1, -1))
  number = min(max(number, 1), graph.MOST)
  some = phrases.some(number, noun)
  if form == "any":
    text = f"at least one of the images has exactly {some}."
  elif form == "total":
    verb = "is" if number == 1 else "are"
    text = f"there {verb} exactly {some} in the two images together."
  else:
    text = f"the {form} image has exactly {some}."

  def holds(pair: Pair) -> bool:
    found = [phrases.count(scene.things, said) for scene in pair]
    if form == "any":
      return number in found
    if form == "total":
      return number == sum(found)
    return number == found[_SIDES.index(form)]

  return Statement(text, "count", (said,), holds)


def _comparison(
  said: phrases.Description, pair: Pair, rng: random.Random
) -> Statement:
  side = rng.randrange(2)
  here, there = _SIDES[side], _SIDES[1 - side]
  many = phrases.noun(said, plural=True)
  other = said
  if rng.random() < 0.3:
    thing = rng.choice(pair[1 - side].things)
    if not thing.unseen:
      other = phrases.describe(thing, said)
  if other == said:
    form = rng.choice(("more", "fewer", "same"))
    text = {
      "more": f"there are more {many} in the {here} image than in the {there}"
      " one.",
      "fewer": f"there are fewer {many} in the {here} image than in the {there}"
      " one.",
      "same": f"both images have the same number of {many}.",
    }[form]
  else:
    form = rng.choice(("more", "fewer"))
    others = phrases.noun(other, plural=True)
    text = (
      f"there are {form} {many} in the {here} image than {others} in the"
      f" {there} one."
    )

  def holds(pair: Pair) -> bool:
    one = phrases.count(pair[side].things, said)
    two = phrases.count(pair[1 - side].things, other)
    if form == "same":
      return one == two
    return one > two if form == "more" else one < two

  return Statement(text, "comparison", (said, other), holds)


def _relation(
  said: phrases.Description, pair: Pair, rng: random.Random
) -> Statement | None:
  scenes = [s for s in pair if phrases.count(s.things, said)]
  if not scenes:
    return None
  things = [t for t in rng.choice(scenes).things if not t.unseen]
  if not things:
    return None
  subset = rng.choice((("colour",), ("shape",), ("colour", "shape")))
  other = phrases.describe(rng.choice(things), subset)
  where = rng.choice(tuple(graph.RELATIONS))
  place = f"{where} {phrases.a(phrases.noun(other))}"
  one = phrases.a(phrases.noun(said))
  which = rng.choice(("any", "left", "right"))
  image = "one of the images" if which == "any" else f"the {which} image"
  start = "in at least" if which == "any" else "in"

  def is_so(scene: graph.Scene) -> bool:
    return any(
      graph.RELATIONS[where](a, b)
      for a in scene.things
      if phrases.fits(a, said)
      for b in scene.things
      if a is not b and phrases.fits(b, other)
    )

  def holds(pair: Pair) -> bool:
    if which == "any":
      return any(map(is_so, pair))
    return is_so(pair[_SIDES.index(which)])

  return Statement(
    f"{start} {image} {one} is {place}.", "relation", (said, other), holds
  )


_MAKERS = {_both: 3, _side: 3, _count: 3, _comparison: 3, _relation: 2}
