"""Pictures as a user has them: files, PIL images, arrays, folders."""

import collections
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from contrastive_jax.data.sets.folder import folder_images
from contrastive_jax.data.sets.folder.folder_rows import RowError

_T = TypeVar("_T")
_Made = TypeVar("_Made")
# A path, an open file, PIL.Image.Image, or an array uint8 [H, W, 3].
Picture = Any


def listed(images: Any) -> list[Picture]:
  """One picture, several, or those of a folder, as a list.

  Args:
    images: a file, a folder, a PIL image, an array uint8 [H, W, 3] or [N, H, W, 3],
      or an iterable of files, PIL images and arrays.

  Raises:
    ValueError: if there is no picture.
  """
  if isinstance(images, (str, os.PathLike)):
    path = pathlib.Path(images).expanduser()
    if not path.is_dir():
      return [path]
    found = folder_images.files_in(path)
    if not found:
      raise ValueError(
        f"{path} holds no picture ({', '.join(folder_images.SUFFIXES)})."
      )
    return list(found)
  if isinstance(images, Image.Image):
    return [images]
  if hasattr(images, "ndim"):
    array = np.asarray(images)
    if array.ndim not in (3, 4):
      raise ValueError(
        "images must be an array [H, W, 3] or [N, H, W, 3]; got shape"
        f" {array.shape}."
      )
    return [array] if array.ndim == 3 else list(array)
  if not isinstance(images, Iterable):
    raise ValueError(
      "images must be a file, a folder, a PIL image, an array, or several of them;"
      f" got {type(images).__name__}."
    )
  return list(images)


def square(picture: Picture, size: int, fit: str) -> np.ndarray:
  """A picture as uint8 [size, size, 3].

  Args:
    picture: see `Picture`.
    size: side of the square.
    fit: see `folder_images.decode`.

  Raises:
    RowError: if it is no picture.
  """
  if isinstance(picture, (str, os.PathLike)):
    path = os.path.expanduser(os.fspath(picture))
    if not os.path.isfile(path):
      raise RowError("missing file", "there is no such file")
    return folder_images.decode(path, size, fit=fit)
  if hasattr(picture, "read"):
    return folder_images.decode(picture, size, fit=fit)
  if isinstance(picture, Image.Image):
    return folder_images.square(folder_images.upright(picture), size, fit)
  if not hasattr(picture, "ndim"):
    raise RowError(
      "no picture",
      "it must be a file, a PIL image or an array, not of type"
      f" {type(picture).__name__}",
    )
  array = np.asarray(picture)
  right = array.ndim == 3 and array.shape[-1] == 3 and array.size
  if array.dtype != np.uint8 or not right:
    raise RowError(
      "no picture",
      "an array must be uint8 [H, W, 3], levels of 0 to 255; it is"
      f" {array.dtype} {array.shape}",
    )
  if array.shape[:2] == (size, size):
    return array
  return folder_images.square(Image.fromarray(array), size, fit)


def decoded(
  pictures: Iterable[_T],
  make: Callable[[_T, int], _Made],
  rows: int,
  *,
  num_threads: int | None = None,
) -> Iterator[list[_Made]]:
  """What `make` makes of pictures, so many at a time.

  Threads decode the next rows while these are used, and no more than those.

  Args:
    pictures: are taken one after the other.
    make: of a picture and its number, `square` or what contains it.
    rows: pictures at a time; the last may have fewer.
    num_threads: by default the number of processors, at most 16.
  """
  pool = futures.ThreadPoolExecutor(num_threads or min(16, os.cpu_count() or 1))
  waiting: collections.deque[list[futures.Future]] = collections.deque()
  numbered = enumerate(pictures)
  try:
    while part := list(itertools.islice(numbered, rows)):
      waiting.append([pool.submit(make, each, row) for row, each in part])
      if len(waiting) > 2:
        yield [future.result() for future in waiting.popleft()]
    for part in waiting:
      yield [future.result() for future in part]
  finally:
    pool.shutdown(cancel_futures=True)
