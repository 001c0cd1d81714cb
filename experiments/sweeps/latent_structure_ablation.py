"""Study: which terms of the regularisers of latent structure matter.

python -m experiments.sweep --sweep=experiments/sweeps/latent_structure_ablation.py

Each regulariser at the weight that latent_structure chose, without each of its
terms, and the bridge at other times and sides. 70 runs of 40 to 60 seconds on one
CPU core.
"""

from experiments.sweep import Arm, Sweep
from experiments.sweeps import _structure

# What latent_structure chose on the validation things.
WEIGHTS = {"separation": 0.1, "bridge": 0.1, "consistency": 0.1}
WHOLE = {
  "separation": {"evaluation.concatenated": True},
  "bridge": {},
  "consistency": {},
}
_WITHOUT = {
  "separation - orthogonality": {"structure.orthogonality": 0.0},
  "separation - independent contrast": {"structure.independent_contrast": 0.0},
  "separation - uniformity": {"structure.uniformity": 0.0},
  "bridge of texts": {"structure.bridge_side": "text"},
  "bridge of both": {"structure.bridge_side": "both"},
  "bridge, t = .5": {"structure.bridge_time": (0.5, 0.5)},
  "bridge, t drawn": {"structure.bridge_time": (0.0, 1.0)},
  "consistency - in-modal": {"structure.consistency_intra": 0.0},
  "consistency - cross-modal": {"structure.consistency_inter": 0.0},
  "consistency - augmented": {"structure.consistency_augmented": 0.0},
  "consistency - paired": {"structure.consistency_paired": 0.0},
}


def get_sweep() -> Sweep:
  """The terms."""
  arms = [Arm("CLIP", _structure.BATCH, {})]
  for method, fields in {**WHOLE, **_WITHOUT}.items():
    kind = next(k for k in WEIGHTS if method.startswith(k))
    weight = {f"structure.{kind}": WEIGHTS[kind]}
    arms.append(
      Arm(method, _structure.BATCH, {**weight, **WHOLE[kind], **fields})
    )
  return Sweep(
    name="latent_structure_ablation",
    title="Terms of the latent structure",
    text=(
      "As latent_structure, at one weight a regulariser (the one chosen there):"
      " whole, without each term, and the bridge otherwise. Differences are from"
      " CLIP at the same learning rate; compare rows of one regulariser."
    ),
    config=_structure.config(),
    arms=arms,
    baseline="CLIP",
    setting="batch size",
    seeds=(0, 1, 2, 3, 4),
    metrics=_structure.METRICS,
  )
