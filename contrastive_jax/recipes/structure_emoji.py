r"""A small CLIP on emoji for regularisers of latent structure: a row of study 7.

python -m experiments.train --config=structure_emoji \
    --config.structure=consistency --config.structure.consistency.weight=0.1 \
    --config.other_view=momentum --config.seed=0 --workdir=runs/consistency

An image has one English caption, the tower is small, and 400 steps take less than two
minutes on two CPU cores. On one core (taskset -c 0), as the studies ran, it reaches the
very scores of that row and seed in experiments/results/; with two cores the sums are in
another order. The variants of the sweep latent_structure say which fields make their
rows. Without these fields it is CLIP.
"""

from contrastive_jax.training import config as config_lib


def get_config() -> config_lib.ConfigDraft:
  """The recipe."""
  config = config_lib.default_config()
  config.steps = 400
  config.batch_size = 128
  config.log_every = 50
  config.data.languages = ("en",)
  config.captions.main_language_share = 1.0
  config.augment.crop_scale = (0.8, 1.3)
  config.augment.brightness = 0.1
  config.augment.contrast = 0.1
  config.augment.saturation = 0.1
  config.model.overrides = {"image": {"widths": (16, 32, 64)}}
  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup_share = 0.05
  config.optimizer.weight_decay = 0.25
  config.evaluation.retrieval.every = 0
  return config
