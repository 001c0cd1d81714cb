"""Vision-language data as others publish it, read from disk.

| task | format | files |
|---|---|---|
| `captions` | `coco` | `captions_train2017.json`, `captions_val2017.json` |
| | `karpathy` | `dataset_coco.json`, `dataset_flickr30k.json` |
| | `list` | Conceptual Captions' and SBU's lists, as TSV or JSON |
| | `albef` | `coco_train.json`, `flickr30k_test.json` |
| `vqa` | `vqa_v2` | `v2_OpenEnded_mscoco_train2014_questions.json`, |
| | | `v2_mscoco_train2014_annotations.json` |
| | `visual_genome` | `question_answers.json`, `image_data.json` |
| | `albef` | `vqa_train.json`, `vg_qa.json`, `answer_list.json` |
| `nlvr2` | `nlvr2` | `train.json`, `dev.json`, `test1.json` |
| | `albef` | `nlvr_train.json` |
| `entailment` | `snli_ve` | `snli_ve_train.jsonl` |
| | `albef` | `ve_train.json` |

`albef` is the form in which ALBEF's authors published their lists.

Nothing is fetched: the files and the images are where the user has put them. A
file that is missing, cut short or of another format is an error of one
sentence; rows that cannot be used are counted, listed and left out, up to a
stated share. Images are decoded when a record is asked for. A name of an image
is never followed out of the folder of the images, be it by "..", by a whole
path or by a link.
"""

import dataclasses
import inspect
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from contrastive_jax.data.files import stores
from contrastive_jax.choices import field
from contrastive_jax.data import sources
from contrastive_jax.data import tasks as tasks_lib
from contrastive_jax.data.sets.choices import (
  FIT,
  MAX_BAD_SHARE,
  PAIRS,
  TASKS,
  VOCAB_SIZE,
  Request,
)
from contrastive_jax.data.sets.folder.folder_rows import DataError

if TYPE_CHECKING:
  from contrastive_jax.data.sets.official import _files, _rows


@dataclasses.dataclass(frozen=True)
class Official:
  """Published sets in the authors' own files (COCO, Flickr30k, VQA v2, ...)."""

  path: str = field(
    "", "File or folder with the lists of examples.", place=True
  )
  format: str = field(
    "", "Format of the lists, see contrastive_jax.data.sets.official."
  )
  image_root: str = field(
    "", "Folder below which the images are; empty is path.", place=True
  )
  options: dict[str, Any] = dataclasses.field(
    default_factory=dict,
    metadata={
      "doc": "Further arguments of the format's function, such as"
      ' {"path": {"train": FILE}, "min_count": 1}.'
    },
  )
  fit: str = FIT
  max_bad_share: float = MAX_BAD_SHARE
  vocab_size: int = VOCAB_SIZE

  tasks = (*PAIRS, *TASKS)

  def check(self) -> None:
    """Raises if the lists or their format are not named."""
    for name in ("path", "format"):
      if not getattr(self, name):
        raise ValueError(
          f"{name} must be given, see contrastive_jax.data.sets.official for what"
          " is read; got ''."
        )

  def open(self, request: Request) -> sources.PairData | tasks_lib.TaskData:
    """The splits of the files.

    Splits of captions that there are no files for are empty. Where nothing is
    trained, those that are there are scored.

    Raises:
      ValueError: if the format or an option is wrong, or nothing can be trained on.
      DataError: if the data cannot be used.
    """
    task = "captions" if request.task in PAIRS else request.task
    found: Any = self._load(task, request)
    splits = found if task == "captions" else found.splits
    # A run of no steps, as of a published CLIP, has nothing to train on.
    needed = request.trains or task != "captions"
    if needed and not len(splits.get(sources.TRAIN, ())):
      raise ValueError(
        f"path must have training examples; {self.path!r} has the splits"
        f" {', '.join(splits)}: name the files with"
        ' config.data.options={"path": {"train": FILE}}.'
      )
    if task != "captions":
      tokenizer = request.learned(
        tasks_lib.training_texts(found), self.vocab_size
      )
      return dataclasses.replace(found, tokenizer=tokenizer)
    if not request.trains:
      _score_what_is_there(splits, request.report)
    import numpy as np

    empty = sources.ArraySource(np.zeros((0, 1, 1, 3), np.uint8), [])
    for name in (sources.VALIDATION, sources.TEST):
      splits.setdefault(name, empty)
    train = splits[sources.TRAIN]
    return sources.PairData(
      name="official",
      splits=splits,
      languages=(sources.ANY_LANGUAGE,),
      tokenizer=request.learned(sources.caption_texts(train), self.vocab_size),
      fingerprint=train.fingerprint,
      prompts=sources.PHOTO_PROMPTS,
    )

  def _load(self, task: str, request: Request) -> Any:
    path = os.path.expanduser(stores.local(self.path, request.report))
    images = stores.local(self.image_root, request.report)
    # Options may say these in another way.
    arguments: dict[str, Any] = {
      "path": path,
      "image_root": os.path.expanduser(images) or path,
      "report_path": request.skipped_path,
      "max_bad_share": self.max_bad_share,
      **self.options,
    }
    try:
      return load(
        task,
        self.format,
        image_size=request.image_size,
        fit=self.fit,
        report=request.report,
        **arguments,
      )
    except DataError:
      raise
    except (TypeError, ValueError) as error:
      place = "" if str(error).startswith("format ") else "options: "
      raise ValueError(f"{place}{error}") from error


