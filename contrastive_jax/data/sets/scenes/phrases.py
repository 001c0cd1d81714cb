"""Descriptions of things, and the words for them.

A description gives some attributes values, as in `{"size": "large", "shape":
"star"}`, and fits all things that have them; the empty one fits anything.
"""

import functools
import itertools
import operator
import random
from collections.abc import Iterable, Mapping, Sequence

from contrastive_jax.data.sets.scenes import graph

Description = Mapping[str, str]

# The names of attributes that a description can have, the fewest first.
SUBSETS = tuple(
  subset
  for size in range(1, len(graph.ATTRIBUTES) + 1)
  for subset in itertools.combinations(graph.ATTRIBUTES, size)
)
NUMBERS = ("no", "one", "two", "three", "four", "five")
PAIR = ("colour", "shape")
# Whether there are so many of one as the word says, beside those of another.
COMPARED = {"more": operator.gt, "fewer": operator.lt, "same": operator.eq}


def describe(thing: graph.Thing, attributes: Iterable[str]) -> dict[str, str]:
  """Description of a thing by the given attributes."""
  return {name: getattr(thing, name) for name in attributes}


def fits(thing: graph.Thing, description: Description) -> bool:
  """Whether a description is of this thing."""
  for name, value in description.items():
    if getattr(thing, name) != value:
      return False
  return True


def count(things: Iterable[graph.Thing], description: Description) -> int:
  """Number of things that fit a description."""
  return sum(fits(thing, description) for thing in things)


def related(
  things: Iterable[graph.Thing], one: Description, where: str, two: Description
) -> bool:
  """Whether something that fits `one` is there of something that fits `two`."""
  return any(
    graph.RELATIONS[where](a, b)
    for a, b in itertools.permutations(things, 2)
    if fits(a, one) and fits(b, two)
  )


def is_unseen(description: Description) -> bool:
  """Whether it names a colour and shape that training does not have."""
  pair = (description.get("colour"), description.get("shape"))
  return pair in graph.HELD_OUT


@functools.lru_cache(maxsize=256)
def unique(scene: graph.Scene) -> tuple[tuple[tuple[str, ...], ...], ...]:
  """For each thing the members of `SUBSETS` that describe it uniquely.

  Things that a cover hides are there too.
  """
  return tuple(
    tuple(
      subset
      for subset in SUBSETS
      if count(scene.things, describe(thing, subset)) == 1
    )
    for thing in scene.things
  )


def unique_description(
  scene: graph.Scene,
  index: int,
  rng: random.Random,
  *,
  without: Sequence[str] = (),
) -> dict[str, str] | None:
  """A description that fits one thing of a scene alone; None if there is none.

  Args:
    scene: any.
    index: of the thing.
    rng: chooses among the descriptions.
    without: attributes that it must not name.
  """
  subsets = [s for s in unique(scene)[index] if set(without).isdisjoint(s)]
  if not subsets:
    return None
  return describe(scene.things[index], rng.choice(subsets))


def altered(
  description: Description, rng: random.Random, *, unseen: bool
) -> dict[str, str] | None:
  """A description that differs a little from one; None if luck was bad.

  If `unseen`, it names a colour and shape that training lacks, else none.
  """
  out = dict(description)
  if unseen and set(PAIR) <= set(out) and rng.random() < 0.6:
    colour, shape = rng.choice(sorted(graph.HELD_OUT))
    out |= {"colour": colour, "shape": shape}
  else:
    name = rng.choice(tuple(out))
    out[name] = rng.choice(graph.VALUES[name])
  return out if out != description and is_unseen(out) == unseen else None


def noun(description: Description) -> str:
  """The words of a description without an article.

  >>> noun({"colour": "red", "size": "large"})
  'large red thing'
  """
  named = {"shape": "thing", **description}
  return " ".join(named[name] for name in graph.ATTRIBUTES if name in named)


def one(description: Description) -> str:
  """The words of a description with the indefinite article."""
  return a(noun(description))


def many(description: Description) -> str:
  """The words of a description in the plural.

  >>> many({"shape": "cross"})
  'crosses'
  """
  return plural_of(noun(description))


def plural_of(text: str) -> str:
  """A noun with its adjectives in the plural."""
  return text + ("es" if text.endswith("s") else "s")


def a(text: str) -> str:
  """A noun with the indefinite article.

  >>> a("orange ring")
  'an orange ring'
  """
  return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def some(number: int, text: str) -> str:
  """So many of a noun.

  >>> some(2, "red star"), some(1, "orange star")
  ('two red stars', 'one orange star')
  """
  return f"{NUMBERS[number]} {text if number == 1 else plural_of(text)}"


def listed(texts: Sequence[str]) -> str:
  """Texts joined as in a sentence.

  >>> listed(["a star", "a ring", "two hearts"])
  'a star, a ring and two hearts'
  """
  if len(texts) == 1:
    return texts[0]
  return f"{', '.join(texts[:-1])} and {texts[-1]}"
