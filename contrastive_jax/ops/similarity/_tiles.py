"""Sums over the rows and columns of a similarity matrix, tile by tile.

S = scale * Q K^T + bias is formed in tiles of `block` x `block`. A tile serves
its rows and its columns with one exponential an entry, is thrown away, and is
formed again in the backward pass: four products of n x m x d for value and
gradient (three where the logits are kept), in O((n + m) d) memory. There is no
collective in here; see `_grid` for several devices.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# A tile whose logits span at most _SPAN shares one offset: the largest logit,
# or less where the smallest exponential would fall below e^-80 (a normal
# number); the largest is then e^60, and 10^11 of them have a finite sum. Other
# tiles take the maximum of every row and column.
_SMALLEST = 80.0
_SPAN = _SMALLEST + 60.0
_LARGEST_EXPONENT = 120  # Its power of two and the inverse are normal numbers.

Side = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class TileSpec:
  """Static options of a pass over the tiles.

  Attributes:
    block: side of a tile; None is one tile, whose logits are kept.
    reduce: "logsumexp", or "softplus" for the sums of log(1 + exp(-y s)).
    exclude: entries that the log-sum-exp leaves out: "none", "self" (equal
      position) or "group" (equal group), or all others with "not_self",
      "not_group" and "not_others" (all but an equal group at other positions).
    positives: entries whose logits are summed up: "none", "group" (equal
      group) or "others" (equal group, other position). With "softplus" they
      are those of y = 1, all others have y = -1.
    columns: whether the sums over columns are wanted as well.
    key_gradient: whether a gradient is to reach the keys.
    exact: float32 products at full precision; otherwise the platform's, which
      suits features of a low-precision type (their products are exact).
  """

  block: int | None
  reduce: str = "logsumexp"
  exclude: str = "none"
  positives: str = "none"
  columns: bool = False
  key_gradient: bool = True
  exact: bool = True


class Sums(NamedTuple):
  """Sums over one side's entries; None where they are not asked for.

  Attributes:
    total: [n] log-sum-exp (-inf where it is empty), or sum of softplus.
    positive: [n] sum of the positive logits.
    count: [n] number of positives.
  """

  total: Any
  positive: Any
  count: Any


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def tile_sums(
  spec: TileSpec,
  queries: jax.Array,
  keys: jax.Array,
  carriers: tuple[jax.Array, jax.Array],
  scale: jax.Array,
  bias: jax.Array,
  row_ids: Side,
  column_ids: Side,
) -> tuple[Sums, Sums]:
  """Sums over rows and columns of the logits; see the module's docstring.

  Args:
    spec: what is computed.
    queries: [n, d] of any floating type; receives no gradient, see carriers.
    keys: [m, d], likewise.
    carriers: float32 [n, d] and [m, d] of any content. They receive the
      gradients of queries and keys, in float32 whatever the features' type.
    scale: float32 [].
    bias: float32 [].
    row_ids: "position" and "group", int32 [n], as far as the spec needs them.
    column_ids: the same, [m].

  Returns:
    The sums over rows and those over columns (all None if not wanted).
  """
  return _forward(
    spec, queries, keys, carriers, scale, bias, row_ids, column_ids
  )[0]


def _forward(spec, queries, keys, carriers, scale, bias, row_ids, column_ids):
  n, m = queries.shape[0], keys.shape[0]
  saved = (queries, keys, scale, bias, row_ids, column_ids)
  if spec.block is None:
    logits = logits_of(spec, queries, keys, scale, bias)
    rows, columns = tile(spec, logits, row_ids, column_ids)
    return (rows, columns), (*saved, (rows.total, columns.total), logits)
  rows, columns = blocks(spec, queries, keys, row_ids, column_ids)

  def outer(column_sums, row):
    query, ids = row

    def inner(j, sums):
      row_sums, column_sums = sums
      key, key_ids = jax.tree.map(lambda x: x[j], columns)
      logits = logits_of(spec, query, key, scale, bias)
      here, there = tile(spec, logits, ids, key_ids)
      old = jax.tree.map(lambda x: x[j], column_sums)
      return merge(spec, row_sums, here), jax.tree.map(
        lambda x, new: x.at[j].set(new),
        column_sums,
        merge(spec, old, there),
      )

    start = vary_like(empty(spec, query.shape[:1], True), query, keys)
    row_sums, column_sums = jax.lax.fori_loop(
      0, len(columns[0]), inner, (start, column_sums)
    )
    return column_sums, row_sums

  start = empty(spec, columns[0].shape[:2], spec.columns)
  column_sums, row_sums = jax.lax.scan(
    outer, vary_like(start, queries, keys), rows
  )
  row_sums = jax.tree.map(lambda x: x.reshape(-1)[:n], row_sums)
  column_sums = jax.tree.map(lambda x: x.reshape(-1)[:m], column_sums)
  totals = (row_sums.total, column_sums.total)
  return (row_sums, column_sums), (*saved, totals, None)


def _backward(spec, saved, cotangents):
  queries, keys, scale, bias, row_ids, column_ids, totals, logits = saved
  n, m = queries.shape[0], keys.shape[0]
  cotangents, unit = normalized(cotangents)
  sides = [
    SumsSide(total, g.total, g.positive) for total, g in zip(totals, cotangents)
  ]
  if spec.block is None:
    weights = weights_of(spec, logits, row_ids, column_ids, *sides)
    dq = dot(spec, weights, keys)
    dk = dot(spec, weights.T, queries) if spec.key_gradient else None
    dbias = jnp.sum(weights)
  else:
    rows, columns = blocks(spec, queries, keys, row_ids, column_ids)
    row_side = jax.tree.map(lambda x: split(x, rows[0].shape[1]), sides[0])
    column_side = jax.tree.map(
      lambda x: split(x, columns[0].shape[1]), sides[1]
    )

    def outer(carry, row):
      dk, dbias = carry
      (query, ids), side = row

      def inner(j, carry):
        dq, dk, dbias = carry
        (key, key_ids), other = jax.tree.map(
          lambda x: x[j], (columns, column_side)
        )
        logits = logits_of(spec, query, key, scale, bias)
        weights = weights_of(spec, logits, ids, key_ids, side, other)
        if spec.key_gradient:
          dk = dk.at[j].add(dot(spec, weights.T, query))
        if spec.reduce == "softplus":
          dbias += jnp.sum(weights)
        return dq + dot(spec, weights, key), dk, dbias

      start = vary_like(jnp.zeros(query.shape, jnp.float32), query, keys)
      dq, dk, dbias = jax.lax.fori_loop(
        0, len(columns[0]), inner, (start, dk, dbias)
      )
      return (dk, dbias), dq

    dk = jnp.zeros(columns[0].shape, jnp.float32) if spec.key_gradient else None
    start = vary_like((dk, jnp.zeros(())), queries, keys)
    (dk, dbias), dq = jax.lax.scan(outer, start, (rows, row_side))
    dq, dk = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), (dq, dk))
    dq, dk = dq[:n], None if dk is None else dk[:m]
  dq, dk, dbias = jax.tree.map(lambda x: unit * x, (dq, dk, dbias))
  # The scale multiplies the unscaled logits: <dS, Q K^T> = <dS K, Q>.
  dscale = jnp.sum(dq * queries.astype(jnp.float32))
  if spec.reduce != "softplus":
    dbias = None  # Nothing but softplus has one.
  dcarriers = (scale * dq, None if dk is None else scale * dk)
  return None, None, dcarriers, dscale, dbias, None, None


tile_sums.defvjp(_forward, _backward)


def normalized(cotangents: Any) -> tuple[Any, jax.Array]:
  """Returns cotangents over a power of two, the largest below 1, and that power.

  A tile multiplies them by exponentials as small as e^-60 and as large as e^60:
  without this, cotangents of 1e-20 would fall below float32. A power of two
  changes no digit.
  """
  largest = functools.reduce(
    jnp.maximum, [jnp.max(jnp.abs(x)) for x in jax.tree.leaves(cotangents)]
  )
  _, exponent = jnp.frexp(jax.lax.stop_gradient(largest))
  exponent = jnp.clip(exponent, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)
  unit, inverse = (
    jnp.ldexp(jnp.float32(1.0), e) for e in (exponent, -exponent)
  )
  return jax.tree.map(lambda x: inverse * x, cotangents), unit


class SumsSide(NamedTuple):
  """One side's sums with the cotangents of what was made of them."""

  total: Any
  total_cotangent: Any
  positive_cotangent: Any


