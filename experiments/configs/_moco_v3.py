"""What the recipes of MoCo v3 on ImageNet share."""

import json

import ml_collections

from contrastive_jax.training import config as config_lib

_IMAGES = 1_281_167
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
  config = config_lib.default_config()
  config.objective = "moco_v3"
  config.batch_size = _BATCH
  config.loss.name = "moco_v3"
  if variant:
    if variant != "augmented":
      raise ValueError(f"variant must be 'augmented' or none; got {variant!r}")
    config.batch_size = _BATCH // 2
    config.loss.name = "augmented"
    config.loss.log_alpha = log_alpha
  config.loss.temperature = "fixed"
  config.loss.init_logit_scale = 1.0 / temperature
  # Every image is a concept of its own.
  config.loss.group_positives = False
  config.steps = epochs * _IMAGES // config.batch_size
  config.log_every = 50
  config.checkpoint_every = 1000
  config.data.name = "tfds"
  config.data.path = "imagenet2012"
  config.data.fit = "crop"
  config.data.validation_share = 0.01
  config.data.num_threads = 32
  config.model.image_size = 224
  config.model.dtype = "bfloat16"
  config.model.remat = True
  config.ssl.embed_dim = 256
  config.ssl.momentum = 0.99
  config.augment.flip = 0.5
  config.augment.color_jitter = 0.8
  config.augment.brightness = 0.4
  config.augment.contrast = 0.4
  config.augment.saturation = 0.2
  config.augment.hue = 0.1
  config.augment.grayscale = 0.2
  config.augment.blur = 1.0
  config.augment.second_blur = 0.1
  config.augment.second_solarize = 0.2
  config.optimizer.clip_norm = 0.0
  config.evaluation.retrieval_every = 5000
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
