"""Converted pairs as random-access sources, and mixtures of them."""

import bisect
import functools
import hashlib
import io
import itertools
import json
import operator
import os
import pathlib
import resource
import types
from collections.abc import Mapping, Sequence
from typing import Any

from contrastive_jax.data import sources
from contrastive_jax.data.sets.folder import folder_images
from contrastive_jax.data.sets.folder.folder_rows import (
  SPLITS,
  DataError,
  RowError,
)
from contrastive_jax.data.sets.records import conversion

# Files that a process opens beside the records.
_SPARE_FILES = 256


class RecordSource(sources.Source):
  """Random access to the pairs of one split of one conversion.

  `source[i]` has `image` (uint8 [S, S, 3]), `index` (= i: the place in the
  conversion), `concept_id` (equal where first captions are), `captions` and
  `label`; `source.fields(i)` reads all but the image.
  """

  def __init__(
    self,
    root: pathlib.Path,
    split: str,
    parts: Sequence[dict[str, Any]],
    *,
    image_size: int,
    fit: str = "pad",
  ):
    """Takes a folder, a split and what its `dataset.json` says of it."""
    self._root, self._split = root, split
    self._numbers = [part["number"] for part in parts]
    self._counts = [operator.index(part["examples"]) for part in parts]
    self._stops = list(itertools.accumulate(self._counts))
    self._image_size, self._fit = image_size, fit
    digest = hashlib.sha256("".join(part["content"] for part in parts).encode())
    self.fingerprint = digest.hexdigest()[:16]

  @functools.cached_property
  def _files(self) -> tuple[Any, Any]:
    """Encoded images and texts."""
    from grain import sources as grain_sources

    def opened(kind: int) -> Any:
      # With these Grain opens a file only when it is read.
      files: Any = [
        types.SimpleNamespace(
          filename=str(self._file(place, kind)),
          skip=0,
          take=count,
          examples_in_shard=count,
        )
        for place, count in enumerate(self._counts)
      ]
      return grain_sources.ArrayRecordDataSource(files)

    _allow_open_files(2 * len(self._numbers))
    return opened(0), opened(1)

  def __getstate__(self) -> dict[str, Any]:
    """Without open files, which other processes open for themselves."""
    return {k: v for k, v in self.__dict__.items() if k != "_files"}

  def __len__(self) -> int:
    """Number of pairs."""
    return self._stops[-1] if self._stops else 0

  @property
  def index_bound(self) -> int:
    """One more than the largest index."""
    return len(self)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One pair.

    Raises:
      DataError: if it cannot be read or decoded (any more).
    """
    fields = self.fields(index)
    try:
      image = folder_images.decode(
        io.BytesIO(self._files[0][int(index)]), self._image_size, fit=self._fit
      )
    except (RowError, RuntimeError, OSError) as error:
      raise self._unreadable(int(index), 0, error) from error
    return {"image": image, **fields}

  def fields(self, index: int) -> dict[str, Any]:
    """One pair without its image."""
    index = self._checked(index)
    try:
      fields = json.loads(self._files[1][index])
      return {
        "index": index,
        "concept_id": int(fields["concept_id"]),
        "captions": sources.name_captions(fields["captions"]),
        "label": fields["label"],
      }
    except (RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
      raise self._unreadable(index, 1, error) from error

  def _file(self, place: int, kind: int) -> pathlib.Path:
    """The images (0) or texts (1) of a part."""
    number = self._numbers[place]
    return conversion.files_of(self._root, self._split, number)[kind]

  def _unreadable(self, index: int, kind: int, error: Exception) -> DataError:
    """Error for a pair whose image (0) or text (1) cannot be read."""
    file = self._file(bisect.bisect_right(self._stops, index), kind)
    advice = "remove the file and start the conversion again"
    if "open files" in str(error):
      advice = "let the process open more files (ulimit -n)"
    return DataError(
      f"Pair {index} in {file} cannot be read ({error}); {advice}."
    )

  def __repr__(self) -> str:
    # A log that names the source then tells when the data has changed.
    return (
      f"RecordSource({self._split!r}, pairs={len(self)},"
      f" image_size={self._image_size}, fingerprint={self.fingerprint!r})"
    )


class Mixture(sources.Source):
  """Several sources one after the other, with the weights they are drawn by.

  The fingerprint changes when that of a part or the weights do.
  """

  def __init__(
    self,
    parts: Sequence[sources.Source],
    weights: Sequence[float] | None = None,
  ):
    """Takes the sources, and how often rows of each are drawn."""
    if weights is not None and len(weights) != len(parts):
      raise ValueError(
        f"weights must be one a source; got {len(weights)} and {len(parts)}."
      )
    self._parts = list(parts)
    self._bounds = (0, *itertools.accumulate(len(part) for part in parts))
    self.weights = None if weights is None else tuple(weights)
    self._starts = (0, *itertools.accumulate(p.index_bound for p in parts))
    text = json.dumps([[p.fingerprint for p in parts], self.weights])
    self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]

  def __len__(self) -> int:
    """Number of pairs."""
    return self._bounds[-1]

  @property
  def bounds(self) -> tuple[int, ...]:
    """The first row of each part, and the number of all."""
    return self._bounds

  @property
  def index_bound(self) -> int:
    """One more than the largest index."""
    return self._starts[-1]

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One pair."""
    part, row = self._place(index)
    return self._renumbered(self._parts[part][row], part)

  def fields(self, index: int) -> dict[str, Any]:
    """One pair without its image."""
    part, row = self._place(index)
    return self._renumbered(self._parts[part].fields(row), part)

  def _renumbered(self, record: Mapping[str, Any], part: int) -> dict[str, Any]:
    return {**record, "index": record["index"] + self._starts[part]}

  def _place(self, index: int) -> tuple[int, int]:
    index = self._checked(index)
    part = bisect.bisect_right(self._bounds, index) - 1
    return part, index - self._bounds[part]

  def __repr__(self) -> str:
    return f"Mixture({self._parts!r}, weights={self.weights!r})"


