"""The augmented loss between images and their captions, as objectives use it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.training.objectives import contrasts
from contrastive_jax.training.objectives.e_step import Auxiliary
from contrastive_jax.training.objectives.parts import Parts


class AugmentedPairs:
  """E-step and M-step of images against captions, over the mesh."""

  def __init__(self, loss: contrasts.Augmented, parts: Parts):
    """Takes the loss, and the objective's parts."""
    self._loss = loss
    self.auxiliary = Auxiliary(loss, parts, sides=("image", "text"))

  def init(self, key: jax.Array, dim: int) -> dict[str, Any]:
    """The E-step's state before the first step, for features of width `dim`."""
    return self.auxiliary.init(key, dim)

  def loss(
    self,
    features: Mapping[str, jax.Array],
    scale: jax.Array,
    groups: jax.Array | None,
    state: Mapping[str, Any],
    index: jax.Array,
    key: jax.Array,
  ) -> tuple[jax.Array, dict[str, Any], dict[str, jax.Array]]:
    """The loss of every example.

    Args:
      features: unit-norm `image` [N, d] and `text` [N, K, d], K captions of each.
      scale: 1 / temperature.
      groups: [N] ids; equal ones are positives of each other, or None.
      state: of the E-step.
      index: [N] the examples.
      key: of the weights' draws.

    Returns:
      [N], the E-step's new state, and metrics.
    """
    step, state, metrics = self.auxiliary.step(
      losses.em_clip,
      (features["image"], features["text"]),
      state,
      index=index,
      key=key,
      groups=groups,
      temperature=1.0 / scale,
    )
    values, details = step.loss, step.details
    metrics["weight_sum"] = jnp.mean(values)
    metrics |= self.auxiliary.diagnose(
      step.state.count,
      features["image"],
      features["text"][:, 0],
      groups,
      details["log_auxiliary"][:, 0, 0],
      1.0 / scale,
    )
    mode = self._loss.temperature_mode
    if isinstance(mode, contrasts.Robust):
      # In units of the temperature, so that the features' gradients are those
      # of a fixed one.
      values = losses.scale_by_temperature(
        values,
        jnp.mean(details["log_partition"], axis=(1, 2)),
        temperature=1.0 / scale,
        rho=mode.rho,
      ) * jax.lax.stop_gradient(scale)
    return values, state, metrics
