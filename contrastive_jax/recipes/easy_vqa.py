r"""Easy-VQA (the package easy-vqa), fine-tuned from ALBEF's pre-training on scenes.

python -m experiments.train --config=contrastive_jax/recipes/easy_vqa.py \
    --config.initial.workdir=runs/albef_scenes --workdir=runs/easy_vqa

On two CPU cores 4 minutes. One run (seed 0): accuracy 1.000 (3 wrong) of the 9,673 test questions;
.667 are right without the picture.
"""

import ml_collections

from contrastive_jax.recipes import _fusion


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  return _fusion.task("easy_vqa")
