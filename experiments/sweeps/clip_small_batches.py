"""Study: image-text training with small batches, by loss and E-step.

python -m experiments.sweep --sweep=clip_small_batches

Emoji, one English caption an image, a narrow tower. Every run sees the same
number of examples, so smaller batches make more steps. All methods have the
learning rate that InfoNCE chooses at a batch size on the validation things, by three
seeds that are not reported: the claim is about the same hyper-parameters, and rates
that each chose by itself would differ by chance, which is most of what is seen in an
unseen style. On one CPU core a run takes about a minute, all 127 of them two hours:
`--processes=2` halves that on two cores.
"""

from contrastive_jax.programs.sweep import Arm, Sweep
from contrastive_jax.training import config as config_lib

_EXAMPLES = 32_000
# Learning rates by batch size (a larger batch makes fewer steps), and which of them
# InfoNCE chooses.
_RATES = {
  16: ((5e-4, 1e-3, 2e-3), 1e-3),
  64: ((1e-3, 2e-3, 4e-3), 2e-3),
  256: ((2e-3, 4e-3, 8e-3), 4e-3),
}
_RATE = "optimizer.learning_rate"
_FIXED = {"loss.temperature": 0.05, "loss.temperature_mode": "fixed"}
_METHODS = {
  "DCL": {"loss": "decoupled"},
  "ours": {"loss": "augmented"},
}
# A table as its method publishes it, where small batches are.
_AT_16 = {
  "SogCLR 0.5": {
    "loss": "augmented",
    "loss.e_step": "moving_average",
    "loss.rate": 0.5,
    "loss.margins": True,
    "loss.level_rate": 0.0,
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
  arms = []
  for batch, (rates, chosen) in _RATES.items():
    common = {**_FIXED, "batch_size": batch, "steps": _EXAMPLES // batch}
    arms.append(
      Arm(
        "InfoNCE",
        batch,
        {**common, "loss": "clip"},
        tuned=_RATE,
        candidates=rates,
      )
    )
    others = _METHODS | (_AT_16 if batch == 16 else {})
    for method, fields in others.items():
      arms.append(Arm(method, batch, {**common, **fields, _RATE: chosen}))
  return Sweep(
    name="clip_small_batches",
    title="Image-text training with small batches",
    text=(
      f"Emoji, {_EXAMPLES:,} examples seen by every run, image tower 16-32-64,"
      " one English caption an image, temperature"
      f" {_FIXED['loss.temperature']:g}, for all the learning rate that InfoNCE"
      " chooses."
    ),
    config=config,
    arms=arms,
    baseline="InfoNCE",
    seeds=tuple(range(10)),
    tune_seeds=(1000, 1001, 1002),
    metrics={
      "retrieval/image_to_text/recall_at_10": "unseen things, image to text R@10",
      "retrieval_unseen_style/image_to_text/recall_at_10": (
        "unseen style, image to text R@10"
      ),
      "zero_shot/accuracy_top1": "unseen style, zero-shot top 1",
    },
    tune_metric="retrieval_validation/image_to_text/recall_at_10",
  )
