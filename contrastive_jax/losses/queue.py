"""Contrast against a queue of earlier keys."""

import jax
import jax.numpy as jnp

from contrastive_jax import ops
from contrastive_jax._types import Axes, BlockSize, Scalar
from contrastive_jax.losses import _shared


def moco_v2(
  queries: jax.Array,
  momentum_keys: jax.Array,
  queue: jax.Array,
  *,
  temperature: Scalar,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""MoCo: queries against their momentum keys and a queue of earlier ones.

  .. math:: \ell_i = -s_i + \log\Big( e^{s_i}
      + \sum_{m=1}^{M} e^{\langle q_i, r_m \rangle / \tau} \Big), \qquad
    s_i = \langle q_i, k_i \rangle / \tau

  No gradient reaches the keys or the queue.

  Args:
    queries: [N, d] unit norm, from the encoder.
    momentum_keys: [N, d] unit norm, from the momentum encoder.
    queue: [M, d] unit norm; with `axes` this device's part of it, all parts
      together being the queue.
    temperature: tau > 0, a number or a traced scalar.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.

  Returns:
    [N] float32, one loss a query.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    He et al., "Momentum contrast for unsupervised visual representation
    learning", 2020, eq. 1.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(4)
  >>> loss = moco_v2(x[:2], x[:2], x[2:], temperature=0.5)
  >>> [round(v, 4) for v in loss.tolist()]
  [0.2395, 0.2395]
  """
  ops.check_features(queries=queries, momentum_keys=momentum_keys)
  ops.check_features(queue=queue)
  if queue.shape[1] != queries.shape[1]:
    raise ValueError(
      f"queue must have the {queries.shape[1]} columns of queries; got"
      f" {tuple(queue.shape)}."
    )
  ops.check_positive("temperature", temperature)
  (queries, keys, queue), dtype = _shared.widen(queries, momentum_keys, queue)
  keys, queue = jax.lax.stop_gradient((keys, queue))
  negatives = ops.row_column_sums(
    queries,
    queue,
    scale=1.0 / temperature,
    key_gradient=False,
    dtype=dtype,
    axes=axes,
    block_size=block_size,
  ).rows
  positive = _shared.paired(queries, keys) / temperature
  return jnp.logaddexp(negatives, positive) - positive
