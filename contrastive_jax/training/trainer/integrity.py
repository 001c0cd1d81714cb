"""Digests of checkpoints' files: what is damaged is named, and never trained on.

Orbax moves a checkpoint into place when it is whole, but does not notice a file that
was cut or changed afterwards: most bits of a parameter are as good as others. So
`workdir/checksums/STEP.json` keeps the size and the SHA-256 of every file of a step.
"""

import hashlib
import json
import pathlib
from concurrent import futures
from typing import Any

from contrastive_jax.training.config import workdirs
from contrastive_jax.training.config.errors import UserError
from contrastive_jax.training.types import Report

# The form of a checkpoint; a newer one is not read.
FORMAT = 1
_CHECKPOINTS, _CHECKSUMS, _DAMAGED = "checkpoints", "checksums", "damaged"


class CheckpointError(UserError):
  """A checkpoint cannot be read or written, or does not belong to this run."""


def record(workdir: pathlib.Path, step: int) -> None:
  """Writes the digests of a checkpoint that was just saved; one process does.

  Digests of checkpoints that are gone go too.
  """
  folder = workdir / _CHECKSUMS
  folder.mkdir(exist_ok=True)
  files = _digests(workdir / _CHECKPOINTS / str(step))
  workdirs.write_json(
    folder / f"{step}.json", {"format": FORMAT, "files": files}
  )
  for path in folder.glob("*.json"):
    if not (workdir / _CHECKPOINTS / path.stem).exists():
      path.unlink(missing_ok=True)


def problem(workdir: pathlib.Path, step: int) -> str:
  """Tells the fault of a checkpoint's files; "" if none is known.

  One without digests, as of a run that was killed before they were written, is what
  Orbax moved into place.

  Raises:
    CheckpointError: if it was written by a newer version.
  """
  path = workdir / _CHECKSUMS / f"{step}.json"
  if not path.exists():
    return ""
  try:
    known: Any = json.loads(path.read_text(encoding="utf-8"))
    version, files = known["format"], known["files"]
    expected = {name: (size, digest) for name, (size, digest) in files.items()}
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    return f"its digests in {path} cannot be read"
  if version != FORMAT:
    raise CheckpointError(
      f"{workdir / _CHECKPOINTS / str(step)} has format {version!r}, and this version"
      f" reads {FORMAT}: it was written by another version of contrastive_jax, which"
      " can go on with it."
    )
  return _difference(workdir / _CHECKPOINTS / str(step), expected)


def set_aside_damaged(workdir: pathlib.Path, report: Report) -> None:
  """Moves checkpoints newer than the newest good one to `workdir/damaged`.

  One process does it, before the others look; `report` gets a line for each.

  Raises:
    CheckpointError: if all of them are damaged, or one is of a newer version.
  """
  folder = workdir / _CHECKPOINTS
  if not folder.is_dir():
    return
  steps = sorted(
    (int(p.name) for p in folder.iterdir() if p.name.isdecimal()), reverse=True
  )
  damaged = []
  for step in steps:
    found = problem(workdir, step)
    if not found:
      break
    damaged.append((step, found))
  if damaged and len(damaged) == len(steps):
    step, found = damaged[0]
    raise CheckpointError(
      f"No checkpoint in {folder} is whole (step {step}: {found}): restore one, or"
      " choose another --workdir to train from the start."
    )
  for step, found in damaged:
    target = workdir / _DAMAGED / str(step)
    target.parent.mkdir(exist_ok=True)
    copies = 1
    while target.exists():  # Trained once more, and damaged once more.
      copies += 1
      target = target.with_name(f"{step}-{copies}")
    (folder / str(step)).rename(target)
    (workdir / _CHECKSUMS / f"{step}.json").unlink(missing_ok=True)
    report(
      f"The checkpoint of step {step} is damaged ({found}); it is in {target}."
    )


def _difference(
  folder: pathlib.Path, expected: dict[str, tuple[int, str]]
) -> str:
  for name, (size, _) in expected.items():
    path = folder / name
    if not path.is_file():
      return f"{name} is missing"
    if path.stat().st_size != size:
      return f"{name} has {path.stat().st_size} bytes instead of {size}"
  names = list(expected)
  for name, (_, digest) in _digests(folder, names).items():
    if digest != expected[name][1]:
      return f"{name} has changed"
  return ""


def _digests(
  folder: pathlib.Path, names: list[str] | None = None
) -> dict[str, tuple[int, str]]:
  """File below a folder -> bytes and SHA-256."""
  if names is None:
    names = sorted(
      p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()
    )

  def one(name: str) -> tuple[int, str]:
    with (folder / name).open("rb") as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()
    return (folder / name).stat().st_size, digest

  # Hashing lets go of the interpreter's lock.
  with futures.ThreadPoolExecutor(4) as pool:
    return dict(zip(names, pool.map(one, names)))
