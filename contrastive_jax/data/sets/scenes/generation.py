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
  graph,
  hypotheses,
  statements,
)
from contrastive_jax.data.sets.scenes import settings as settings_lib

BLOCK = 64


class Row(NamedTuple):
  """One image, or a pair, with its texts.

  Attributes:
    scenes: one, or the left and the right one.
    texts: fields of each text.
  """

  scenes: tuple[graph.Scene, ...]
  texts: list[dict[str, Any]]


def rows(
  settings: settings_lib.SceneSettings, task: str, split: str, stop: int
) -> Iterator[Row]:
  """The first rows of a split.

  Args:
    settings: of the set.
    task: one of `TASKS`.
    split: one of `settings.SPLITS`.
    stop: how many.

  Yields:
    The rows.
  """
  for start in range(0, stop, BLOCK):
    yield from TASKS[task](settings, split, start)[: stop - start]


def _captions(
  settings: settings_lib.SceneSettings, split: str, start: int
) -> list[Row]:
  out = []
  for number in range(start, start + BLOCK):
    scene = _scene(settings, split, number)
    texts = captions.captions(
      scene,
      _rng(settings, "captions", split, number),
      number=settings.captions_per_image,
      private=settings.private,
    )
    out.append(Row((scene,), [{"text": text} for text in texts]))
  return out


def _vqa(
  settings: settings_lib.SceneSettings, split: str, start: int
) -> list[Row]:
  scenes = [
    _scene(settings, split, number) for number in range(start, start + BLOCK)
  ]
  asked = asking.ask(
    scenes,
    _rng(settings, "questions", split, start),
    number=settings.questions_per_image,
    unseen=_is_unseen(split),
  )
  return [
    Row(
      (scene,),
      [
        {
          "question": q.text,
          "answer": q.answer,
          "kind": q.kind,
          "attributes": ",".join(q.attributes),
        }
        for q in found
      ],
    )
    for scene, found in zip(scenes, asked)
  ]


def _nlvr2(
  settings: settings_lib.SceneSettings, split: str, start: int
) -> list[Row]:
  unseen = _is_unseen(split)
  pairs = [
    graph.sample_pair(_rng(settings, "pair", split, number), unseen=unseen)
    for number in range(start, start + BLOCK)
  ]
  stated = statements.state(
    pairs,
    _rng(settings, "statements", split, start),
    number=settings.statements_per_pair,
    unseen=unseen,
  )
  return [
    Row(
      pair,
      [
        {"statement": s.text, "label": int(truth), "kind": s.kind}
        for s, truth in found
      ],
    )
    for pair, found in zip(pairs, stated)
  ]


def _entailment(
  settings: settings_lib.SceneSettings, split: str, start: int
) -> list[Row]:
  unseen = _is_unseen(split)
  scenes = [
    hypotheses.sample(_rng(settings, "covered", split, number), unseen=unseen)
    for number in range(start, start + BLOCK)
  ]
  supposed = hypotheses.suppose(
    scenes,
    _rng(settings, "hypotheses", split, start),
    number=settings.hypotheses_per_image,
    unseen=unseen,
  )
  return [
    Row(
      (scene,),
      [
        {"hypothesis": h.text, "label": label, "kind": h.kind}
        for h, label in found
      ],
    )
    for scene, found in zip(scenes, supposed)
  ]


Maker = Callable[[settings_lib.SceneSettings, str, int], list[Row]]
TASKS: dict[str, Maker] = {
  "captions": _captions,
  "vqa": _vqa,
  "nlvr2": _nlvr2,
  "entailment": _entailment,
}
# The field of a text that is for the tokenizer to learn, and the answers.
TEXT_FIELDS = ("text", "question", "answer", "statement", "hypothesis")


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


def _scene(
  settings: settings_lib.SceneSettings, split: str, number: int
) -> graph.Scene:
  """The scene that captions and questions of this number are about."""
  rng = _rng(settings, "scene", split, number)
  return graph.sample(rng, unseen=_is_unseen(split))


def _is_unseen(split: str) -> bool:
  return split == settings_lib.UNSEEN_PAIRS


def _rng(
  settings: settings_lib.SceneSettings, purpose: str, split: str, number: int
) -> random.Random:
  # Seeded by a text, of which Python takes a digest: no two are related.
  return random.Random(f"{settings.seed}/{purpose}/{split}/{number}")
