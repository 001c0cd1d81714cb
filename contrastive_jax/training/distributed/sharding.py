"""The mesh, and how batches and parameters lie on it."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

# A batch is split over both; losses use them as the two sides of a grid.
DATA_AXES = ("row", "col")

# Smaller parameters are not worth the messages that gather them.
_FSDP_LEAST = 2**16


def make_mesh(devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
  """A grid of all (or the given) devices, as near to a square as it gets.

  The axes are `AxisType.Auto`: encoders are written for the whole batch and
  partitioned by the compiler; losses map over the axes themselves.
  """
  devices = list(jax.devices() if devices is None else devices)
  count = len(devices)
  for rows in range(math.isqrt(count), 0, -1):
    if count % rows:
      continue
    try:
      return jax.make_mesh(
        (rows, count // rows),
        DATA_AXES,
        axis_types=(AxisType.Auto,) * 2,
        devices=devices,
      )
    except NotImplementedError:
      # On a torus of chips the sides must be made of whole physical axes.
      continue
  raise ValueError(f"devices make no grid: {count} of them.")


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Rows of a batch split over all devices."""
  return NamedSharding(mesh, PartitionSpec(DATA_AXES))


def data_axes(mesh: jax.sharding.Mesh) -> tuple[str, ...] | None:
  """The `axes` that a loss takes on this mesh; None on a single device."""
  return DATA_AXES if mesh.size > 1 else None


def map_rows(
  fn: Callable[..., Any], mesh: jax.sharding.Mesh
) -> Callable[..., Any]:
  """Maps `fn(whole, *rows)` over the mesh; on one device it is `fn` itself.

  Args:
    fn: takes a pytree that all devices see and pytrees of arrays split by rows;
      returns arrays split by rows. `data_axes` are mapped within.
    mesh: the devices.

  Returns:
    The same function of global arrays.
  """
  if mesh.size == 1:
    return fn

  def mapped(whole, *rows):
    split = PartitionSpec(DATA_AXES)
    return jax.shard_map(
      fn,
      mesh=mesh,
      in_specs=(PartitionSpec(), *(split for _ in rows)),
      out_specs=split,
    )(whole, *rows)

  return mapped


def state_sharding(tree: Any, mesh: jax.sharding.Mesh, *, fsdp: bool) -> Any:
  """How the leaves of a train state lie on the mesh.

  Tables of one entry an example, all that lies under the name `tables`, are
  split by owner (`ops.tables`), and so are the entries of a `queue`.

  Args:
    tree: arrays, or their shapes and types.
    mesh: the devices.
    fsdp: whether large leaves are split over all devices, each along its
      longest axis that they divide; otherwise every device has a copy. Only
      shapes decide, so that the optimiser's moments lie as their parameters.

  Returns:
    A sharding for every leaf.
  """

  def rule(path, leaf):
    if under_tables(path) or (_under(path, "queue") and leaf.ndim):
      return batch_sharding(mesh)
    if fsdp and math.prod(leaf.shape) >= _FSDP_LEAST:
      for axis in sorted(range(leaf.ndim), key=lambda a: -leaf.shape[a]):
        if leaf.shape[axis] % mesh.size == 0:
          return NamedSharding(mesh, PartitionSpec(*(None,) * axis, DATA_AXES))
    return replicated(mesh)

  return jax.tree_util.tree_map_with_path(rule, tree)


def under_tables(path: Sequence[Any]) -> bool:
  """Whether a leaf's path in a state goes through the name `tables`."""
  return _under(path, "tables")


def _under(path: Sequence[Any], name: str) -> bool:
  # Keys of dicts, and fields of named tuples.
  return any(
    name in (getattr(part, "key", None), getattr(part, "name", None))
    for part in path
  )


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """A copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def check_batch_size(
  batch_size: int,
  microbatches: int,
  mesh: jax.sharding.Mesh,
  *,
  images_per_concept: int = 1,
) -> None:
  """Raises ValueError unless all microbatches and concepts divide over the mesh."""
  for name, count in (
    ("microbatches", microbatches),
    ("images_per_concept", images_per_concept),
  ):
    if batch_size % (count * mesh.size):
      raise ValueError(
        f"config.batch_size must be a multiple of {name} x devices ="
        f" {count} x {mesh.size}; got {batch_size}."
      )


def wait_for_all(name: str) -> None:
  """Waits until all processes of the run have come to this place."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def any_process(flag: bool) -> bool:
  """Whether it is so in any process of the run; all of them ask."""
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


@contextlib.contextmanager
def main_process_first(name: str) -> Iterator[None]:
  """Process 0 does what is inside, then all the others."""
  if jax.process_index() > 0:
    wait_for_all(name)
  yield
  if jax.process_index() == 0:
    wait_for_all(name)


def put_batch(
  batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """Turns rows of this host into arrays of the global batch."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, value)
    for name, value in batch.items()
  }
