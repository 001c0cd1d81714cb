r"""Visual question answering (VQA v2) fine-tuned from ALBEF's pre-training, on a pod.

python -m experiments.train --config=albef_vqa --config.initial=run \
    --config.initial.workdir=runs/albef_4m --config.data.path=DIR \
    --config.data.image_root=IMAGES --workdir=runs/albef_vqa

DIR has the questions and annotations of VQA v2 as published. The second paper trains on
the training split, as this recipe does, and a run is scored on the validation split.
(ALBEF trains on both and on Visual Genome's questions: 'visual_genome' and 'path' of
config.data.options, and more --config.steps.)

Expected, accuracy in % on test-dev and test-std (Jiang et al. 2023, table 4, all re-run
by its authors). Only the server has their answers, and no file for it is written here.
  ALBEF        73.38 73.52      separation   73.52 73.59
  bridge       74.26 74.36      consistency  73.90 73.87
ALBEF 4M as published reaches 74.54 74.70. It began with DeiT-B and BERT-base, see albef_4m.

Hardware: 8 chips of v5e (2x4), 5.7 of 16 GiB each; 0.032 s a step by its products
alone, 7 minutes in all. Compiled with little effort, not run.
Settings are ALBEF's: 384 pixels, 256 questions a step (64 images with four questions
each here), 8 epochs, a rate of 2e-5, soft targets 0.4, candidates ranked in two stages,
but no flip.
"""

from contrastive_jax.recipes import _albef
from contrastive_jax.training import config as config_lib

_QUESTIONS, _EPOCHS = 443_757, 8


def get_config() -> config_lib.ConfigDraft:
  """The recipe."""
  config = _albef.fine_tuning(
    "vqa", examples=_QUESTIONS, epochs=_EPOCHS, texts=4, images=64, warmup=400
  )
  config.objective.answers_per_question = 4
  config.objective.answer_length = 10
  config.data.format = "vqa_v2"
  # A flip would exchange left and right.
  config.augment.flip = 0.0
  return config
