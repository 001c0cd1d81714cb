"""What the recipes of fusion models on scenes have in common."""

import ml_collections

from contrastive_jax.training import config as config_lib

TASKS = ("vqa", "nlvr2", "entailment")


def pretraining() -> ml_collections.ConfigDict:
  """ALBEF's pre-training on scenes, at the size of two CPU cores."""
  config = _common()
  config.objective = "albef"
  config.loss.name = "soft_target"
  config.steps = 1500
  config.batch_size = 64
  config.structure.source = "momentum"
  config.evaluation.classification = False
  config.evaluation.retrieval_every = 500
  return config


def task(name: str) -> ml_collections.ConfigDict:
  """A task of `TASKS` on scenes, to be begun with a pre-trained model."""
  config = _common()
  config.objective = name
  config.loss.name = "cross_entropy"
  config.steps = 1500
  config.batch_size = 32
  config.fusion.questions_per_image = 4 if name == "vqa" else 2
  config.optimizer.learning_rate = 5e-4
  config.evaluation.retrieval_every = 500
  return config


def _common() -> ml_collections.ConfigDict:
  config = config_lib.default_config()
  config.data.name = "scenes"
  config.data.name_weight = 1.0
  config.data.full_weight = config.data.keyword_weight = 0.0
  config.data.prompt_weight = 0.0
  config.model.preset = "albef_tiny"
  config.model.context_length = 32
  config.log_every = 50
  config.checkpoint_every = 250
  # Colours, places and sizes are what the texts speak of.
  config.augment.random_resized_crop = False
  config.augment.color_jitter = 0.0
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 0.02
  config.optimizer.beta2 = 0.999
  return config
