"""Study: SimCLR and MoCo v3 with InfoNCE and with the augmented loss, by batch size.

python -m experiments.sweep --sweep=ssl_small_batches:VARIANT

Does the augmented loss at half the batch reach InfoNCE at the whole one, with the same
hyper-parameters? Variants: simclr and moco_v3, on Fashion-MNIST at five batch sizes, 75
runs each; simclr_emoji and moco_v3_emoji, on two artists' drawings of each thing at two
batch sizes, 40 runs each. A run takes about half a minute on one CPU core.
"""

from contrastive_jax.programs.sweep import Arm, Sweep
from contrastive_jax.training import config as config_lib

# The objective, its InfoNCE, the temperature of all losses, and the data.
VARIANTS = {
  "simclr": ("simclr", "nt_xent", 0.1, "fashion_mnist"),
  "moco_v3": ("moco_v3", "info_nce", 0.2, "fashion_mnist"),
  "simclr_emoji": ("simclr", "nt_xent", 0.1, "emoji"),
  "moco_v3_emoji": ("moco_v3", "info_nce", 0.2, "emoji"),
}
_TITLES = {"simclr": "SimCLR", "moco_v3": "MoCo v3"}
_EXAMPLES = 30_720
# One learning rate for all losses, scaled by the square root of the batch size:
# the paper's claim is about the same hyper-parameters.
_RATE, _RATE_BATCH = 2e-3, 64
_AUGMENTED = {
  "loss": "augmented",
  "loss.e_step": "moving_average",
  "loss.rate": 0.1,
  # The table as SogCLR publishes it.
  "loss.margins": True,
  "loss.level_rate": 0.0,
}
# The second one has the gradient of DCL, and tells what leaving the positive out
# of the denominator brings by itself.
_METHODS = {
  "InfoNCE": {},
  "augmented, batch estimate": {"loss": "augmented", "loss.e_step": "batch"},
  "augmented": _AUGMENTED,
}
# The library's default: positive-free tables with a level, and a rate by epochs.
_ON_EMOJI = {"ours": {"loss": "augmented"}}


def get_sweep(variant: str) -> Sweep:
  """The grid of a variant: batch sizes times losses."""
  objective, loss, temperature, data = VARIANTS[variant]
  config = config_lib.default_config()
  config.objective = objective
  config.log_every = 100_000
  config.checkpoint_every = 100_000
  config.data = data
  config.model.overrides = {"image": {"widths": (8, 16, 32)}}
  config.loss = loss
  config.loss.temperature = temperature
  config.optimizer.weight_decay = 1e-4
  config.evaluation.knn.every = 0
  config.evaluation.plots = False
  config.augment.flip = 0.5
  if data == "emoji":
    # The two views are two artists' drawings of a thing, augmented.
    title, batches = f"{_TITLES[objective]} on emoji", (32, 64)
    methods = _METHODS | _ON_EMOJI
    config.objective.images_per_concept = 2
    config.augment.crop_scale = (0.5, 1.0)
    config.augment.hue = 0.1
    config.augment.grayscale = 0.2
    about = (
      "Emoji at 32 pixels, two artists' drawings of a thing as its two views,"
      f" {_EXAMPLES:,} drawings seen by every run"
    )
    score = "Scores of frozen features: subcategories of unseen things."
  else:
    # They are augmentations of one image.
    title, batches = _TITLES[objective], (16, 32, 64, 128, 256)
    methods = _METHODS
    config.model.image_size = 16
    config.augment.crop_scale = (0.3, 1.0)
    config.augment.brightness = 0.4
    config.augment.contrast = 0.4
    config.augment.saturation = 0.0
    about = (
      "Fashion-MNIST (the 8,000 images that ship, at 16 pixels),"
      f" {_EXAMPLES:,} images seen in two views by every run"
    )
    score = "Scores of frozen features on the test images."
  arms = [
    Arm(
      method,
      batch,
      {
        **fields,
        "loss.temperature": temperature,
        "batch_size": batch,
        "steps": _EXAMPLES // batch,
        "optimizer.learning_rate": _RATE * (batch / _RATE_BATCH) ** 0.5,
      },
    )
    for batch in batches
    for method, fields in methods.items()
  ]
  return Sweep(
    name=f"{variant}_small_batches",
    title=f"{title} with small batches",
    text=(
      f"{about}, tower 8-16-32, temperature {temperature:g}. Learning rate"
      f" {_RATE:g} x sqrt(batch size / {_RATE_BATCH}) for all losses. {score}"
    ),
    config=config,
    arms=arms,
    baseline="InfoNCE",
    seeds=(0, 1, 2, 3, 4),
    metrics={
      "knn/accuracy": "kNN accuracy",
      "linear_probe/accuracy": "linear probe accuracy",
    },
  )