def _score_what_is_there(
  splits: dict[str, Any], report: Callable[[str], None]
) -> None:
  """Fills the splits of a run of no steps, which is there to be scored."""
  names = sources.TEST, sources.VALIDATION, sources.TRAIN
  found = next(name for name in names if len(splits.get(name, ())))
  if found != sources.TEST:
    report(f"Note: there is no split test; scores are of {found}.")
  splits[sources.TEST] = splits[found]
  splits.setdefault(sources.TRAIN, splits[found])


def load(
  task: str,
  format: str,
  path: "_files.Paths",
  image_root: "_rows.Roots",
  *,
  image_size: int,
  fit: str = "pad",
  report: Callable[[str], None] = print,
  report_path: "_files.Path | None" = None,
  max_bad_share: float = 0.05,
  verify: bool = False,
  **options: Any,
) -> dict[str, sources.Source] | tasks_lib.TaskData:
  """Opens data of a task and format of the table above.

  Args:
    task: `captions`, `vqa`, `nlvr2` or `entailment`.
    format: one that the task has.
    path: a file; a folder, if it has files of the usual names; or the file or
      files of each split, as {"train": FILE, "validation": FILE}.
    image_root: the folder below which the images are.
    image_size: side of the images.
    fit: how images become squares, see `folder_images.decode`.
    report: receives lines for the user.
    report_path: receives a line for each row that cannot be used.
    max_bad_share: of a split's rows; more of them are an error.
    verify: whether to open every image once: what cannot be decoded is a bad
      row then, and would stop a training run later.
    **options: further ones of the task's function, `captions.load_captions`,
      `vqa.load_vqa`, `statements.load_nlvr2` or `statements.load_entailment`.

  Returns:
    A source a split for `captions`, a data set for the others.

  Raises:
    DataError: a file cannot be used, or too many rows.
    ValueError: there is no such task or format.
  """
  from contrastive_jax.data.sets.official import (
    _files,
    _rows,
    captions,
    statements,
    vqa,
  )

  loaders: dict[str, tuple[Any, Callable[..., Any]]] = {
    "captions": (captions.FORMATS, captions.load_captions),
    "vqa": (vqa.FORMATS, vqa.load_vqa),
    "nlvr2": (statements.NLVR2, statements.load_nlvr2),
    "entailment": (statements.ENTAILMENT, statements.load_entailment),
  }
  if task not in loaders:
    raise ValueError(f"task must be one of {', '.join(loaders)}, got {task!r}.")
  formats, loader = loaders[task]
  if format not in formats:
    raise ValueError(
      f"format must be one of {', '.join(formats)}, got {format!r}."
    )
  # A mistyped option is told before files are looked for.
  inspect.signature(loader).bind(None, **options)
  opening = _rows.Opening(
    format=format,
    example=formats[format].example,
    path=path,
    files=_files.find(path, formats[format].files),
    image_root=image_root,
    image_size=image_size,
    fit=fit,
    report=report,
    report_path=report_path,
    max_bad_share=max_bad_share,
    verify=verify,
  )
  return loader(opening, **options)
