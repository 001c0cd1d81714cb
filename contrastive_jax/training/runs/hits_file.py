"""File `hits.npz` of a workdir: which items the final scores count as right."""

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from contrastive_jax.training.config import workdirs
from contrastive_jax.training.evaluators import base

NAME = "hits.npz"
_THINGS = "#things"  # Follows the name of a score.


def save(workdir: pathlib.Path, hits: Mapping[str, base.Hits]) -> None:
  """Writes the file, all of it or nothing."""
  arrays: dict[str, Any] = {name: own.right for name, own in hits.items()}
  arrays |= {f"{name}{_THINGS}": own.things for name, own in hits.items()}
  temporary = workdir / "hits.tmp"
  temporary.unlink(missing_ok=True)  # A link would be written through.
  with open(temporary, "wb") as file:
    np.savez_compressed(file, **arrays)
  temporary.replace(workdir / NAME)


def load(workdir: pathlib.Path) -> dict[str, base.Hits]:
  """Hits by the name of their score; empty without the file.

  Raises:
    WorkdirError: if the file is damaged.
  """
  path = workdir / NAME
  if not path.exists():
    return {}
  try:
    with np.load(path, allow_pickle=False) as file:
      names = [name for name in file.files if not name.endswith(_THINGS)]
      return {
        name: base.Hits(file[name], file[f"{name}{_THINGS}"]) for name in names
      }
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    raise workdirs.WorkdirError(
      f"{path} cannot be read ({error}): evaluate the run again."
    ) from error


def counts(hits: Mapping[str, base.Hits]) -> dict[str, int]:
  """The number of items of each score."""
  return {name: len(own.right) for name, own in hits.items()}
