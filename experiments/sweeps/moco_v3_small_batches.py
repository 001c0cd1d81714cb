"""Study: MoCo v3 with InfoNCE and with the augmented loss, by batch size.

python -m experiments.sweep --sweep=experiments/sweeps/moco_v3_small_batches.py

Does the augmented loss at half the batch reach InfoNCE at the whole one, with
the same hyper-parameters? 75 runs of about half a minute on one CPU core.
"""

from experiments.sweep import Sweep
from experiments.sweeps import _self_supervised


def get_sweep() -> Sweep:
  """The grid."""
  return _self_supervised.sweep(
    "moco_v3", "moco_v3", temperature=0.2, text="MoCo v3"
  )
