"""The contrastive losses of a batch split over devices: the same numbers.

Every case is compared with the same loss on one device and the whole batch:
losses, and gradients of an arbitrarily weighted sum of them with respect to
the arrays and the scalars, to 1e-6 of the largest entry.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from tests.losses import references

NAMES = tuple(references.LOSSES)
N, D = 16, 8
# Not sorted: a group's rows lie on different devices.
IDS = np.random.default_rng(0).integers(-1, 9, size=N)
# Moderate, so that rounding of the logits stays below the 1e-6 asked for.
LOGIT_SCALE = 4.0


def make_mesh(**sizes):
  count = int(np.prod(list(sizes.values())))
  if jax.device_count() < count:
    pytest.fail(f"needs {count} devices")
  return jax.make_mesh(
    tuple(sizes.values()),
    tuple(sizes),
    axis_types=(AxisType.Auto,) * len(sizes),
    devices=jax.devices()[:count],
  )


def local_loss(name, axes=None, grouped=True, **options):
  def loss(arrays, scalars, ids):
    return getattr(losses, name)(
      *arrays,
      **scalars,
      group_ids=ids if grouped else None,
      axes=axes,
      **options,
    )

  return loss


def problem(name, n=N):
  """Arrays, scalars, group ids and cotangents of one global batch."""
  arrays = tuple(references.make_inputs(name, n, D).values())
  scalars = references.make_scalars(name, LOGIT_SCALE)
  scalars = {k: jnp.float32(v) for k, v in scalars.items()}
  count = 2 * n if name == "nt_xent" else n
  weights = np.random.default_rng(1).normal(size=count).astype(np.float32)
  return arrays, scalars, jnp.asarray(IDS[:n]), weights


def with_gradients(loss):
  """(losses, gradients of arrays, gradients of scalars), jitted."""

  def weighted(arrays, scalars, ids, weights):
    per_example = loss(arrays, scalars, ids)
    return jnp.sum(weights * per_example), per_example

  @jax.jit
  def run(arrays, scalars, ids, weights):
    gradient = jax.grad(weighted, argnums=(0, 1), has_aux=True)
    (of_arrays, of_scalars), per_example = gradient(
      arrays, scalars, ids, weights
    )
    return per_example, of_arrays, of_scalars

  return run


@functools.cache
def on_one_device(name, n=N, grouped=True):
  loss = local_loss(name, grouped=grouped, block_size=None)
  return jax.device_get(with_gradients(loss)(*problem(name, n)))


def in_global_order(name, per_example, devices):
  """[2N] of `nt_xent` arrives as (first, second) rows device by device."""
  if name != "nt_xent":
    return per_example.reshape(-1)
  return per_example.reshape(devices, 2, -1).swapaxes(0, 1).reshape(-1)


@functools.cache
def magnitudes(name, n=N):
  """What the rounding of each gradient is relative to."""
  arrays, scalars, ids, weights = problem(name, n)
  scalars = {k: float(v) for k, v in scalars.items()}
  reference = references.LOSSES[name](
    *arrays, **scalars, group_ids=ids, weights=weights
  )
  return reference.magnitudes


def assert_same(name, actual, expected):
  """Losses and gradients agree to 1e-6."""
  per_example, of_arrays, of_scalars = actual
  assert_close(per_example, expected[0])
  of_arrays = zip(references.ARRAYS[name], of_arrays, expected[1], strict=True)
  for _, gradient, wanted in of_arrays:
    assert_close(gradient, wanted)
  for argument, gradient in of_scalars.items():
    # One number may cancel: it is judged by the terms it is the sum of.
    scale = magnitudes(name, len(expected[1][0]))[argument]
    assert_close(gradient, expected[2][argument], scale)


def assert_close(actual, expected, scale=0.0):
  actual, expected = np.asarray(actual), np.asarray(expected)
  assert actual.shape == expected.shape
  error = np.abs(actual - expected).max()
  bound = 1e-6 * max(np.abs(expected).max(), scale)
  assert error <= bound, f"error {error:.3g}, bound {bound:.3g}"


def sharded(name, mesh, axes, grouped=True, **options):
  rows = P(axes)
  devices = int(np.prod([mesh.shape[a] for a in np.atleast_1d(axes)]))
  mapped = jax.shard_map(
    local_loss(name, axes, grouped, **options),
    mesh=mesh,
    in_specs=(rows, P(), rows),
    out_specs=rows,
    check_vma=True,
  )
  return lambda *arguments: in_global_order(name, mapped(*arguments), devices)


@pytest.mark.parametrize(
  "name, devices",
  [
    *itertools.product(NAMES, [8]),
    *itertools.product(["clip", "nt_xent"], [1, 2, 4]),
  ],
)
def test_one_axis(name, devices):
  loss = sharded(name, make_mesh(data=devices), "data")
  actual = with_gradients(loss)(*problem(name))
  assert_same(name, actual, on_one_device(name))


@pytest.mark.parametrize("name", NAMES)
def test_two_axes_and_blocks(name):
  loss = sharded(name, make_mesh(row=2, col=4), ("row", "col"), block_size=3)
  actual = with_gradients(loss)(*problem(name))
  assert_same(name, actual, on_one_device(name))


@pytest.mark.parametrize(
  "sizes, axes",
  [
    ({"row": 4, "col": 2}, ("row", "col")),
    ({"row": 2, "col": 4}, ("col", "row")),
    ({"row": 1, "col": 8}, ("row", "col")),
    ({"data": 4}, ("data",)),
    ({"a": 2, "b": 2, "c": 2}, ("a", "b", "c")),
    # The batch is whole on every device along "model".
    ({"data": 4, "model": 2}, "data"),
  ],
)
def test_other_meshes(sizes, axes):
  name = "nt_xent"  # The loss that cares most about the order of rows.
  loss = sharded(name, make_mesh(**sizes), axes)
  actual = with_gradients(loss)(*problem(name))
  assert_same(name, actual, on_one_device(name))


@pytest.mark.parametrize("name", ["clip", "nt_xent", "decoupled", "sigmoid"])
def test_one_row_a_device_without_groups(name):
  loss = sharded(name, make_mesh(row=2, col=4), ("row", "col"), grouped=False)
  actual = with_gradients(loss)(*problem(name, 8))
  assert_same(name, actual, on_one_device(name, 8, grouped=False))


@pytest.mark.parametrize("axes", ["data", ("row", "col")])
def test_original_in_modal_denominator(axes):
  name = "clip_four_term"
  options = {"in_modal_denominator": "original"}
  sizes = {"data": 4} if axes == "data" else {"row": 2, "col": 2}
  loss = sharded(name, make_mesh(**sizes), axes, **options)
  alone = local_loss(name, block_size=None, **options)
  arguments = problem(name)
  expected = jax.device_get(with_gradients(alone)(*arguments))
  assert_same(name, with_gradients(loss)(*arguments), expected)


@pytest.mark.parametrize("name", ["clip", "nt_xent", "decoupled", "sigmoid"])
def test_vmap_with_an_axis_name(name):
  devices = 4

  def loss(arrays, scalars, ids):
    def split(x):
      return x.reshape(devices, -1, *x.shape[1:])

    mapped = jax.vmap(
      local_loss(name, "data"), in_axes=(0, None, 0), axis_name="data"
    )
    per_example = mapped(jax.tree.map(split, arrays), scalars, split(ids))
    return in_global_order(name, per_example, devices)

  actual = with_gradients(loss)(*problem(name))
  assert_same(name, actual, on_one_device(name))


def test_nested_vmap_with_two_axis_names():
  def loss(arrays, scalars, ids):
    def split(x):
      return x.reshape(2, 4, -1, *x.shape[1:])

    mapped = local_loss("clip", ("row", "col"))
    for axis in ("col", "row"):
      mapped = jax.vmap(mapped, in_axes=(0, None, 0), axis_name=axis)
    return mapped(jax.tree.map(split, arrays), scalars, split(ids)).reshape(-1)

  actual = with_gradients(loss)(*problem("clip"))
  assert_same("clip", actual, on_one_device("clip"))


# --- Gradients taken inside, as training steps do ---------------------------


def encode(parameters, rows):
  rows = rows @ parameters
  return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)


def batch_mean(name, axes=None):
  """Mean loss of encoded rows; parameters and scalars are learned."""
  loss = local_loss(name, axes)

  def mean(parameters, scalars, arrays, ids):
    encoded = tuple(encode(parameters, rows) for rows in arrays)
    return jnp.mean(loss(encoded, scalars, ids))

  return mean


@functools.cache
def step_on_one_device(name):
  arrays, scalars, ids, _ = problem(name)
  step = jax.jit(jax.value_and_grad(batch_mean(name), argnums=(0, 1)))
  return jax.device_get(step(make_parameters(), scalars, arrays, ids))


def assert_step_close(actual, expected):
  # The gradient passes the normalisation of rows, where much cancels.
  assert_close(actual, expected, scale=1.0)


def make_parameters():
  return np.random.default_rng(2).normal(size=(D, D)).astype(np.float32)


@pytest.mark.parametrize(
  "name, axes",
  [
    ("clip", "data"),
    ("clip_four_term", ("row", "col")),
    ("decoupled", ("row", "col")),
    ("moco_v3", ("row", "col")),
    ("nt_xent", ("row", "col")),
    ("sigmoid", ("row", "col")),
  ],
)
def test_step_inside_shard_map(name, axes):
  sizes = {"data": 4} if axes == "data" else {"row": 2, "col": 2}

  def step(parameters, scalars, arrays, ids):
    def mean(*learned):
      return jax.lax.pmean(batch_mean(name, axes)(*learned, arrays, ids), axes)

    return jax.value_and_grad(mean, argnums=(0, 1))(parameters, scalars)

  mapped = jax.shard_map(
    step,
    mesh=make_mesh(**sizes),
    in_specs=(P(), P(), P(axes), P(axes)),
    out_specs=P(),
    check_vma=True,
  )
  arrays, scalars, ids, _ = problem(name)
  actual = jax.jit(mapped)(make_parameters(), scalars, arrays, ids)
  jax.tree.map(assert_step_close, actual, step_on_one_device(name))


@pytest.mark.parametrize("name", ["clip", "nt_xent", "sigmoid"])
def test_step_inside_pmap(name):
  devices = 4
  if jax.device_count() < devices:
    pytest.fail(f"needs {devices} devices")

  def step(parameters, scalars, arrays, ids):
    value, gradients = jax.value_and_grad(
      batch_mean(name, "data"), argnums=(0, 1)
    )(parameters, scalars, arrays, ids)
    return jax.lax.pmean((value, gradients), "data")

  def split(x):
    return x.reshape(devices, -1, *x.shape[1:])

  arrays, scalars, ids, _ = problem(name)
  actual = jax.pmap(
    step,
    axis_name="data",
    in_axes=(None, None, 0, 0),
    devices=jax.devices()[:devices],
  )(make_parameters(), scalars, tuple(map(split, arrays)), split(ids))
  actual = jax.tree.map(lambda x: np.asarray(x)[0], actual)
  jax.tree.map(assert_step_close, actual, step_on_one_device(name))
