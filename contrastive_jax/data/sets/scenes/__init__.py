"""Scenes: drawn images whose every fact is known, with texts for all tasks.

Images of two to five things (of a shape, colour, size and texture each, tilted or
not) before a background of some grey, and from the same scene graph captions,
questions with answers, statements about two images and hypotheses. What captions
leave out is a setting (`SceneSettings.private`), so that studies can vary what is
in the image alone. Of every task the texts alone do not tell the answer.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from contrastive_jax.choices import field
from contrastive_jax.data import sources
from contrastive_jax.data import tasks as tasks_lib
from contrastive_jax.data.files import prepare
from contrastive_jax.data.sets import prepared
from contrastive_jax.data.sets.choices import DATA_DIR, PAIRS, TASKS, Request
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
  SceneSettings,
  Sizes,
)

if TYPE_CHECKING:
  import numpy as np

  from contrastive_jax.data.text import tokenizer as tokenizer_lib

__all__ = [
  "FACTS",
  "SPLITS",
  "UNSEEN_PAIRS",
  "Scenes",
  "SceneSettings",
  "Sizes",
  "load_pairs",
  "load_task",
  "load_tokenizer",
]

_DEFAULT = SceneSettings()
_VOCABULARY = 1024
# Enough for every word to come often; the tokenizer of a larger set is the same.
_TOKENIZER_SCENES = 2000


@dataclasses.dataclass(frozen=True)
class Scenes:
  """Drawn scenes whose every fact is known, with texts for all tasks."""

  scenes: int = field(
    4000, "Training images, or pairs of them for nlvr2.", low=1, high=10**9
  )
  private: tuple[str, ...] = field(
    ("background", "texture", "rotation"),
    "Facts that captions never mention.",
    among=FACTS,
  )
  data_dir: str = DATA_DIR

  tasks = (*PAIRS, *TASKS)
  licence = "Apache-2.0, drawn by contrastive_jax"

  def open(self, request: Request) -> sources.PairData | tasks_lib.TaskData:
    """See `load_pairs` and `load_task`.

    Raises:
      ValueError: if `image_size` is not one that can be drawn.
    """
    settings = SceneSettings(
      image_size=request.image_size,
      sizes=Sizes(train=self.scenes),
      private=self.private,
    )
    load = load_pairs
    if request.task in TASKS:
      load = functools.partial(load_task, request.task)
    data = load(self.data_dir, settings=settings, report=request.report)
    if request.tokenizer is None:
      return data
    return dataclasses.replace(data, tokenizer=request.tokenizer)


def load_pairs(
  data_dir: str = "",
  *,
  settings: SceneSettings = _DEFAULT,
  report: Callable[[str], None] = print,
) -> sources.PairData:
  """Prepares (once) and opens scenes with captions.

  Every image is a concept of its own; its label is how many things it shows,
  "three things". Records have the scene graph too, in `scene`, which
  `graph.loads` reads. The images of a split are those that `load_task` has for
  `vqa`.

  Args:
    data_dir: where the prepared records are kept, in a folder a fingerprint; ""
      is the user's cache.
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
  data_dir: str = "",
  *,
  settings: SceneSettings = _DEFAULT,
  report: Callable[[str], None] = print,
) -> tasks_lib.TaskData:
  """Prepares (once) and opens scenes with the texts of a task.

  Beside the fields that `data.tasks` names, records have `image_id` (the number
  of their image, or pair, in the split; those of one image are after each
  other) and `scene`, of `nlvr2` also `second_scene`. Those of `vqa` have
  `attributes`, which the question names or asks for: those that are private
  cannot be learned from captions.

  Args:
    task: one of `TASKS`.
    data_dir: where the prepared records are kept, see `load_pairs`.
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
    records = [
      {"index": index, **record}
      for index, record in enumerate(itertools.chain(*map(_records, rows)))
    ]
    splits[split] = sources.ArraySource(
      _stacked(rows, "image"),
      records,
      rows=[record["image_id"] for record in records],
      second_images=_stacked(rows, "second_image") if task == "nlvr2" else None,
    )
  return tasks_lib.TaskData(
    name="scenes",
    task=task,
    splits=splits,
    answers=questions.ANSWERS if task == "vqa" else (),
    fingerprint=settings.fingerprint,
    tokenizer=load_tokenizer(data_dir, settings=settings, report=report),
  )


def load_tokenizer(
  data_dir: str = "",
  *,
  settings: SceneSettings = _DEFAULT,
  report: Callable[[str], None] = print,
) -> "tokenizer_lib.Tokenizer":
  """The tokenizer of all tasks, learned on their training texts once.

  Arguments are those of `load_pairs`.
  """
  from contrastive_jax.data.text import tokenizer as tokenizer_lib

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
  data_dir: str,
  settings: SceneSettings,
  report: Callable[[str], None],
) -> Iterator[tuple[str, list[Any]]]:
  """The splits of a config with their records in order."""
  # TFDS takes seconds to import: only who opens a data set pays for it.
  from contrastive_jax.data.sets.scenes import scenes_dataset_builder

  return prepared.rows(
    functools.partial(
      scenes_dataset_builder.Scenes, settings=settings, config=config
    ),
    _folder(data_dir, settings),
    f"scenes ({config})",
    report,
  )


def _folder(data_dir: str, settings: SceneSettings) -> pathlib.Path:
  return prepare.data_dir(data_dir) / f"scenes-{settings.fingerprint}"


def _stacked(rows: Sequence[Any], name: str) -> "np.ndarray":
  import numpy as np

  return np.stack([row[name] for row in rows])


def _pair(row: Any) -> dict[str, Any]:
  """A record of captions, its image apart."""
  scene = row["scene"].decode()
  return {
    "index": int(row["index"]),
    "concept_id": int(row["index"]),
    "captions": sources.name_captions(
      text.decode() for text in row["texts"]["text"]
    ),
    "label": phrases.some(len(graph.loads(scene).things), "thing"),
    "scene": scene,
  }


def _records(row: Any) -> Iterator[dict[str, Any]]:
  """A record for each text of a row, its images and its index apart."""
  for values in zip(*row["texts"].values()):
    record: dict[str, Any] = {"image_id": int(row["index"])}
    record |= {
      k: row[k].decode() for k in ("scene", "second_scene") if k in row
    }
    record |= {
      name: value.decode() if isinstance(value, bytes) else int(value)
      for name, value in zip(row["texts"], values)
    }
    if "answer" in record:
      record["answers"] = (tasks_lib.Answer(record.pop("answer")),)
      attributes = record["attributes"].split(",")
      record["attributes"] = tuple(filter(None, attributes))
    yield record
