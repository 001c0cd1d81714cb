"""Captioned images: COCO, the Karpathy splits, web lists, ALBEF's own files."""

import collections
import functools
import pathlib
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from contrastive_jax.data import sources
from contrastive_jax.data.sets.folder import reading
from contrastive_jax.data.sets.folder.folder_rows import RowError
from contrastive_jax.data.sets.official import _files, _problems, _rows

# Of each format: the names of its files in a folder, by split.
FILES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
  "coco": {
    "train": ("captions_train*.json",),
    "validation": ("captions_val*.json",),
  },
  "karpathy": {"train": ("dataset_*.json",)},
  "albef": {
    "train": ("*_train.json",),
    "validation": ("*_val.json",),
    "test": ("*_test.json",),
  },
  "list": {
    "train": ("*[Tt]rain*.tsv",),
    "validation": ("*[Vv]al*.tsv",),
  },
}
_EXAMPLES = {
  "coco": '{"images": [{"id": 9, "file_name": "000000000009.jpg"}],'
  ' "annotations": [{"image_id": 9, "caption": "A red cup."}]}',
  "karpathy": '{"images": [{"filepath": "val2014", "filename": "a.jpg",'
  ' "split": "train", "sentences": [{"raw": "A red cup."}]}]}',
  "albef": '[{"image": "val2014/a.jpg", "caption": "A red cup."}]',
  "list": "A red cup.<TAB>http://host/a.jpg",
}
_KARPATHY_SPLITS = {"restval": "train"}


def load_captions(
  format: str,
  path: _files.Paths,
  image_root: _rows.Roots,
  *,
  image_size: int,
  names: Mapping[str, str] | _files.Path | None = None,
  only: str = "",
  report: Callable[[str], None] = print,
  report_path: _files.Path | None = None,
  max_bad_share: float = 0.05,
  verify: bool = False,
) -> dict[str, sources.Source]:
  """Opens captioned images that others publish.

  | format | file | split |
  |---|---|---|
  | `coco` | `captions_train2017.json` and the like | by file |
  | `karpathy` | `dataset_coco.json`, `dataset_flickr30k.json` | in the file |
  | `albef` | JSON of `{"image", "caption"}`: one caption or a list | by file |
  | `list` | a line `caption<TAB>URL or path` (Conceptual Captions) | by file |
  | `list` | JSON of pairs, or SBU's of `image_urls` and `captions` | by file |

  Of a Karpathy split, `restval` is train. Records are those of `data.sources`,
  with all captions of an image in one. `concept_id` is the number of the image
  in the data set, the same in all splits, `index` too, and `label` is "". A row
  without a caption or an image is a bad one. Nothing is fetched.

  Args:
    format: one of the table.
    path: the file; or their folder, if it has one a split of the usual name; or
      the file or files of each split, as {"train": FILE, "validation": FILE}.
    image_root: the folder below which the images are. COCO's may be in it or in
      folders such as `train2017`.
    image_size: side of the images.
    names: of a list, the image of each URL below `image_root`, or a JSON file
      with that; without it, that is the last part of the URL.
    only: a split; images of the others need not be there. "" is all.
    report: receives lines for the user.
    report_path: receives a line for each row that cannot be used.
    max_bad_share: of a split's rows; more of them are an error. Lists from the
      web need more, as many of their images are gone.
    verify: whether to open every image once: what cannot be decoded is a bad
      row then, and would stop a training run later.

  Returns:
    A source a split.

  Raises:
    folder.DataError: a file cannot be used, or too many rows.
    ValueError: there is no such format.
  """
  if format not in FILES:
    raise ValueError(
      f"format must be one of {', '.join(FILES)}, got {format!r}."
    )
  if names is not None and format != "list":
    raise ValueError(f"names is for the format list, got {format!r}.")
  files = _files.find(path, FILES[format])
  if format == "coco":
    parts = _by_file(files, _coco)
  elif format == "karpathy":
    parts = _karpathy([file for split in files.values() for file in split])
  elif format == "albef":
    parts = _by_file(files, _albef)
  else:
    parts = _by_file(files, functools.partial(_list, names=_name_table(names)))
  if only:
    if only not in parts:
      raise reading.DataError(
        f"{path} has no split {only!r}; it has {', '.join(parts)}."
      )
    parts = {only: parts[only]}
  rows = _rows.read(
    parts,
    image_root,
    image_size=image_size,
    rules=_problems.Rules(max_bad_share, report_path, verify, report),
    example=_EXAMPLES[format],
  )
  merged = {split: _merged(found) for split, found in rows.items()}
  return dict(_rows.sources_of(merged, ("image",), image_size, _record))


