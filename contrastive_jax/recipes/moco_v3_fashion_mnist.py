r"""MoCo v3 on Fashion-MNIST: two augmentations of an image, in minutes on a CPU.

python -m experiments.train --config=moco_v3_fashion_mnist \
    --workdir=runs/moco_v3_fashion_mnist

The run should take about two and a half minutes on two CPU cores (estimated from
simclr_fashion_mnist, with a third more work a step; not run to its end, so that its
score is not known).
"""

from contrastive_jax.recipes import simclr_fashion_mnist
from contrastive_jax.training import config as config_lib


def get_config() -> config_lib.ConfigDraft:
  """The recipe."""
  # Data, views and the tower are the same.
  config = simclr_fashion_mnist.get_config()
  config.objective = "moco_v3"
  config.steps = 300
  config.checkpoint_every = 150
  config.loss = "info_nce"
  config.loss.temperature = 0.2
  config.loss.temperature_mode = "fixed"
  config.evaluation.knn.every = 150
  return config
