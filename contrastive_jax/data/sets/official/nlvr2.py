"""NLVR2: is a statement true of two photos? Its own files and ALBEF's."""

from collections.abc import Callable, Mapping
from typing import Any

from contrastive_jax.data import tasks
from contrastive_jax.data.sets.folder.folder_rows import RowError
from contrastive_jax.data.sets.official import _files, _problems, _rows

# Of each format: the names of its files in a folder, by split.
FILES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
  "nlvr2": {
    "train": ("train.json",),
    "validation": ("dev.json",),
    "test": ("test1.json",),
    "test2": ("test2.json",),
  },
  "albef": {
    "train": ("nlvr_train.json",),
    "validation": ("nlvr_dev.json",),
    "test": ("nlvr_test.json",),
  },
}
_EXAMPLES = {
  "nlvr2": '{"identifier": "train-4-0-1", "directory": 7, "sentence": "Two'
  ' dogs.", "label": "True"}',
  "albef": '[{"images": ["train/7/a-img0.png", "train/7/a-img1.png"],'
  ' "sentence": "Two dogs.", "label": "True"}]',
}
_LABELS = {"true": 1, "false": 0}


def load_nlvr2(
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
  """Opens NLVR2.

  | format | file |
  |---|---|
  | `nlvr2` | lines `{"identifier", "sentence", "label"}`: `train.json`, |
  | | `dev.json`, `test1.json`, `test2.json` |
  | `albef` | JSON of `{"images", "sentence", "label"}` |

  Beside the fields of its task a record has `image_id` and `second_image_id`
  (the numbers of its images in all of the data; records of a first image follow
  each other) and `identifier` ("" in ALBEF's files). `index` is the number of
  the row among all rows, and `kind` is "".

  Args:
    format: one of the table.
    path: the file, their folder, or the files of each split.
    image_root: the folder below which the images are: those of
      `train-4-0-1`, `train-4-0-img0.png` and `train-4-0-img1.png`, are in it,
      in `train`, or in the row's `directory` in either.
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
  parse = _parse_official if format == "nlvr2" else _parse_albef
  parts = {
    split: [
      _rows.Part(file, _files.load_rows(file, f"NLVR2, {example}"), parse)
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
    _rows.by_image(rows), ("image", "second_image"), image_size, _record
  )
  return tasks.TaskData(
    name="nlvr2",
    task="nlvr2",
    splits=splits,
    fingerprint=_rows.fingerprint_of(splits),
  )


def _record(row: _rows.Row) -> dict[str, Any]:
  return {
    "index": row.index,
    "image_id": row.numbers[0],
    "second_image_id": row.numbers[1],
    **row.fields,
  }


def _fields(row: Any, identifier: str) -> dict[str, Any]:
  statement = _files.text_of(row, "sentence")
  label = str(_files.member(row, "label", (str, bool))).strip().lower()
  if label not in _LABELS:
    raise RowError("wrong label", f"{label!r} is neither True nor False")
  return {
    "statement": statement,
    "label": _LABELS[label],
    "kind": "",
    "identifier": identifier,
  }


def _parse_official(row: Any) -> _rows.Named:
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
  return _rows.Named(images, _fields(row, identifier))


def _parse_albef(row: Any) -> _rows.Named:
  images = _files.member(row, "images", list)
  if len(images) != 2 or not all(isinstance(name, str) for name in images):
    raise RowError("malformed row", '"images" must name two files')
  first, second = (_files.clean(name) for name in images)
  return _rows.Named(([first], [second]), _fields(row, ""))
