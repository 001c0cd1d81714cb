"""MoCo v3: queries against the keys of a momentum encoder."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from contrastive_jax import losses
from contrastive_jax.training.objectives import base, choices
from contrastive_jax.training.objectives.parts import Parts
from contrastive_jax.training.objectives.self_supervised import (
  SelfSupervised,
  Sides,
)
from contrastive_jax.training.types import Batch, Metrics, Params


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

  em = staticmethod(losses.em_moco_v3)

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

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    """Parameters, and the state with the momentum encoder."""
    params, state = super().init(key, batch)
    momentum = {
      "params": _encoder(params),
      "model": {name: _encoder(x) for name, x in state["model"].items()},
    }
    momentum = jax.tree.map(jnp.copy, momentum)
    count = jnp.zeros((), jnp.int32)
    return params, {**state, "momentum": momentum, "count": count}

  def sides(
    self, params: Params, state: Params, images: jax.Array, key: jax.Array
  ) -> tuple[Sides, Params, Metrics]:
    """Queries of one view with keys of the other, twice."""
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
    outputs, collections = self.train(params, state["model"], images, key)
    keys, key_collections = self.train(
      momentum, state["momentum"]["model"], images, key, method="project"
    )
    q, k = outputs["prediction"], jax.lax.stop_gradient(keys)
    count = q.shape[0] // 2
    state = {
      **state,
      "model": collections,
      "momentum": {"params": momentum, "model": key_collections},
      "count": state["count"] + 1,
    }
    metrics = {"image_embedding": jnp.sum(q**2), "encoder_momentum": 1.0 - rate}
    return (q[:count], q[count:], k[:count], k[count:]), state, metrics

  def plain(self, sides: Sides, groups: jax.Array | None) -> jax.Array:
    """The sum over both ways, times 2 tau."""
    q1, q2, k1, k2 = sides
    return (2.0 * self._temperature) * (
      super().plain((q1, k2), groups) + super().plain((q2, k1), groups)
    )

  def weight_sum(self, loss: jax.Array) -> jax.Array:
    """The loss has two ways, and 2 tau."""
    return loss / (4.0 * self._temperature)


def _encoder(params: Params) -> Params:
  """Parameters that have a momentum copy: all but the predictor's."""
  return {k: v for k, v in params.items() if k != "prediction_head"}
