"""Uniformity: features that spread over the sphere."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import ops
from contrastive_jax._types import Axes, BlockSize, Scalar
from contrastive_jax.losses import _shared


def uniformity(
  *features: jax.Array,
  t: Scalar = 2.0,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""Log of the mean Gaussian potential of unit-norm features; a scalar.

  .. math:: \log \frac{1}{N} \sum_{m} \sum_{j, k = 1}^{N}
      \exp\big( -t \, |x^m_j - x^m_k|^2 \big), \qquad
    |x_j - x_k|^2 = 2 - 2 \langle x_j, x_k \rangle

  with one log around all sets of features m (the two modalities), pairs j = k
  included, as published. It is no mean over examples, so it is one number.

  Args:
    *features: one or more arrays [N, d] of unit norm, of the same shape.
    t: t > 0, a number or a traced scalar.
    axes: see `losses.contrastive`; every device has the whole batch's value.
    block_size: see `losses.contrastive`; no [N, N] array is formed with blocks.

  Returns:
    Float32 scalar, at most log(m N): where all features are one.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument; without
      features.

  References:
    Jiang et al., "Understanding and constructing latent modality structures in
    multi-modal representation learning", 2023, deep feature separation; Wang
    and Isola, "Understanding contrastive representation learning through
    alignment and uniformity on the hypersphere", 2020.

  >>> import jax.numpy as jnp
  >>> round(float(uniformity(jnp.eye(4))), 4)  # log(1 + 3 exp(-4))
  0.0535
  """
  if not features:
    raise ValueError("features must be at least one array; got none.")
  ops.check_features(**{f"features[{i}]": x for i, x in enumerate(features)})
  ops.check_positive("t", t)
  wide, dtype = _shared.widen(*features)
  return log_mean_potential(wide, t, dtype, axes, block_size)


def log_mean_potential(
  features: Sequence[jax.Array],
  t: Scalar,
  dtype: np.dtype,
  axes: Axes,
  block_size: BlockSize,
) -> jax.Array:
  """`uniformity` of float32 features that `dtype` holds; checks nothing."""
  total = jnp.float32(0)
  for x in features:
    rows = ops.row_column_sums(
      x,
      x,
      scale=2.0 * t,
      dtype=dtype,
      axes=axes,
      block_size=block_size,
    ).rows
    # At most N a row: the sum itself is a float32.
    total += jnp.sum(jnp.exp(rows - 2.0 * t))
  count = features[0].shape[0] * ops.axis_size(axes)
  return jnp.log(ops.sum_over(total, axes)) - jnp.log(jnp.float32(count))
