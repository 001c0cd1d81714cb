r"""SimCLR, ResNet-50, 800 epochs of ImageNet at batch 256.

python -m experiments.train --config=contrastive_jax/recipes/simclr_rn50.py \
    --config.data.data_dir=TFDS_DIR --workdir=DIR

NT-Xent at 256, where a small batch costs most. The augmented loss, all else alike:
--config=contrastive_jax/recipes/simclr_rn50.py:augmented, with moving averages at
SogCLR's rate of .9. Other batches: --config.batch_size with --config.steps and
--config.optimizer.learning_rate, which is .075 of the batch's square root.

Hardware: 8 chips of v5e (2x4), 1.5 of 16 GiB each, with either loss. Compiled with
little effort, not run: a step takes at least .012 s by its products and .032 s by the
memory traffic of that program, 4,003,646 of them 13 and 36 hours.
Expected: 66.5 % linear top-1 on ImageNet, and 69.3 for SogCLR, which the augmented
loss resembles (Yuan et al., Provable stochastic optimization for global contrastive
learning, 2022, whose settings these are, but for a head of two layers).

TFDS_DIR has ImageNet as `tfds build imagenet2012 --file_format=array_record` makes it.
One in a hundred of its training images is kept to choose the probe's strength, and
crops are of the square in the middle of an image, not of all of it.
Reference: Chen et al., A simple framework for contrastive learning of visual
representations, 2020.
"""

import ml_collections

from contrastive_jax.recipes import _imagenet

_EPOCHS, _BATCH = 800, 256


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """The recipe; variant "augmented" is the augmented loss."""
  config = _imagenet.pretraining(_EPOCHS, _BATCH, temperature=0.1)
  config.objective = "simclr"
  config.loss.name = "nt_xent"
  if variant:
    if variant != "augmented":
      raise ValueError(f"variant must be 'augmented' or none; got {variant!r}")
    config.loss.name = "augmented"
    config.loss.e_step = "moving_average"
    config.loss.rate = 0.9
  config.model.preset = "resnet50"
  config.ssl.projector = "2048"
  config.ssl.embed_dim = 128
  config.augment.crop_scale = (0.08, 1.0)
  config.augment.brightness = 0.8
  config.augment.contrast = 0.8
  config.augment.saturation = 0.8
  config.augment.hue = 0.2
  config.augment.blur = 0.5
  config.optimizer.name = "lars"
  config.optimizer.learning_rate = 0.075 * _BATCH**0.5
  config.optimizer.warmup_share = 10 / _EPOCHS
  config.optimizer.weight_decay = 1e-6
  config.optimizer.beta1 = 0.9
  return config
