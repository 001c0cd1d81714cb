"""What the sweeps of the objectives of one modality share."""

import json

from contrastive_jax.training import config as config_lib
from experiments.sweep import Arm, Sweep

_EXAMPLES = 30_720
_BATCHES = (16, 32, 64, 128, 256)
# One learning rate for all losses, scaled by the square root of the batch size:
# the paper's claim is about the same hyper-parameters.
_RATE, _RATE_BATCH = 2e-3, 64
# The second one has the gradient of DCL, and tells what leaving the positive out
# of the denominator brings by itself.
_METHODS = {
  "InfoNCE": {},
  "augmented, batch estimate": {
    "loss.name": "augmented",
    "loss.e_step": "batch",
  },
  "augmented": {
    "loss.name": "augmented",
    "loss.e_step": "moving_average",
    "loss.rate": 0.1,
  },
}

# Tried where the first rate lost by its lag.
_ON_EMOJI = {
  "augmented, rate .5": {**_METHODS["augmented"], "loss.rate": 0.5},
}


def sweep(
  objective: str,
  loss: str,
  temperature: float,
  text: str,
  reading: str,
  *,
  data: str = "fashion_mnist",
) -> Sweep:
  """Batch sizes times losses of an objective on one of the data sets.

  Args:
    objective: `config.objective`.
    loss: its InfoNCE, `config.loss.name`.
    temperature: of both losses.
    text: what the page calls it.
    reading: what the whole record shows.
    data: "fashion_mnist": views are augmentations of an image; or "emoji": they
      are two artists' drawings of a thing, augmented, at two batch sizes.

  Returns:
    The grid.
  """
  config = config_lib.default_config()
  config.objective = objective
  config.log_every = 100_000
  config.checkpoint_every = 100_000
  config.data.name = data
  config.model.overrides = json.dumps({"image": {"widths": [8, 16, 32]}})
  methods = _METHODS
  config.augment.flip = 0.5
  if data == "emoji":
    batches, name = (32, 64), f"{objective}_emoji_small_batches"
    methods = _METHODS | _ON_EMOJI
    config.data.images_per_concept = 2
    config.augment.crop_scale = (0.5, 1.0)
    config.augment.hue = 0.1
    config.augment.grayscale = 0.2
    about = (
      f"Emoji at 32 pixels, two artists' drawings of a thing as its two views,"
      f" {_EXAMPLES:,} drawings seen by every run"
    )
    score = "Scores of frozen features: subcategories of unseen things."
  else:
    batches, name = _BATCHES, f"{objective}_small_batches"
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
  config.loss.name = loss
  config.loss.temperature = "fixed"
  config.loss.init_logit_scale = 1.0 / temperature
  config.optimizer.weight_decay = 1e-4
  config.evaluation.retrieval_every = 0
  config.evaluation.plots = False
  arms = [
    Arm(
      method,
      batch,
      {
        **fields,
        "batch_size": batch,
        "steps": _EXAMPLES // batch,
        "optimizer.learning_rate": _RATE * (batch / _RATE_BATCH) ** 0.5,
      },
    )
    for batch in batches
    for method, fields in methods.items()
  ]
  return Sweep(
    name=name,
    title=f"{text} with small batches",
    text=(
      f"{about}, tower 8-16-32, temperature {temperature:g}. Learning rate"
      f" {_RATE:g} x sqrt(batch size / {_RATE_BATCH}) for all losses. {score}"
    ),
    config=config,
    arms=arms,
    baseline="InfoNCE",
    setting="batch size",
    seeds=(0, 1, 2, 3, 4),
    reading=reading,
    metrics={
      "knn/accuracy": "kNN accuracy",
      "linear_probe/accuracy": "linear probe accuracy",
    },
  )
