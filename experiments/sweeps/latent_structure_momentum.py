"""Study: the regularisers with a momentum encoder's features as the other view.

python -m experiments.sweep --sweep=experiments/sweeps/latent_structure_momentum.py

latent_structure with config.structure.source=momentum: the other view of an image or
a caption is what a slow copy of the model says of the same one. 63 runs of 35 to 50
seconds on one CPU core.
"""

import dataclasses

from experiments.sweep import Sweep
from experiments.sweeps import latent_structure

_SOURCE = {"structure.source": "momentum"}
# The same with either source: CLIP and what has no other view.
_ALIKE = ("CLIP at the common rate", "four terms", "CyCLIP")


def get_sweep() -> Sweep:
  """The losses."""
  whole = latent_structure.get_sweep()
  arms = [
    arm
    if arm.method == whole.baseline
    else dataclasses.replace(arm, fields={**arm.fields, **_SOURCE})
    for arm in whole.arms
    if arm.method not in _ALIKE
  ]
  return dataclasses.replace(
    whole,
    name="latent_structure_momentum",
    title="Latent structure with a momentum encoder",
    text=(
      "As latent_structure, but other views' features are those of a momentum"
      " encoder (.995), of the same image and caption."
    ),
    arms=arms,
    reading="",
  )
