"""A tower with the heads of self-supervised learning."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from contrastive_jax import ops
from contrastive_jax._types import Array, Dtype
from contrastive_jax.models import layers


class SelfSupervised(nn.Module):
  r"""Tower, projector and (with MoCo v3) predictor.

  .. math:: h = f(x), \qquad z = g(h) / \|g(h)\|, \qquad
            p = c(g(h)) / \|c(g(h))\|

  The heads are MLPs with batch normalisation after each layer (the last one
  without scale and bias) and ReLU, as in SimCLR and MoCo v3; with a ResNet, MoCo
  v3's predictor has none after the last layer.

  Attributes:
    tower: a module called as `tower(images, train=...) -> [N, width]`.
    embed_dim: d, the width of z and p.
    projector: widths of the projector's hidden layers.
    predictor: those of the predictor; None is none, and p is z.
    predictor_norm: whether the predictor's last layer is normalised.
    dtype: compute type of the heads.

  References: Chen et al., "A simple framework for contrastive learning of
  visual representations", 2020; Chen, Xie and He, "An empirical study of
  training self-supervised vision transformers", 2021.
  """

  tower: nn.Module
  embed_dim: int = 128
  projector: Sequence[int] = (2048,)
  predictor: Sequence[int] | None = None
  predictor_norm: bool = True
  dtype: Dtype | None = None

  def setup(self) -> None:
    """Makes the heads."""
    self.projection_head = self._head(self.projector)
    if self.predictor is not None:
      self.prediction_head = self._head(self.predictor, self.predictor_norm)

  def _head(
    self, hidden: Sequence[int], final_norm: bool = True
  ) -> layers.ProjectionHead:
    return layers.ProjectionHead(
      self.embed_dim,
      tuple(hidden),
      norm="batch",
      final_norm=final_norm,
      activation="relu",
      dtype=self.dtype,
    )

  def features(self, images: Array, *, train: bool = False) -> Array:
    """The tower's features: float32 [N, width] of unit norm."""
    return _unit(self.tower(images, train=train))

  def project(self, images: Array, *, train: bool = False) -> Array:
    """z, float32 [N, d] of unit norm."""
    return _unit(self._projected(images, train))

  def __call__(self, images: Array, *, train: bool = False) -> dict[str, Array]:
    """Projection and prediction.

    Args:
      images: floating [N, H, W, 3], normalised.
      train: whether tower and heads are in training mode.

    Returns:
      `projection` z and `prediction` p, float32 [N, d] of unit norm.
    """
    projected = self._projected(images, train)
    predicted = projected
    if self.predictor is not None:
      predicted = self.prediction_head(projected, train=train)
    return {"projection": _unit(projected), "prediction": _unit(predicted)}

  def _projected(self, images: Array, train: bool) -> Array:
    return self.projection_head(self.tower(images, train=train), train=train)


def _unit(feature: Array) -> Array:
  return ops.l2_normalize(feature.astype(jnp.float32))
