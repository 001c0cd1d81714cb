r"""Easy-VQA (the package easy-vqa), fine-tuned from ALBEF's pre-training on scenes.

python -m experiments.train --config=experiments/configs/easy_vqa.py \
    --config.fusion.initial=runs/albef_scenes --workdir=runs/easy_vqa

Two of three answers are right without the picture (.667). Made for two CPU cores and
about ten minutes; not run to its end, so that its score is not known.
"""

import ml_collections

from experiments.configs import _fusion


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  return _fusion.task("easy_vqa")
