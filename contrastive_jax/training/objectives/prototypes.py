"""Prototypes that predict log-partitions, fitted at every step (NeuCLIP)."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from contrastive_jax import losses
from contrastive_jax.training.objectives import e_step_rules


class Prototypes:
  """Prototypes of each side, and the AdaGrad sums by which they are fitted."""

  def __init__(
    self,
    rule: e_step_rules.Amortized,
    sides: Sequence[str],
    *,
    include_positive: bool,
    negative_mass: float,
  ):
    """Takes the rule, the names of the sides, and options of the loss."""
    self._rule = rule
    self._sides = tuple(sides)
    self._options: dict[str, Any] = {
      "include_positive": include_positive,
      "negative_mass": negative_mass,
    }
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

  def fit(self, state, estimates, pairs, temperature, count):
    """A few steps of the prototypes on the batch, then their prediction."""
    fixed = jax.lax.stop_gradient(temperature)

    def predict(params, side, s):
      return jnp.stack(
        [
          losses.prototype_log_partition(
            params[side], queries, keys, temperature=fixed, **self._options
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
      [
        log_mean(predict(params, side, s)[None])[0]
        for s, side in enumerate(self._sides)
      ]
    )
    return {"prototypes": params, "adagrad": adagrad}, predicted

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


def log_mean(estimates: jax.Array) -> jax.Array:
  """[S, K, R] -> [S, R]: log of the mean; -inf where nothing was seen."""
  return jax.nn.logsumexp(estimates, axis=1) - math.log(estimates.shape[1])
