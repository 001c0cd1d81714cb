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
    reading=(
      "No score depends on the batch here: InfoNCE at 32 is level with InfoNCE at 64"
      " (-.005 and .000), and so is every estimate of the partition, with either"
      " rate. At a temperature of .2 there is little bias to remove. The augmented"
      " loss at half the batch reaches InfoNCE at the whole one, and so does"
      " InfoNCE."
    ),
    data="emoji",
  )
