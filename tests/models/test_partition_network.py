"""The network that predicts log-partitions, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import models
from tests.models import partition_reference

N, D = 5, 8


def made(seed=0, **fields):
  """The network, its parameters with noise on all of them, and features."""
  network = models.PartitionNetwork(**fields)
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(N, D))
  x = np.float32(x / np.linalg.norm(x, axis=1, keepdims=True))
  params = network.init(jax.random.key(seed), x)["params"]
  params = jax.tree.map(
    lambda p: np.float32(p + 0.1 * rng.normal(size=p.shape)), params
  )
  return network, params, x


@pytest.mark.parametrize(
  "fields, hidden", [({}, 8), ({"width": 0.5}, 4), ({"blocks": 2}, 8)]
)
def test_values_and_shapes(fields, hidden):
  network, params, x = made(**fields)
  found = network.apply({"params": params}, x)
  assert found.dtype == jnp.float32 and found.shape == (N,)
  np.testing.assert_allclose(
    found, partition_reference.network(params, x), rtol=1e-5, atol=1e-5
  )
  assert params["fc1_0"]["kernel"].shape == (D, hidden)
  assert params["fc2_0"]["kernel"].shape == (hidden, D)
  # Three layers with one block, as the paper has.
  kernels = [p for p in params.values() if "kernel" in p]
  assert len(kernels) == 1 + 2 * network.blocks


def test_gradients_by_features_and_parameters():
  network, params, x = made()
  g = np.random.default_rng(1).normal(size=N)

  def total(params, x):
    return jnp.sum(jnp.float32(g) * network.apply({"params": params}, x))

  of_params, of_x = jax.grad(total, (0, 1))(params, x)

  def slope(change):
    """The central difference of the reference along a change."""
    return (change(1e-6) - change(-1e-6)) / 2e-6

  for i, j in ((0, 0), (3, 5)):
    unit = np.zeros((N, D))
    unit[i, j] = 1.0
    wanted = slope(
      lambda e, unit=unit: (
        g @ partition_reference.network(params, np.float64(x) + e * unit)
      )
    )
    np.testing.assert_allclose(of_x[i, j], wanted, rtol=1e-3, atol=1e-4)
  for name, part in (
    ("fc1_0", "kernel"),
    ("norm2_0", "scale"),
    ("out", "bias"),
  ):
    direction = np.random.default_rng(2).normal(size=params[name][part].shape)

    def along(e, name=name, part=part, direction=direction):
      moved = np.float64(params[name][part]) + e * direction
      other = {**params, name: {**params[name], part: moved}}
      return g @ partition_reference.network(other, x)

    found = np.sum(np.float64(of_params[name][part]) * direction)
    np.testing.assert_allclose(found, slope(along), rtol=1e-3, atol=1e-4)


def test_rows_do_not_depend_on_each_other_and_low_types_are_widened():
  network, params, x = made()
  whole = network.apply({"params": params}, x)
  stacked = network.apply({"params": params}, x[None, :2])
  np.testing.assert_allclose(stacked[0], whole[:2], rtol=1e-6)
  low = network.apply({"params": params}, jnp.asarray(x, jnp.bfloat16))
  assert low.dtype == jnp.float32


@pytest.mark.parametrize("name, value", [("width", 0.0), ("blocks", -1)])
def test_a_bad_field_is_named(name, value):
  network = models.PartitionNetwork(**{name: value})
  with pytest.raises(ValueError, match=rf"\b{name}\b.*{value}"):
    network.init(jax.random.key(0), jnp.ones((1, D)))
