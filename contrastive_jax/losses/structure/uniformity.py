"""Uniformity: features that spread over the sphere."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import ops
from contrastive_jax._types import Axes, BlockSize, Scalar
from contrastive_jax.losses import _shared

_LEAST = 1e-3  # Norm by which a pair's sum is divided at least.


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


def cross_uniformity(
  image: jax.Array,
  text: jax.Array,
  *,
  t: Scalar = 2.0,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""Log of the Gaussian potential between features of two modalities; a scalar.

  .. math:: \log \frac{1}{N} \sum_{j = 1}^{N} \sum_{k \neq j}
      \exp\big( -t \, |v_j - t_k|^2 \big), \qquad
    |v_j - t_k|^2 = 2 - 2 \langle v_j, t_k \rangle

  The pairs themselves are left out: they are to be near. With the distance of
  pairs (`paired_distance`) and both modalities' `uniformity` it makes the terms
  that are added to CLIP's loss to close the gap between the modalities.

  Args:
    image: [N, d] v, unit norm.
    text: [N, d] t, unit norm; row i describes image i.
    t: t > 0, a number or a traced scalar.
    axes: see `losses.contrastive`; every device has the whole batch's value.
    block_size: see `losses.contrastive`; no [N, N] array is formed with blocks.

  Returns:
    Float32 scalar, at most log(N - 1); 0 for a batch of one, which has no other.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Fahim et al., "It's not a modality gap: characterizing and addressing the
    contrastive gap", 2024: cross-modal uniformity.

  >>> import jax.numpy as jnp
  >>> round(float(cross_uniformity(jnp.eye(4), jnp.eye(4))), 4)  # log(3 exp(-4))
  -2.9014
  """
  ops.check_features(image=image, text=text)
  ops.check_positive("t", t)
  (v, u), dtype = _shared.widen(image, text)
  return _log_potential_of_others(v, u, t, dtype, axes, block_size)


def centroid_uniformity(
  image: jax.Array,
  text: jax.Array,
  *,
  t: Scalar = 2.0,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""Log of the mean Gaussian potential of pairs' unit-norm centroids; a scalar.

  .. math:: \log \frac{1}{N (N - 1)} \sum_{j = 1}^{N} \sum_{k \neq j}
      \exp\big( -t \, |c_j - c_k|^2 \big), \qquad
    c_j = \frac{v_j + t_j}{\max(|v_j + t_j|, 0.001)}

  It spreads the pairs and leaves to `paired_distance` where the two of a pair are.
  The bound keeps the gradient of opposite features finite.

  Args:
    image: [N, d] v, unit norm.
    text: [N, d] t, unit norm; row i describes image i.
    t: t > 0, a number or a traced scalar.
    axes: see `losses.contrastive`; every device has the whole batch's value.
    block_size: see `losses.contrastive`; no [N, N] array is formed with blocks.

  Returns:
    Float32 scalar, at most 0; 0 for a batch of one, which has no other.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Grassucci et al., "Closing the modality gap aligns group-wise semantics",
    2026: centroid uniformity, beside the alignment of true pairs.

  >>> import jax.numpy as jnp
  >>> round(float(centroid_uniformity(jnp.eye(4), jnp.eye(4))), 4)
  -4.0
  """
  ops.check_features(image=image, text=text)
  ops.check_positive("t", t)
  (v, u), _ = _shared.widen(image, text)
  centroids = ops.l2_normalize(v + u, eps=_LEAST)
  found = _log_potential_of_others(
    centroids, centroids, t, centroids.dtype, axes, block_size
  )
  others = centroids.shape[0] * ops.axis_size(axes) - 1
  return found - jnp.log(jnp.float32(max(others, 1)))


def paired_distance(image: jax.Array, text: jax.Array) -> jax.Array:
  r"""Squared distance of the two features of each pair.

  .. math:: |v_j - t_j|^2

  Args:
    image: [N, d] v.
    text: [N, d] t; row i describes image i.

  Returns:
    [N] float32, at most 4 for features of unit norm.

  Raises:
    ValueError: on wrong shapes or types, naming the argument.

  References:
    Wang and Isola, "Understanding contrastive representation learning through
    alignment and uniformity on the hypersphere", 2020: alignment. Fahim et al.,
    2024, and Grassucci et al., 2026, add it to CLIP's loss.

  >>> import jax.numpy as jnp
  >>> paired_distance(jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]])).tolist()
  [0.0, 2.0]
  """
  ops.check_features(image=image, text=text)
  (v, u), _ = _shared.widen(image, text)
  return jnp.sum(jnp.square(v - u), axis=1)


def _log_potential_of_others(
  first: jax.Array,
  second: jax.Array,
  t: Scalar,
  dtype: np.dtype,
  axes: Axes,
  block_size: BlockSize,
) -> jax.Array:
  """Log of 1 / N times the sum of the potential between different positions."""
  count = first.shape[0] * ops.axis_size(axes)
  if count == 1:
    return jnp.float32(0)
  rows = ops.row_column_sums(
    first,
    second,
    scale=2.0 * t,
    exclude="self",
    dtype=dtype,
    axes=axes,
    block_size=block_size,
  ).rows
  total = ops.sum_over(jnp.sum(jnp.exp(rows - 2.0 * t)), axes)
  return jnp.log(total) - jnp.log(jnp.float32(count))


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
