r"""SimCLR on the embedded emoji: two artists' drawings of one thing are the views.

python -m experiments.train --config=simclr_emoji --workdir=runs/simclr_emoji

The run should take about two minutes on two CPU cores (estimated from
simclr_fashion_mnist; not run to its end, so that its score is not known). For comparison,
features of the CLIP model of clip_emoji get 0.47 of the subcategories right by kNN and
0.43 by a linear probe (experiments/results/clip_emoji.md).
"""

from contrastive_jax.training import config as config_lib


def get_config() -> config_lib.ConfigDraft:
  """The recipe."""
  config = config_lib.default_config()
  config.objective = "simclr"
  config.objective.images_per_concept = 2
  config.steps = 500
  config.batch_size = 256
  config.log_every = 50
  config.checkpoint_every = 250
  config.model.overrides = {"image": {"widths": (16, 32, 64)}}
  config.loss = "nt_xent"
  config.loss.temperature = 0.2
  config.loss.temperature_mode = "fixed"
  config.augment.crop_scale = (0.5, 1.0)
  config.augment.flip = 0.5
  config.augment.hue = 0.1
  config.augment.grayscale = 0.2
  config.optimizer.learning_rate = 2.5e-3
  config.optimizer.weight_decay = 0.1
  config.evaluation.knn.every = 250
  return config
