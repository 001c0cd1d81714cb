"""Settings that the recipes of fusion models on scenes share."""

from contrastive_jax.training import config as config_lib

# Tasks on scenes, and the one on the data of the package easy-vqa.
TASKS = ("vqa", "nlvr2", "entailment")
ALL_TASKS = (*TASKS, "easy_vqa")
# Steps of each task, and texts of an image in a step.
STEPS = {"vqa": 4000, "nlvr2": 3000, "entailment": 3000, "easy_vqa": 1500}
TEXTS = {"vqa": 8, "nlvr2": 4, "entailment": 3, "easy_vqa": 8}
# The run that a task begins with, if it is not the pre-training: one bit of a
# statement about two images teaches where colours and shapes belong too slowly.
BEGINS = {"nlvr2": "vqa"}
# At the pre-training's rate it forgets what it began with, and stays below 0.75.
RATES = {"nlvr2": 1e-3}


def pretraining() -> config_lib.ConfigDraft:
  """ALBEF's pre-training on scenes, at the size of two CPU cores."""
  config = _common("albef")
  # The words can be read from the image.
  config.objective.mask_share = 0.4
  # The predictions of a model that knows nothing yet are no targets.
  config.objective.alpha_ramp = 0.5
  config.steps = 3000
  config.batch_size = 32
  config.captions.name = 1.0
  config.captions.full = config.captions.keyword = config.captions.prompt = 0.0
  config.loss = "soft_target"
  # Learned at the rate of so small a model it would fall to 0.01 at once.
  config.loss.temperature_mode = "fixed"
  config.evaluation = ("retrieval", "zero_shot", "geometry", "reranked")
  config.evaluation.retrieval.every = 1000
  return config


def task(name: str) -> config_lib.ConfigDraft:
  """A task of `ALL_TASKS`, to be begun with a pre-trained model."""
  config = _common("vqa" if name == "easy_vqa" else name)
  config.objective.texts_per_image = TEXTS[name]
  # The teacher's pass would cost a third of the steps.
  config.objective.alpha = 0.0
  config.steps = STEPS[name]
  # In single runs small steps with all texts of an image learned the most.
  config.batch_size = 16
  # A task is learned suddenly, and at the peak of the rate.
  config.optimizer.decay_share = 0.35
  config.optimizer.learning_rate = RATES.get(
    name, config.optimizer.learning_rate
  )
  config.evaluation.task.every = 1000
  if name == "easy_vqa":
    config.data = name
  return config


def _common(objective: str) -> config_lib.ConfigDraft:
  config = config_lib.default_config()
  config.objective = objective
  config.data = "scenes"
  # With 4,000 scenes the model overfits on the shapes.
  config.data.scenes = 16_000
  config.model.preset = "albef_tiny"
  # The longest question has 19 tokens, the longest statement 21.
  config.model.context_length = 22
  config.log_every = 100
  config.checkpoint_every = 500
  # The texts speak of colours, places and sizes.
  config.augment.random_resized_crop = False
  config.augment.color_jitter = 0.0
  # In single runs AdamW needed several times the steps.
  config.optimizer = "muon"
  config.optimizer.learning_rate = 2e-3
  config.optimizer.beta1 = 0.95
  config.optimizer.warmup_share = 0.05
  config.optimizer.weight_decay = 0.02
  return config
