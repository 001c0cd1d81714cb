"""The recipes: configurations that are found by their names."""

import ast
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
from collections.abc import Callable
from typing import Any

_FOLDER = pathlib.Path(__file__).parent


def names() -> list[str]:
  """The recipes that come with the package."""
  found = (module.name for module in pkgutil.iter_modules([str(_FOLDER)]))
  return sorted(name for name in found if not name.startswith("_"))


def description(name: str) -> str:
  """The first line of a recipe's docstring; it is not imported for that."""
  tree = ast.parse((_FOLDER / f"{name}.py").read_text(encoding="utf-8"))
  return (ast.get_docstring(tree) or "").partition("\n")[0]


def path_of(recipe: str) -> pathlib.Path | None:
  """The file of a recipe, a name or a path with or without `:variant`, or None."""
  place = recipe.partition(":")[0]
  named = _FOLDER / f"{place}.py"
  if place.isidentifier() and not place.startswith("_") and named.is_file():
    return named
  path = pathlib.Path(place).expanduser()
  return path if path.suffix == ".py" and path.is_file() else None


def load(recipe: str) -> Any:
  """The configuration that a recipe's `get_config` returns, a draft.

  What comes after a colon is given to it. A recipe is a program: it may raise
  anything, and FileNotFoundError if there is none.
  """
  path = path_of(recipe)
  if path is None:
    raise FileNotFoundError(recipe)
  variant = recipe.partition(":")[2]
  make: Callable[..., Any] = _module(path).get_config
  takes = bool(inspect.signature(make).parameters)
  if variant and not takes:
    raise ValueError(f"{path.stem} has no variants; got {variant!r}.")
  return make(variant) if takes else make()


def _module(path: pathlib.Path) -> Any:
  if path.parent == _FOLDER:
    return importlib.import_module(f"{__name__}.{path.stem}")
  spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
