r"""Study: MoCo v3 on emoji with InfoNCE and with the augmented loss.

python -m experiments.sweep \
    --sweep=experiments/sweeps/moco_v3_emoji_small_batches.py

As moco_v3_small_batches.py, on two artists' drawings of each thing and at two batch
sizes. 40 runs of about half a minute on one CPU core.
"""

from experiments.sweep import Sweep
from experiments.sweeps import _self_supervised


def get_sweep() -> Sweep:
  """The grid."""
  return _self_supervised.sweep(
    "moco_v3",
    "moco_v3",
    temperature=0.2,
    text="MoCo v3 on emoji",
    reading="",
    data="emoji",
  )
