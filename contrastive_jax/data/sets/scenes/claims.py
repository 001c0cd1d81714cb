"""Sentences about images that come with every label equally often.

A statement about two images is a claim, and so is a hypothesis about one. Each
is given to images of a block for which it has one label and to images for which
it has another: its words do not tell its label.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from contrastive_jax.data.sets.scenes import graph, phrases

Scenes = tuple[graph.Scene, ...]
# How often a description of a thing is altered, so that it may fit none.
ALTERED = 0.3
# Proposals in a block for each claim that is wanted.
_TRIES = 40


class Claim(NamedTuple):
  """A sentence that some images settle.

  Attributes:
    text: what it says.
    kind: of claim.
    judge: its label for an image, or a pair; None for one of which it would not
      be clear.
    misleads: descriptions of things: images with one of them are preferred.
  """

  text: str
  kind: str
  judge: Callable[[Scenes], int | None]
  misleads: tuple[phrases.Description, ...] = ()

  def is_near(self, scenes: Scenes) -> bool:
    """Whether images have something of what it says, so that it misleads."""
    return any(
      phrases.count(scene.things, description)
      for scene in scenes
      for description in self.misleads
    )


def spread(
  images: Sequence[Scenes],
  rng: random.Random,
  *,
  propose: Callable[[Scenes, random.Random, bool], Claim | None],
  labels: Sequence[int],
  field: str,
  number: int,
  unseen: bool,
) -> list[list[dict[str, Any]]]:
  """Makes claims about images, each about one of every label.

  Args:
    images: a block of them, or of pairs, among which a claim finds its own.
    rng: of the draws.
    propose: makes a claim that an image suggests, by `rng` and `unseen`; None
      if luck was bad.
    labels: that a claim may have.
    field: the name of its text in a record.
    number: of claims about an image, on average.
    unseen: whether each names a colour and shape in `graph.HELD_OUT`; otherwise
      none does.

  Returns:
    For each image the fields of its claims.
  """
  out: list[list[dict[str, Any]]] = [[] for _ in images]
  wanted = len(images) * number // len(labels)
  used: set[str] = set()
  for _ in range(_TRIES * wanted):
    if len(used) == wanted:
      break
    # About the image of which least is said.
    fewest = min(map(len, out))
    source = rng.choice([i for i, c in enumerate(out) if len(c) == fewest])
    claim = propose(images[source], rng, unseen)
    if claim is None or claim.text in used:
      continue
    judged = [claim.judge(scenes) for scenes in images]
    if not set(labels) <= set(judged):
      continue
    places = [
      min(
        (i for i, found in enumerate(judged) if found == label),
        key=lambda i: (
          len(out[i]) - 2 * claim.is_near(images[i]),
          rng.random(),
        ),
      )
      for label in labels
    ]
    # The only image with a label may have its share already.
    if max(len(out[place]) for place in places) > number + 1:
      continue
    used.add(claim.text)
    for label, place in zip(labels, places):
      fields = {field: claim.text, "label": label, "kind": claim.kind}
      out[place].append(fields)
  return [rng.sample(found, len(found)) for found in out]
