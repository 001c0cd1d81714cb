"""Settings that the recipes of ALBEF at the published size share."""

from contrastive_jax.training import config as config_lib

# Pairs of CC3M, SBU, COCO and Visual Genome together: ALBEF's "4M" images.
PAIRS = 5_100_000
# Frozen features are not classified.
_EVALUATORS = ("retrieval", "zero_shot", "geometry", "reranked")


def pretraining() -> config_lib.ConfigDraft:
  """Data, model and optimizer of the pre-training at 256 pixels."""
  config = config_lib.default_config()
  config.objective = "albef"
  # Hard negatives come from the 64 rows of a device, as published.
  config.objective.negative_block = 64
  config.batch_size = 512
  config.num_threads = 32
  config.log_every = 50
  config.checkpoint_every = 2000
  config.data = "official"
  config.data.format = "albef"
  # Many images from the web are gone.
  config.data.max_bad_share = 0.3
  config.data.vocab_size = 30_521
  config.captions.name = 1.0
  config.captions.full = config.captions.keyword = config.captions.prompt = 0.0
  config.model.preset = "albef"
  config.model.image_size = 256
  # ALBEF has 25; the tasks' texts need 30, and positions are learned.
  config.model.context_length = 30
  config.model.dtype = "bfloat16"
  config.model.remat = True
  config.augment.crop_scale = (0.2, 1.0)
  config.augment.flip = 0.5
  config.augment.color_jitter = 0.0
  config.augment.randaugment_num_ops = 2
  config.augment.randaugment_magnitude = 7.0
  config.loss = "soft_target"
  config.loss.queue_size = 65_536
  config.optimizer.learning_rate = 1e-4
  config.optimizer.final_share = 0.1
  config.optimizer.weight_decay = 0.02
  config.optimizer.beta2 = 0.999
  config.optimizer.clip_norm = 0.0
  config.evaluation = _EVALUATORS
  config.evaluation.retrieval.every = 0
  return config


def fine_tuning(
  objective: str,
  *,
  examples: int,
  epochs: int,
  texts: int,
  images: int,
  warmup: int = 100,
) -> config_lib.ConfigDraft:
  """A task at 384 pixels, or retrieval.

  Args:
    objective: vqa, nlvr2, entailment, or albef for retrieval.
    examples: texts that an epoch of the published recipe sees.
    epochs: as published.
    texts: of an image in a step; 1 for albef.
    images: of a step, or pairs of them.
    warmup: steps in which the learning rate rises.

  Returns:
    The configuration, which lacks the format of its data.
  """
  config = pretraining()
  config.objective = objective
  # The published recipe ramps for one epoch where it ramps at all.
  config.objective.alpha_ramp = 1.0 / epochs
  config.batch_size = images
  config.steps = epochs * examples // (texts * images)
  config.checkpoint_every = 1000
  config.data.max_bad_share = 0.05
  config.model.image_size = 384
  config.augment.crop_scale = (0.5, 1.0)
  config.optimizer.learning_rate = 2e-5
  config.optimizer.final_share = 0.05
  config.optimizer.warmup_share = warmup / config.steps
  if objective == "albef":
    config.evaluation = _EVALUATORS
    config.evaluation.retrieval.every = config.steps // epochs
  else:
    config.objective.texts_per_image = texts
    config.evaluation.task.every = config.steps // epochs
  return config
