r"""ALBEF's pre-training on four million images, at the published size.

python -m experiments.train --config=contrastive_jax/recipes/albef_4m.py \
    --config.data.path=DIR --config.data.image_root=IMAGES \
    --config.data.official_options='{"path": {"train": ["DIR/coco.json",
    "DIR/vg.json", "DIR/cc3m_train.json", "DIR/sbu.json"]}}' --workdir=runs/albef_4m

The files are lists as ALBEF's authors published them; IMAGES is the folder below which
the images are. An epoch shows every image with one of its captions, so that COCO and
Visual Genome, which have several of each, count for less than in theirs; the number of
examples is theirs. The second paper's rows:
  separation   --config.structure.separation=.1
  bridge       --config.structure.bridge=.1
  consistency  --config.structure.consistency=.1
and the first paper's loss as the contrast: --config.loss=augmented
--config.loss.temperature=fixed. Their weights are
not published; these are where a search would begin. Other views' features are the
momentum model's.

Expected of what begins with it, in %: the recipes albef_vqa, albef_nlvr2, albef_ve
and albef_retrieval say it. Published scores are those of encoders that began as DeiT-B
and BERT-base, which these flags take (the normalisation is ALBEF's, CLIP's):
    --config.initial.image_weights=deit_base_patch16_224.pth
    --config.initial.text_weights=BERT --config.model.tokenizer=BERT/vocab.txt
Without them the run begins at random, and the vocabulary is learned on the captions.

Hardware: 8 chips of v5e (2x4), 6.4 of 16 GiB each, 6.5 with a regulariser; 0.113 s a
step by its products alone, 9.4 hours in all. Compiled with little effort, not run.
Settings: ALBEF, https://arxiv.org/abs/2107.07651, and its code: batch 512, 30 epochs,
256 pixels, 30 tokens (25 there), AdamW 1e-4 after 2,000 steps of warm-up, then a cosine to 1e-5.
"""

import ml_collections

from contrastive_jax.recipes import _albef

_EPOCHS = 30


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  config = _albef.pretraining()
  config.steps = _EPOCHS * _albef.PAIRS // config.batch_size
  config.optimizer.warmup_share = 2000 / config.steps
  config.fusion.alpha_ramp = 1.0 / _EPOCHS
  return config
