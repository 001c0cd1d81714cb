"""SuperClass on the embedded emoji: captions' tokens are an image's classes.

python -m experiments.train --config=superclass_emoji --workdir=runs/superclass_emoji

Images, captions, augmentation and steps are those of clip_emoji; there is no text
tower, and no loss between rows of a batch. The run should take two to five minutes on
two CPU cores (estimated from clip_emoji; not run to its end, so that its score is not
known). For comparison, features of the CLIP model of clip_emoji get 0.47 of the
subcategories right by kNN and 0.43 by a linear probe
(experiments/results/clip_emoji.md).
"""

from contrastive_jax.recipes import clip_emoji
from contrastive_jax.training import config as config_lib


def get_config() -> config_lib.ConfigDraft:
  """The recipe."""
  config = clip_emoji.get_config()
  config.objective = "superclass"
  config.objective.captions_per_example = 4
  config.evaluation.knn.every = 400
  return config
