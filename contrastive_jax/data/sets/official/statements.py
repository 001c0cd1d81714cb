"""Texts with labels: NLVR2 of two photos, SNLI-VE of one; ALBEF's files."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from contrastive_jax.data import tasks
from contrastive_jax.data.sets.folder.folder_rows import RowError
from contrastive_jax.data.sets.official import _files, _rows

NLVR2: Mapping[str, _files.Format] = {
  "nlvr2": _files.Format(
    {
      "train": ("train.json",),
      "validation": ("dev.json",),
      "test": ("test1.json",),
      "test2": ("test2.json",),
    },
    '{"identifier": "train-4-0-1", "directory": 7, "sentence": "Two'
    ' dogs.", "label": "True"}',
  ),
  "albef": _files.Format(
    {
      "train": ("nlvr_train.json",),
      "validation": ("nlvr_dev.json",),
      "test": ("nlvr_test.json",),
    },
    '[{"images": ["train/7/a-img0.png", "train/7/a-img1.png"],'
    ' "sentence": "Two dogs.", "label": "True"}]',
  ),
}
ENTAILMENT: Mapping[str, _files.Format] = {
  "snli_ve": _files.Format(
    {
      "train": ("snli_ve_train.jsonl",),
      "validation": ("snli_ve_dev.jsonl",),
      "test": ("snli_ve_test.jsonl",),
    },
    '{"Flickr30K_ID": "1000092795", "sentence2": "Two men talk.",'
    ' "gold_label": "entailment"}',
  ),
  "albef": _files.Format(
    {
      "train": ("ve_train.json",),
      "validation": ("ve_dev.json",),
      "test": ("ve_test.json",),
    },
    '[{"image": "1000092795", "sentence": "Two men talk.", "label":'
    ' "entailment"}]',
  ),
}
_KEYS = {
  "snli_ve": ("Flickr30K_ID", "sentence2", "gold_label"),
  "albef": ("image", "sentence", "label"),
}
_TRUE = {"true": 1, "false": 0}
_SUFFIXES = (".jpg", ".jpeg", ".png")


def load_nlvr2(opening: _rows.Opening) -> tasks.TaskData:
  """Opens NLVR2.

  Beside the fields of its task a record has `image_id` and `second_image_id`
  (the numbers of its images in all of the data; records of a first image follow
  each other) and `identifier` ("" in ALBEF's files). `index` is the number of
  the row among all rows, and `kind` is "". The images of `train-4-0-1`,
  `train-4-0-img0.png` and `train-4-0-img1.png`, are in the folder of the
  images, in `train`, or in the row's `directory` in either.
  """
  parse = _nlvr2 if opening.format == "nlvr2" else _nlvr2_of_albef
  return opening.task_data(
    opening.read(opening.json_parts("NLVR2", parse)),
    task="nlvr2",
    name="nlvr2",
    image_fields=("image", "second_image"),
  )


def load_entailment(opening: _rows.Opening) -> tasks.TaskData:
  """Opens SNLI-VE: does a photo entail a hypothesis?

  Beside the fields of its task a record has `image_id` (the number of its image
  in all of the data; records of an image follow each other) and `identifier`
  (the row's `pairID`, or ""). `index` is the number of the row among all rows,
  and `kind` is "". Rows on which the annotators did not agree, whose label is
  "-", are left out and counted, but not held against `max_bad_share`. Images
  are Flickr30K's, as `1000092795.jpg`.
  """
  parse = functools.partial(_hypothesis, *_KEYS[opening.format])
  rows = opening.read(opening.json_parts("SNLI-VE", parse))
  return opening.task_data(rows, task="entailment", name="snli_ve")


def _statement(row: Any, identifier: str) -> dict[str, Any]:
  statement = _files.text_of(row, "sentence")
  label = str(_files.member(row, "label", (str, bool))).strip().lower()
  if label not in _TRUE:
    raise RowError("wrong label", f"{label!r} is neither True nor False")
  return {
    "statement": statement,
    "label": _TRUE[label],
    "kind": "",
    "identifier": identifier,
  }


def _nlvr2(row: Any) -> _rows.Named:
  identifier = _files.text_of(row, "identifier")
  pair, _, sentence = identifier.rpartition("-")
  if not pair or not sentence.isdigit():
    raise RowError(
      "malformed row", f'"identifier" is {identifier!r}, not as train-4-0-1'
    )
  split = pair.split("-")[0]
  folders = [f"{split}/", ""]
  if row.get("directory") is not None:
    directory = _files.identifier(row, "directory")
    folders = [f"{split}/{directory}/", f"{directory}/", *folders]
  images = tuple(
    [f"{place}{pair}-img{i}.png" for place in folders] for i in range(2)
  )
  return _rows.Named(images, _statement(row, identifier))


def _nlvr2_of_albef(row: Any) -> _rows.Named:
  images = _files.member(row, "images", list)
  if len(images) != 2 or not all(isinstance(name, str) for name in images):
    raise RowError("malformed row", '"images" must name two files')
  first, second = (_files.clean(name) for name in images)
  return _rows.Named(([first], [second]), _statement(row, ""))


def _hypothesis(
  image_key: str, text_key: str, label_key: str, row: Any
) -> _rows.Named:
  name = str(_files.identifier(row, image_key)).strip()
  if not name:
    raise RowError("empty text", f'"{image_key}" names no image')
  # Most rows leave the suffix out.
  if pathlib.PurePosixPath(name).suffix.lower() not in _SUFFIXES:
    name += ".jpg"
  hypothesis = _files.text_of(row, text_key)
  label = _files.member(row, label_key, str).strip().lower()
  if label == "-":
    raise _rows.UnlabelledError("no gold label", "the annotators did not agree")
  known = tasks.ENTAILMENT_LABELS
  if label not in known:
    raise RowError("wrong label", f"{label!r} is none of {', '.join(known)}")
  fields = {
    "hypothesis": hypothesis,
    "label": known.index(label),
    "kind": "",
    "identifier": str(row.get("pairID", "")),
  }
  return _rows.Named(([name],), fields)
