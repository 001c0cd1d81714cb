r"""A small CLIP on emoji for regularisers of latent structure.

python -m experiments.train --config=structure_emoji \
    --config.structure=consistency --config.structure.consistency.weight=0.1 \
    --workdir=runs/consistency

An image has one English caption, the tower is small, and 400 steps take about two minutes
on two CPU cores. As in the second paper the loss has four terms, each modality's own
besides the two across, and the first view of an image is plain. So has the sweep
latent_structure; its variants have regularisers on CLIP's two terms, and change both
views: --config.loss=clip --config.structure.first_view=augmented.
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
  config.loss = "clip_four_term"
  config.structure.first_view = "plain"
  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup_share = 0.05
  config.optimizer.weight_decay = 0.25
  config.evaluation.retrieval.every = 0
  return config
