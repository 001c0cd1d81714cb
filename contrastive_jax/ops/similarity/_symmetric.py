"""Sums over the rows of the similarity of one set of features with itself.

S = scale * Z Z^T is symmetric: a tile above the diagonal serves the rows of both of
its sides, so that value and gradient take half of the products of `_tiles`. Only
where all features are on one device.
"""

import functools

import jax
import jax.numpy as jnp

from contrastive_jax.ops.similarity import _tiles


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def symmetric_sums(
  spec: _tiles.TileSpec,
  features: jax.Array,
  carrier: jax.Array,
  scale: jax.Array,
  ids: _tiles.Side,
) -> _tiles.Sums:
  """Sums over rows, as `tile_sums(spec, features, features, ...)` gives them.

  Args:
    spec: what is computed; `columns` says nothing here.
    features: [n, d] of any floating type; receives no gradient, see carrier.
    carrier: float32 [n, d] of any content; receives the gradient.
    scale: float32 [].
    ids: "position" and "group", int32 [n], as far as the spec needs them.

  Returns:
    The sums over rows.
  """
  return _forward(spec, features, carrier, scale, ids)[0]


def _forward(spec, features, carrier, scale, ids):
  n = features.shape[0]
  if spec.block is None:
    logits = _tiles.logits_of(spec, features, features, scale, 0.0)
    rows, _ = _tiles.tile(spec, logits, ids, ids)
    return rows, (features, scale, ids, rows.total, logits)
  (blocks, block_ids), _ = _tiles.blocks(spec, features, features, ids, ids)

  def at(k):
    return jax.tree.map(lambda x: x[k], (blocks, block_ids))

  def pair(i, j):
    (query, row_ids), (key, column_ids) = at(i), at(j)
    logits = _tiles.logits_of(spec, query, key, scale, 0.0)
    return _tiles.tile(both, logits, row_ids, column_ids)

  def add(sums, k, new):
    old = jax.tree.map(lambda x: x[k], sums)
    return jax.tree.map(
      lambda x, y: x.at[k].set(y), sums, _tiles.merge(spec, old, new)
    )

  def outer(i, sums):
    sums = add(sums, i, pair(i, i)[0])

    def inner(j, sums):
      here, there = pair(i, j)
      return add(add(sums, i, here), j, there)

    return jax.lax.fori_loop(i + 1, len(blocks), inner, sums)

  both = _tiles.with_columns(spec)
  start = _tiles.empty(spec, blocks.shape[:2], True)
  start = _tiles.vary_like(start, features)
  sums = jax.lax.fori_loop(0, len(blocks), outer, start)
  sums = jax.tree.map(lambda x: x.reshape(-1)[:n], sums)
  return sums, (features, scale, ids, sums.total, None)


def _backward(spec, saved, cotangent):
  features, scale, ids, total, logits = saved
  n = features.shape[0]
  both = _tiles.with_columns(spec)
  cotangent, unit = _tiles.normalized(cotangent)
  side = _tiles.SumsSide(total, cotangent.total, cotangent.positive)
  if spec.block is None:
    # An entry counts in its row and, as its mirror image, in its column.
    weights = _tiles.weights_of(both, logits, ids, ids, side, side)
    gradient = _tiles.dot(spec, weights, features)
  else:
    (blocks, block_ids), _ = _tiles.blocks(spec, features, features, ids, ids)
    sides = jax.tree.map(lambda x: _tiles.split(x, blocks.shape[1]), side)

    def pair(i, j):
      (query, row_ids, row), (key, column_ids, column) = (
        jax.tree.map(lambda x: x[k], (blocks, block_ids, sides)) for k in (i, j)
      )
      logits = _tiles.logits_of(spec, query, key, scale, 0.0)
      weights = _tiles.weights_of(
        both, logits, row_ids, column_ids, row, column
      )
      return weights, query, key

    def outer(i, gradient):
      weights, query, _ = pair(i, i)
      gradient = gradient.at[i].add(_tiles.dot(spec, weights, query))

      def inner(j, gradient):
        weights, query, key = pair(i, j)
        gradient = gradient.at[i].add(_tiles.dot(spec, weights, key))
        return gradient.at[j].add(_tiles.dot(spec, weights.T, query))

      return jax.lax.fori_loop(i + 1, len(blocks), inner, gradient)

    start = jnp.zeros(blocks.shape, jnp.float32)
    gradient = jax.lax.fori_loop(
      0, len(blocks), outer, _tiles.vary_like(start, features)
    )
    gradient = gradient.reshape(-1, features.shape[1])[:n]
  gradient *= unit
  # Every logit was counted from both of its sides.
  dscale = 0.5 * jnp.sum(gradient * features.astype(jnp.float32))
  return None, scale * gradient, dscale, None


symmetric_sums.defvjp(_forward, _backward)
