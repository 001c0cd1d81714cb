"""Reads Fashion-MNIST: the embedded subset, or the four files of all of it."""

import functools
import gzip
import hashlib
import importlib.resources
import pathlib
import zlib
from typing import NamedTuple

import numpy as np

from contrastive_jax.data.sets.folder.folder_rows import DataError

# In the order of their numbers.
CLASSES = (
  *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
  *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SIDE = 28
EMBEDDED = "images.npz"
_WHAT_TO_DO = (
  "config.data.path must be the folder that holds Fashion-MNIST's"
  " train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz,"
  " t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz (the Debian package"
  " dataset-fashion-mnist has them); empty, it means the images that ship here"
)


class Drawings(NamedTuple):
  """Grey images, uint8 [N, 28, 28], and the number of the class of each."""

  images: np.ndarray
  labels: np.ndarray

  def part(self, start: int, stop: int) -> "Drawings":
    """Some of them, by place."""
    return Drawings(self.images[start:stop], self.labels[start:stop])

  @property
  def fingerprint(self) -> str:
    """Digest of images and labels, in order."""
    digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
    digest.update(np.ascontiguousarray(self.labels).data)
    return digest.hexdigest()[:16]


@functools.cache
def embedded() -> Drawings:
  """The subset that ships: the first 8,000 training images."""
  file = importlib.resources.files("contrastive_jax.data.sets.fashion_mnist")
  with (file / EMBEDDED).open("rb") as stream:
    stored = np.load(stream, allow_pickle=False)
    return Drawings(stored["images"], stored["labels"])


def read_folder(path: str | pathlib.Path) -> tuple[Drawings, Drawings]:
  """The images of the four idx.gz files.

  Args:
    path: the folder that holds them.

  Returns:
    Those of training, and those of test.

  Raises:
    DataError: naming the file that is missing or wrong, and what to do.
  """
  folder = pathlib.Path(path).expanduser()
  if not folder.is_dir():
    raise DataError(f"{folder} is not a folder: {_WHAT_TO_DO}.")
  return _read_part(folder, "train"), _read_part(folder, "t10k")


def _read_part(folder: pathlib.Path, part: str) -> Drawings:
  images_path = folder / f"{part}-images-idx3-ubyte.gz"
  labels_path = folder / f"{part}-labels-idx1-ubyte.gz"
  images, labels = _read(images_path, 3), _read(labels_path, 1)
  if not len(images) or images.shape[1:] != (SIDE, SIDE):
    raise _wrong(
      images_path, f"must hold images of 28 x 28 pixels; it has {images.shape}"
    )
  if len(labels) != len(images):
    raise _wrong(
      labels_path,
      f"has {len(labels):,} labels for the {len(images):,} images of"
      f" {images_path.name}",
    )
  counts = np.bincount(labels, minlength=len(CLASSES))
  # MNIST's files have the same names and form: digits would get names of
  # clothes.
  if len(counts) > len(CLASSES) or len(set(counts.tolist())) > 1:
    raise _wrong(
      labels_path,
      "is not of Fashion-MNIST, whose ten classes are equally frequent",
    )
  return Drawings(images, labels)


def _read(path: pathlib.Path, dimensions: int) -> np.ndarray:
  """A gzipped idx file of bytes: uint8, of so many dimensions."""
  try:
    content = gzip.decompress(path.read_bytes())
  except FileNotFoundError as error:
    raise _wrong(path, "is missing") from error
  except (EOFError, zlib.error, OSError) as error:
    raise _wrong(path, f"cannot be read, it may be cut short ({error})") from (
      error
    )
  # Two zero bytes, the type (8: unsigned bytes), dimensions, their sizes.
  start = 4 + 4 * dimensions
  if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < start:
    raise _wrong(path, f"is no idx file of bytes in {dimensions} dimension(s)")
  shape = np.frombuffer(content, ">u4", dimensions, 4).astype(np.int64)
  values = np.frombuffer(content, np.uint8, offset=start)
  if len(values) != np.prod(shape):
    raise _wrong(
      path,
      f"has {len(values):,} bytes of values, and its head says"
      f" {np.prod(shape):,}",
    )
  return values.reshape(shape)


def _wrong(path: pathlib.Path, reason: str) -> DataError:
  return DataError(f"{path} {reason}: {_WHAT_TO_DO}.")
