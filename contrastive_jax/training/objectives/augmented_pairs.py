"""The augmented loss between images and their captions, as objectives use it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import contrasts
from contrastive_jax.training.objectives.e_step import Auxiliary
from contrastive_jax.training.objectives.parts import Parts


class AugmentedPairs:
  """E-step and M-step of images against captions, over the mesh."""

  def __init__(self, loss: contrasts.Augmented, parts: Parts):
    """Takes the loss, and the objective's parts."""
    self._loss = loss
    self._mesh = parts.mesh
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
    auxiliary = self.auxiliary
    options = auxiliary.options
    own = auxiliary.temperatures(state, index)
    no_gradient = jax.lax.stop_gradient
    texts = jnp.unstack(features["text"], axis=1)

    def temperatures(whole, own):
      if own is None:
        return {"temperature": 1.0 / whole}
      return {"temperature": own[:, 0], "text_temperature": own[:, 1]}

    def estimate(whole, image, texts, groups, own):
      def all_captions(taus):
        found = [
          losses.log_partition_clip(
            image, text, group_ids=groups, **taus, **options
          )
          for text in texts
        ]
        return jnp.stack([jnp.stack(pair, axis=1) for pair in found], axis=1)

      taus = temperatures(whole, own)
      if own is None:
        return all_captions(taus), None
      estimates, back = jax.vjp(all_captions, taus)
      (slopes,) = back(jnp.full_like(estimates, 1.0 / len(texts)))
      return estimates, jnp.stack(list(slopes.values()), axis=1)

    # [R, K, S]; no gradient passes through the E-step.
    estimates, slopes = sharding.map_rows(estimate, self._mesh)(
      no_gradient(scale),
      no_gradient(features["image"]),
      no_gradient(texts),
      groups,
      own if own is None else own.T,
    )
    positions = jnp.arange(index.shape[0], dtype=jnp.int32)
    weights, state, metrics = auxiliary.weigh(
      state,
      index,
      positions,
      estimates.transpose(2, 1, 0),
      key,
      pairs=(
        [(features["image"], text) for text in texts],
        [(text, features["image"]) for text in texts],
      ),
      temperature=1.0 / scale,
      slopes=slopes if slopes is None else slopes.T,
    )
    log_u = weights.log_auxiliary
    if own is not None:
      # tau_i log Z_i, in units of the first temperature: part of the weight.
      log_u += jnp.log(own * (1.0 / self._loss.temperature))

    cap = auxiliary.log_weight_cap

    def per_example(whole, image, texts, groups, own, log_u):
      terms = [
        losses.augmented_clip(
          image,
          text,
          log_u[:, 0],
          log_u[:, 1],
          group_ids=groups,
          log_weight_cap=cap,
          **temperatures(whole, own),
          **options,
        )
        for text in texts
      ]
      return sum(terms[1:], terms[0]) / len(terms)

    values = sharding.map_rows(per_example, self._mesh)(
      scale,
      features["image"],
      texts,
      groups,
      own if own is None else own.T,
      log_u.T,
    )
    metrics["weight_sum"] = jnp.mean(values)
    metrics |= auxiliary.diagnose(
      state["count"], features["image"], texts[0], groups, log_u[0], 1.0 / scale
    )
    mode = self._loss.temperature_mode
    if isinstance(mode, contrasts.Robust):
      # In units of the temperature, so that the features' gradients are those
      # of a fixed one.
      values = losses.scale_by_temperature(
        values,
        jnp.mean(weights.log_partition, axis=0),
        temperature=1.0 / scale,
        rho=mode.rho,
      ) * no_gradient(scale)
    if own is not None:
      metrics["temperature_mean"] = jnp.mean(own)
    return values, state, metrics