def _by_file(
  files: Mapping[str, list[pathlib.Path]],
  part: Callable[[pathlib.Path], _rows.Part],
) -> dict[str, list[_rows.Part]]:
  return {
    split: [part(file) for file in names] for split, names in files.items()
  }


def _record(row: _rows.Row) -> dict[str, Any]:
  return {
    "index": row.numbers[0],
    "concept_id": row.numbers[0],
    "captions": sources.name_captions(row.fields["captions"]),
    "label": "",
  }


def _merged(rows: Iterable[_rows.Row]) -> list[_rows.Row]:
  """One row an image, with the captions of all of its rows, each once."""
  first: dict[int, _rows.Row] = {}
  captions: dict[int, dict[str, None]] = collections.defaultdict(dict)
  for row in rows:
    first.setdefault(row.numbers[0], row)
    captions[row.numbers[0]].update(dict.fromkeys(row.fields["captions"]))
  return [
    row._replace(fields={"captions": tuple(captions[number])})
    for number, row in first.items()
  ]


def _named(images: list[str], captions: Iterable[str]) -> _rows.Named:
  """A row of an image; empty captions are left out if there are others."""
  kept = []
  for caption in captions:
    if caption.strip():
      kept.append(_files.clean(caption))
  if not kept:
    raise RowError("no caption", "the image has none that is not empty")
  return _rows.Named((images,), {"captions": tuple(dict.fromkeys(kept))})


def _coco(path: pathlib.Path) -> _rows.Part:
  expected = f"COCO captions, {_EXAMPLES['coco']}"
  value = _files.load_json(path, expected)
  images = _files.listed(value, "images", path, expected)
  annotations = _files.listed(value, "annotations", path, expected)
  captions: dict[int | str, list[str]] = collections.defaultdict(list)
  first: dict[int | str, int] = {}
  rows: list[tuple[int, Any]] = []
  for number, row in _files.numbered(annotations):
    try:
      text = _files.member(row, "caption", str)
      image = _files.identifier(row, "image_id")
      captions[image].append(text)
      first.setdefault(image, number)
    except RowError as error:
      rows.append((number, error))
  known = set()
  for number, row in _files.numbered(images):
    rows.append((number, row))
    if isinstance(row, dict) and isinstance(row.get("id"), (int, str)):
      known.add(row["id"])
  # The annotations of an image that is not listed have no name to go by.
  rows += [
    (number, RowError("unknown image", f"captions of image {image!r}"))
    for image, number in first.items()
    if image not in known
  ]
  # captions_train2017.json is about images that may be in train2017.
  subset = re.search(r"(?:train|val|test)\d{4}", path.name)

  def parse(row: Any) -> _rows.Named:
    name = _files.text_of(row, "file_name")
    places = [name] + ([f"{subset.group()}/{name}"] if subset else [])
    return _named(places, captions.get(_files.identifier(row, "id"), ()))

  return _rows.Part(path, rows, parse)


def _karpathy(files: list[pathlib.Path]) -> dict[str, list[_rows.Part]]:
  splits: dict[str, list[_rows.Part]] = {}
  for path in files:
    expected = f"a Karpathy split, {_EXAMPLES['karpathy']}"
    rows: dict[str, list[tuple[int, Any]]] = collections.defaultdict(list)
    images = _files.table(path, "images", expected)
    for number, row in _files.numbered(images):
      split = "train"
      try:
        name = _files.text_of(row, "split")
        split = _KARPATHY_SPLITS.get(name, _files.split_name(name))
        if split not in (sources.TRAIN, sources.VALIDATION, sources.TEST):
          split = sources.TRAIN
          raise RowError("unknown split", repr(name))
      except RowError as error:
        row = error
      rows[split].append((number, row))
    for split, found in rows.items():
      part = _rows.Part(path, found, _parse_karpathy)
      splits.setdefault(split, []).append(part)
    if not images:
      raise reading.DataError(f"{path} has no images; expected {expected}.")
  return _files.in_order(splits)


