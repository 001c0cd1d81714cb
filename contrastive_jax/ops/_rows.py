"""Rows of a similarity matrix: gathered over mapped axes, taken in blocks.

Every contrastive loss is a function of the rows of S = scale * Q K^T. These
helpers give a loss the rows that belong to this device against the keys of
*all* devices, and process them in blocks that the backward pass recomputes, so
that the losses state nothing but their formula.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Axes = str | tuple[str, ...] | None
BlockSize = int | str | None

# Rows of float32 logits that are worth keeping instead of recomputing.
_DENSE_BYTES = 64 * 2**20


def similarity(queries: jax.Array, keys: jax.Array) -> jax.Array:
  """Inner products <q_i, k_j>: [n, d] x [m, d] -> [n, m] in float32."""
  return jnp.einsum(
    "id,jd->ij",
    queries,
    keys,
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )


def masked_logsumexp(logits: jax.Array, mask: jax.Array) -> jax.Array:
  """Log sum of exp(logits) over `mask`; 0 (no gradient) where it is empty.

  Args:
    logits: [n, m] float32.
    mask: [n, m] bool, True on the entries that count.

  Returns:
    [n] float32.
  """
  some = jnp.any(mask, axis=1)
  # An empty row keeps its logits: whatever comes out is replaced below, and
  # no -inf minus -inf arises on the way back.
  kept = jnp.where(mask | ~some[:, None], logits, -jnp.inf)
  return jnp.where(some, jax.nn.logsumexp(kept, axis=1), 0.0)


def gather_rows(x: Any, axes: Axes) -> Any:
  """All devices' rows of every [n, ...] leaf, in row-major order of `axes`."""
  if axes is None:
    return x
  _check_axes(axes)
  names = (axes,) if isinstance(axes, str) else axes
  # Innermost first gives row-major order; all names in one call would be the
  # same, but nested vmaps do not support that.
  for name in reversed(names):
    x = jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, name, tiled=True), x)
  return x


def global_row_ids(num_rows: int, axes: Axes) -> jax.Array:
  """Positions of this device's rows in the global batch: [n] int32."""
  ids = jnp.arange(num_rows, dtype=jnp.int32)
  if axes is None:
    return ids
  _check_axes(axes)
  return ids + num_rows * jax.lax.axis_index(axes).astype(jnp.int32)


def map_rows(
  fn: Callable[..., jax.Array],
  rows: tuple[Any, ...],
  *,
  num_columns: int,
  block_size: BlockSize,
) -> jax.Array:
  """Applies `fn` to blocks of rows, recomputing each block backwards.

  Args:
    fn: maps a tuple of [b, ...] arrays to [b] values.
    rows: arrays whose leading axis is n.
    num_columns: width of the similarity rows; "auto" decides by it.
    block_size: rows a block; None takes all at once and keeps what autodiff
      keeps; "auto" takes all at once while the logits stay under 64 MiB.

  Returns:
    [n] values of `fn`, in order.

  Raises:
    ValueError: if `block_size` is not None, "auto" or an integer >= 1.
  """
  n = jax.tree.leaves(rows)[0].shape[0]
  block = _block_rows(n, num_columns, block_size)
  if block is None or block >= n:
    return fn(*rows)
  recomputed = jax.checkpoint(fn)
  full = n - n % block
  blocks = jax.tree.map(
    lambda leaf: leaf[:full].reshape(-1, block, *leaf.shape[1:]), rows
  )
  parts = [jax.lax.map(lambda b: recomputed(*b), blocks).reshape(full)]
  if full < n:
    parts.append(recomputed(*jax.tree.map(lambda leaf: leaf[full:], rows)))
  return jnp.concatenate(parts)


def _block_rows(n: int, m: int, block_size: BlockSize) -> int | None:
  if block_size is None:
    return None
  if isinstance(block_size, str):
    if block_size != "auto":
      raise ValueError(
        f'block_size must be None, "auto" or an integer >= 1; got'
        f" {block_size!r}."
      )
    if 4 * n * m <= _DENSE_BYTES:
      return None
    return max(1, _DENSE_BYTES // (16 * m))
  if isinstance(block_size, bool) or not hasattr(block_size, "__index__"):
    raise ValueError(
      f'block_size must be None, "auto" or an integer >= 1; got {block_size!r}.'
    )
  if block_size < 1:
    raise ValueError(f"block_size must be at least 1; got {block_size}.")
  return int(block_size)


def _check_axes(axes: Axes) -> None:
  try:
    jax.lax.axis_index(axes)
  except NameError as error:
    raise ValueError(
      f"axes names {axes!r}, which is not a mapped axis here: call the loss"
      " inside shard_map, pmap or vmap(axis_name=...), or leave axes=None."
    ) from error
