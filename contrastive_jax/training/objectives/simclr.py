"""SimCLR: two views of each example through one encoder."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.training.objectives import contrasts
from contrastive_jax.training.objectives.self_supervised import (
  SelfSupervised,
  Sides,
)
from contrastive_jax.training.types import Metrics, Params


class SimCLR(SelfSupervised):
  """Two views against all other rows of both views.

  References: Chen et al., "A simple framework for contrastive learning of
  visual representations", 2020; SogCLR is `config.loss=augmented` with
  `config.loss.margins=True` and `config.loss.level_rate=0`.
  """

  em = staticmethod(losses.em_nt_xent)

  def function_of(self, loss: contrasts.Loss) -> Callable[..., jax.Array]:
    """The loss of two views, which the same choice may have for them alone."""
    return getattr(loss, "build_views", loss.build)()

  def sides(
    self, params: Params, state: Params, images: jax.Array, key: jax.Array
  ) -> tuple[Sides, Params, Metrics]:
    """The projections of both views."""
    outputs, collections = self.train(params, state["model"], images, key)
    z = outputs["projection"]
    count = z.shape[0] // 2
    return (
      (z[:count], z[count:]),
      {**state, "model": collections},
      {"image_embedding": jnp.sum(z**2)},
    )
