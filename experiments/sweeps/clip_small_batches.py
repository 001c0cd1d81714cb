"""Study: image-text training with small batches, by loss and E-step.

python -m experiments.sweep --sweep=clip_small_batches

Emoji, one English caption an image, a narrow tower. Every run sees the same
number of examples, so smaller batches make more steps. The learning rate is
chosen for every method at every batch size on the validation things. On one CPU
core a run takes about 40 seconds, all 144 of them 90 minutes.
"""

from contrastive_jax.programs.sweep import Arm, Sweep
from contrastive_jax.training import config as config_lib

_EXAMPLES = 32_000
_BATCHES = (16, 64, 256)
# Every method has the same fixed temperature, but for SigLIP, whose temperature
# and bias are learned, as they must be.
_FIXED = {"loss.temperature": 0.05, "loss.temperature_mode": "fixed"}
# Tables as their methods publish them.
_MARGINS = {"loss.margins": True, "loss.level_rate": 0.0}
_MOVING_AVERAGE = {
  "loss": "augmented",
  "loss.e_step": "moving_average",
  **_MARGINS,
}
_METHODS = {
  "InfoNCE": {"loss": "clip"},
  "DCL": {"loss": "decoupled"},
  "SigLIP": {
    "loss": "sigmoid",
    "loss.temperature": 0.1,
    "loss.temperature_mode": "learned",
  },
  "SogCLR .5": _MOVING_AVERAGE | {"loss.rate": 0.5},
  "SogCLR .1": _MOVING_AVERAGE | {"loss.rate": 0.1},
  "gamma 1": _MOVING_AVERAGE | {"loss.rate": 0.5, "loss.concentration": 1.0},
  "conjugate": {
    "loss": "augmented",
    "loss.e_step": "conjugate",
    "loss.min_rate": 0.0,
    **_MARGINS,
  },
  "amortized": {
    "loss": "augmented",
    "loss.e_step": "amortized",
    "loss.prototypes": 512,
    "loss.min_rate": 0.0,
  },
}


def get_sweep() -> Sweep:
  """The grid."""
  config = config_lib.default_config()
  config.log_every = 1000
  config.checkpoint_every = 100_000
  config.data.languages = ("en",)
  config.captions.main_language_share = 1.0
  config.augment.crop_scale = (0.8, 1.3)
  config.augment.brightness = 0.1
  config.augment.contrast = 0.1
  config.augment.saturation = 0.1
  config.model.overrides = {"image": {"widths": (16, 32, 64)}}
  config.override(_FIXED)
  config.optimizer.warmup_share = 0.05
  config.optimizer.weight_decay = 0.25
  config.evaluation = ("retrieval", "zero_shot", "geometry")
  config.evaluation.retrieval.every = 0
  config.evaluation.plots = False
  arms = [
    Arm(
      method,
      batch,
      {**_FIXED, **fields, "batch_size": batch, "steps": _EXAMPLES // batch},
      tuned="optimizer.learning_rate",
      candidates=(5e-4, 1e-3, 2e-3),
    )
    for batch in _BATCHES
    for method, fields in _METHODS.items()
  ]
  return Sweep(
    name="clip_small_batches",
    title="Image-text training with small batches",
    text=(
      f"Emoji, {_EXAMPLES:,} examples seen by every run, image tower 16-32-64,"
      " one English caption an image, temperature fixed at"
      f" {_FIXED['loss.temperature']:g} (SigLIP learns its own)."
    ),
    config=config,
    arms=arms,
    baseline="InfoNCE",
    seeds=(0, 1, 2),
    metrics={
      "retrieval/image_to_text/recall_at_10": "unseen things, image to text R@10",
      "retrieval_unseen_style/image_to_text/recall_at_10": (
        "unseen style, image to text R@10"
      ),
      "zero_shot/accuracy_top1": "unseen style, zero-shot top 1",
    },
    tune_metric="retrieval_validation/image_to_text/recall_at_10",
  )
