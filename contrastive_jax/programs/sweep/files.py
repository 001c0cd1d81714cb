"""Sweeps by name: those of a folder, and a user's own files and modules."""

import dataclasses
import importlib
import importlib.util
import pathlib
import types
from typing import Any

from contrastive_jax.programs import command_line
from contrastive_jax.programs.sweep.types import Sweep
from contrastive_jax.training import config as config_lib

# Sweeps in this folder need no path when the program is started in a checkout.
FOLDER = pathlib.Path("experiments") / "sweeps"


def load(name: str) -> Sweep:
  """The sweep that --sweep names.

  Args:
    name: of a file in `FOLDER` (`clip_small_batches`), the path of a file, or the
      name of a module (`my_project.sweeps`), with `get_sweep() -> Sweep`. One with
      `VARIANTS` has several: after a colon comes the one that `get_sweep(variant)`
      is called with.

  Returns:
    The sweep, whose `source` is its name.

  Raises:
    UserError: if there is no such sweep, or its file fails.
  """
  place, variant = _find(name)
  found: Any = None
  # A sweep is a program: it may raise anything.
  try:
    module = _module(place)
    variants = getattr(module, "VARIANTS", ("",))
    make = getattr(module, "get_sweep", None)
    if make and variant in variants:
      found = make(variant) if variant else make()
  except Exception as error:
    reason = command_line.failure(_file(place), error)
    raise config_lib.UserError(f"--sweep={name} failed: {reason}.") from error
  if make is None:
    raise config_lib.UserError(f"--sweep={name} has no function get_sweep.")
  stem = str(place)
  if isinstance(place, pathlib.Path) and place.resolve().parent == (
    FOLDER.resolve()
  ):
    stem = place.stem
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


def _find(name: str) -> tuple[pathlib.Path | str, str]:
  """The file or the module of a sweep, and its variant."""
  module, _, variant = name.rpartition(":")
  choices = ((name, ""), (module, variant))
  for file, chosen in choices:
    for path in (pathlib.Path(file), FOLDER / f"{file}.py"):
      if file and path.is_file():
        return path, chosen
  for module, chosen in choices:
    try:
      if importlib.util.find_spec(module) is not None:
        return module, chosen
    except ValueError:  # No name of a module.
      continue
    except ModuleNotFoundError as error:
      if error.name and f"{module}.".startswith(f"{error.name}."):
        continue
      raise config_lib.UserError(f"--sweep={name} failed: {error}.") from error
    except (
      Exception
    ) as error:  # Its package is imported, and may raise anything.
      reason = command_line.failure(module, error)
      raise config_lib.UserError(f"--sweep={name} failed: {reason}.") from error
  names = [p.stem for p in sorted(FOLDER.glob("[a-z]*.py"))]
  known = f", or one of {', '.join(names)}" if names else ""
  raise config_lib.UserError(
    f"--sweep must be a file or a module with get_sweep(){known}; got {name!r}."
  )


def _file(place: pathlib.Path | str) -> str:
  """The file of a sweep, whose line an error names."""
  if isinstance(place, str):
    spec = importlib.util.find_spec(place)
    return str(spec.origin if spec else place)
  return str(place)


def _module(place: pathlib.Path | str) -> types.ModuleType:
  if isinstance(place, str):
    return importlib.import_module(place)
  spec = importlib.util.spec_from_file_location("sweep_file", place)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
