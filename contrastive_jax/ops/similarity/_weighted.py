"""Sums of weighted exponentials over a similarity, tile by tile, fused.

Where the weights of the exponentials are known before the pass (the augmented
losses), no sum has to be complete before its gradient can be taken: value and
gradient are one pass of three products of n x m x d, in O((n + m) d) memory. The
rows' anchors and the columns' share it. Devices, types and gathers are those of
`_grid`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contrastive_jax._types import Axes, BlockSize
from contrastive_jax.ops import collectives
from contrastive_jax.ops.similarity import _grid, _tiles

# Where exp is continued by its tangent: e^50 is beyond all use, and sums over
# any batch, at any temperature, still fit into float32.
LARGEST_LOG = 50.0
# Exponents up to here, and products of two such exponentials' inverses, are
# normal float32.
_LARGEST_SHIFT = 70.0


class Anchors(NamedTuple):
  """Parameters of the weights of one side's anchors, each float32 [n].

  Attributes:
    scale: 1 / tau.
    offset: log u - s_ii; log-weights are scale * cosine + offset.
    factor: kappa over the number of negatives, 0 without negatives.
  """

  scale: jax.Array
  offset: jax.Array
  factor: jax.Array


@dataclasses.dataclass(frozen=True)
class _Spec:
  """Static options of a pass; `block` and `exact` are those of `TileSpec`."""

  block: int | None
  exact: bool
  key_gradient: bool
  fused: bool
  statistics: bool


def capped_exp(x: jax.Array, cap: Any) -> jax.Array:
  """exp(x), continued above `cap` by its tangent there; shape of `x`."""
  return jnp.exp(jnp.minimum(x, cap)) * (1.0 + jnp.maximum(x - cap, 0.0))


def weighted_sums(
  queries: jax.Array,
  keys: jax.Array,
  anchors: Sequence[Anchors],
  ids: jax.Array,
  dtype: jax.typing.DTypeLike,
  *,
  cap: jax.Array,
  fused: bool = True,
  key_gradient: bool = True,
  statistics: bool = False,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> list[jax.Array]:
  r"""Sums of weighted exponentials over each anchor's negatives.

  .. math:: v_i = f_i \sum_{j : g_j \neq g_i} E(
    \alpha_i \langle q_i, k_j \rangle + o_i)

  over the global batch, with :math:`\alpha, o, f` the anchors' scale, offset
  and factor, g the ids and E `capped_exp`. Devices, gathers and types are those
  of `row_column_sums`.

  Args:
    queries: float32 [n, d], this device's rows.
    keys: float32 [n, d].
    anchors: those of the queries and, if the keys are anchors too, of the keys.
    ids: int [n]; equal ones are no negatives of each other.
    dtype: a type that holds the features exactly, in which they travel.
    cap: float32 [], the log-weight from which on exp is continued by its
      tangent.
    fused: whether gradients are taken with the values; meant for cotangents
      that are the same for all anchors.
    key_gradient: False leaves the keys without gradient.
    statistics: whether to return four sums, [n, 4], without gradient: of the
      capped exponentials, of their slopes (the weights), of weights times
      cosines, and the number of capped weights.
    axes: names of the mapped axes over which the batch is split.
    block_size: as in `row_column_sums`.

  Returns:
    [n] float32 (with `statistics` [n, 4]) for each side's anchors.

  Raises:
    ValueError: if `axes` are not mapped or `block_size` is not valid.
  """
  # The rows of a grid row and the columns of a grid column.
  over = collectives.grid_axes(axes)[::-1]
  dtype = jnp.dtype(dtype)
  exact = jnp.finfo(dtype).bits >= 32
  wire = jnp.dtype(jnp.float32) if exact else dtype
  q, q_carrier = _grid.gather_features(queries, over[0], wire)
  k, k_carrier = _grid.gather_features(keys, over[1], wire)
  spec = _Spec(
    block=_grid.tile_side(q.shape[0], k.shape[0], block_size),
    exact=bool(exact),
    key_gradient=key_gradient,
    fused=fused,
    statistics=statistics,
  )

  def gather(tree, names):
    tree = _tiles.vary_like(tree, queries, keys)
    tree = jax.tree.map(lambda x: collectives.gather_rows(x, names), tree)
    return _tiles.vary_like(tree, q, k)

  sides = [gather(side, axes) for side, axes in zip(anchors, over)]
  inputs = (
    q,
    k,
    tuple(sides) if len(sides) == 2 else (sides[0], None),
    tuple({"group": gather(jnp.asarray(ids), axes)} for axes in over),
    _tiles.vary_like(cap, q, k),
  )
  if statistics:
    sums, _ = _over_tiles(spec, *inputs, None)
    results = [None if s is None else s.T for s in sums]
  else:
    results = _tile_sums(spec, (q_carrier, k_carrier), *inputs)
  return [
    collectives.scatter_rows(x, axes)
    for x, axes in zip(results, over)
    if x is not None
  ]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tile_sums(spec, carriers, queries, keys, sides, ids, cap):
  """Values of the anchors of both sides; None for one without.

  Args:
    spec: what is computed.
    carriers: float32, shaped as the features; receive their gradients.
    queries: [n, d] of any floating type; no gradient.
    keys: [m, d], likewise.
    sides: `Anchors` of the queries and of the keys, or None.
    ids: "group" of the queries and of the keys, integers.
    cap: float32 [].

  Returns:
    Float32 [n] and [m], or None.
  """
  del carriers
  sums, _ = _over_tiles(spec, queries, keys, sides, ids, cap, None)
  return tuple(None if s is None else s[0] for s in sums)


def _forward(spec, carriers, queries, keys, sides, ids, cap):
  inputs = (queries, keys, sides, ids, cap)
  cosine = gradient = None
  if spec.fused:
    ones = tuple(None if s is None else jnp.ones_like(s.scale) for s in sides)
    sums, gradient = _over_tiles(spec, *inputs, ones)
  elif spec.block is None:
    # Kept: the backward pass is two products whatever the cotangents.
    cosine = _tiles.dot(spec, queries, keys.T)
    sums, _ = _tile(spec, cosine, sides, ids, cap, (None, None))
  else:
    sums, _ = _over_tiles(spec, *inputs, None)
  values = tuple(None if s is None else s[0] for s in sums)
  return values, (inputs, sums, cosine, gradient)


def _backward(spec, saved, cotangents):
  inputs, sums, cosine, gradient = saved
  queries, keys, sides, ids, cap = inputs
  again: Any = functools.partial(_over_tiles, spec, *inputs)
  plain, (cotangents, unit) = cotangents, _tiles.normalized(cotangents)
  if cosine is not None:
    _, slope = _tile(spec, cosine, sides, ids, cap, cotangents)
    gradient = _products(spec, slope, queries, keys)
  elif gradient is None:
    _, gradient = again(cotangents)
  else:
    # Gradients of the plain sum, which cotangents that are all equal scale.
    every = jnp.concatenate(jax.tree.leaves(cotangents))
    gradient = jax.lax.cond(
      jnp.all(every == every[0]),
      lambda: jax.tree.map(lambda x: every[0] * x, gradient),
      lambda: again(cotangents)[1],
    )
  dsides = tuple(
    None if s is None else Anchors(g * s[2], g * s[1], jnp.zeros_like(g))
    for s, g in zip(sums, plain)
  )
  gradient = jax.tree.map(lambda x: unit * x, gradient)
  return gradient, None, None, dsides, None, None


_tile_sums.defvjp(_forward, _backward)


def _tile(spec, cosine, sides, ids, cap, cotangents):
  """Sums of one tile's weights, and the gradient of its cosines.

  Args:
    spec: what is computed.
    cosine: float32 [b, c], products of queries and keys.
    sides: as in `_tile_sums`, of this tile.
    ids: likewise; with "valid" where some rows are padding.
    cap: float32 [].
    cotangents: of the anchors' values, [b] and [c]; None for no gradient.

  Returns:
    For both sides [3, b] and [3, c] (or None): the sums over the negatives of
    the capped exponentials, of their slopes (the weights), and of weights times
    cosines; with `statistics` a fourth, the number of capped weights. And
    float32 [b, c], or None.
  """
  rows, columns = ids
  kept = rows["group"][:, None] != columns["group"][None, :]
  for side, axis in ((rows, 1), (columns, 0)):
    if "valid" in side:
      kept &= jnp.expand_dims(side["valid"], axis)
  apart = functools.partial(_apart, spec, cosine, sides, kept, cap, cotangents)
  if sides[1] is None or spec.statistics:
    return apart()
  shift, holds = _shared_shift(cosine, sides, cap)
  return jax.lax.cond(
    holds,
    functools.partial(_at_once, cosine, sides, kept, shift, cotangents),
    apart,
  )


def _apart(spec, cosine, sides, kept, cap, cotangents):
  """An exponential an entry for each side; see `_tile`."""
  all_sums: list[Any] = []
  slope: Any = None
  for anchors, cotangent, axis in zip(sides, cotangents, (1, 0)):
    if anchors is None:
      all_sums.append(None)
      continue
    scale, offset, factor = (jnp.expand_dims(x, axis) for x in anchors)
    logits = scale * cosine + offset
    beyond = jnp.maximum(logits - cap, 0.0)
    weights = jnp.where(kept, factor * jnp.exp(jnp.minimum(logits, cap)), 0.0)
    sums = [weights * (1.0 + beyond), weights, weights * cosine]
    if spec.statistics:
      sums.append(jnp.where(kept, beyond > 0.0, False))
    sums = [jnp.sum(x, axis, jnp.float32) for x in sums]
    all_sums.append(jnp.stack(sums))
    if cotangent is not None:
      part = jnp.expand_dims(cotangent * anchors.scale, axis) * weights
      slope = part if slope is None else slope + part
  return tuple(all_sums), slope


def _shared_shift(cosine, sides, cap):
  """(m, ok): exp(scale * cosine - m) serves both sides' weights if ok.

  That is, if there is one scale, no factor or product of the two leaves
  float32, and no weight is capped.
  """
  scale = sides[0].scale[0]
  logits = scale * cosine
  high, low = jnp.max(logits), jnp.min(logits)
  shift = 0.5 * (high + low)
  holds = high - low < 2 * _LARGEST_SHIFT
  for side in sides:
    most, used = jnp.max(side.offset), jnp.isfinite(side.offset)
    least = jnp.min(jnp.where(used, side.offset, most))
    holds &= jnp.all(side.scale == scale)
    holds &= (most + shift < _LARGEST_SHIFT) & (most + high < cap)
    holds &= least + shift > -_LARGEST_SHIFT
  return shift, holds


def _at_once(cosine, sides, kept, shift, cotangents):
  """One exponential an entry for both sides; see `_tile`."""
  scale = sides[0].scale[0]
  shared = jnp.where(kept, jnp.exp(scale * cosine - shift), 0.0)
  turned = shared * cosine
  all_sums, parts = [], []
  for anchors, cotangent, axis in zip(sides, cotangents, (1, 0)):
    own = anchors.factor * jnp.exp(anchors.offset + shift)
    weights = own * jnp.sum(shared, axis)
    all_sums.append(jnp.stack([weights, weights, own * jnp.sum(turned, axis)]))
    if cotangent is not None:
      parts.append(jnp.expand_dims(cotangent * anchors.scale * own, axis))
  return tuple(all_sums), shared * (parts[0] + parts[1]) if parts else None


def _products(spec, slope, queries, keys):
  """Gradients of the features from those of all cosines."""
  return (
    _tiles.dot(spec, slope, keys),
    _tiles.dot(spec, slope.T, queries) if spec.key_gradient else None,
  )


def _over_tiles(spec, queries, keys, sides, ids, cap, cotangents):
  """Sums of all tiles and, if there are cotangents, gradients of features.

  Returns:
    `_tile`'s sums of both sides, and (dq [n, d], dk [m, d] or None) or None.
  """
  want = cotangents is not None
  if not want:
    cotangents = (None, None)
  if spec.block is None:
    cosine = _tiles.dot(spec, queries, keys.T)
    sums, slope = _tile(spec, cosine, sides, ids, cap, cotangents)
    return sums, _products(spec, slope, queries, keys) if want else None
  n, m = queries.shape[0], keys.shape[0]
  rows, columns = _tiles.blocks(spec, queries, keys, *ids)
  row_side, column_side = (
    jax.tree.map(lambda x: _tiles.split(x, block), (side, cotangent))
    for side, cotangent, block in zip(
      sides, cotangents, (rows[0].shape[1], columns[0].shape[1])
    )
  )
  kinds = 4 if spec.statistics else 3

  def outer(carry, row):
    (query, row_ids), (row_anchors, row_cotangent) = row

    def inner(j, carry):
      row_sums, dq, column_sums, dk = carry
      (key, key_ids), (anchors, cotangent) = jax.tree.map(
        lambda x: x[j], (columns, column_side)
      )
      (here, there), slope = _tile(
        spec,
        _tiles.dot(spec, query, key.T),
        (row_anchors, anchors),
        (row_ids, key_ids),
        cap,
        (row_cotangent, cotangent),
      )
      if there is not None:
        column_sums = column_sums.at[j].add(there)
      if dq is not None:
        dq += _tiles.dot(spec, slope, key)
      if dk is not None:
        dk = dk.at[j].add(_tiles.dot(spec, slope.T, query))
      return row_sums + here, dq, column_sums, dk

    start = (
      jnp.zeros((kinds, query.shape[0]), jnp.float32),
      jnp.zeros(query.shape, jnp.float32) if want else None,
    )
    start = _tiles.vary_like(start, queries, keys)
    row_sums, dq, *carry = jax.lax.fori_loop(
      0, len(columns[0]), inner, (*start, *carry)
    )
    return tuple(carry), (row_sums, dq)

  blocks, block = columns[0].shape[:2]
  start = (
    None
    if sides[1] is None
    else jnp.zeros((blocks, kinds, block), jnp.float32),
    jnp.zeros(columns[0].shape, jnp.float32)
    if want and spec.key_gradient
    else None,
  )
  start = _tiles.vary_like(start, queries, keys)
  (column_sums, dk), (row_sums, dq) = jax.lax.scan(
    outer, start, (rows, row_side)
  )

  def whole(sums, count):
    # [blocks, kinds, block] -> [kinds, count].
    if sums is None:
      return None
    return jnp.swapaxes(sums, 0, 1).reshape(kinds, -1)[:, :count]

  sums = (whole(row_sums, n), whole(column_sums, m))
  if not want:
    return sums, None
  dq, dk = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), (dq, dk))
  return sums, (dq[:n], None if dk is None else dk[:m])
