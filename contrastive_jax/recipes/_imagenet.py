"""What the recipes of one modality on ImageNet share."""

import ml_collections

from contrastive_jax.training import config as config_lib

_IMAGES = 1_281_167


def pretraining(
  epochs: int, batch_size: int, temperature: float
) -> ml_collections.ConfigDict:
  """Data, size and what views have in common.

  Args:
    epochs: of training.
    batch_size: of it.
    temperature: of the loss, which is the default one.

  Returns:
    A configuration that lacks its objective, tower, heads and optimiser.
  """
  config = config_lib.default_config()
  config.batch_size = batch_size
  config.loss.temperature = "fixed"
  config.loss.init_logit_scale = 1.0 / temperature
  # Every image is a concept of its own.
  config.loss.group_positives = False
  config.steps = epochs * _IMAGES // batch_size
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
  config.augment.flip = 0.5
  config.augment.color_jitter = 0.8
  config.augment.grayscale = 0.2
  config.optimizer.clip_norm = 0.0
  config.evaluation.retrieval_every = 5000
  return config
