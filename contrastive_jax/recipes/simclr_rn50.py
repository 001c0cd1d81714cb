r"""SimCLR, ResNet-50, 800 epochs of ImageNet at batch 256, on a pod.

python -m experiments.train --config=simclr_rn50 \
    --config.data.data_dir=TFDS_DIR --workdir=runs/simclr_rn50

The loss is NT-Xent at 256, where a small batch costs most. --config=simclr_rn50:augmented
is the augmented loss, all else alike, with moving averages at SogCLR's rate of 0.9. For
another batch set --config.batch_size with --config.steps and
--config.optimizer.learning_rate, which is 0.075 times the batch's square root.

Hardware: 8 chips of v5e (2x4), 1.5 of 16 GiB each, with either loss. Compiled with
little effort, not run: a step takes at least 0.012 s by its products and 0.032 s by the
memory traffic of that program, 4,003,646 of them 13 and 36 hours.
Expected: 66.5 % linear top-1 on ImageNet, and 69.3 for SogCLR, which the augmented
loss resembles (Yuan et al., Provable stochastic optimization for global contrastive
learning, 2022, whose settings these are, but for a head of two layers).

TFDS_DIR has ImageNet as `tfds build imagenet2012 --file_format=array_record` makes it.
One in a hundred of its training images is held out to choose the probe's strength, and
crops are of the square in the middle of an image, not of all of it.
Reference: Chen et al., A simple framework for contrastive learning of visual
representations, 2020.
"""

from contrastive_jax.recipes import _imagenet
from contrastive_jax.training import config as config_lib

_EPOCHS, _BATCH = 800, 256


def get_config(variant: str = "") -> config_lib.ConfigDraft:
  """The recipe; variant "augmented" is the augmented loss."""
  if variant not in ("", "augmented"):
    raise ValueError(f"variant must be 'augmented' or none; got {variant!r}")
  config = _imagenet.pretraining(
    "simclr",
    variant or "nt_xent",
    "lars",
    epochs=_EPOCHS,
    batch_size=_BATCH,
    temperature=0.1,
  )
  if variant:
    config.loss.e_step = "moving_average"
    config.loss.rate = 0.9
    config.loss.margins = True
    config.loss.level_rate = 0.0
  config.model.preset = "resnet50"
  config.objective.projector = (2048,)
  config.objective.embed_dim = 128
  config.augment.crop_scale = (0.08, 1.0)
  config.augment.brightness = 0.8
  config.augment.contrast = 0.8
  config.augment.saturation = 0.8
  config.augment.hue = 0.2
  config.augment.blur = 0.5
  config.optimizer.learning_rate = 0.075 * _BATCH**0.5
  config.optimizer.warmup_share = 10 / _EPOCHS
  config.optimizer.weight_decay = 1e-6
  config.optimizer.momentum = 0.9
  return config
