"""MoCo v3: queries against the keys of a momentum encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from contrastive_jax import losses
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import base, choices
from contrastive_jax.training.objectives.parts import Parts
from contrastive_jax.training.objectives.self_supervised import SelfSupervised
from contrastive_jax.training.types import Params


class MoCoV3(SelfSupervised):
  r"""Each view's prediction against the other view's momentum projection.

  The momentum encoder, tower and projector, is updated before it is used:
  :math:`\xi \leftarrow m \xi + (1 - m) \theta`, with m going from
  `config.objective.momentum` to 1 along a half cosine over the run. The loss is the
  sum over the two ways of assigning views, each times 2 tau. With
  `config.objective.freeze_patches` the patch projection of a ViT stays as it was
  initialised.

  References: Chen, Xie and He, "An empirical study of training self-supervised
  vision transformers", 2021.
  """

  def __init__(self, settings: choices.MoCoV3, parts: Parts):
    """Builds the model; see `Parts`."""
    super().__init__(
      settings,
      parts,
      predictor=settings.predictor or None,
      predictor_norm=settings.predictor_norm,
    )
    self._momentum = settings.momentum
    self._freeze_patches = settings.freeze_patches

  def decays(self, path: Sequence[Any]) -> bool:
    """Not a frozen patch projection: decay alone would shrink it to nothing."""
    return not (self._freeze_patches and base.under_patches(path))

  def init(
    self, key: jax.Array, batch: Mapping[str, jax.Array]
  ) -> tuple[Params, Params]:
    """Parameters, and the state with the momentum encoder."""
    params, state = super().init(key, batch)
    state = dict(state)
    state["momentum"] = {
      "params": jax.tree.map(jnp.copy, _encoder(params)),
      "model": jax.tree.map(jnp.copy, _encoder_collections(state["model"])),
    }
    state["count"] = jnp.zeros((), jnp.int32)
    return params, state

  def loss(
    self,
    params: Params,
    state: Params,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
  ) -> tuple[jax.Array, tuple[Params, dict[str, jax.Array]]]:
    """The symmetrised loss, averaged over examples."""
    first, second, index, groups = self.views(batch, key)
    count = first.shape[0]
    if self._freeze_patches:
      params = jax.tree_util.tree_map_with_path(
        lambda path, x: (
          jax.lax.stop_gradient(x) if base.under_patches(path) else x
        ),
        params,
      )
    share = jnp.minimum(state["count"] / self._parts.steps, 1.0)
    rate = 0.5 * (1.0 - self._momentum) * (1 + jnp.cos(jnp.pi * share))
    momentum: Any = optax.incremental_update(
      jax.lax.stop_gradient(_encoder(params)), state["momentum"]["params"], rate
    )
    both = jnp.concatenate([first, second])
    outputs, collections = self.model.apply(
      {"params": params, **state["model"]},
      both,
      train=True,
      rngs={"dropout": jax.random.fold_in(key, base.DROPOUT)},
      mutable=list(state["model"]),
    )
    keys, key_collections = self.model.apply(
      {"params": momentum, **state["momentum"]["model"]},
      both,
      train=True,
      rngs={"dropout": jax.random.fold_in(key, base.DROPOUT)},
      mutable=list(state["momentum"]["model"]),
      method="project",
    )
    q, k = outputs["prediction"], jax.lax.stop_gradient(keys)
    arrays = (q[:count], q[count:], k[:count], k[count:])
    state = {
      **state,
      "model": collections,
      "momentum": {"params": momentum, "model": key_collections},
      "count": state["count"] + 1,
    }
    metrics: dict[str, Any] = {
      "image_embedding": jnp.sum(q**2),
      "encoder_momentum": 1.0 - rate,
    }
    if self.auxiliary is None:
      values = sharding.map_rows(self._both, self._mesh)(None, arrays, groups)
      return jnp.mean(values), (state, metrics)

    values, state["auxiliary"], more = self.augmented(
      losses.em_moco_v3,
      arrays,
      groups,
      index,
      state["auxiliary"],
      jax.random.fold_in(key, base.AUXILIARY),
    )
    weight_sum = jnp.mean(values) / (4.0 * self._temperature)
    return jnp.mean(values), (
      state,
      metrics | more | {"weight_sum": weight_sum},
    )

  def _both(self, _, arrays, groups) -> jax.Array:
    q1, q2, k1, k2 = arrays
    return (2.0 * self._temperature) * (
      self.plain(q1, k2, groups) + self.plain(q2, k1, groups)
    )


def _encoder(params: Params) -> Params:
  """The parameters that have a momentum copy: all but the predictor."""
  return {k: v for k, v in params.items() if k != "prediction_head"}


def _encoder_collections(collections: Params) -> Params:
  return {
    name: {k: v for k, v in part.items() if k != "prediction_head"}
    for name, part in collections.items()
  }
