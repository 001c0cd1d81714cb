r"""Statements on two scenes (as NLVR2), fine-tuned from ALBEF's pre-training.

python -m experiments.train --config=experiments/configs/nlvr2_scenes.py \
    --config.fusion.initial=runs/albef_scenes --workdir=runs/nlvr2_scenes

For two CPU cores and about 10 minutes; not run to its end, so that neither its time nor
its score is known.
"""

import ml_collections

from experiments.configs import _fusion


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  return _fusion.task("nlvr2")
