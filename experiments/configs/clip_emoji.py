"""CLIP from scratch on the embedded emoji data.

  python -m experiments.train --config experiments/configs/clip_emoji.py
"""

import ml_collections

from contrastive_jax.training import config as config_lib


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  return config_lib.default_config()
