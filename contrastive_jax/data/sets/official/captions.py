"""Captioned images: COCO, the Karpathy splits, web lists, ALBEF's own files."""

import collections
import pathlib
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

from contrastive_jax.data import sources
from contrastive_jax.data.sets.folder import folder_rows
from contrastive_jax.data.sets.folder.folder_rows import DataError, RowError
from contrastive_jax.data.sets.official import _files, _rows

FORMATS: Mapping[str, _files.Format] = {
  "coco": _files.Format(
    {
      "train": ("captions_train*.json",),
      "validation": ("captions_val*.json",),
    },
    '{"images": [{"id": 9, "file_name": "000000000009.jpg"}],'
    ' "annotations": [{"image_id": 9, "caption": "A red cup."}]}',
  ),
  "karpathy": _files.Format(
    {"train": ("dataset_*.json",)},
    '{"images": [{"filepath": "val2014", "filename": "a.jpg",'
    ' "split": "train", "sentences": [{"raw": "A red cup."}]}]}',
  ),
  "albef": _files.Format(
    {
      "train": ("*_train.json",),
      "validation": ("*_val.json",),
      "test": ("*_test.json",),
    },
    '[{"image": "val2014/a.jpg", "caption": "A red cup."}]',
  ),
  "list": _files.Format(
    {"train": ("*[Tt]rain*.tsv",), "validation": ("*[Vv]al*.tsv",)},
    "A red cup.<TAB>http://host/a.jpg",
  ),
}
_KARPATHY_SPLITS = {"restval": "train"}


def load_captions(
  opening: _rows.Opening,
  *,
  names: Mapping[str, str] | _files.Path | None = None,
  only: str = "",
) -> dict[str, sources.Source]:
  """Opens captioned images that others publish.

  A `list` is lines of a caption, a tab and a URL or path (Conceptual
  Captions), JSON of pairs, or SBU's of `image_urls` and `captions`. Files of
  `karpathy` have all splits in them (`restval` is train), those of other
  formats are of one each. COCO's images may be in the folder of the images or
  in folders such as `train2017`. Records are those of `data.sources`, with all
  captions of an image in one. `concept_id` is the number of the image in the
  data set, the same in all splits, `index` too, and `label` is "". A row
  without a caption or an image is a bad one: lists from the web need a larger
  `max_bad_share`, as many of their images are gone.

  Args:
    opening: what is opened.
    names: of a list, the image of each URL below `image_root`, or a JSON file
      with that; without it, that is the last part of the URL.
    only: a split; images of the others need not be there. "" is all.
  """
  if names is not None and opening.format != "list":
    raise ValueError(f"names is for the format list, got {opening.format!r}.")
  if opening.format == "karpathy":
    parts = _karpathy(opening)
  elif opening.format == "albef":
    parts = opening.json_parts("a list", _parse_albef)
  elif opening.format == "coco":
    expected = f"COCO captions, {opening.example}"
    parts = opening.parts(lambda path: _coco(path, expected))
  else:
    expected = f"a list of captions and images, {opening.example}"
    table = _name_table(names)
    parts = opening.parts(lambda path: _list(path, expected, table))
  if only:
    if only not in parts:
      raise DataError(
        f"{opening.path} has no split {only!r}; it has {', '.join(parts)}."
      )
    parts = {only: parts[only]}
  rows = opening.read(parts)
  merged = {split: _merged(found) for split, found in rows.items()}
  return opening.as_sources(merged, lambda row: row.fields)


def _merged(rows: Iterable[_rows.UsableRow]) -> list[_rows.UsableRow]:
  """One row an image, whose record has the captions of all, each once."""
  first: dict[int, _rows.UsableRow] = {}
  captions: dict[int, dict[str, None]] = collections.defaultdict(dict)
  for row in rows:
    first.setdefault(row.numbers[0], row)
    captions[row.numbers[0]].update(dict.fromkeys(row.fields["captions"]))
  return [
    row._replace(
      fields={
        "index": number,
        "concept_id": number,
        "captions": sources.name_captions(captions[number]),
        "label": "",
      }
    )
    for number, row in first.items()
  ]


