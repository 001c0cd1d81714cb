"""Meshes of the simulated devices."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType


def make_mesh(**sizes):
  """The first devices as a mesh with axes of these names and sizes."""
  count = int(np.prod(list(sizes.values())))
  if jax.device_count() < count:
    pytest.fail(f"needs {count} devices")
  return jax.make_mesh(
    tuple(sizes.values()),
    tuple(sizes),
    axis_types=(AxisType.Auto,) * len(sizes),
    devices=jax.devices()[:count],
  )
