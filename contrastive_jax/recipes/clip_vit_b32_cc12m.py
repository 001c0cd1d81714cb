r"""CLIP ViT-B/32 on CC12M at batch 2,048 with the augmented loss, 33 epochs on a pod.

python -m experiments.train --config=clip_vit_b32_cc12m \
    --config.data.path=DIR --workdir=runs/clip_vit_b32_cc12m

The recipe has the conjugate E-step and FastCLIP's robust temperature. InfoNCE, the
baseline, is --config.loss=clip. FastCLIP-v3's own E-step is
--config.loss.e_step=moving_average --config.loss.rate=0.2
--config.loss.rate_schedule=cosine, NeuCLIP's --config.loss.e_step=amortized
--config.loss.prototypes=4096.

Hardware: 32 chips of v5e (4x8), 2.6 of 16 GiB each. Compiled, not run: a step takes at
least 0.065 s by its memory traffic, 146,630 of them 2.6 hours.
Expected, zero-shot top-1 on ImageNet (table of the AmorLIP paper, NeurIPS 2025,
8.06 million pairs): CLIP 25.3 %, FastCLIP 27.7 %, AmorLIP 29.9 %. NeuCLIP's paper
has averages over 38 data sets: OpenCLIP 27.9, FastCLIP 31.5, NeuCLIP 31.9.

Settings: FastCLIP, https://arxiv.org/abs/2407.01445, but for the temperature,
which has no learning rate of its own here (1e-4 there) and is learned as its
logarithm. experiments.convert_pairs has written DIR from the pairs.
"""

from contrastive_jax.recipes import clip_rn50_cc3m
from contrastive_jax.training import config as config_lib

_PAIRS = 9_100_000  # About as many as can still be downloaded.
_EPOCHS = 33
_WARMUP = 10_000


def get_config() -> config_lib.ConfigDraft:
  """The recipe."""
  # Data, precision, changes of images and loss are the same.
  config = clip_rn50_cc3m.get_config()
  config.batch_size = 2048
  config.steps = _EPOCHS * _PAIRS // config.batch_size
  config.model.preset = "vit_b32"
  config.loss.rho = 8.5
  config.optimizer.learning_rate = 4e-4
  config.optimizer.warmup_share = _WARMUP / config.steps
  config.optimizer.beta2 = 0.98
  return config
