"""Records whose images are files, decoded when they are asked for."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from contrastive_jax.data import sources
from contrastive_jax.data.sets.folder import folder_images
from contrastive_jax.data.sets.folder.folder_rows import DataError, RowError


class ImageSource(sources.Source):
  """Random access to records whose images are decoded when they are asked for.

  `source[i]` has the images (uint8 [S, S, 3], see `folder_images.decode`) and
  the other fields, `source.fields(i)` those alone.

  A pickled copy leaves images in memory behind and decodes on access: a worker
  process then starts at once, and decoding is what it is for.
  """

  def __init__(
    self,
    paths: Mapping[str, Sequence[str]],
    columns: Mapping[str, Sequence[Any]],
    image_size: int,
    *,
    advice: str,
    fingerprint: str = "",
    max_pixels: int = folder_images.MAX_PIXELS,
    fit: str = "pad",
    cache: np.ndarray | None = None,
    cache_rows: Sequence[int] = (),
  ):
    """Takes images by their fields, and the other fields.

    Args:
      paths: a file a record for each field with images.
      columns: the other fields. They come by column, as half a million dicts
        would need half a gigabyte.
      image_size: side of the images.
      advice: what to do where a file cannot be read any more, for the error.
      fingerprint: of the records.
      max_pixels: larger images are refused.
      fit: how images become squares, see `folder_images.decode`.
      cache: decoded images, if they fit into memory.
      cache_rows: of each record, the row of its image there.
    """
    self._paths = {name: tuple(values) for name, values in paths.items()}
    self._columns = {name: tuple(values) for name, values in columns.items()}
    self._image_size = image_size
    self._advice = advice
    self._max_pixels = max_pixels
    self._fit = fit
    self._cache = cache
    self._cache_rows = tuple(cache_rows)
    self.fingerprint = fingerprint

  def __len__(self) -> int:
    """Number of records."""
    return len(next(iter(self._paths.values())))

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One record; its images are the caller's own.

    Raises:
      DataError: an image cannot be decoded (any more).
    """
    fields = self.fields(index)
    return {
      name: self._image(name, int(index)) for name in self._paths
    } | fields

  def _image(self, name: str, index: int) -> np.ndarray:
    if self._cache is not None:
      return self._cache[self._cache_rows[index]].copy()
    path = self._paths[name][index]
    try:
      return folder_images.decode(
        path, self._image_size, self._max_pixels, self._fit
      )
    except RowError as error:
      raise DataError(
        f"{path} cannot be read ({error}); {self._advice}."
      ) from error

  def fields(self, index: int) -> dict[str, Any]:
    """One record without its images."""
    index = self._checked(index)
    return {name: values[index] for name, values in self._columns.items()}

  def __getstate__(self) -> dict[str, Any]:
    return self.__dict__ | {"_cache": None, "_cache_rows": ()}

  def __repr__(self) -> str:
    # A log that names the source then tells when the data has changed.
    return (
      f"ImageSource(records={len(self)}, image_size={self._image_size}, "
      f"fingerprint={self.fingerprint!r})"
    )


def digest(values: Iterable[Any]) -> str:
  """A fingerprint of what JSON can hold, in order."""
  found = hashlib.sha256()
  for value in values:
    found.update(json.dumps(value).encode())
  return found.hexdigest()[:16]
