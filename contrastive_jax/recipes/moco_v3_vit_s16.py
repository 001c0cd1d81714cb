r"""MoCo v3, ViT-S/16, 300 epochs of ImageNet at batch 4,096, on a pod.

python -m experiments.train --config=moco_v3_vit_s16 \
    --config.data.data_dir=TFDS_DIR --workdir=runs/moco_v3_vit_s16

The loss is InfoNCE at 4,096. --config=moco_v3_vit_s16:augmented is the augmented loss at
half of that, all else alike.

Hardware: 32 chips of v5e (4x8), 4.5 of 16 GiB each. Compiled, not run: a step takes at
least 0.32 s by its memory traffic, 93,835 of them 8.3 hours. The augmented loss at its
half takes 1.9 GiB (compiled with little effort, not run).
Expected: 73.2 % linear top-1 on ImageNet (81.4 fine-tuned), as published:
https://github.com/facebookresearch/moco-v3. The recipe moco_v3_vit_b16
says what differs there, which claim is to be tested, and what TFDS_DIR must hold.
"""

from contrastive_jax.recipes import _moco_v3
from contrastive_jax.training import config as config_lib


def get_config(variant: str = "") -> config_lib.ConfigDraft:
  """The recipe; variant "augmented" is the augmented loss at batch 2,048."""
  return _moco_v3.vit("vit_s16", variant)