def load(
  path: str, *, image_size: int, fit: str = "pad", images_alone: bool = False
) -> dict[str, RecordSource]:
  """A source a split of what `experiments.convert_pairs` wrote into a folder.

  Args:
    path: the folder.
    image_size: side of the images.
    fit: how they become squares.
    images_alone: whether images without captions will do.

  Raises:
    DataError: if the folder is none, files of it are missing or cut short, or it has
      no captions.
  """
  root = pathlib.Path(path).expanduser()
  file = root / conversion.DATASET_FILE
  try:
    known = json.loads(file.read_text(encoding="utf-8"))
    splits = {split: known["splits"][split] for split in SPLITS}
    if known.get("images_alone") and not images_alone:
      raise DataError(
        f"{root} holds images without captions, for objectives of images alone"
        " (simclr, moco_v3); convert them without --images_alone."
      )
    for split, parts in splits.items():
      for part in parts:
        paths = conversion.files_of(root, split, part["number"])
        for each, size in zip(paths, part["bytes"], strict=True):
          found = each.stat().st_size
          if found != size:
            raise DataError(
              f"{each} has {found:,} bytes instead of {size:,}; remove it and"
              " start the conversion again."
            )
    return {
      split: RecordSource(root, split, parts, image_size=image_size, fit=fit)
      for split, parts in splits.items()
    }
  except OSError as error:
    raise DataError(
      f"{root} holds no finished conversion ({error.strerror or error}:"
      f" {error.filename}); make one with python -m experiments.convert_pairs."
    ) from error
  except DataError:
    raise
  except (
    *(ValueError, KeyError, TypeError),
    *(AttributeError, OverflowError, RecursionError),
  ) as error:
    raise DataError(
      f"{file} is damaged ({error}); start the conversion again."
    ) from error


def _allow_open_files(more: int) -> None:
  """Raises this process's limit of open files, as far as it may.

  Readers stay open, two a part: a thousand parts are above the usual limit of 1,024.
  """
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  used = (
    len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 64
  )
  wanted = used + more + _SPARE_FILES
  if soft != resource.RLIM_INFINITY and wanted > soft:
    if hard != resource.RLIM_INFINITY:
      wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
