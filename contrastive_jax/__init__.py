"""Contrastive representation learning in JAX.

The packages are `losses`, `ops`, `evaluation`, `models`, `data`, `training` and
`inference`, whose `load` is here as well: it opens a trained model.
Losses and scores are here by name as well: `contrastive_jax.clip` is
`losses.clip`, `contrastive_jax.retrieval_metrics` is that of `evaluation`. A
name that both packages have (`alignment`, `uniformity`) is not here: it is a
loss in one and a score in the other.

A package is imported when it is first used: `import contrastive_jax` imports no
JAX, and `contrastive_jax.clip` imports JAX alone.
"""

import importlib as _importlib
import importlib.util as _importlib_util
import types as _types_lib
import typing as _typing

__version__ = "0.1.0"

_PACKAGES = (
  *("data", "evaluation", "inference", "losses", "models", "ops"),
  "training",
)
# Packages whose exports are here too. Their `__init__.py` are the only lists.
_LENDERS = ("losses", "evaluation")
_SHARED = ("alignment", "uniformity")

if _typing.TYPE_CHECKING:
  # For type checkers and editors, which do not follow `__getattr__`.
  from contrastive_jax import (
    data as data,
    evaluation as evaluation,
    inference as inference,
    losses as losses,
    models as models,
    ops as ops,
    training as training,
  )
  from contrastive_jax.evaluation import *  # noqa: F403
  from contrastive_jax.inference import load as load
  from contrastive_jax.losses import *  # noqa: F403

  # Not to be called: checkers cannot be told that a name is missing.
  alignment: None
  uniformity: None
else:

  def __getattr__(name: str):
    if name == "load":
      return _importlib.import_module(f"{__name__}.inference").load
    if name in _PACKAGES:
      return _importlib.import_module(f"{__name__}.{name}")
    if name in _SHARED:
      raise AttributeError(
        f"{__name__}.{name} would be ambiguous: use"
        f" {' or '.join(f'{__name__}.{p}.{name}' for p in _LENDERS)}."
      )
    # `from contrastive_jax import choices` asks here first: a module needs
    # no look at the exports, which import JAX.
    if not name.startswith("_") and not _is_module(name):
      for package in _LENDERS:
        exports = _exports(package)
        if name in exports:
          return exports[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

  def _is_module(name: str) -> bool:
    return _importlib_util.find_spec(f"{__name__}.{name}") is not None

  def __dir__() -> list[str]:
    lent = {name for package in _LENDERS for name in _exports(package)}
    return sorted({"__version__", "load", *_PACKAGES, *lent - {*_SHARED}})

  def _exports(package: str) -> dict:
    """The exports of a package, without its modules."""
    return {
      name: value
      for name, value in vars(
        _importlib.import_module(f"{__name__}.{package}")
      ).items()
      if not name.startswith("_")
      and not isinstance(value, _types_lib.ModuleType)
    }
