"""CLIP from scratch on the embedded emoji data.

python -m experiments.train --config experiments/configs/clip_emoji.py
"""

import ml_collections

from contrastive_jax.training import config as config_lib


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  config = config_lib.default_config()
  config.steps = 1800
  config.batch_size = 128
  config.log_every = 50
  config.checkpoint_every = 500
  config.augment.crop_scale = (0.7, 1.0)
  config.augment.brightness = 0.2
  config.augment.contrast = 0.2
  config.augment.saturation = 0.2
  config.data.name_weight = 0.25
  config.data.keyword_weight = 0.15
  config.data.full_weight = 0.5
  config.data.prompt_weight = 0.1
  config.optimizer.learning_rate = 1.5e-3
  config.optimizer.warmup_share = 0.05
  config.evaluation.retrieval_every = 300
  return config
