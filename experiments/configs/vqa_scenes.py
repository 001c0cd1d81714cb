r"""Visual question answering on scenes, fine-tuned from ALBEF's pre-training.

python -m experiments.train --config=experiments/configs/vqa_scenes.py \
    --config.fusion.initial=runs/albef_scenes --workdir=runs/vqa_scenes

For two CPU cores and about 10 minutes; not run to its end, so that neither its time nor
its score is known.
"""

import ml_collections

from experiments.configs import _fusion


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  return _fusion.task("vqa")