def _parse_karpathy(row: Any) -> _rows.Named:
  name = _files.text_of(row, "filename")
  sentences = _files.member(row, "sentences", list)
  captions = [_files.member(sentence, "raw", str) for sentence in sentences]
  # Flickr's has no folders, and COCO's images may all be in one.
  places = [name]
  if row.get("filepath"):
    places.insert(0, f"{_files.text_of(row, 'filepath')}/{name}")
  return _named(places, captions)


def _captions_of(row: Any) -> list[str]:
  """One caption, or a list of them."""
  value = _files.member(row, "caption", (str, list))
  captions = value if isinstance(value, list) else [value]
  for caption in captions:
    if not isinstance(caption, str):
      raise RowError("wrong type", '"caption" must be text or a list of texts')
  return captions


def _albef(path: pathlib.Path) -> _rows.Part:
  rows = _files.load_rows(path, f"a list, {_EXAMPLES['albef']}")
  return _rows.Part(
    path,
    rows,
    lambda row: _named([_files.text_of(row, "image")], _captions_of(row)),
  )


def _list(path: pathlib.Path, names: Mapping[str, str] | None) -> _rows.Part:
  expected = f"a list of captions and images, {_EXAMPLES['list']}"
  if path.suffix in (".json", ".jsonl"):
    rows = _sbu(path, expected) or _files.load_rows(path, expected)
  else:
    rows = _files.load_lines(path, expected)

  meant: dict[str, str] = {}

  def parse(row: Any) -> _rows.Named:
    image, captions = _pair(row)
    name = _local(image, names)
    # Web addresses often end alike: whose image it is then nobody knows.
    other = meant.setdefault(name, image)
    if other != image:
      raise RowError("ambiguous name", f"{name} is the end of {other} as well")
    return _named([name], captions)

  return _rows.Part(path, rows, parse)


def _sbu(path: pathlib.Path, expected: str) -> list[tuple[int, Any]]:
  """The rows of SBU's JSON, a list of URLs and one of captions; else none."""
  try:
    value = _files.load_json(path, expected)
  except reading.DataError:  # A JSON value a line, or the next reader says why.
    return []
  if not isinstance(value, dict) or "image_urls" not in value:
    return []
  images = _files.listed(value, "image_urls", path, expected)
  captions = _files.listed(value, "captions", path, expected)
  if len(images) != len(captions):
    raise reading.DataError(
      f"{path} has {len(images):,} image_urls and {len(captions):,} captions;"
      " they must be as many."
    )
  return _files.numbered(zip(images, captions))


def _pair(row: Any) -> tuple[str, list[str]]:
  """Image and captions of a row of a list."""
  if isinstance(row, str):
    cells = row.split("\t")
    if len(cells) < 2:
      raise RowError("malformed row", "there is no tab after the caption")
    # More columns are labels and the like.
    return _files.clean(cells[1]), [cells[0]]
  if isinstance(row, dict):
    key = next((k for k in ("image", "url", "image_url") if k in row), "image")
    return _files.text_of(row, key), _captions_of(row)
  if (
    isinstance(row, (list, tuple))
    and len(row) == 2
    and all(isinstance(cell, str) for cell in row)
  ):
    return _files.clean(row[0]), [row[1]]
  raise RowError("malformed row", "it is no pair of image and caption")


def _local(image: str, names: Mapping[str, str] | None) -> str:
  """The image below its folder that a list's URL or path means."""
  if names is not None:
    if image not in names:
      raise RowError("missing file", f"names has no image for {image}")
    return names[image]
  if "://" not in image:
    return image
  name = pathlib.PurePosixPath(urllib.parse.urlsplit(image).path).name
  if not name:
    raise RowError("missing file", f"no file is named by {image}")
  return urllib.parse.unquote(name)


def _name_table(
  names: Mapping[str, str] | _files.Path | None,
) -> Mapping[str, str] | None:
  if names is None or isinstance(names, Mapping):
    return names
  path = pathlib.Path(names)
  expected = '{"http://host/a.jpg": "000/a.jpg"}'
  value = _files.load_json(path, expected)
  if not isinstance(value, dict) or not all(
    isinstance(name, str) for name in value.values()
  ):
    raise reading.DataError(f"{path} must hold {expected}.")
  return value