def logits_of(spec, queries, keys, scale, bias):
  logits = scale * dot(spec, queries, keys.T)
  return logits + bias if spec.reduce == "softplus" else logits


def dot(spec, a, b):
  precision = jax.lax.Precision.HIGHEST if spec.exact else None
  return jnp.dot(
    a.astype(jnp.float32), b.astype(jnp.float32), precision=precision
  )


def _masks(kind: str, rows: Side, columns: Side) -> jax.Array | None:
  """[b, c] entries of a kind of `TileSpec`; None for "none"."""
  if kind == "none":
    return None
  opposite = kind.removeprefix("not_")
  if opposite != kind:
    mask: Any = _masks(opposite, rows, columns)
    return ~mask
  name = "position" if kind == "self" else "group"
  mask = rows[name][:, None] == columns[name][None, :]
  if kind == "others":
    mask &= rows["position"][:, None] != columns["position"][None, :]
  return mask


def _valid(rows: Side, columns: Side) -> jax.Array | None:
  """[b, c] entries that are no padding; None where there is none."""
  valid: Any = None
  for side, axis in ((rows, 1), (columns, 0)):
    if "valid" in side:
      own = jnp.expand_dims(side["valid"], axis)
      valid = own if valid is None else valid & own
  return valid


def _counted(spec, rows, columns):
  """[b, c] entries of the log-sum-exp; None where it takes all."""
  left_out = _masks(spec.exclude, rows, columns)
  valid = _valid(rows, columns)
  if left_out is None:
    return valid
  return ~left_out if valid is None else ~left_out & valid


