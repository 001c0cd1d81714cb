r"""ALBEF's pre-training on four million image-text pairs from the web, on a pod.

python -m experiments.train --config=albef_4m \
    --config.data.path=DIR --config.data.image_root=IMAGES \
    --config.data.options='{"path": {"train": ["DIR/coco.json", "DIR/vg.json",
    "DIR/cc3m_train.json", "DIR/sbu.json"]}}' --workdir=runs/albef_4m

The files are lists as ALBEF's authors published them; IMAGES is the folder below which
the images are. An epoch shows every image with one of its captions, so that COCO and
Visual Genome, which have several captions an image, count for less than in the paper;
the number of examples is the paper's.

The second paper adds a regulariser to a contrast of four terms, two of which are within
a modality: --config.loss.in_modal with one of
  separation   --config.structure=separation --config.structure.separation.weight=0.1
  bridge       --config.structure=bridge --config.structure.bridge.weight=0.1
  consistency  --config.structure=consistency --config.structure.consistency.weight=0.1
Their weights are not published; a search would begin with these. Another view's features
are the momentum model's. Both models see one view of an image, which is augmented as in
ALBEF (the second paper does not say otherwise; a plain one is
--config.structure.first_view=plain). The first paper's loss as the contrast is
--config.loss=augmented --config.loss.temperature_mode=fixed.

Expected, in %: the recipes albef_vqa, albef_nlvr2, albef_ve and albef_retrieval say
what a run scores that begins with this one. Published scores are of encoders that began
as DeiT-B and BERT-base, which these flags take (the normalisation is ALBEF's, CLIP's):
    --config.initial=weights
    --config.initial.image_weights=deit_base_patch16_224.pth
    --config.initial.text_weights=BERT --config.tokenizer=BERT/vocab.txt
Without them the run begins at random, and the vocabulary is learned on the captions.

Hardware: 8 chips of v5e (2x4), 6.4 of 16 GiB each, 6.6 with four terms and separation;
0.113 s a step by its products alone, 9.4 hours in all. Compiled with little effort, not
run.
Settings: ALBEF, https://arxiv.org/abs/2107.07651, and its code: batch 512, 30 epochs,
256 pixels, 30 tokens (25 there), AdamW with a rate of 1e-4 after 2,000 steps of warm-up,
then a cosine to 1e-5.
"""

from contrastive_jax.recipes import _albef
from contrastive_jax.training import config as config_lib

_EPOCHS = 30


def get_config() -> config_lib.ConfigDraft:
  """The recipe."""
  config = _albef.pretraining()
  config.objective.alpha_ramp = 1.0 / _EPOCHS
  config.steps = _EPOCHS * _albef.PAIRS // config.batch_size
  config.optimizer.warmup_share = 2000 / config.steps
  return config
