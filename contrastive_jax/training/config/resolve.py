"""The sizes that a model's preset decides."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from contrastive_jax import models
from contrastive_jax.training.config import checks
from contrastive_jax.training.config.errors import ConfigError


def resolved(config: Any) -> Any:
  """A configuration with its preset's sizes where the fields are 0.

  Raises:
    ConfigError: if there is no such preset, or something does not fit its sizes.
  """
  presets: Mapping[str, Any] = models.PRESETS
  if config.objective.fuses:
    presets = models.FUSION_PRESETS
  model = config.model
  if model.preset not in presets:
    names = list(presets)
    best = difflib.get_close_matches(model.preset, names, n=1, cutoff=0.0)
    raise ConfigError(
      f"config.model.preset must be one of {', '.join(names)}; got"
      f" {model.preset!r}; did you mean {best[0]!r}?"
    )
  preset = presets[model.preset]
  # A fusion model has a size in its image tower alone.
  side = getattr(preset, "image_size", 0) or preset.image.image_size
  model = dataclasses.replace(
    model,
    image_size=model.image_size or side,
    context_length=model.context_length or preset.context_length,
  )
  config = dataclasses.replace(config, model=model)
  checks.check(config)
  return config
