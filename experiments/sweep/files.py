"""Sweeps by name: those that ship, and a user's own files."""

import dataclasses
import importlib.util
import pathlib
from typing import Any

from contrastive_jax.programs import command_line
from contrastive_jax.training import config as config_lib
from experiments.sweep.types import Sweep

SHIPPED = pathlib.Path(__file__).parents[1] / "sweeps"


def load(name: str) -> Sweep:
  """The sweep that --sweep names.

  Args:
    name: of a file in `SHIPPED` (`clip_small_batches`), or the path of one that has
      `get_sweep() -> Sweep`. A file with `VARIANTS` has several: after a colon
      comes the one that `get_sweep(variant)` is called with.

  Returns:
    The sweep, whose `source` is its name.

  Raises:
    UserError: if there is no such sweep, or its file fails.
  """
  path, variant = _find(name)
  spec = importlib.util.spec_from_file_location("sweep_file", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  found: Any = None
  # A sweep is a program: it may raise anything.
  try:
    spec.loader.exec_module(module)
    variants = getattr(module, "VARIANTS", ("",))
    make = getattr(module, "get_sweep", None)
    if make and variant in variants:
      found = make(variant) if variant else make()
  except Exception as error:
    reason = command_line.failure(str(path), error)
    raise config_lib.UserError(f"--sweep={name} failed: {reason}.") from error
  if make is None:
    raise config_lib.UserError(f"--sweep={name} has no function get_sweep.")
  ships = path.resolve().parent == SHIPPED.resolve()
  stem = path.stem if ships else str(path)
  sources = {v: f"{stem}:{v}" if v else stem for v in variants}
  if variant not in sources:
    raise config_lib.UserError(
      f"--sweep must be one of {', '.join(sources.values())}; got {name!r}."
    )
  if not isinstance(found, Sweep):
    raise config_lib.UserError(
      f"--sweep={name}: get_sweep() must return a Sweep; got"
      f" {type(found).__name__}."
    )
  return dataclasses.replace(found, source=sources[variant])


def _find(name: str) -> tuple[pathlib.Path, str]:
  """The file of a sweep, and its variant."""
  for file, variant in ((name, ""), name.rpartition(":")[::2]):
    for path in (pathlib.Path(file), SHIPPED / f"{file}.py"):
      if file and path.is_file():
        return path, variant
  names = [p.stem for p in sorted(SHIPPED.glob("[a-z]*.py"))]
  raise config_lib.UserError(
    f"--sweep must be a file with get_sweep(), or one of {', '.join(names)};"
    f" got {name!r}."
  )
