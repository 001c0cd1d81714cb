"""Study: the regularisers of latent structure on Open Clip Art.

python -m experiments.sweep \
  --sweep=experiments/sweeps/latent_structure_openclipart.py

Noisier captions, given by the drawings' contributors. Needs the Debian packages
openclipart-png and openclipart-svg installed. Weights are those that
latent_structure chose on the emoji, rates and steps as there. 12 runs of about a
minute on one CPU core.
"""

from experiments.sweep import Arm, Sweep
from experiments.sweeps import _structure, latent_structure_ablation


def get_sweep() -> Sweep:
  """The losses."""
  config = _structure.config()
  config.data.name = "openclipart"
  arms = [Arm("CLIP", _structure.BATCH, {})]
  for kind, fields in latent_structure_ablation.WHOLE.items():
    weight = {f"structure.{kind}": latent_structure_ablation.WEIGHTS[kind]}
    arms.append(Arm(kind, _structure.BATCH, {**weight, **fields}))
  return Sweep(
    name="latent_structure_openclipart",
    title="Latent structure on Open Clip Art",
    text=(
      "CLIP on 2,487 drawings with titles and keywords (tower 16-32-64, 400"
      " batches of 128) with each regulariser, at the weight that was chosen on"
      " the emoji."
    ),
    config=config,
    arms=arms,
    baseline="CLIP",
    setting="batch size",
    seeds=(0, 1, 2),
    reading=(
      "On noisier captions, each image shown 21 times, separation and consistency"
      " raise retrieval of unseen things by about .01, with intervals above 0,"
      " at the weights that were chosen on the emoji. Consistency costs zero-shot"
      " classification into the folders, whose names are no captions; few-shot"
      " and probe are level within three seeds' intervals."
    ),
    metrics=_structure.OPENCLIPART_METRICS,
  )
