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


def sweep(
  objective: str, loss: str, temperature: float, text: str, reading: str
) -> Sweep:
  """Batch sizes times losses of an objective on Fashion-MNIST.

  Args:
    objective: `config.objective`.
    loss: its InfoNCE, `config.loss.name`.
    temperature: of both losses.
    text: what the page calls it.
    reading: what the whole record shows.

  Returns:
    The grid.
  """
  config = config_lib.default_config()
  config.objective = objective
  config.log_every = 100_000
  config.checkpoint_every = 100_000
  config.data.name = "fashion_mnist"
  config.model.image_size = 16
  config.model.overrides = json.dumps({"image": {"widths": [8, 16, 32]}})
  config.augment.crop_scale = (0.3, 1.0)
  config.augment.flip = 0.5
  config.augment.color_jitter = 0.8
  config.augment.brightness = 0.4
  config.augment.contrast = 0.4
  config.augment.saturation = 0.0
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
    for batch in _BATCHES
    for method, fields in _METHODS.items()
  ]
  return Sweep(
    name=f"{objective}_small_batches",
    title=f"{text} with small batches",
    text=(
      f"Fashion-MNIST (the 8,000 images that ship, at 16 pixels), {_EXAMPLES:,}"
      f" images seen in two views by every run, tower 8-16-32, temperature"
      f" {temperature:g}. Learning rate"
      f" {_RATE:g} x sqrt(batch size / {_RATE_BATCH}) for all losses. Scores of"
      " frozen features on the test images."
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
