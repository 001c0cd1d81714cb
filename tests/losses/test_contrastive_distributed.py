"""The contrastive losses of a batch split over devices: the same numbers.

Every case is compared with the same loss on one device and the whole batch:
losses, and gradients of an arbitrarily weighted sum of them with respect to
the arrays and the scalars, to 1e-6 of the largest entry.
"""

from __future__ import annotations

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from tests.losses import references
from tests.losses.distributed import assert_close, collectives
from tests.meshes import make_mesh

NAMES = tuple(references.LOSSES)
N, D = 16, 8
# Not sorted: a group's rows lie on different devices.
IDS = np.random.default_rng(0).integers(-1, 9, size=N)
# Moderate, so that rounding of the logits stays below the 1e-6 asked for.
LOGIT_SCALE = 4.0


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
  count = 2 * n if name in references.TWO_VIEWS else n
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
  if name not in references.TWO_VIEWS:
    return per_example.reshape(-1)
  return per_example.reshape(devices, 2, -1).swapaxes(0, 1).reshape(-1)


@functools.cache
def magnitudes(name, n=N):
  """Magnitudes that the rounding of each gradient is relative to."""
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


# --- Every loss, plan, scale and type against the float64 references ---------

PLANS = (
  None,
  {"data": 8},
  {"row": 1, "col": 8},
  {"row": 2, "col": 4},
  {"row": 4, "col": 2},
  {"row": 8, "col": 1},
)


@functools.cache
def plan(name, sizes, dtype):
  """Jitted loss with gradients; one compilation for all scales."""
  del dtype  # A part of the key: inputs of another type compile anew.
  if sizes is None:
    return with_gradients(local_loss(name, block_size=3))
  axes = tuple(axis for axis, _ in sizes)
  axes = axes[0] if len(axes) == 1 else axes
  return with_gradients(
    sharded(name, make_mesh(**dict(sizes)), axes, block_size=3)
  )


def grid():
  """Types and plans; a quick run of the tests takes one plan of each type."""
  quick = (
    (jnp.float32, ({"row": 2, "col": 4},)),
    (jnp.bfloat16, ({"data": 8},)),
  )
  for dtype, chosen in quick:
    for sizes in PLANS:
      marks = () if sizes in chosen else pytest.mark.exhaustive
      yield pytest.param(dtype, sizes, marks=marks, id=f"{dtype.dtype}-{sizes}")


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("dtype, sizes", grid())
@pytest.mark.parametrize("name", NAMES)
def test_every_plan_equals_the_reference(name, dtype, sizes, scale):
  inputs = references.make_inputs(name, N, D, dtype=dtype)
  scalars = references.make_scalars(name, scale)
  _, _, ids, weights = problem(name)
  sizes = None if sizes is None else tuple(sizes.items())
  per_example, of_arrays, of_scalars = plan(name, sizes, dtype)(
    tuple(map(jnp.asarray, inputs.values())),
    {k: jnp.float32(v) for k, v in scalars.items()},
    ids,
    weights,
  )
  expected = references.LOSSES[name](
    *inputs.values(), **scalars, group_ids=ids, weights=weights
  )
  expected.assert_values(per_example)
  rounding = float(jnp.finfo(dtype).eps) / 2 if dtype == jnp.bfloat16 else 0.0
  for argument, gradient in zip(inputs, of_arrays, strict=True):
    assert gradient.dtype == dtype
    expected.assert_gradient(argument, gradient, rtol=1e-6 + 1.001 * rounding)
  for argument, gradient in of_scalars.items():
    expected.assert_gradient(argument, gradient)


# --- What is sent, and what is kept -------------------------------------------


def lowered(name, sizes, axes, n, d, block_size, dtype=jnp.float32):
  """Value and gradient of a loss over a mesh, to be compiled."""
  loss = sharded(name, make_mesh(**sizes), axes, False, block_size=block_size)
  arrays = tuple(
    jax.ShapeDtypeStruct((n, d), dtype) for _ in references.ARRAYS[name]
  )
  scalars = {
    k: jax.ShapeDtypeStruct((), jnp.float32) for k in references.SCALARS[name]
  }
  ids = jax.ShapeDtypeStruct((n,), jnp.int32)
  count = 2 * n if name in references.TWO_VIEWS else n
  weights = jax.ShapeDtypeStruct((count,), jnp.float32)
  return with_gradients(loss).lower(arrays, scalars, ids, weights)


@pytest.mark.parametrize(
  "sizes, axes, gathers",
  [
    # The keys alone travel, and their gradient back.
    ({"data": 8}, "data", 1),
    ({"row": 2, "col": 4}, ("row", "col"), 2),
    ({"row": 4, "col": 2}, ("row", "col"), 2),
  ],
)
def test_one_gather_and_one_scatter_a_modality(sizes, axes, gathers):
  n, d = 64, 32
  text = lowered("clip", sizes, axes, n, d, 4).compile().as_text()
  assert collectives(text, n // 8 * d) == {
    "all-gather": gathers,
    "reduce-scatter": gathers,
  }
  # The other collectives are sums of rows and of the scalar's gradient.
  assert max(collectives(text, 1).values()) < 20


@pytest.mark.parametrize("name", NAMES)
def test_no_block_of_rows_by_the_batch(name):
  n, d, devices = 512, 8, 8
  sizes = {"row": 2, "col": 4}
  compiled = lowered(name, sizes, ("row", "col"), n, d, 16).compile()
  largest = max(
    np.prod([int(s) for s in shape.split(",") if s])
    for shape in re.findall(r"\bf32\[([\d,]+)\]", compiled.as_text())
  )
  # The largest array: the gathered features of a grid row, both views.
  assert largest <= 2 * n // 2 * d
  assert largest < n // devices * n


@pytest.mark.parametrize("sizes", [{"data": 8}, {"row": 2, "col": 4}], ids=str)
def test_memory_grows_linearly(sizes):
  axes = tuple(sizes) if len(sizes) > 1 else "data"

  def temporary(n):
    compiled = lowered("clip", sizes, axes, n, 16, 64).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(4096) <= 2.2 * temporary(2048)


def test_low_precision_features_travel_as_they_are():
  sizes, axes = {"row": 2, "col": 4}, ("row", "col")
  n, d = 64, 32
  # As written: a CPU has no bfloat16 collectives, and widens what is sent.
  text = lowered("clip", sizes, axes, n, d, 4, jnp.bfloat16).as_text()
  gathered = re.findall(r"all_gather.*?-> tensor<[\dx]*x(\w+)>", text, re.S)
  assert gathered.count("bf16") == 2
  scattered = re.findall(
    r"reduce_scatter.*?-> tensor<\d+x(\d+x)?(\w+)>", text, re.S
  )
  assert [kind for wide, kind in scattered if wide] == ["f32", "f32"]


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
