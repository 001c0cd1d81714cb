"""What the recipes of fusion models on scenes have in common."""

import ml_collections

from contrastive_jax.training import config as config_lib

# Those on scenes, and the one on the data of the package easy-vqa.
TASKS = ("vqa", "nlvr2", "entailment")
ALL_TASKS = (*TASKS, "easy_vqa")
# Of each task: steps, and the texts of an image in a step.
STEPS = {"vqa": 4000, "nlvr2": 3000, "entailment": 3000, "easy_vqa": 1500}
TEXTS = {"vqa": 8, "nlvr2": 4, "entailment": 3, "easy_vqa": 8}
# What a task begins with, if not with the pre-training: one bit of a statement about
# two images teaches where colours and shapes belong too slowly.
BEGINS = {"nlvr2": "vqa"}
# At the pre-training's rate it forgets what it began with, and stays below .75.
RATES = {"nlvr2": 1e-3}


def pretraining() -> ml_collections.ConfigDict:
  """ALBEF's pre-training on scenes, at the size of two CPU cores."""
  config = _common()
  config.objective = "albef"
  config.loss.name = "soft_target"
  # Learned at the rate of so small a model it would fall to .01 at once.
  config.loss.temperature = "fixed"
  config.steps = 3000
  config.batch_size = 32
  config.structure.source = "momentum"
  # There is an image to read the words from.
  config.fusion.mask_share = 0.4
  # What a model that knows nothing yet says is no target.
  config.fusion.alpha_ramp = 0.5
  config.evaluation.classification = False
  config.evaluation.retrieval_every = 1000
  return config


def task(name: str) -> ml_collections.ConfigDict:
  """A task of `ALL_TASKS`, to be begun with a pre-trained model."""
  config = _common()
  config.objective = name
  if name == "easy_vqa":
    config.objective, config.data.name = "vqa", name
  config.loss.name = "cross_entropy"
  config.steps = STEPS[name]
  # In single runs small steps with all that is asked of an image learned the most.
  config.batch_size = 16
  config.fusion.questions_per_image = TEXTS[name]
  # What is asked is learned suddenly, and at the peak.
  config.optimizer.decay_share = 0.35
  config.optimizer.learning_rate = RATES.get(
    name, config.optimizer.learning_rate
  )
  # The teacher's pass would cost a third of the steps.
  config.fusion.alpha = 0.0
  config.evaluation.retrieval_every = 1000
  return config


def _common() -> ml_collections.ConfigDict:
  config = config_lib.default_config()
  config.data.name = "scenes"
  # Of 4,000 the shapes are learned by heart.
  config.data.scenes = 16_000
  config.data.name_weight = 1.0
  config.data.full_weight = config.data.keyword_weight = 0.0
  config.data.prompt_weight = 0.0
  config.model.preset = "albef_tiny"
  # The longest question has 19 tokens, the longest statement 21.
  config.model.context_length = 22
  config.log_every = 100
  config.checkpoint_every = 500
  # Colours, places and sizes are what the texts speak of.
  config.augment.random_resized_crop = False
  config.augment.color_jitter = 0.0
  # In single runs AdamW needed several times the steps.
  config.optimizer.name = "muon"
  config.optimizer.learning_rate = 2e-3
  config.optimizer.beta1 = 0.95
  config.optimizer.warmup_share = 0.05
  config.optimizer.weight_decay = 0.02
  return config
