r"""Retrieval on Flickr30k or COCO fine-tuned from ALBEF's pre-training, on a pod.

python -m experiments.train --config=albef_retrieval --config.initial=run \
    --config.initial.workdir=runs/albef_4m --config.data.path=dataset_flickr30k.json \
    --config.data.image_root=IMAGES --workdir=runs/albef_retrieval

Data is the Karpathy split of Flickr30k: 10 epochs of its 145,000 captions. For COCO, five
epochs of 566,747 captions, set --config.data.path=dataset_coco.json --config.steps=11069
--config.objective.alpha_ramp=0.2 --config.evaluation.reranked.candidates=256.

Expected, ALBEF 4M, R@1 in % after re-ranking (text, image retrieval): Flickr30k 94.3
82.8, COCO 73.1 56.8; ALBEF's paper. It began with DeiT-B and BERT-base, see albef_4m.

Hardware: 8 chips of v5e (2x4), 6.8 of 16 GiB each; 0.104 s a step by its products
alone, 10 minutes in all. Compiled with little effort, not run.
Settings are ALBEF's: batch 256, 384 pixels, a rate of 1e-5 without warm-up; targets are
spread over all captions of an image, and no other caption of it is a negative.
"""

from contrastive_jax.recipes import _albef
from contrastive_jax.training import config as config_lib

_CAPTIONS, _EPOCHS = 145_000, 10


def get_config() -> config_lib.ConfigDraft:
  """The recipe."""
  config = _albef.fine_tuning(
    "albef", examples=_CAPTIONS, epochs=_EPOCHS, texts=1, images=256, warmup=0
  )
  config.objective.language = 0.0
  config.objective.negative_block = 32
  config.data.format = "karpathy"
  config.optimizer.learning_rate = 1e-5
  config.optimizer.final_share = 0.1
  config.evaluation.reranked.candidates = 128
  return config
