"""Study: what fusion_structure's regularisers give for statements about two images.

python -m experiments.fusion --tasks=vqa
python -m experiments.sweep --sweep=experiments/sweeps/fusion_structure_nlvr2.py

15 runs of about 11 minutes on two CPU cores, by the rates of single runs: a bit less
than three hours. Not made.
"""

import dataclasses

from experiments.sweep import Sweep
from experiments.sweeps import _fusion, fusion_structure

_METHODS = ("ALBEF", "+ separation", "+ bridge", "+ consistency", "augmented")


def get_sweep() -> Sweep:
  """The methods that change the pre-training, fine-tuned on statements alone."""
  whole = fusion_structure.get_sweep()
  return dataclasses.replace(
    whole,
    name="fusion_structure_nlvr2",
    title="Latent structure in a fusion model: two images",
    text=(
      "ALBEF, with each of the second paper's regularisers and with the first paper's"
      " augmented loss as its contrast, fine-tuned on statements about two images."
    ),
    arms=[arm for arm in whole.arms if arm.method in _METHODS],
    metrics={
      "nlvr2/nlvr2/accuracy": "statements on two images",
      "nlvr2/nlvr2_test_unseen_pairs/accuracy": "statements, unseen pairs",
    },
    train_fn=_fusion.Stages(_fusion.NLVR2_STEPS),
    others=_fusion.tasks(_fusion.config().model, steps=_fusion.NLVR2_STEPS),
    reading="",
  )
