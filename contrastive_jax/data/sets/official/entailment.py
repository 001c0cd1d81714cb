"""SNLI-VE: does a photo entail a hypothesis? Its own files and ALBEF's."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from contrastive_jax.data import tasks
from contrastive_jax.data.sets.folder.folder_rows import RowError
from contrastive_jax.data.sets.official import _files, _problems, _rows

# Of each format: the names of its files in a folder, by split.
FILES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
  "snli_ve": {
    "train": ("snli_ve_train.jsonl",),
    "validation": ("snli_ve_dev.jsonl",),
    "test": ("snli_ve_test.jsonl",),
  },
  "albef": {
    "train": ("ve_train.json",),
    "validation": ("ve_dev.json",),
    "test": ("ve_test.json",),
  },
}
_EXAMPLES = {
  "snli_ve": '{"Flickr30K_ID": "1000092795", "sentence2": "Two men talk.",'
  ' "gold_label": "entailment"}',
  "albef": '[{"image": "1000092795", "sentence": "Two men talk.", "label":'
  ' "entailment"}]',
}
_KEYS = {
  "snli_ve": ("Flickr30K_ID", "sentence2", "gold_label"),
  "albef": ("image", "sentence", "label"),
}
_SUFFIXES = (".jpg", ".jpeg", ".png")


def load_entailment(
  format: str,
  path: _files.Paths,
  image_root: _rows.Roots,
  *,
  image_size: int,
  report: Callable[[str], None] = print,
  report_path: _files.Path | None = None,
  max_bad_share: float = 0.05,
  verify: bool = False,
) -> tasks.TaskData:
  """Opens SNLI-VE.

  | format | file |
  |---|---|
  | `snli_ve` | lines `{"Flickr30K_ID", "sentence2", "gold_label"}` |
  | `albef` | JSON of `{"image", "sentence", "label"}` |

  Beside the fields of its task a record has `image_id` (the number of its image
  in all of the data; records of an image follow each other) and `identifier`
  (the row's `pairID`, or ""). `index` is the number of the row among all rows,
  and `kind` is "". Rows on which the annotators did not agree, whose label is
  "-", are left out and counted, but not held against `max_bad_share`.

  Args:
    format: one of the table.
    path: the file, their folder, or the files of each split.
    image_root: the folder below which Flickr30K's images are, as
      `1000092795.jpg`.
    image_size: side of the images.
    report: receives lines for the user.
    report_path: receives a line for each row that cannot be used.
    max_bad_share: of a split's rows; more of them are an error.
    verify: whether to open every image once: what cannot be decoded is a bad
      row then, and would stop a training run later.

  Returns:
    The data set.

  Raises:
    folder.DataError: a file cannot be used, or too many rows.
    ValueError: there is no such format.
  """
  if format not in FILES:
    raise ValueError(
      f"format must be one of {', '.join(FILES)}, got {format!r}."
    )
  example = _EXAMPLES[format]
  image_key, text_key, label_key = _KEYS[format]

  def parse(row: Any) -> _rows.Named:
    name = str(_files.identifier(row, image_key)).strip()
    if not name:
      raise RowError("empty text", f'"{image_key}" names no image')
    # Most rows leave the suffix out.
    if pathlib.PurePosixPath(name).suffix.lower() not in _SUFFIXES:
      name += ".jpg"
    fields = {
      "hypothesis": _files.text_of(row, text_key),
      "label": _label(_files.member(row, label_key, str).strip().lower()),
      "kind": "",
      "identifier": str(row.get("pairID", "")),
    }
    return _rows.Named(([name],), fields)

  parts = {
    split: [
      _rows.Part(file, _files.load_rows(file, f"SNLI-VE, {example}"), parse)
      for file in files
    ]
    for split, files in _files.find(path, FILES[format]).items()
  }
  rows = _rows.read(
    parts,
    image_root,
    image_size=image_size,
    rules=_problems.Rules(max_bad_share, report_path, verify, report),
    example=example,
  )
  splits = _rows.sources_of(
    _rows.by_image(rows), ("image",), image_size, _record
  )
  return tasks.TaskData(
    name="snli_ve",
    task="entailment",
    splits=splits,
    fingerprint=_rows.fingerprint_of(splits),
  )


def _record(row: _rows.Row) -> dict[str, Any]:
  return {"index": row.index, "image_id": row.numbers[0], **row.fields}


def _label(name: str) -> int:
  if name == "-":
    raise _problems.UnlabelledError(
      "no gold label", "the annotators did not agree"
    )
  if name not in tasks.ENTAILMENT_LABELS:
    raise RowError(
      "wrong label",
      f"{name!r} is none of {', '.join(tasks.ENTAILMENT_LABELS)}",
    )
  return tasks.ENTAILMENT_LABELS.index(name)