def _positives(spec, rows, columns):
  positive = _masks(spec.positives, rows, columns)
  valid = _valid(rows, columns)
  if positive is None or valid is None:
    return positive
  return positive & valid


def tile(spec, logits, rows, columns):
  """Sums over the rows and columns of one tile."""
  axes = (1, 0) if spec.columns else (1,)
  if spec.reduce == "softplus":
    valid = _valid(rows, columns)
    positive: Any = _positives(spec, rows, columns)
    signed = jnp.where(positive, logits, -logits)
    loss = -jax.nn.log_sigmoid(signed)
    loss = loss if valid is None else jnp.where(valid, loss, 0.0)
    sums = [Sums(jnp.sum(loss, a), None, None) for a in axes]
  else:
    totals = _logsumexp(logits, _counted(spec, rows, columns), axes)
    positive: Any = _positives(spec, rows, columns)
    if positive is None:
      sums = [Sums(total, None, None) for total in totals]
    else:
      kept = jnp.where(positive, logits, 0.0)
      sums = [
        Sums(total, jnp.sum(kept, a), jnp.sum(positive, a, jnp.float32))
        for total, a in zip(totals, axes)
      ]
  return sums[0], sums[1] if spec.columns else Sums(None, None, None)


def _logsumexp(logits, mask, axes):
  """Over each of `axes`, of the entries under the mask."""

  def shared(offset):
    powers = jnp.exp(logits - offset)
    if mask is not None:
      powers = jnp.where(mask, powers, 0.0)
    return [offset + _log(jnp.sum(powers, a)) for a in axes]

  def each(_):
    kept = logits if mask is None else jnp.where(mask, logits, -jnp.inf)
    tops = [jnp.max(kept, a, keepdims=True) for a in axes]
    tops = [jnp.where(jnp.isfinite(top), top, 0.0) for top in tops]
    return [
      jnp.squeeze(top, a) + _log(jnp.sum(jnp.exp(kept - top), a))
      for top, a in zip(jax.lax.stop_gradient(tops), axes)
    ]

  return _by_range(logits, shared, each)


def _log(total):
  """Log of sums; an empty one is -inf, and has no slope instead of NaN."""
  empty = total <= 0.0
  return jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)))


def _logaddexp(a, b):
  """Log of e^a + e^b; of two empty sums -inf, without slope."""
  empty = jnp.isneginf(a) & jnp.isneginf(b)
  a, b = (jnp.where(empty, 0.0, x) for x in (a, b))
  return jnp.where(empty, -jnp.inf, jnp.logaddexp(a, b))


