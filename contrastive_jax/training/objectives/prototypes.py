"""Prototypes that predict log-partitions, fitted at every step (NeuCLIP)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from contrastive_jax import losses
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import e_step_rules


def estimated(
  mesh: jax.sharding.Mesh,
  image: jax.Array,
  text: jax.Array,
  groups: jax.Array | None,
  temperature: Any,
) -> tuple[list[list[tuple[jax.Array, jax.Array]]], jax.Array, Any]:
  """Anchors and positives of a batch, and its estimates; all without gradient.

  Args:
    mesh: the devices.
    image: [N, d] unit-norm features.
    text: [N, V, d], V captions of each.
    groups: [N] ids, or None.
    temperature: tau, a scalar.

  Returns:
    For both sides and V captions the anchors and their positives [N, d], log
    Z-hat [S, V, N], and tau.
  """
  image, text, tau = jax.lax.stop_gradient((image, text, temperature))
  texts = jnp.unstack(text, axis=1)
  axes = sharding.data_axes(mesh)

  def estimate(tau, image, texts, groups):
    found = [
      losses.log_partition_clip(
        image, t, temperature=tau, group_ids=groups, axes=axes
      )
      for t in texts
    ]
    return jnp.stack([jnp.stack(pair, axis=1) for pair in found], axis=1)

  found = sharding.map_rows(estimate, mesh)(tau, image, texts, groups)
  pairs = [[(image, t) for t in texts], [(t, image) for t in texts]]
  return pairs, found.transpose(2, 1, 0), tau


class Prototypes:
  """Prototypes of each side, and the AdaGrad sums by which they are fitted."""

  def __init__(
    self,
    rule: e_step_rules.Prototypes,
    sides: Sequence[str],
    mesh: jax.sharding.Mesh,
  ):
    """Takes the rule, the names of the sides, and the devices."""
    self._rule = rule
    self._sides = tuple(sides)
    self._mesh = mesh
    self._adagrad = optax.adagrad(rule.prototype_rate)

  def init(self, key: jax.Array, dim: int) -> dict[str, Any]:
    """`prototypes` and `adagrad` before the first step, for width `dim`."""
    params = {
      side: losses.init_prototypes(
        jax.random.fold_in(key, i), self._rule.prototypes, dim
      )
      for i, side in enumerate(self._sides)
    }
    return {"prototypes": params, "adagrad": self._adagrad.init(params)}

  def fit(self, state, image, text, groups, temperature, count):
    """A few steps of the prototypes on the batch, then their prediction.

    Args:
      state: with `prototypes` and `adagrad`.
      image: [N, d] unit-norm features.
      text: [N, V, d], V captions of each.
      groups: [N] ids, or None.
      temperature: tau, a scalar.
      count: steps made.

    Returns:
      The fitted part of the state, and log Z [N, V, S].
    """
    pairs, estimates, tau = estimated(
      self._mesh, image, text, groups, temperature
    )

    def predict(params, side, s):
      return jnp.stack(
        [
          losses.prototype_log_partition(
            params[side], queries, keys, temperature=tau
          )
          for queries, keys in pairs[s]
        ]
      )

    def objective(params):
      return sum(
        jnp.mean(jax.vmap(losses.amortized_loss)(predict(params, side, s), e))
        for s, (side, e) in enumerate(zip(self._sides, estimates))
      )

    def step(_, carry):
      params, adagrad = carry
      gradient = jax.grad(objective)(params)
      updates, adagrad = self._adagrad.update(gradient, adagrad, params)
      return optax.apply_updates(params, updates), adagrad

    params, adagrad = self._refilled(state, pairs, count)
    params, adagrad = jax.lax.fori_loop(
      0, self._rule.prototype_steps, step, (params, adagrad)
    )
    predicted = jnp.stack(
      [predict(params, side, s) for s, side in enumerate(self._sides)]
    )
    fitted = {"prototypes": params, "adagrad": adagrad}
    return fitted, predicted.transpose(2, 1, 0)

  def _refilled(self, state, pairs, count):
    """Prototypes with the batch's keys in their place, and AdaGrad's sums.

    Every `prototype_refill` steps all of them start anew from keys (NeuCLIP);
    a batch that is smaller than they are fills the next rows at each step.
    """
    total = self._rule.prototypes
    params = {}
    for s, side in enumerate(self._sides):
      keys = jax.lax.stop_gradient(pairs[s][0][1])
      place = jnp.arange(total) - keys.shape[0] * (
        count % self._rule.prototype_refill
      )
      mine = (place >= 0) & (place < keys.shape[0])
      rows = keys[jnp.clip(place, 0, keys.shape[0] - 1)]
      params[side] = {
        "prototypes": jnp.where(
          mine[:, None], rows, state["prototypes"][side]["prototypes"]
        )
      }
    # A fresh start for all sums at the first step of a refill.
    fresh = self._adagrad.init(params)
    begins = count % self._rule.prototype_refill == 0
    adagrad = jax.tree.map(
      lambda new, old: jnp.where(begins, new, old), fresh, state["adagrad"]
    )
    return params, adagrad
