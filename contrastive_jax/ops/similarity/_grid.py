"""Sums over the rows and columns of the similarity of a batch on many devices.

The devices form a grid of r x c. Device (i, j) gathers the queries of its grid
row over the second axis and the keys of its grid column over the first, takes
the sums of that N/r x N/c block in tiles, and the partial sums are merged so
that each device ends with those of its own n = N / (r c) rows and columns. With
one axis (c = 1) queries stay where they are; with none nothing is sent.

Features travel in their own type, their gradients in float32: (r + c - 2) n d
elements of each a device, against (r c - 1) n d of an all-gather.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contrastive_jax._types import Axes, BlockSize
from contrastive_jax.ops import collectives
from contrastive_jax.ops.similarity import _symmetric, _tiles

# Float32 logits of this size are kept instead of being computed again.
_DENSE_BYTES = 64 * 2**20
_AUTO_BLOCK = 1024


class RowColumnSums(NamedTuple):
  """Sums over a device's own rows and columns of the similarity.

  Attributes:
    rows: [n] log-sum-exp (or sum of softplus) of each query's logits over the
      keys of the whole batch; -inf where nothing is left to sum.
    columns: [n], the same of each key over the queries; None if not wanted.
    row_positive: [n] mean of each query's positive logits, 0 where it has
      none; None if not wanted.
    column_positive: [n], the same of each key.
  """

  rows: jax.Array
  columns: Any
  row_positive: Any
  column_positive: Any


def row_column_sums(
  queries: jax.Array,
  keys: jax.Array,
  *,
  scale: float | jax.Array,
  bias: float | jax.Array = 0.0,
  group_ids: jax.Array | None = None,
  reduce: str = "logsumexp",
  exclude: str = "none",
  positives: str = "none",
  columns: bool = False,
  key_gradient: bool = True,
  dtype: jax.typing.DTypeLike | None = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> RowColumnSums:
  r"""Log-sum-exp of the rows and columns of scale * Q K^T, never formed whole.

  .. math::
    \mathrm{rows}_i = \log \sum_{j \in J_i} e^{s_{ij}}, \qquad
    \mathrm{columns}_j = \log \sum_{i : j \in J_i} e^{s_{ij}}, \qquad
    s_{ij} = \alpha \langle q_i, k_j \rangle

  Sums run over the global batch, `J_i` being all of it but for what `exclude`
  names. Logits are float32. Float32 features are multiplied at full precision;
  those of a lower type are exact in one pass of a matrix unit, travel between
  devices in their type, and get their gradient summed up in float32.

  Args:
    queries: [n, d], this device's rows.
    keys: [n, d], this device's rows; row i belongs to query i. The very array
      of the queries makes the similarity symmetric: half of the products on
      one device.
    scale: alpha, a number or a scalar.
    bias: added to the logits; for "softplus" alone.
    group_ids: [n] integers, or None: each row is its own group.
    reduce: "logsumexp", or "softplus": the sum of log(1 + exp(-y s)) with y = 1
      for positives and -1 for the rest.
    exclude: "none", "self" (the row's own position), "group" (its group), or
      "not_group" and "not_others": all but its group, and all but the group
      without the row itself.
    positives: "none", "group", or "others" (the group but for the row itself):
      whose mean logit is returned.
    columns: whether the columns' sums are wanted; they cost no product.
    key_gradient: False leaves the keys without gradient, and saves a product.
    dtype: a type that holds the features exactly, in which they travel; None
      is their own. For callers that widened them, so that the gradients of
      several uses are added before they are rounded.
    axes: names of the mapped axes over which the batch is split.
    block_size: side of a tile; None keeps the logits of one tile; "auto" does
      so while they are under 64 MiB.

  Returns:
    The sums of this device's rows and columns.

  Raises:
    ValueError: if `axes` are not mapped or `block_size` is not valid.
  """
  n = queries.shape[0]
  row_axes, column_axes = collectives.grid_axes(axes)
  low = jnp.result_type(queries, keys) if dtype is None else jnp.dtype(dtype)
  exact = jnp.finfo(low).bits >= 32
  wire = jnp.dtype(jnp.float32) if exact else low
  q, q_carrier = gather_features(queries.astype(jnp.float32), column_axes, wire)
  k, k_carrier = gather_features(keys.astype(jnp.float32), row_axes, wire)

  by_group = group_ids is not None
  kinds = [exclude, positives]
  if not by_group:
    # A group of one: its positive is its own position, or there is no other.
    own = {"group": "self", "not_group": "not_self"}
    kinds = [own.get(kind, kind) for kind in kinds]
  spec = _tiles.TileSpec(
    block=tile_side(q.shape[0], k.shape[0], block_size),
    reduce=reduce,
    exclude=kinds[0],
    positives=kinds[1],
    columns=columns,
    key_gradient=key_gradient,
    exact=exact,
  )
  row_ids, column_ids = {}, {}
  compared = {kind.removeprefix("not_") for kind in kinds}
  if compared & {"self", "others"}:
    # Known without asking the other devices.
    row_ids["position"] = collectives.gathered_row_ids(n, axes, column_axes)
    column_ids["position"] = collectives.gathered_row_ids(n, axes, row_axes)
  if by_group and compared & {"group", "others"}:
    row_ids["group"] = collectives.gather_rows(group_ids, column_axes)
    column_ids["group"] = collectives.gather_rows(group_ids, row_axes)

  scale, bias = jnp.asarray(scale, jnp.float32), jnp.asarray(bias, jnp.float32)
  scale, bias = _tiles.vary_like((scale, bias), q, k)
  alone = axes is None and reduce == "logsumexp"
  if alone and queries is keys and key_gradient and not columns:
    rows = _symmetric.symmetric_sums(spec, q, q_carrier, scale, row_ids)
    cols = _tiles.Sums(None, None, None)
  else:
    rows, cols = _tiles.tile_sums(
      spec, q, k, (q_carrier, k_carrier), scale, bias, row_ids, column_ids
    )
  merge = collectives.scatter_rows if reduce == "softplus" else _logaddexp

  def own(sums, over) -> tuple[Any, Any]:
    mean = None
    if sums.positive is not None:
      count = collectives.scatter_rows(jax.lax.stop_gradient(sums.count), over)
      mean = collectives.scatter_rows(sums.positive, over) / jnp.maximum(
        count, 1.0
      )
    return None if sums.total is None else merge(sums.total, over), mean

  row_total, row_positive = own(rows, column_axes)
  column_total, column_positive = own(cols, row_axes)
  return RowColumnSums(row_total, column_total, row_positive, column_positive)


def gather_features(
  x: jax.Array, axes: tuple[str, ...], wire: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
  """Rows of all devices in the type `wire`, and a carrier of their gradient.

  A pass hands its gradient to the carrier (float32, no content), where it is summed
  over the devices in float32, and none to the values. These move with x all the
  same: the gradient is a function of them, and has a derivative itself.
  """

  # A custom JVP and no VJP: its rule runs where the axes are mapped.
  @jax.custom_jvp
  def gather(x):
    values = collectives.gather_rows(x.astype(wire), axes)
    carrier = jnp.zeros(values.shape, jnp.float32)
    return values, _tiles.vary_like(carrier, values)

  @gather.defjvp
  def tangent(primals, tangents):
    values, carrier = gather(*primals)
    moved = collectives.gather_rows(tangents[0], axes)
    return (values, carrier), (moved.astype(wire), moved)

  return gather(x)


def _logaddexp(part: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  """Log of the sum of exp(part) over the devices; each its own part."""
  for name in axes:
    top = jax.lax.pmax(jax.lax.stop_gradient(part), name)
    top = jnp.where(jnp.isneginf(top), 0.0, top)
    total = jax.lax.psum_scatter(jnp.exp(part - top), name, tiled=True)
    n = total.shape[0]
    top = jax.lax.dynamic_slice_in_dim(top, n * jax.lax.axis_index(name), n)
    empty = total <= 0.0
    log = jnp.log(jnp.where(empty, 1.0, total)) + top
    part = jnp.where(empty, -jnp.inf, log)
  return part


def tile_side(n: int, m: int, block_size: BlockSize) -> int | None:
  """Side of the tiles of an [n, m] similarity; None is one tile.

  Raises:
    ValueError: if `block_size` is none of its values.
  """
  if block_size is None:
    return None
  if isinstance(block_size, str):
    if block_size != "auto":
      raise ValueError(
        f'block_size must be None, "auto" or an integer >= 1; got'
        f" {block_size!r}."
      )
    return None if 4 * n * m <= _DENSE_BYTES else _AUTO_BLOCK
  if isinstance(block_size, bool) or not hasattr(block_size, "__index__"):
    raise ValueError(
      f'block_size must be None, "auto" or an integer >= 1; got {block_size!r}.'
    )
  if block_size < 1:
    raise ValueError(f"block_size must be at least 1; got {block_size}.")
  return int(block_size)
