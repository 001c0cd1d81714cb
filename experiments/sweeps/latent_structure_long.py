"""Study: do the regularisers of latent structure need longer training?

python -m experiments.sweep --sweep=experiments/sweeps/latent_structure_long.py

latent_structure's runs three times as long. 12 runs of two to three minutes on one
CPU core.
"""

from experiments.sweep import Arm, Sweep
from experiments.sweeps import _structure, latent_structure_ablation

_STEPS = 1200


def get_sweep() -> Sweep:
  """The losses."""
  config = _structure.config()
  config.steps = _STEPS
  arms = [Arm("CLIP", _structure.BATCH, {})]
  for kind, fields in latent_structure_ablation.WHOLE.items():
    weight = {f"structure.{kind}": latent_structure_ablation.WEIGHTS[kind]}
    arms.append(Arm(kind, _structure.BATCH, {**weight, **fields}))
  return Sweep(
    name="latent_structure_long",
    title="Latent structure, trained longer",
    text=(
      f"As latent_structure, {_STEPS:,} steps (400 there), at the weights chosen"
      " there."
    ),
    config=config,
    arms=arms,
    baseline="CLIP",
    setting="batch size",
    seeds=(0, 1, 2),
    metrics=_structure.METRICS,
  )
