"""Study: what fusion_structure's regularisers give for statements about two images.

python -m experiments.fusion --tasks=vqa
python -m experiments.sweep --sweep=experiments/sweeps/fusion_structure_nlvr2.py

15 runs of about six minutes on one CPU core each: three quarters of an hour on two cores,
an hour as they were made, beside other work.
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
      " augmented loss as its contrast, fine-tuned on statements about two images"
      " (800 steps). All begin with the encoders that those of fusion_structure begin"
      " with."
    ),
    arms=[arm for arm in whole.arms if arm.method in _METHODS],
    metrics={
      "nlvr2/nlvr2/accuracy": "statements on two images",
      "nlvr2/nlvr2_test_unseen_pairs/accuracy": "statements, unseen pairs",
    },
    train_fn=_fusion.Stages(_fusion.NLVR2_STEPS),
    others=_fusion.tasks(_fusion.config().model, steps=_fusion.NLVR2_STEPS),
    reading=(
      "No regulariser differs from ALBEF by more than its interval: consistency and"
      " separation lie .02 and .01 higher, the bridge .01 lower. The augmented loss,"
      " which retrieves twice as well, is level or worse (.659, .682 and .763 where"
      " ALBEF has .734, .719 and .733): three seeds cannot tell."
    ),
  )
