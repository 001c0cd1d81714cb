"""Rebuilds the embedded subset of Fashion-MNIST from its Debian package.

  apt-get update && apt-get download dataset-fashion-mnist
  dpkg-deb -x dataset-fashion-mnist_*.deb out
  python -m tools.rebuild_fashion_mnist \
    --source=out/usr/share/datasets/fashion-mnist

It takes some seconds and writes `contrastive_jax/data/sets/fashion_mnist/images.npz`: the
first 8,000 training images and their labels, unchanged.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from contrastive_jax.data.sets.fashion_mnist import files
from contrastive_jax.data.sets.folder.folder_rows import DataError

_COUNT = 8000


def rebuild(source: pathlib.Path, out: pathlib.Path) -> None:
  """Writes `images.npz`.

  Args:
    source: the folder with the four idx.gz files.
    out: the folder to write to.

  Raises:
    DataError: if a file is missing or wrong.
  """
  train, _ = files.read_folder(source)
  kept = train.part(0, _COUNT)
  np.savez_compressed(
    out / files.EMBEDDED, images=kept.images, labels=kept.labels
  )
  print(f"{len(kept.images):,} images.")


def main(argv: Sequence[str]) -> None:
  """Runs the program."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected argument {argv[1]!r}.")
  try:
    rebuild(
      pathlib.Path(flags.FLAGS.source), pathlib.Path(files.__file__).parent
    )
  except DataError as error:
    raise app.UsageError(f"--source: {error}") from error


if __name__ == "__main__":
  # Defined here, so that importing this module leaves the flags of others be.
  flags.DEFINE_string(
    "source", None, "Folder with the four idx.gz files.", required=True
  )
  app.run(main)
