"""Scenes: drawn images whose every fact is known, with texts for all tasks.

Images of two to five things (of a shape, colour, size and texture each, tilted or
not) before a background of some grey, and from the same scene graph captions,
questions with answers, statements about two images and hypotheses. What captions
leave out is a setting (`Settings.private`), so that studies can vary what is in
the image alone. Of every task the texts alone do not tell the answer.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from contrastive_jax.data import sources, tasks
from contrastive_jax.data.files import prepare
from contrastive_jax.data.sets.scenes import (
  generation,
  graph,
  phrases,
  questions,
)
from contrastive_jax.data.sets.scenes.settings import (
  FACTS,
  SPLITS,
  UNSEEN_PAIRS,
  Settings,
  Sizes,
)
from contrastive_jax.data.text import tokenizer as tokenizer_lib

__all__ = [
  "FACTS",
  "SPLITS",
  "TASKS",
  "UNSEEN_PAIRS",
  "Settings",
  "Sizes",
  "SharedImages",
  "load_pairs",
  "load_task",
  "load_tokenizer",
]

TASKS = ("vqa", "nlvr2", "entailment")
_DEFAULT = Settings()
_VOCABULARY = 1024
# Enough for every word to come often; the tokenizer of a larger set is the same.
_TOKENIZER_SCENES = 2000


class SharedImages:
  """Records of which several have the same image, held in memory once."""

  def __init__(
    self,
    images: np.ndarray,
    records: Sequence[Mapping[str, Any]],
    second_images: np.ndarray | None = None,
  ):
    """Takes what records have in common, and the records.

    Args:
      images: uint8 [N, S, S, 3].
      records: with `image_id`, the row of their image; those of one image
        after each other.
      second_images: as `images`, of records about two.
    """
    self.images, self.second_images = images, second_images
    self.records = records

  def __len__(self) -> int:
    """Number of records."""
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One record."""
    record = self.records[index]
    image_id = record["image_id"]
    out = {"image": self.images[image_id], **record}
    if self.second_images is not None:
      out["second_image"] = self.second_images[image_id]
    return out

  def fields(self, index: int) -> Mapping[str, Any]:
    """One record without its image."""
    return self.records[index]


def load_pairs(
  data_dir: str | None = None,
  *,
  settings: Settings = _DEFAULT,
  report: Callable[[str], None] = print,
) -> sources.PairData:
  """Prepares (once) and opens scenes with captions.

  Every image is a concept of its own; its label is how many things it shows,
  "three things". Records have the scene graph too, in `scene`, which
  `graph.loads` reads. The images of a split are those that `load_task` has for
  `vqa`.

  Args:
    data_dir: where the prepared records are kept, in a folder a fingerprint;
      None is the user's cache.
    settings: what is drawn and said.
    report: receives a line when something takes a while.

  Returns:
    The data set.
  """
  splits = {}
  for split, rows in _prepared("captions", data_dir, settings, report):
    splits[split] = sources.ArraySource(
      _stacked(rows, "image"), [_pair(row) for row in rows]
    )
  return sources.PairData(
    name="scenes",
    splits=splits,
    languages=(sources.ANY_LANGUAGE,),
    tokenizer=load_tokenizer(data_dir, settings=settings, report=report),
    fingerprint=settings.fingerprint,
  )


def load_task(
  task: str,
  data_dir: str | None = None,
  *,
  settings: Settings = _DEFAULT,
  report: Callable[[str], None] = print,
) -> tasks.TaskData:
  """Prepares (once) and opens scenes with the texts of a task.

  Beside the fields that `data.tasks` names, records have `image_id` (the number
  of their image, or pair, in the split; those of one image are after each
  other) and `scene`, of `nlvr2` also `second_scene`. Those of `vqa` have
  `attributes`, which the question names or asks for: those that are private
  cannot be learned from captions.

  Args:
    task: one of `TASKS`.
    data_dir: where the prepared records are kept, in a folder a fingerprint;
      None is the user's cache.
    settings: what is drawn and said.
    report: receives a line when something takes a while.

  Returns:
    The data set.

  Raises:
    ValueError: if there is no such task.
  """
  if task not in TASKS:
    raise ValueError(f"task must be one of {', '.join(TASKS)}; got {task!r}.")
  splits = {}
  for split, rows in _prepared(task, data_dir, settings, report):
    records: list[dict[str, Any]] = []
    for row in rows:
      records += _expanded(row, task, len(records))
    splits[split] = SharedImages(
      _stacked(rows, "image"),
      records,
      _stacked(rows, "second_image") if task == "nlvr2" else None,
    )
  return tasks.TaskData(
    name="scenes",
    task=task,
    splits=splits,
    answers=questions.ANSWERS if task == "vqa" else (),
    fingerprint=settings.fingerprint,
  )


