r"""ALBEF's pre-training on scenes.

python -m experiments.train --config=experiments/configs/albef_scenes.py \
    --workdir=runs/albef_scenes

On two CPU cores 170 examples a second, about 10 minutes; not run to its end, so that
its score is not known. With the second paper's regularisers:
--config.structure.bridge=.1 and so on, as in the two-tower recipes.
"""

import ml_collections

from experiments.configs import _fusion


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  return _fusion.pretraining()
