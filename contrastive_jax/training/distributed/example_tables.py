"""Tables of one entry an example in a train state, and in its checkpoints.

On the devices a table lies split by owner (`ops.tables`), in an order and with
a padding that depend on their number. A checkpoint holds it in the order of the
examples, so that it opens on any number of devices. For that its length must
not depend on them either: it is rounded up to a multiple of `UNIT`.
"""

import functools
from collections.abc import Callable
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
  """A table of one value [devices * rows, width], of at least `num_examples` entries.

  `training.distributed.sharding.state_sharding` places it.
  """
  return ops.tables.create(
    entries_for(num_examples),
    mesh.size,
    fill_value=fill_value,
    shape=(width,),
    dtype=dtype,
  )


def to_file(state: Any) -> Any:
  """The state with its tables in order of the examples."""

  def convert(path, leaf):
    if not sharding.under_tables(path):
      return leaf
    length = leaf.shape[0] // UNIT * UNIT
    placed = _file_sharding(leaf, length)
    return _compiled(ops.tables.from_sharded, placed, length, _devices(leaf))(
      leaf
    )

  return jax.tree_util.tree_map_with_path(convert, state)


def from_file(state: Any, like: Any) -> Any:
  """The inverse of `to_file`: a state as it lies on the devices.

  Args:
    state: as it was loaded into `file_layout(like)`.
    like: arrays, or shapes, types and shardings, of the state on the devices.
  """

  def convert(path, leaf, target):
    if not sharding.under_tables(path):
      return leaf
    return _compiled(ops.tables.to_sharded, target.sharding, _devices(target))(
      leaf
    )

  return jax.tree_util.tree_map_with_path(convert, state, like)


def file_layout(state: Any) -> Any:
  """Shapes, types and shardings of `to_file(state)`, by those of the state."""

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


@functools.cache
def _compiled(
  convert: Callable[..., jax.Array], placed: Any, *sizes: int
) -> Any:
  """Compiled once, for all checkpoints of a run."""
  return jax.jit(lambda x: convert(x, *sizes), out_shardings=placed)
