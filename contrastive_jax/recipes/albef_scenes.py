r"""ALBEF's pre-training on drawn scenes, with which the tasks on scenes begin.

python -m experiments.train --config=albef_scenes --workdir=runs/albef_scenes

The run takes 9 minutes on two CPU cores. One run (seed 0), 500 test images: image to text
R@1 0.472 by contrast and 0.552 ranked again by matching, text to image 0.209 and 0.246.
The second paper's regularisers are terms of config.structure, such as
--config.structure=bridge --config.structure.bridge.weight=0.1.
"""

from contrastive_jax.recipes import _fusion
from contrastive_jax.training import config as config_lib


def get_config() -> config_lib.ConfigDraft:
  """The recipe."""
  return _fusion.pretraining()
