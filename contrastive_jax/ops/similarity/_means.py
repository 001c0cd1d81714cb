"""Means of keys under a query's softmax or group; never formed as [N, M]."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from contrastive_jax._types import Axes
from contrastive_jax.ops import collectives
from contrastive_jax.ops.similarity import _tiles

# Queries at once: a tile of logits is this by the number of this device's keys.
_ROWS = 256


class KeyMeans(NamedTuple):
  """Means of keys [n, d] float32, for each of this device's queries."""

  softmax: jax.Array
  group: jax.Array | None


def key_means(
  queries: jax.Array,
  keys: jax.Array,
  *,
  scale: float | jax.Array,
  query_ids: jax.Array | None = None,
  key_ids: jax.Array | None = None,
  axes: Axes = None,
) -> KeyMeans:
  r"""Softmax-weighted means of the keys for each query; without gradient.

  .. math:: \bar k_i = \sum_j \mathrm{softmax}_j(\alpha \langle q_i, k_j
    \rangle) \, k_j, \qquad
    \hat k_i = \frac{1}{|P_i|} \sum_{j \in P_i} k_j, \quad
    P_i = \{ j : g_j = g_i \}

  A cross-entropy against soft targets over many keys needs no more than these:
  the mean of logits that are linear in the keys is the logit of their mean.

  Args:
    queries: [n, d], this device's rows.
    keys: [m, d], this device's part of the keys; any m.
    scale: alpha, a number or a scalar.
    query_ids: [n] integers, or None: no group means.
    key_ids: [m] integers. Every query must have a key of its id.
    axes: names of the mapped axes over which both are split.

  Returns:
    Means over the keys of all devices, [n, d] float32; `group` is None without
    `query_ids`.
  """
  queries, keys = jax.lax.stop_gradient((queries, keys))
  n, width = queries.shape
  everyone = collectives.gather_rows(queries.astype(jnp.float32), axes)
  keys = keys.astype(jnp.float32)
  scale = jax.lax.stop_gradient(jnp.float32(scale))
  by_group = query_ids is not None
  # Without groups the ids are not read; zeros keep one form.
  ids = query_ids if query_ids is not None else jnp.zeros(n, jnp.int32)
  ids = collectives.gather_rows(ids, axes)

  def part(rows):
    q, own = rows
    logits = scale * jnp.matmul(q, keys.T, precision="highest")
    top = jnp.max(logits, axis=1)
    weights = jnp.exp(logits - top[:, None])
    sums = jnp.matmul(weights, keys, precision="highest")
    total = jnp.sum(weights, axis=1)
    if key_ids is None:
      return top, total, sums, jnp.zeros_like(total), jnp.zeros_like(sums)
    same = (own[:, None] == key_ids[None, :]).astype(jnp.float32)
    members = jnp.matmul(same, keys, precision="highest")
    return top, total, sums, jnp.sum(same, axis=1), members

  count = everyone.shape[0]
  if count <= _ROWS:
    found = part((everyone, ids))
  else:
    rows = jax.tree.map(lambda x: _tiles.split(x, _ROWS), (everyone, ids))
    found = jax.tree.map(
      lambda x: x.reshape(-1, *x.shape[2:])[:count], jax.lax.map(part, rows)
    )
  top, total, sums, group_size, members = found
  highest = top
  for name in collectives.axis_names(axes):
    highest = jax.lax.pmax(highest, name)
  factor = jnp.exp(top - highest)

  def own(x):
    # In the order of the gather: the outermost axis first.
    return collectives.scatter_rows(x, axes)

  softmax = own(sums * factor[:, None]) / own(total * factor)[:, None]
  if not by_group:
    return KeyMeans(softmax, None)
  return KeyMeans(softmax, own(members) / own(group_size)[:, None])
