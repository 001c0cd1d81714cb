"""What the recipes of MoCo v3 on ImageNet share."""

import json

import ml_collections

from contrastive_jax.recipes import _imagenet

_BATCH = 4096
# The preset is CLIP's; this is the plain one, with fixed positions.
_TOWER = {
  "num_heads": 12,
  "position": "sincos",
  "patch_bias": True,
  "embedding_norm": False,
  "activation": "gelu",
  "layer_norm_eps": 1e-6,
}


def imagenet(
  variant: str, *, epochs: int, temperature: float, log_alpha: float
) -> ml_collections.ConfigDict:
  """What all towers share: data, views, loss, momentum.

  Args:
    variant: "" is InfoNCE at 4,096; "augmented" the augmented loss at 2,048.
    epochs: of training.
    temperature: of both losses.
    log_alpha: of the augmented loss's conjugate E-step.

  Returns:
    A configuration that lacks its tower, heads and optimiser.

  Raises:
    ValueError: on another variant.
  """
  if variant not in ("", "augmented"):
    raise ValueError(f"variant must be 'augmented' or none; got {variant!r}")
  config = _imagenet.pretraining(
    epochs, _BATCH // 2 if variant else _BATCH, temperature
  )
  config.objective = "moco_v3"
  config.loss.name = "moco_v3"
  if variant:
    config.loss.name = "augmented"
    config.loss.log_alpha = log_alpha
  config.ssl.embed_dim = 256
  config.ssl.momentum = 0.99
  config.augment.brightness = 0.4
  config.augment.contrast = 0.4
  config.augment.saturation = 0.2
  config.augment.hue = 0.1
  config.augment.blur = 1.0
  config.augment.second_blur = 0.1
  config.augment.second_solarize = 0.2
  return config


def vit(preset: str, variant: str) -> ml_collections.ConfigDict:
  """300 epochs of a vision transformer, with AdamW; see `imagenet`."""
  epochs = 300
  # Log-partitions are about -4 at temperature .2: a rate of .7.
  config = imagenet(variant, epochs=epochs, temperature=0.2, log_alpha=5.0)
  config.model.preset = preset
  config.model.overrides = json.dumps({"image": _TOWER})
  config.ssl.projector = "4096,4096"
  config.ssl.predictor = "4096"
  config.ssl.freeze_patches = True
  config.augment.crop_scale = (0.08, 1.0)
  config.optimizer.name = "adamw"
  config.optimizer.learning_rate = 1.5e-4 * config.batch_size / 256
  config.optimizer.warmup_share = 40 / epochs
  config.optimizer.weight_decay = 0.1
  config.optimizer.beta2 = 0.999
  return config
