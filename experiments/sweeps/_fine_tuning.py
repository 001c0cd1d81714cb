"""What the sweeps over published towers share."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from contrastive_jax.recipes import _lit
from contrastive_jax.training import config as config_lib
from experiments import sweep
from experiments.sweep import Arm

VALIDATION = "retrieval_validation/image_to_text/recall_at_1"
METRICS = {
  f"retrieval/{way.replace(' ', '_')}/recall_at_{k}": f"{way}, R@{k}"
  for way in ("image to text", "text to image")
  for k in (1, 5, 10)
} | {"train/seconds": "seconds, features and evaluation included"}
SETTING = "training images"
# In place of files, whose paths would stand in the record.
_NAMES = {
  "initial.image_weights": "EfficientNet-Lite0",
  "initial.text_weights": "all-MiniLM-L6-v2",
  "model.tokenizer": "all-MiniLM-L6-v2",
}
PUBLISHED, SCRATCH = "maps on published towers", "CLIP from scratch"


def base() -> ml_collections.ConfigDict:
  """The library's defaults without what costs time and changes no score."""
  config = config_lib.default_config()
  config.log_every = config.checkpoint_every = 100_000
  config.evaluation.plots = False
  config.evaluation.retrieval_every = 0
  return config


def arm(
  method: str, images: int, recipe: ml_collections.ConfigDict, **options: Any
) -> Arm:
  """A recipe as an arm: what it changes of the defaults.

  Args:
    method: of the arm.
    images: of the data set.
    recipe: of the run; how often it logs, saves and looks is `base`'s.
    **options: of the arm.
  """
  kept = {"log_every", "checkpoint_every"}
  fields = {
    name: _NAMES.get(name, value)
    for name, value in _flat(recipe).items()
    if value != _flat(config_lib.default_config())[name]
    and name not in kept
    and not name.startswith("evaluation.")
  }
  return Arm(method, images, fields, **options)


def train(config: config_lib.Config) -> Mapping[str, float]:
  """A run, its published files taken from where packages keep them."""
  if config.initial.image_weights:
    found = _lit.maps()
    config = dataclasses.replace(
      config,
      initial=dataclasses.replace(
        config.initial,
        image_weights=found.initial.image_weights,
        text_weights=found.initial.text_weights,
      ),
      model=dataclasses.replace(config.model, tokenizer=found.model.tokenizer),
    )
  return sweep.train(config)


def _flat(config: ml_collections.ConfigDict) -> Mapping[str, Any]:
  found = {}
  for name, value in config.to_dict().items():
    if isinstance(value, dict):
      found |= {f"{name}.{inner}": v for inner, v in value.items()}
    else:
      found[name] = value
  return found
