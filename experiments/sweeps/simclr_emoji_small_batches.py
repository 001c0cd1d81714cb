r"""Study: SimCLR on emoji with InfoNCE and with the augmented loss.

python -m experiments.sweep \
    --sweep=experiments/sweeps/simclr_emoji_small_batches.py

As simclr_small_batches.py, on two artists' drawings of each thing and at two batch
sizes. 40 runs of about half a minute on one CPU core.
"""

from experiments.sweep import Sweep
from experiments.sweeps import _self_supervised


def get_sweep() -> Sweep:
  """The grid."""
  return _self_supervised.sweep(
    "simclr",
    "nt_xent",
    temperature=0.1,
    text="SimCLR on emoji",
    reading="",
    data="emoji",
  )
