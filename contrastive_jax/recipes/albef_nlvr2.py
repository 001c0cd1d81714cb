r"""NLVR2 fine-tuned from ALBEF's pre-training by way of text assignment, on a pod.

python -m experiments.train --config=albef_nlvr2:assignment \
    --config.initial=run --config.initial.workdir=runs/albef_4m \
    --workdir=runs/albef_assignment    # and the data as of albef_4m
python -m experiments.train --config=albef_nlvr2 --config.initial=run \
    --config.initial.workdir=runs/albef_assignment --config.data.path=DIR \
    --config.data.image_root=IMAGES --workdir=runs/albef_nlvr2

DIR has the lists of NLVR2 as published. The first run is one epoch on pairs of images: to
which of them does a caption belong?

Expected, accuracy in % on dev and test-P (Jiang et al. 2023, table 4):
  ALBEF        78.36 79.54      separation   79.05 79.76
  bridge       78.70 79.36      consistency  78.96 79.53
ALBEF 4M as published reaches 80.24 80.50. It began with DeiT-B and BERT-base, see albef_4m.

Hardware: 8 chips of v5e (2x4), 7.3 of 16 GiB each; 0.095 s a step by its products
alone, 11 minutes in all. Compiled with little effort, not run.
Settings are ALBEF's: 384 pixels, batch 128, 10 epochs, a rate of 2e-5, soft targets 0.4,
but no flip; text assignment at 256 pixels, batch 512, rates of 2e-5 to 1e-5.
"""

from contrastive_jax.recipes import _albef
from contrastive_jax.training import config as config_lib

_STATEMENTS, _EPOCHS = 86_373, 10


def get_config(variant: str = "") -> config_lib.ConfigDraft:
  """The recipe; variant "assignment" is the run before it."""
  if variant == "assignment":
    config = _albef.pretraining()
    config.objective = "text_assignment"
    config.steps = _albef.PAIRS // config.batch_size
    config.optimizer.learning_rate = 2e-5
    config.optimizer.final_share = 0.5
    config.optimizer.warmup_share = 100 / config.steps
    return config
  if variant:
    raise ValueError(f"variant must be 'assignment' or none; got {variant!r}.")
  config = _albef.fine_tuning(
    "nlvr2", examples=_STATEMENTS, epochs=_EPOCHS, texts=1, images=128
  )
  config.data.format = "nlvr2"
  # A flip would exchange left and right.
  config.augment.flip = 0.0
  return config