def load_tokenizer(
  data_dir: str | None = None,
  *,
  settings: Settings = _DEFAULT,
  report: Callable[[str], None] = print,
) -> tokenizer_lib.Tokenizer:
  """The tokenizer of all tasks, learned on their training texts once.

  Args:
    data_dir: where the prepared records are kept; None is the user's cache.
    settings: what is said.
    report: receives a line when something takes a while.

  Returns:
    The tokenizer.
  """
  path = _folder(data_dir, settings) / "tokenizer.json"
  if path.exists():
    return tokenizer_lib.Tokenizer.load(path)
  report(f"Learning the words of scenes into {path} (once).")
  stop = min(settings.sizes.train, _TOKENIZER_SCENES)
  tokenizer = tokenizer_lib.Tokenizer.train(
    generation.training_texts(settings, stop), vocab_size=_VOCABULARY
  )
  path.parent.mkdir(parents=True, exist_ok=True)
  tokenizer.save(path)
  return tokenizer


def _prepared(
  config: str,
  data_dir: str | None,
  settings: Settings,
  report: Callable[[str], None],
) -> Iterator[tuple[str, list[Any]]]:
  """The splits of a config with their records in order."""
  # TFDS takes seconds to import: only who opens a data set pays for it.
  from contrastive_jax.data.sets.scenes import scenes_dataset_builder

  builder = prepare.prepared(
    functools.partial(
      scenes_dataset_builder.Scenes,
      settings=settings,
      config=config,
      data_dir=str(_folder(data_dir, settings)),
      file_format="array_record",
    ),
    f"scenes ({config})",
    report=report,
  )
  for split in SPLITS:
    rows = list(builder.as_data_source(split=split))
    yield split, sorted(rows, key=lambda row: int(row["index"]))


def _folder(data_dir: str | None, settings: Settings) -> pathlib.Path:
  where = pathlib.Path(data_dir or prepare.default_data_dir())
  return where / f"scenes-{settings.fingerprint}"


def _stacked(rows: Sequence[Any], name: str) -> np.ndarray:
  return np.stack([row[name] for row in rows])


def _pair(row: Any) -> dict[str, Any]:
  """A record of captions, its image apart."""
  scene = row["scene"].decode()
  return {
    "index": int(row["index"]),
    "concept_id": int(row["index"]),
    "captions": tuple(
      sources.Caption(text.decode(), "name", sources.ANY_LANGUAGE)
      for text in row["texts"]["text"]
    ),
    "label": phrases.some(len(graph.loads(scene).things), "thing"),
    "scene": scene,
  }


def _expanded(row: Any, task: str, start: int) -> list[dict[str, Any]]:
  """A record for each text of a row, their images apart."""
  common = {"image_id": int(row["index"]), "scene": row["scene"].decode()}
  if task == "nlvr2":
    common["second_scene"] = row["second_scene"].decode()
  texts = {
    name: [
      value.decode() if isinstance(value, bytes) else int(value)
      for value in values
    ]
    for name, values in row["texts"].items()
  }
  out = []
  for number, values in enumerate(zip(*texts.values())):
    record: dict[str, Any] = {"index": start + number, **common}
    record |= dict(zip(texts, values))
    if task == "vqa":
      record["answers"] = (tasks.Answer(record.pop("answer")),)
      record["attributes"] = tuple(
        name for name in record["attributes"].split(",") if name
      )
    out.append(record)
  return out
