"""Rows, sums and positions over the mapped axes that a batch is split over.

For mapped code (`shard_map`, `pmap` or `vmap(axis_name=...)`). Devices are
numbered row-major in `axes`. With `axes=None` the batch is whole: nothing is
sent.
"""

import jax
import jax.numpy as jnp

from contrastive_jax._types import Axes


def axis_names(axes: Axes) -> tuple[str, ...]:
  """The axes as a tuple of names; empty for None."""
  if axes is None:
    return ()
  return (axes,) if isinstance(axes, str) else tuple(axes)


def grid_axes(axes: Axes) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """The axes that number grid rows, and those that number grid columns.

  Args:
    axes: names of mapped axes, or None.

  Returns:
    The first name, and all others.

  Raises:
    ValueError: if a name is not a mapped axis here.
  """
  names = axis_names(axes)
  try:
    for name in names:
      jax.lax.axis_index(name)
  except NameError as error:
    raise ValueError(
      f"axes names {axes!r}, which is not a mapped axis here: call the loss"
      " inside shard_map, pmap or vmap(axis_name=...), or leave axes=None."
    ) from error
  return names[:1], names[1:]


def axis_size(axes: Axes) -> int:
  """Number of devices that the batch is split over."""
  rows, columns = grid_axes(axes)
  size = 1
  for name in (*rows, *columns):
    size *= jax.lax.axis_size(name)
  return size


def sum_over(x: jax.Array, axes: Axes) -> jax.Array:
  """Sum over the devices that the batch is split over; on each of them."""
  for name in sum(grid_axes(axes), ()):
    x = jax.lax.psum(x, name)
  return x


def gather_rows(x: jax.Array, axes: Axes) -> jax.Array:
  """All devices' rows: [n, ...] -> [K n, ...] for K devices."""
  # Innermost first gives row-major order; one call with all names would as
  # well, but nested vmaps do not support it.
  for name in reversed(axis_names(axes)):
    x = jax.lax.all_gather(x, name, tiled=True)
  return x


def scatter_rows(x: jax.Array, axes: Axes) -> jax.Array:
  """Sum over the devices; each receives its part: [K n, ...] -> [n, ...]."""
  for name in axis_names(axes):
    x = jax.lax.psum_scatter(x, name, tiled=True)
  return x


def global_row_ids(num_rows: int, axes: Axes) -> jax.Array:
  """Positions of this device's rows in the global batch: [n] int32."""
  return gathered_row_ids(num_rows, axes, gathered=())


def gathered_row_ids(
  num_rows: int, axes: Axes, gathered: tuple[str, ...]
) -> jax.Array:
  """Global positions of the rows that a gather over some of the axes gives.

  Args:
    num_rows: rows of each device.
    axes: the axes that the batch is split over.
    gathered: those of them that `gather_rows` gathers over.

  Returns:
    [n] int32, or [K n] for K gathered devices.

  Raises:
    ValueError: if `axes` are not mapped.
  """
  rows, columns = grid_axes(axes)
  positions = jnp.arange(num_rows, dtype=jnp.int32)
  stride = num_rows
  offset = jnp.zeros((), jnp.int32)
  for name in reversed((*rows, *columns)):
    size = jax.lax.axis_size(name)
    if name in gathered:
      steps = stride * jnp.arange(size, dtype=jnp.int32)
      positions = (steps[:, None] + positions[None, :]).reshape(-1)
    else:
      offset += stride * jax.lax.axis_index(name).astype(jnp.int32)
    stride *= size
  return positions + offset
