"""What the recipes of ALBEF at the published size have in common."""

import ml_collections

from contrastive_jax.training import config as config_lib

# Pairs of CC3M, SBU, COCO and Visual Genome together: ALBEF's "4M" images.
PAIRS = 5_100_000


def pretraining() -> ml_collections.ConfigDict:
  """Data, model and optimiser of the pre-training, 256 pixels."""
  config = config_lib.default_config()
  config.objective = "albef"
  config.batch_size = 512
  config.log_every = 50
  config.checkpoint_every = 2000
  config.data.name = "official"
  config.data.format = "albef"
  config.data.num_threads = 32
  # Of images from the web many are gone.
  config.data.max_bad_share = 0.3
  config.data.name_weight = 1.0
  config.data.full_weight = config.data.keyword_weight = 0.0
  config.data.prompt_weight = 0.0
  config.data.vocab_size = 30_521
  config.model.preset = "albef"
  config.model.image_size = 256
  # 25 when published; the tasks' texts need 30, and positions are learned.
  config.model.context_length = 30
  config.model.dtype = "bfloat16"
  config.model.remat = True
  config.augment.crop_scale = (0.2, 1.0)
  config.augment.flip = 0.5
  config.augment.color_jitter = 0.0
  config.augment.randaugment_num_ops = 2
  config.augment.randaugment_magnitude = 7.0
  config.loss.name = "soft_target"
  config.structure.source = "momentum"
  config.fusion.queue_size = 65_536
  # Hard negatives come from the 64 rows of a device, as published.
  config.fusion.negative_block = 64
  config.optimizer.learning_rate = 1e-4
  config.optimizer.final_share = 0.1
  config.optimizer.weight_decay = 0.02
  config.optimizer.beta2 = 0.999
  config.optimizer.clip_norm = 0.0
  config.evaluation.classification = False
  config.evaluation.retrieval_every = 0
  return config


def fine_tuning(
  objective: str,
  *,
  examples: int,
  epochs: int,
  texts: int,
  images: int,
  warmup: int = 100,
) -> ml_collections.ConfigDict:
  """A task at 384 pixels.

  Args:
    objective: of the task.
    examples: texts that an epoch of the published recipe sees.
    epochs: as published.
    texts: of an image in a step.
    images: of a step, or pairs of them.
    warmup: steps of it.

  Returns:
    The configuration.
  """
  config = pretraining()
  config.objective = objective
  config.loss.name = "cross_entropy"
  config.batch_size = images
  config.steps = epochs * examples // (texts * images)
  config.fusion.questions_per_image = texts
  config.fusion.negative_block = 0
  # One epoch of ramp where the published recipe has one.
  config.fusion.alpha_ramp = 1.0 / epochs
  config.structure.source = "views"
  config.data.max_bad_share = 0.05
  config.model.image_size = 384
  config.augment.crop_scale = (0.5, 1.0)
  config.optimizer.learning_rate = 2e-5
  config.optimizer.final_share = 0.05
  config.optimizer.warmup_share = warmup / config.steps
  config.checkpoint_every = 1000
  config.evaluation.retrieval_every = config.steps // epochs
  return config
