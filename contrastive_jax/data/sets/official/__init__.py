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
from collections.abc import Callable, Mapping
from typing import Any

from contrastive_jax.data import sources, tasks
from contrastive_jax.data.sets.official import _files, _rows
from contrastive_jax.data.sets.official.captions import load_captions
from contrastive_jax.data.sets.official.entailment import load_entailment
from contrastive_jax.data.sets.official.nlvr2 import load_nlvr2
from contrastive_jax.data.sets.official.vqa import load_vqa

__all__ = (
  "load",
  "load_captions",
  "load_entailment",
  "load_nlvr2",
  "load_vqa",
)

_LOADERS: Mapping[str, Callable[..., Any]] = {
  "captions": load_captions,
  "vqa": load_vqa,
  "nlvr2": load_nlvr2,
  "entailment": load_entailment,
}


def load(
  task: str,
  format: str,
  path: _files.Paths,
  image_root: _rows.Roots,
  *,
  image_size: int,
  fit: str = "pad",
  report: Callable[[str], None] = print,
  **options: Any,
) -> dict[str, sources.Source] | tasks.TaskData:
  """Opens data of a task and format of the table above.

  Args:
    task: `captions`, `vqa`, `nlvr2` or `entailment`.
    format: one that the task has.
    path: a file, a folder or the files of each split.
    image_root: the folder below which the images are.
    image_size: side of the images.
    fit: how images become squares, see `folder_images.decode`.
    report: receives lines for the user.
    **options: further ones of the task's function, `load_captions`, `load_vqa`,
      `load_nlvr2` or `load_entailment`.

  Returns:
    A source a split for `captions`, a data set for the others.

  Raises:
    folder.DataError: a file cannot be used, or too many rows.
    ValueError: there is no such task or format.
  """
  if task not in _LOADERS:
    raise ValueError(
      f"task must be one of {', '.join(_LOADERS)}, got {task!r}."
    )
  found: Any = _LOADERS[task](
    format,
    path,
    image_root,
    image_size=image_size,
    report=report,
    **options,
  )
  if task == "captions":
    return {name: source.fitted(fit) for name, source in found.items()}
  splits = {name: source.fitted(fit) for name, source in found.splits.items()}
  return dataclasses.replace(found, splits=splits)
