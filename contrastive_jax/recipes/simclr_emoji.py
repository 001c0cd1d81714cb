r"""SimCLR on the embedded emoji: two artists' drawings of one thing.

python -m experiments.train --config=contrastive_jax/recipes/simclr_emoji.py \
    --workdir=runs/simclr_emoji

It should take about two minutes on two CPU cores (estimated from
simclr_fashion_mnist.py; not run to its end, so that its score is not known). To
compare with: features of the CLIP model of clip_emoji.py get .47 of the
subcategories right by kNN and .43 by a linear probe
(experiments/results/clip_emoji.md).
"""

import json

import ml_collections

from contrastive_jax.training import config as config_lib


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  config = config_lib.default_config()
  config.objective = "simclr"
  config.steps = 500
  config.batch_size = 256
  config.log_every = 50
  config.checkpoint_every = 250
  config.data.images_per_concept = 2
  config.model.overrides = json.dumps({"image": {"widths": [16, 32, 64]}})
  config.loss.name = "nt_xent"
  config.loss.temperature = "fixed"
  config.loss.init_logit_scale = 5.0
  config.augment.crop_scale = (0.5, 1.0)
  config.augment.flip = 0.5
  config.augment.hue = 0.1
  config.augment.grayscale = 0.2
  config.optimizer.learning_rate = 2.5e-3
  config.optimizer.weight_decay = 0.1
  config.evaluation.retrieval_every = 250
  return config
