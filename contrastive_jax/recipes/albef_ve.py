r"""Visual entailment on SNLI-VE, fine-tuned from ALBEF's pre-training.

python -m experiments.train --config=contrastive_jax/recipes/albef_ve.py \
    --config.initial.workdir=runs/albef_4m --config.data.path=DIR \
    --config.data.image_root=IMAGES --workdir=runs/albef_ve

DIR has snli_ve_train.jsonl, _dev and _test as published, IMAGES Flickr30k's.

Expected, accuracy in % on validation and test (Jiang et al. 2023, table 4):
  ALBEF        79.69 79.91      separation   79.95 79.61
  bridge       79.86 79.95      consistency  79.82 80.16
ALBEF 4M as published 80.14 80.30. Theirs began with DeiT-B and BERT-base, see albef_4m.

Hardware: 8 chips of v5e (2x4), 4.2 of 16 GiB each; 0.028 s a step by its products
alone, 5 minutes in all. Compiled with little effort, not run.
Settings: ALBEF's: 384 pixels, 256 hypotheses a step (64 images with four of theirs each
here), 5 epochs, 2e-5, soft targets .4 from the first step on.
"""

import ml_collections

from contrastive_jax.recipes import _albef

_HYPOTHESES, _EPOCHS = 529_527, 5


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  config = _albef.fine_tuning(
    "entailment", examples=_HYPOTHESES, epochs=_EPOCHS, texts=4, images=64
  )
  config.data.format = "snli_ve"
  config.fusion.alpha_ramp = 0.0
  return config