def _named(images: list[str], captions: Iterable[str]) -> _rows.Named:
  """A row of an image; empty captions are left out if there are others."""
  kept = [_files.clean(caption) for caption in captions if caption.strip()]
  if not kept:
    raise RowError("no caption", "the image has none that is not empty")
  return _rows.Named((images,), {"captions": tuple(dict.fromkeys(kept))})


def _coco(path: pathlib.Path, expected: str) -> _rows.Part:
  value = _files.load_json(path, expected)
  images = _files.listed(value, "images", path, expected)
  annotations = _files.listed(value, "annotations", path, expected)
  # The texts of each image by the number of their row.
  captions: dict[int | str, dict[int, str]] = collections.defaultdict(dict)
  rows: _files.Rows = []
  for number, row in enumerate(annotations, 1):
    try:
      text = _files.member(row, "caption", str)
      captions[_files.identifier(row, "image_id")][number] = text
    except RowError as error:
      rows.append((number, error))
  rows += enumerate(images, 1)
  ids = [row.get("id") for row in images if isinstance(row, dict)]
  known = {name for name in ids if isinstance(name, (int, str))}
  # The annotations of an image that is not listed have no name to go by.
  rows += [
    (min(texts), RowError("unknown image", f"captions of image {image!r}"))
    for image, texts in captions.items()
    if image not in known
  ]
  # captions_train2017.json is about images that may be in train2017.
  subset = re.search(r"(?:train|val|test)\d{4}", path.name)

  def parse(row: Any) -> _rows.Named:
    name = _files.text_of(row, "file_name")
    places = [name] + ([f"{subset.group()}/{name}"] if subset else [])
    texts = captions.get(_files.identifier(row, "id"), {})
    return _named(places, texts.values())

  return _rows.Part(path, rows, parse)


def _karpathy(opening: _rows.Opening) -> _rows.Parts:
  expected = f"a Karpathy split, {opening.example}"
  splits: _rows.Parts = {}
  for path in (path for paths in opening.files.values() for path in paths):
    rows: dict[str, _files.Rows] = collections.defaultdict(list)
    value = _files.load_json(path, expected)
    images = _files.listed(value, "images", path, expected)
    for number, row in enumerate(images, 1):
      split = "train"
      try:
        name = _files.text_of(row, "split")
        split = _KARPATHY_SPLITS.get(name, folder_rows.split_name(name))
        if split not in folder_rows.SPLITS:
          split = "train"
          raise RowError("unknown split", repr(name))
      except RowError as error:
        row = error
      rows[split].append((number, row))
    for split, found in rows.items():
      part = _rows.Part(path, found, _parse_karpathy)
      splits.setdefault(split, []).append(part)
    if not images:
      raise DataError(f"{path} has no images; expected {expected}.")
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


def _parse_albef(row: Any) -> _rows.Named:
  return _named([_files.text_of(row, "image")], _captions_of(row))


def _list(
  path: pathlib.Path, expected: str, names: Mapping[str, str] | None
) -> _rows.Part:
  if path.suffix in (".json", ".jsonl"):
    rows = _sbu(path, expected) or _files.load_rows(path, expected)
  else:
    rows = _files.load_rows(path, expected, text=True)
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


def _sbu(path: pathlib.Path, expected: str) -> _files.Rows:
  """The rows of SBU's JSON, a list of URLs and one of captions; else none."""
  try:
    value = _files.load_json(path, expected)
  except DataError:  # A JSON value a line, or the next reader says why.
    return []
  if not isinstance(value, dict) or "image_urls" not in value:
    return []
  images = _files.listed(value, "image_urls", path, expected)
  captions = _files.listed(value, "captions", path, expected)
  if len(images) != len(captions):
    raise DataError(
      f"{path} has {len(images):,} image_urls and {len(captions):,} captions;"
      " they must be as many."
    )
  return list(enumerate(zip(images, captions), 1))


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
    raise DataError(f"{path} must hold {expected}.")
  return value
