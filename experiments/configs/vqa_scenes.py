r"""Visual question answering on scenes, fine-tuned from ALBEF's pre-training.

python -m experiments.train --config=experiments/configs/vqa_scenes.py \
    --config.fusion.initial=runs/albef_scenes --workdir=runs/vqa_scenes

Two CPU cores. Its time and score are not measured yet.
"""

import ml_collections

from experiments.configs import _fusion


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  return _fusion.task("vqa")
