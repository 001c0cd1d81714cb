"""Fashion-MNIST's four files, for tests."""

import gzip

import numpy as np

IMAGES = "train-images-idx3-ubyte.gz"
LABELS = "train-labels-idx1-ubyte.gz"


def idx(values):
  """An array as the bytes of an idx file."""
  head = bytes((0, 0, 8, values.ndim))
  return head + np.array(values.shape, ">u4").tobytes() + values.tobytes()


def write(path, values):
  path.write_bytes(gzip.compress(idx(values), 1))


def write_folder(root):
  """120 images of training and 20 of test; image i of a file is of level i."""
  root.mkdir()
  for part, count in (("train", 120), ("t10k", 20)):
    levels = np.arange(count, dtype=np.uint8)[:, None, None]
    images = np.broadcast_to(levels, (count, 28, 28))
    write(root / f"{part}-images-idx3-ubyte.gz", images)
    labels = np.arange(count, dtype=np.uint8) % 10
    write(root / f"{part}-labels-idx1-ubyte.gz", labels)
  return root
