"""Networks that predict log-partitions, fitted at every step (AmorLIP)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from contrastive_jax import losses, models
from contrastive_jax.training.objectives import e_step_rules
from contrastive_jax.training.objectives.prototypes import estimated

# The published code clips the gradient of both networks to this norm.
_LARGEST_NORM = 1.0


class Networks:
  r"""A network of each side, their average over steps, and Adam's moments.

  A network f sees the anchor alone, and f(q) / tau predicts log A, the log-mean of
  exp(s) over negatives; log Z is what is left without the positive, log A - s_ii.
  At each step, with the batch's A-hat, the average g of the networks, and a share
  beta that grows to `target_mix`:

  .. math:: \log T = \log \big( \beta e^{g(q) / \tau} + (1 - \beta) \hat A \big)

  The networks are fitted to T by some steps of Adam; weights are made of T, or of
  g alone where beta is 0 throughout; then the average moves.

  The published code differs: it fits sums instead of means, with a small share of
  the positive among them, and without a temperature; it takes the average as it was
  at the start of the epoch for g, where each epoch starts new networks; and it ends
  the steps on a batch early where its loss stands still, and mixes
  the average in over its first 16 epochs instead of half of the run.

  References: Sun et al., "AmorLIP: efficient language-image pretraining via
  amortization", 2025, and its code.
  """

  def __init__(
    self,
    rule: e_step_rules.Network,
    sides: Sequence[str],
    mesh: jax.sharding.Mesh,
    *,
    steps: int,
  ):
    """Takes the choice, the names of the sides, the devices, and the run's steps."""
    self._rule = rule
    self._sides = tuple(sides)
    self._mesh = mesh
    self._steps = steps
    self._module = models.PartitionNetwork(rule.width, rule.blocks)
    self._adam = optax.chain(
      optax.clip_by_global_norm(_LARGEST_NORM), optax.adam(rule.network_rate)
    )

  def init(self, key: jax.Array, dim: int) -> dict[str, Any]:
    """`networks`, their `average` and `adam` before the first step, for width `dim`."""
    params = {
      side: self._module.init(
        jax.random.fold_in(key, i), jnp.zeros((1, dim), jnp.float32)
      )["params"]
      for i, side in enumerate(self._sides)
    }
    return {
      "networks": params,
      "average": jax.tree.map(jnp.copy, params),
      "adam": self._adam.init(params),
    }

  def fit(self, state, image, text, groups, temperature, count):
    """Some steps of the networks on the batch, and log Z.

    Args:
      state: with `networks`, `average` and `adam`.
      image: [N, d] unit-norm features.
      text: [N, V, d], V captions of each.
      groups: [N] ids, or None.
      temperature: tau, a scalar.
      count: steps made.

    Returns:
      The fitted part of the state, and log Z [N, V, S].
    """
    rule = self._rule
    pairs, estimates, tau = estimated(
      self._mesh, image, text, groups, temperature
    )
    anchors = jnp.stack([jnp.stack([q for q, _ in side]) for side in pairs])
    positives = jnp.stack([jnp.stack([k for _, k in side]) for side in pairs])
    positive = jnp.sum(
      anchors.astype(jnp.float32) * positives.astype(jnp.float32), axis=-1
    )
    positive /= tau
    batch = estimates + positive  # log A-hat [S, V, N].

    def predict(params):
      return jnp.stack(
        [
          self._module.apply({"params": params[side]}, x) / tau
          for side, x in zip(self._sides, anchors)
        ]
      )

    averaged = predict(state["average"])
    target = averaged
    if rule.target_mix:
      share = self._share(count)
      mixed = jnp.logaddexp(
        jnp.log(share) + averaged, jnp.log1p(-share) + batch
      )
      target = jnp.where(jnp.isfinite(batch), mixed, averaged)

    def objective(params):
      nu = predict(params).reshape(-1)
      options = {"target": (target if rule.target_mix else batch).reshape(-1)}
      given = nu, batch.reshape(-1)
      values = losses.amortized_loss(*given, objective="l2", **options)
      if rule.objective == "kl":
        values = rule.l2_weight * values + losses.amortized_loss(
          *given, objective="kl", **options
        )
      # The sum of both sides, each the mean of its anchors.
      return len(self._sides) * jnp.mean(values)

    def step(_, carry):
      params, adam = carry
      gradient = jax.grad(objective)(params)
      updates, adam = self._adam.update(gradient, adam, params)
      return optax.apply_updates(params, updates), adam

    params, adam = jax.lax.fori_loop(
      0, rule.network_steps, step, (state["networks"], state["adam"])
    )
    moves = count % rule.target_every == 0
    average = jax.tree.map(
      lambda old, new: jnp.where(
        moves, rule.target_decay * old + (1.0 - rule.target_decay) * new, old
      ),
      state["average"],
      params,
    )
    fitted = {"networks": params, "average": average, "adam": adam}
    return fitted, (target - positive).transpose(2, 1, 0)

  def _share(self, count: jax.Array) -> jax.Array:
    """The average's share in the target: a cosine over half of the steps."""
    done = jnp.minimum(2.0 * count / max(self._steps, 1), 1.0)
    return self._rule.target_mix * 0.5 * (1.0 - jnp.cos(jnp.pi * done))
