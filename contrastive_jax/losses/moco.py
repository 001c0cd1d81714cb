"""MoCo: queries against a momentum encoder's keys, in a queue or the batch."""

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


def moco_v3(
  queries: jax.Array,
  momentum_keys: jax.Array,
  *,
  temperature: Scalar,
  group_ids: jax.Array | None = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""MoCo v3: queries against the momentum encoder's keys, times 2 tau.

  .. math:: \ell_i = 2 \tau \, \ell^{\mathrm{InfoNCE}}_i(q, \mathrm{sg}(k))

  No gradient reaches the keys. The official loss is the sum of this over the
  two ways of assigning two views to q and k.

  Args:
    queries: [N, d] unit norm, from the encoder and predictor.
    momentum_keys: [N, d] unit norm, from the momentum encoder.
    temperature: tau > 0, a number or a traced scalar.
    group_ids: see `losses.contrastive`.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.

  Returns:
    [N] float32, one loss a query.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Chen, Xie and He, "An empirical study of training self-supervised vision
    transformers", 2021, algorithm 1.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(4)
  >>> [round(v, 4) for v in moco_v3(x, x, temperature=0.5).tolist()]
  [0.3408, 0.3408, 0.3408, 0.3408]
  """
  ops.check_features(queries=queries, momentum_keys=momentum_keys)
  (queries, momentum_keys), dtype = _shared.widen(queries, momentum_keys)
  ops.check_positive("temperature", temperature)
  (loss,) = _shared.cross_entropy(
    queries,
    jax.lax.stop_gradient(momentum_keys),
    1.0 / temperature,
    group_ids,
    dtype,
    axes,
    block_size,
    key_gradient=False,
  )
  return 2.0 * temperature * loss
