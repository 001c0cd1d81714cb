"""Settings that the recipes of one modality on ImageNet share."""

from contrastive_jax.training import config as config_lib

_IMAGES = 1_281_167


def pretraining(
  objective: str,
  loss: str,
  optimizer: str,
  *,
  epochs: int,
  batch_size: int,
  temperature: float,
) -> config_lib.ConfigDraft:
  """Data, sizes, loss of a fixed temperature and the changes of both views.

  A recipe adds tower, heads and learning rate.
  """
  config = config_lib.default_config()
  config.objective = objective
  config.batch_size = batch_size
  config.steps = epochs * _IMAGES // batch_size
  config.num_threads = 32
  config.log_every = 50
  config.checkpoint_every = 1000
  config.data = "tfds"
  config.data.dataset = "imagenet2012"
  config.data.fit = "crop"
  config.data.validation_share = 0.01
  config.model.image_size = 224
  config.model.dtype = "bfloat16"
  config.model.remat = True
  config.augment.flip = 0.5
  config.augment.color_jitter = 0.8
  config.augment.grayscale = 0.2
  config.loss = loss
  config.loss.temperature = temperature
  config.loss.temperature_mode = "fixed"
  # Every image is a concept of its own.
  config.loss.group_positives = False
  config.optimizer = optimizer
  config.optimizer.clip_norm = 0.0
  config.evaluation.knn.every = 5000
  return config
