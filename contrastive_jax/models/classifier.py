"""A tower with a linear classifier on top."""

import jax.numpy as jnp
from flax import linen as nn

from contrastive_jax import ops
from contrastive_jax._types import Array, Dtype


class Classifier(nn.Module):
  r"""Scores of classes, linear in a tower's feature.

  .. math:: h = f(x), \qquad z = W h + b

  Attributes:
    tower: a module called as `tower(images, train=...) -> [N, width]`.
    classes: number of classes.
    dtype: compute type of the head.
  """

  tower: nn.Module
  classes: int
  dtype: Dtype | None = None

  def setup(self) -> None:
    """Makes the head."""
    self.head = nn.Dense(self.classes, dtype=self.dtype)

  def features(self, images: Array, *, train: bool = False) -> Array:
    """The tower's features: float32 [N, width] of unit norm."""
    feature = self.tower(images, train=train)
    return ops.l2_normalize(feature.astype(jnp.float32))

  def __call__(self, images: Array, *, train: bool = False) -> Array:
    """Scores of the classes.

    Args:
      images: floating [N, H, W, 3], normalised.
      train: whether the tower is in training mode.

    Returns:
      float32 [N, classes].
    """
    return self.head(self.tower(images, train=train)).astype(jnp.float32)
