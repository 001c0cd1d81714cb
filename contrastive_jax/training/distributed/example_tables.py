"""Tables of one entry an example in a train state, and in its checkpoints.

On the devices a table lies split by owner (`ops.tables`), in an order and with
a padding that depend on their number. A checkpoint holds it in the order of the
examples, so that it opens on any number of devices. For that its length must
not depend on them either: it is rounded up to a multiple of `UNIT`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from contrastive_jax import ops
from contrastive_jax.training.distributed import sharding

# 2^12 * 3: what the usual numbers of devices divide, so that the file's order
# can be split over them as well.
UNIT = 12288


def entries_for(num_examples: int) -> int:
  """Entries of a table that a checkpoint can hold: a multiple of `UNIT`."""
  return -(-num_examples // UNIT) * UNIT


def create(
  num_examples: int,
  mesh: jax.sharding.Mesh,
  *,
  width: int,
  fill_value: float | int,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
  """A table of one value, for `training.distributed.sharding.state_sharding` to place.

  Args:
    num_examples: entries that are needed.
    mesh: the devices.
    width: numbers of an entry.
    fill_value: the value.
    dtype: floating or integer.

  Returns:
    [devices * rows, width].
  """
  return ops.tables.create(
    entries_for(num_examples),
    mesh.size,
    fill_value=fill_value,
    shape=(width,),
    dtype=dtype,
  )


def has_tables(state: Any) -> bool:
  """Whether there is a table in a state."""
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return any(sharding.under_tables(path) for path, _ in leaves)


def to_file(state: Any) -> Any:
  """The state with its tables in order of the examples."""
  if not has_tables(state):
    return state
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      _converted(leaf, to_file=True) if sharding.under_tables(path) else leaf
    ),
    state,
  )


def from_file(state: Any, like: Any) -> Any:
  """The inverse of `to_file`.

  Args:
    state: as it was loaded into `file_layout(like)`.
    like: arrays, or shapes, types and shardings, of the state on the devices.

  Returns:
    The state as `like` lays it out.
  """
  if not has_tables(state):
    return state
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf, target: (
      _converted(leaf, to_file=False, target=target)
      if sharding.under_tables(path)
      else leaf
    ),
    state,
    like,
  )


def file_layout(state: Any) -> Any:
  """Shapes, types and shardings of `to_file(state)`.

  Args:
    state: arrays, or their shapes, types and shardings.
  """

  def abstract(path, leaf):
    shape, placed = leaf.shape, getattr(leaf, "sharding", None)
    if sharding.under_tables(path):
      length = shape[0] // UNIT * UNIT
      shape, placed = (length, *shape[1:]), _file_sharding(leaf, length)
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=placed)

  return jax.tree_util.tree_map_with_path(abstract, state)


def _devices(leaf: Any) -> int:
  placed = leaf.sharding
  return placed.mesh.size if isinstance(placed, NamedSharding) else 1


def _file_sharding(leaf: Any, length: int) -> Any:
  placed = leaf.sharding
  if isinstance(placed, NamedSharding) and length % placed.mesh.size:
    return NamedSharding(placed.mesh, PartitionSpec())
  return placed


def _converted(leaf: Any, *, to_file: bool, target: Any = None) -> jax.Array:
  if to_file:
    length = leaf.shape[0] // UNIT * UNIT
    placed = _file_sharding(leaf, length)
    return _converter(True, length, _devices(leaf), placed)(leaf)
  return _converter(False, 0, _devices(target), target.sharding)(leaf)


@functools.cache
def _converter(to_file: bool, length: int, devices: int, placed: Any) -> Any:
  """Compiled once, for all checkpoints of a run."""
  if to_file:
    return jax.jit(
      lambda x: ops.tables.from_sharded(x, length, devices),
      out_shardings=placed,
    )
  return jax.jit(
    lambda x: ops.tables.to_sharded(x, devices), out_shardings=placed
  )
