"""Study: SimCLR with InfoNCE and with the augmented loss, by batch size.

python -m experiments.sweep --sweep=experiments/sweeps/simclr_small_batches.py

Does the augmented loss at half the batch reach InfoNCE at the whole one, with
the same hyper-parameters? 75 runs of about half a minute on one CPU core.
"""

from experiments.sweep import Sweep
from experiments.sweeps import _self_supervised


def get_sweep() -> Sweep:
  """The grid."""
  return _self_supervised.sweep(
    "simclr", "nt_xent", temperature=0.1, text="SimCLR"
  )