def _by_range(logits, shared, each):
  """`shared(offset)` if one offset serves the whole tile."""
  top = jnp.max(logits)
  span = top - jnp.min(logits)
  offset = top - jnp.maximum(span - _SMALLEST, 0.0)
  return jax.lax.cond(span <= _SPAN, shared, each, offset)


def weights_of(
  spec, logits, row_ids, column_ids, row: SumsSide, column: SumsSide
):
  """Gradient of all sums with respect to the logits of a tile."""
  sides = [(row, 1)] + ([(column, 0)] if spec.columns else [])
  positive: Any = _positives(spec, row_ids, column_ids)
  if spec.reduce == "softplus":
    valid = _valid(row_ids, column_ids)
    slope = jnp.where(
      positive, -jax.nn.sigmoid(-logits), jax.nn.sigmoid(logits)
    )
    slope = slope if valid is None else jnp.where(valid, slope, 0.0)
    return slope * sum(
      jnp.expand_dims(side.total_cotangent, axis) for side, axis in sides
    )
  # An empty sum (-inf) has no gradient.
  full = [
    (jnp.where(jnp.isneginf(s.total), jnp.inf, s.total), s.total_cotangent, a)
    for s, a in sides
  ]

  def shared(offset):
    factor = sum(
      jnp.expand_dims(g * jnp.exp(offset - total), a) for total, g, a in full
    )
    return jnp.exp(logits - offset) * factor

  def each(_):
    return sum(
      jnp.expand_dims(g, a) * jnp.exp(logits - jnp.expand_dims(total, a))
      for total, g, a in full
    )

  weights = _by_range(logits, shared, each)
  mask = _counted(spec, row_ids, column_ids)
  if mask is not None:
    weights = jnp.where(mask, weights, 0.0)
  if positive is not None:
    pull = sum(jnp.expand_dims(s.positive_cotangent, a) for s, a in sides)
    weights += jnp.where(positive, pull, 0.0)
  return weights


def with_columns(spec: TileSpec) -> TileSpec:
  """The same with the sums over columns."""
  return dataclasses.replace(spec, columns=True)


def empty(spec, shape, wanted):
  """Sums over nothing."""
  if not wanted:
    return Sums(None, None, None)
  if spec.reduce == "softplus":
    return Sums(jnp.zeros(shape, jnp.float32), None, None)
  zero = None
  if spec.positives != "none":
    zero = jnp.zeros(shape, jnp.float32)
  return Sums(jnp.full(shape, -jnp.inf, jnp.float32), zero, zero)


def merge(spec, a: Sums, b: Sums) -> Sums:
  if a.total is None:
    return a
  join = jnp.add if spec.reduce == "softplus" else _logaddexp
  return Sums(
    join(a.total, b.total),
    *(None if x is None else x + y for x, y in zip(a[1:], b[1:])),
  )


def blocks(spec, queries, keys, row_ids, column_ids):
  """Both sides as [blocks, block, ...], padded entries marked not valid."""
  sides = []
  for features, ids in ((queries, row_ids), (keys, column_ids)):
    count = features.shape[0]
    block = min(spec.block, count)
    if count % block:
      ids = {**ids, "valid": jnp.ones(count, bool)}
    sides.append(jax.tree.map(lambda x: split(x, block), (features, ids)))
  return sides


def split(x: jax.Array, block: int) -> jax.Array:
  """[n, ...] -> [ceil(n / block), block, ...], filled up with zeros."""
  x = jnp.pad(x, [(0, -x.shape[0] % block)] + [(0, 0)] * (x.ndim - 1))
  return x.reshape(-1, block, *x.shape[1:])


def vary_like(tree: Any, *inputs: jax.Array) -> Any:
  """Values that vary over the mapped axes that the inputs vary over."""
  axes = vary_over(*inputs)

  def cast(x):
    missing = tuple(axes - vary_over(x))
    return jax.lax.pcast(x, missing, to="varying") if missing else x

  return jax.tree.map(cast, tree)


def vary_over(*arrays: jax.Array) -> frozenset[str]:
  """Mapped axes over which the arrays are known to differ."""
  kinds = (jax.typeof(x).manual_axis_type for x in arrays)
  return frozenset().union(*(kind.varying for kind in kinds))
