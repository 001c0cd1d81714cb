"""Scenes with their texts, for each task and split; images are drawn later.

A record depends on the seed, its split, its number and the numbers of texts,
and on records of its own block alone, among which answers are balanced. So a
larger set begins as a smaller one.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from contrastive_jax.data.sets.scenes import (
  asking,
  captions,
  claims,
  graph,
  hypotheses,
  statements,
)
from contrastive_jax.data.sets.scenes import settings as settings_lib

BLOCK = 64


class SceneTexts(NamedTuple):
  """One image, or a pair, with its texts.

  Attributes:
    scenes: one, or the left and the right one.
    texts: fields of each text.
  """

  scenes: claims.Scenes
  texts: list[dict[str, Any]]


class _Task(NamedTuple):
  """How rows are made. Random numbers have purposes, so as to be unrelated.

  Attributes:
    shown: purpose of those by which images are drawn.
    sample: draws an image, or a pair.
    told: purpose of those by which texts are written.
    number: the setting with the number of texts.
    write: the fields of the texts about each image of a block; of captions,
      about one image.
  """

  shown: str
  sample: Callable[..., claims.Scenes]
  told: str
  number: str
  write: Callable[..., list[Any]]


def _one(rng: random.Random, *, unseen: bool) -> claims.Scenes:
  return (graph.sample(rng, unseen=unseen),)


TASKS = {
  "captions": _Task(
    "scene", _one, "captions", "captions_per_image", captions.captions
  ),
  "vqa": _Task("scene", _one, "questions", "questions_per_image", asking.ask),
  "nlvr2": _Task(
    "pair",
    graph.sample_pair,
    "statements",
    "statements_per_pair",
    statements.state,
  ),
  "entailment": _Task(
    "covered",
    hypotheses.sample,
    "hypotheses",
    "hypotheses_per_image",
    hypotheses.suppose,
  ),
}
# The field of a text that is for the tokenizer to learn, and the answers.
TEXT_FIELDS = ("text", "question", "answer", "statement", "hypothesis")


def rows(
  settings: settings_lib.SceneSettings, task: str, split: str, stop: int
) -> Iterator[SceneTexts]:
  """The first `stop` rows of a split, one of `settings.SPLITS`, for a task."""
  shown, sample, told, number, write = TASKS[task]
  unseen = split == settings_lib.UNSEEN_PAIRS
  count = getattr(settings, number)

  def rng(purpose: str, place: int) -> random.Random:
    # Seeded by a text, of which Python takes a digest: no two are related.
    return random.Random(f"{settings.seed}/{purpose}/{split}/{place}")

  for start in range(0, stop, BLOCK):
    block = range(start, start + BLOCK)
    scenes = [sample(rng(shown, place), unseen=unseen) for place in block]
    if task == "captions":
      texts = [
        write(*scene, rng(told, place), number=count, private=settings.private)
        for place, scene in zip(block, scenes)
      ]
    else:
      texts = write(scenes, rng(told, start), number=count, unseen=unseen)
    yield from map(SceneTexts, scenes[: stop - start], texts)


def training_texts(
  settings: settings_lib.SceneSettings, stop: int
) -> list[str]:
  """The texts of all tasks that belong to the first training images."""
  return [
    text[field]
    for task in TASKS
    for row in rows(settings, task, "train", stop)
    for text in row.texts
    for field in TEXT_FIELDS
    if field in text
  ]
