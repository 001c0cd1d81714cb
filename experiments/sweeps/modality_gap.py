"""Study: is a smaller modality gap a better model?

python -m experiments.sweep --sweep=modality_gap

The paper's figure 2 at our scale: CLIP with 0, 0.5 and 1 times its alignment loss.
15 runs of half a minute on one CPU core.
"""

from contrastive_jax.programs.sweep import Arm, Sweep
from experiments.sweeps import latent_structure


def get_sweep() -> Sweep:
  """The three weights."""
  config = latent_structure.config()
  config.evaluation = ("retrieval", "zero_shot", "geometry")
  config.evaluation.retrieval.every = 0
  return Sweep(
    name="modality_gap",
    title="The modality gap against retrieval",
    text=(
      "Emoji CLIP (one English caption, tower 16-32-64, 400 batches of 128) with"
      " 0, 0.5 and 1 times the alignment loss 1 / (cos^2 + 0.001)."
    ),
    config=config,
    arms=[
      Arm("alignment 0", latent_structure.BATCH, {}),
      *(
        Arm(
          f"alignment {weight:g}",
          latent_structure.BATCH,
          latent_structure.term("alignment", weight),
        )
        for weight in (0.5, 1.0)
      ),
    ],
    baseline="alignment 0",
    seeds=(0, 1, 2, 3, 4),
    metrics={
      "geometry/modality_gap_centroid_distance": "gap of the centroids",
      "geometry/alignment": "mean squared distance of pairs",
      "retrieval/image_to_text/recall_at_10": "unseen things, R@10",
      "retrieval_unseen_style/image_to_text/recall_at_10": (
        "unseen style, R@10"
      ),
    },
  )
