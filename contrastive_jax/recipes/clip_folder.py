r"""CLIP from scratch on a folder of your own images and captions.

python -m experiments.train --config=clip_folder --config.data.path=DIR \
    --workdir=runs/mine

DIR holds the images and captions.jsonl. Training takes about 4 minutes on two CPU cores
(500 images a second, photos of 640 x 480 pixels); the images are checked before. The
score depends on your data.
"""

from contrastive_jax.training import config as config_lib


def get_config() -> config_lib.ConfigDraft:
  """The recipe."""
  config = config_lib.default_config()
  # Most folders have one image of a thing, and a caption or two of it.
  config.objective.images_per_concept = 1
  config.objective.captions_per_example = 1
  config.steps = 1000
  config.batch_size = 128
  config.log_every = 50
  config.data = "folder"
  config.augment.crop_scale = (0.5, 1.0)
  config.optimizer.learning_rate = 1e-3
  return config
