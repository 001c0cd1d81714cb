"""The mesh, and how batches and parameters lie on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

DATA_AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
  """A one-axis mesh of all (or the given) devices.

  The axis is `AxisType.Auto`: encoders are written for the whole batch and
  partitioned by the compiler; losses map over the axis themselves.

  Args:
    devices: the devices; None is all of them.

  Returns:
    A mesh with the axis "data".
  """
  devices = list(devices or jax.devices())
  return jax.make_mesh(
    (len(devices),),
    (DATA_AXIS,),
    axis_types=(AxisType.Auto,),
    devices=devices,
  )


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Rows of a batch split over the data axis."""
  return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


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
  """Raises unless every microbatch, and every concept, divides over the mesh.

  Args:
    batch_size: of the global batch.
    microbatches: parts of it.
    mesh: the mesh.
    images_per_concept: neighbouring rows that stay on one device.

  Raises:
    ValueError: naming the numbers.
  """
  if batch_size % (microbatches * mesh.size):
    raise ValueError(
      f"config.batch_size must be a multiple of microbatches x devices ="
      f" {microbatches} x {mesh.size}; got {batch_size}."
    )
  if batch_size % (images_per_concept * mesh.size):
    raise ValueError(
      "config.batch_size must be a multiple of images_per_concept x devices ="
      f" {images_per_concept} x {mesh.size}; got {batch_size}."
    )


def put_batch(
  batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """Turns rows of this host into arrays of the global batch."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, value)
    for name, value in batch.items()
  }
