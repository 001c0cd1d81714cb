"""Contrastive representation learning in JAX.

The losses are here by name (`contrastive_jax.clip`), the rest in its rooms:
`losses`, `ops`, `evaluation`, `models`, `data`, `training`. A room is imported
when it is first used, so `import contrastive_jax.losses` needs JAX alone.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = ("data", "evaluation", "losses", "models", "ops", "training")
_LOSSES = (
  "clamp_logit_scale",
  "clip",
  "clip_four_term",
  "decoupled",
  "info_nce",
  "moco_v3",
  "nt_xent",
  "sigmoid",
)

__all__ = (*_ROOMS, *_LOSSES)


def __getattr__(name: str) -> Any:
  if name in _ROOMS:
    return importlib.import_module(f"{__name__}.{name}")
  if name in _LOSSES:
    return getattr(importlib.import_module(f"{__name__}.losses"), name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
