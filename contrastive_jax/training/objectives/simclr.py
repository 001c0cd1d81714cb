"""SimCLR: two views of each example through one encoder."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import base
from contrastive_jax.training.objectives.self_supervised import SelfSupervised
from contrastive_jax.training.types import Params


class SimCLR(SelfSupervised):
  """Two views against all other rows of both views.

  References: Chen et al., "A simple framework for contrastive learning of
  visual representations", 2020; SogCLR is `config.loss=augmented` with
  `config.loss.e_step=moving_average`.
  """

  def loss(
    self,
    params: Params,
    state: Params,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
  ) -> tuple[jax.Array, tuple[Params, dict[str, jax.Array]]]:
    """NT-Xent or its augmented form, averaged over both views."""
    first, second, index, groups = self.views(batch, key)
    count = first.shape[0]
    # Both views at once, so that batch normalisation sees them together.
    outputs, collections = self.model.apply(
      {"params": params, **state["model"]},
      jnp.concatenate([first, second]),
      train=True,
      rngs={"dropout": jax.random.fold_in(key, base.DROPOUT)},
      mutable=list(state["model"]),
    )
    z = outputs["projection"]
    pair = (z[:count], z[count:])
    state = {**state, "model": collections}
    metrics: dict[str, Any] = {"image_embedding": jnp.sum(z**2)}
    if self.auxiliary is None:
      values = sharding.map_rows(
        lambda _, pair, groups: self.plain(pair[0], pair[1], groups),
        self._mesh,
      )(None, pair, groups)
      return jnp.mean(values), (state, metrics)

    values, state["auxiliary"], more = self.augmented(
      losses.em_nt_xent,
      pair,
      groups,
      index,
      state["auxiliary"],
      jax.random.fold_in(key, base.AUXILIARY),
    )
    metrics |= more | {"weight_sum": jnp.mean(values)}
    return jnp.mean(values), (state, metrics)
