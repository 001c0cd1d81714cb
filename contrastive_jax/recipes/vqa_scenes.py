r"""Visual question answering on drawn scenes, fine-tuned from ALBEF's pre-training.

python -m experiments.train --config=vqa_scenes --config.initial=run \
    --config.initial.workdir=runs/albef_scenes --workdir=runs/vqa_scenes

The run takes 10 minutes on two CPU cores. One run (seed 0): accuracy 0.860, where texts
alone give 0.357; colours, sizes, shapes and existence 0.95 to 0.96, textures 0.91, counts
0.86, questions of several hops 0.83, comparisons 0.75, and 0.70 on which of two things is
left of or above the other.
"""

from contrastive_jax.recipes import _fusion
from contrastive_jax.training import config as config_lib


def get_config() -> config_lib.ConfigDraft:
  """The recipe."""
  return _fusion.task("vqa")
