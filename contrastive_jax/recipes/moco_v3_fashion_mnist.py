r"""MoCo v3 on Fashion-MNIST: two augmentations of an image, in minutes on a CPU.

python -m experiments.train --config=moco_v3_fashion_mnist \
    --workdir=runs/moco_v3_fashion_mnist

The run should take about two and a half minutes on two CPU cores (estimated from
simclr_fashion_mnist, with a third more work a step; not run to its end, so that its
score is not known).
"""

from contrastive_jax.training import config as config_lib


def get_config() -> config_lib.ConfigDraft:
  """The recipe."""
  config = config_lib.default_config()
  config.objective = "moco_v3"
  config.steps = 300
  config.batch_size = 256
  config.log_every = 50
  config.checkpoint_every = 150
  config.data = "fashion_mnist"
  config.model.overrides = {"image": {"widths": (16, 32, 64)}}
  config.loss = "info_nce"
  config.loss.temperature = 0.2
  config.loss.temperature_mode = "fixed"
  config.augment.crop_scale = (0.3, 1.0)
  config.augment.flip = 0.5
  config.augment.brightness = 0.4
  config.augment.contrast = 0.4
  config.augment.saturation = 0.0  # The images are grey.
  config.optimizer.learning_rate = 2.5e-3
  config.optimizer.weight_decay = 0.1
  config.evaluation.knn.every = 150
  return config
