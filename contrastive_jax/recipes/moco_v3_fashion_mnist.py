r"""MoCo v3 on Fashion-MNIST, two augmentations of an image.

python -m experiments.train --config=contrastive_jax/recipes/moco_v3_fashion_mnist.py \
    --workdir=runs/moco_v3_fashion_mnist

It should take about two and a half minutes on two CPU cores (estimated from
simclr_fashion_mnist.py, with a third more work a step; not run to its end, so that
its score is not known).
"""

import json

import ml_collections

from contrastive_jax.training import config as config_lib


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  config = config_lib.default_config()
  config.objective = "moco_v3"
  config.steps = 300
  config.batch_size = 256
  config.log_every = 50
  config.checkpoint_every = 150
  config.data.name = "fashion_mnist"
  config.model.overrides = json.dumps({"image": {"widths": [16, 32, 64]}})
  config.loss.name = "moco_v3"
  config.loss.temperature = "fixed"
  config.loss.init_logit_scale = 5.0
  config.augment.crop_scale = (0.3, 1.0)
  config.augment.flip = 0.5
  config.augment.brightness = 0.4
  config.augment.contrast = 0.4
  config.augment.saturation = 0.0  # The images are grey.
  config.optimizer.learning_rate = 2.5e-3
  config.optimizer.weight_decay = 0.1
  config.evaluation.retrieval_every = 150
  return config
