"""Losses over a mesh, called with global arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from contrastive_jax import losses
from tests.losses import references
from tests.meshes import make_mesh

N, D = 16, 8
IDS = jnp.asarray(np.random.default_rng(0).integers(0, 9, N))


def _results(loss, name, ids):
  """Gradients and values of a loss of the fixed inputs."""
  arrays = tuple(references.make_inputs(name, N, D).values())
  scalars = references.make_scalars(name, 4.0)
  scalars = {k: jnp.float32(v) for k, v in scalars.items()}
  count = 2 * N if name in references.TWO_VIEWS else N
  weights = np.random.default_rng(1).normal(size=count).astype(np.float32)

  def weighted(arrays, scalars):
    values = loss(*arrays, **scalars, group_ids=ids)
    return jnp.sum(weights * values), values

  run = jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))
  return run(arrays, scalars)


@functools.cache
def _of_one_device(name, grouped):
  return _results(getattr(losses, name), name, IDS if grouped else None)


@pytest.mark.parametrize("name", references.LOSSES)
@pytest.mark.parametrize(
  "sizes, axes",
  [
    ({"data": 4}, None),
    ({"row": 2, "col": 4}, None),
    ({"data": 2, "model": 2}, "data"),
  ],
)
@pytest.mark.parametrize("grouped", [False, True], ids=["", "grouped"])
def test_values_and_gradients_are_those_of_one_device(
  name, sizes, axes, grouped
):
  expected = _of_one_device(name, grouped)
  over = losses.on_mesh(getattr(losses, name), make_mesh(**sizes), axes=axes)
  actual = _results(over, name, IDS if grouped else None)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()))


def test_outside_of_jit_with_plain_numbers_and_options():
  x, y = references.make_inputs("clip", N, D).values()
  clip = losses.on_mesh(losses.clip, make_mesh(data=2))
  options = {"logit_scale": 3, "label_smoothing": 0.1, "block_size": 4}
  np.testing.assert_allclose(
    clip(x, y, **options), losses.clip(x, y, **options), rtol=1e-6
  )


def test_geometric_consistency():
  x, y = references.make_inputs("clip", N, D).values()
  over = losses.on_mesh(losses.geometric_consistency, make_mesh(row=2, col=2))
  np.testing.assert_allclose(
    jax.jit(over)(x, y, intra=0.5),
    losses.geometric_consistency(x, y, intra=0.5),
    rtol=1e-5,
    atol=1e-6,
  )


def test_unknown_axes_are_named():
  with pytest.raises(ValueError, match=r"\baxes\b.*data.*got rows"):
    losses.on_mesh(losses.clip, make_mesh(data=2), axes="rows")


def test_explicit_axes_are_refused():
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
  with pytest.raises(ValueError, match=r"\bmesh\b.*got Explicit data"):
    losses.on_mesh(losses.clip, mesh)


def test_a_batch_that_does_not_divide():
  x = jnp.ones((6, D))
  clip = losses.on_mesh(losses.clip, make_mesh(data=4))
  with pytest.raises(ValueError, match=r"\bimage\b.* 6 rows.* 4 devices"):
    clip(x, x, logit_scale=1.0)


def test_keyword_arrays_with_a_row_an_example_are_split():
  x, y = references.make_inputs("clip", N, D).values()
  tau = jnp.linspace(0.2, 1.0, N)
  over = losses.on_mesh(losses.log_partition, make_mesh(row=2, col=2))
  options = {"temperature": tau, "group_ids": IDS, "negative_mass": 2.0}
  np.testing.assert_allclose(
    jax.jit(over)(x, y, **options),
    losses.log_partition(x, y, **options),
    rtol=1e-5,
  )


def test_a_tuple_of_values_comes_back_as_one():
  x, y = references.make_inputs("clip", N, D).values()
  over = losses.on_mesh(losses.log_partition_clip, make_mesh(data=8))
  actual = jax.jit(over)(x, y, temperature=0.3)
  expected = losses.log_partition_clip(x, y, temperature=0.3)
  assert len(actual) == 2
  for a, b in zip(actual, expected):
    np.testing.assert_allclose(a, b, rtol=1e-5)
