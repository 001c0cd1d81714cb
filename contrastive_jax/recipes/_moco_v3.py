"""Settings that the recipes of MoCo v3 on ImageNet share."""

from contrastive_jax.recipes import _imagenet
from contrastive_jax.training import config as config_lib

_BATCH = 4096
# The preset is CLIP's; this is the plain tower, with fixed positions.
_TOWER = {
  "num_heads": 12,
  "position": "sincos",
  "patch_bias": True,
  "embedding_norm": False,
  "activation": "gelu",
  "layer_norm_eps": 1e-6,
}


def imagenet(
  variant: str,
  optimizer: str,
  *,
  epochs: int,
  temperature: float,
  log_alpha: float,
) -> config_lib.ConfigDraft:
  """Data, views, loss and momentum of all towers; lacks tower, heads and rate.

  Args:
    variant: "" is InfoNCE at 4,096; "augmented" the augmented loss at 2,048.
    optimizer: its name.
    epochs: of training.
    temperature: of both losses.
    log_alpha: of the augmented loss's conjugate E-step.
  """
  if variant not in ("", "augmented"):
    raise ValueError(f"variant must be 'augmented' or none; got {variant!r}")
  config = _imagenet.pretraining(
    "moco_v3",
    variant or "info_nce",
    optimizer,
    epochs=epochs,
    batch_size=_BATCH // 2 if variant else _BATCH,
    temperature=temperature,
  )
  if variant:
    config.loss.e_step = "conjugate"
    config.loss.log_alpha = log_alpha
  config.objective.embed_dim = 256
  config.objective.momentum = 0.99
  config.objective.second_blur = 0.1
  config.objective.second_solarize = 0.2
  config.augment.brightness = 0.4
  config.augment.contrast = 0.4
  config.augment.saturation = 0.2
  config.augment.hue = 0.1
  config.augment.blur = 1.0
  return config


def vit(preset: str, variant: str) -> config_lib.ConfigDraft:
  """300 epochs of a vision transformer, with AdamW; see `imagenet`."""
  epochs = 300
  # Log-partitions are about -4 at temperature 0.2: a rate of 0.7.
  config = imagenet(
    variant, "adamw", epochs=epochs, temperature=0.2, log_alpha=5.0
  )
  config.model.preset = preset
  config.model.overrides = {"image": _TOWER}
  config.objective.projector = (4096, 4096)
  config.objective.predictor = (4096,)
  config.objective.freeze_patches = True
  config.augment.crop_scale = (0.08, 1.0)
  config.optimizer.learning_rate = 1.5e-4 * config.batch_size / 256
  config.optimizer.warmup_share = 40 / epochs
  config.optimizer.weight_decay = 0.1
  config.optimizer.beta2 = 0.999
  return config
