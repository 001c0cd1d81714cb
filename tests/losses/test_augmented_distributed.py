"""The augmented losses of a batch split over devices: the same numbers."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses, ops
from tests.losses import augmented_references as references
from tests.losses.distributed import assert_close, collectives
from tests.meshes import make_mesh

NAMES = tuple(references.LOSSES)
N, D = 16, 8
IDS = np.random.default_rng(0).integers(-1, 9, size=N)
TAU = 0.25
EACH = np.float32(np.random.default_rng(5).uniform(0.2, 0.4, N))
OPTIONS = {"include_positive": True, "negative_mass": 3.0}


def problem(name, tau=TAU, dtype=np.float32):
  """Arrays, log u and ids of one global batch."""
  arrays = references.make_inputs(name, N, D, dtype=dtype)
  log_u = references.make_log_u(name, arrays, tau)
  return tuple(map(jnp.asarray, arrays.values())), log_u, jnp.asarray(IDS)


def local_loss(name, axes=None, **options):
  """The loss of the local rows: [n], or [n, 2] for both views."""

  def loss(arrays, log_u, tau, ids):
    found = getattr(losses, name)(
      *arrays,
      *log_u,
      temperature=tau,
      group_ids=ids,
      axes=axes,
      **OPTIONS,
      **options,
    )
    return found.reshape(-1, len(arrays[0])).T

  return loss


def sharded(name, sizes, each=False, **options):
  axes = tuple(sizes) if len(sizes) > 1 else next(iter(sizes))
  rows = P(axes)
  return jax.shard_map(
    local_loss(name, axes, **options),
    mesh=make_mesh(**sizes),
    in_specs=(rows, rows, rows if each else P(), rows),
    out_specs=rows,
    check_vma=True,
  )


def with_gradients(loss, weights=None):
  def total(arrays, log_u, tau, ids):
    found = loss(arrays, log_u, tau, ids)
    mean = jnp.mean(found) if weights is None else jnp.sum(weights * found.T)
    return mean, found

  return jax.jit(jax.grad(total, argnums=(0, 2), has_aux=True))


def assert_same(name, run, weights=None, tau=TAU, dtype=np.float32):
  """Equal to the float64 reference of the whole batch."""
  arrays, log_u, ids = problem(name, tau, dtype)
  (of_arrays, of_tau), found = run(arrays, log_u, jnp.float32(tau), ids)
  expected = references.LOSSES[name](
    *(np.float64(x) for x in arrays),
    *log_u,
    temperature=tau,
    include_positive=True,
    negative_mass=3.0,
    group_ids=IDS,
    weights=None if weights is None else weights.reshape(-1),
  )
  gradients = dict(zip(references.ARRAYS[name], of_arrays))
  rtol = 1e-6 + float(jnp.finfo(dtype).eps) * 0.501
  expected.check(
    found.T.reshape(-1), gradients | {"temperature": of_tau}, rtol=rtol
  )


@functools.cache
def on_one_device(name):
  run = with_gradients(local_loss(name, block_size=None))
  arrays, log_u, ids = problem(name)
  return jax.device_get(run(arrays, log_u, jnp.float32(TAU), ids))


@pytest.mark.parametrize(
  "name, sizes",
  [
    *((name, {"data": 8}) for name in NAMES),
    *((name, {"row": 2, "col": 4}) for name in NAMES),
    ("augmented_clip", {"data": 1}),
    ("augmented_clip", {"data": 2}),
    ("augmented_clip", {"data": 4}),
    ("augmented_clip", {"row": 4, "col": 2}),
    ("augmented_nt_xent", {"row": 1, "col": 8}),
    ("augmented_nt_xent", {"a": 2, "b": 2, "c": 2}),
  ],
  ids=str,
)
def test_a_mean_over_devices(name, sizes):
  """Fused, in blocks; with groups that lie on different devices."""
  run = with_gradients(sharded(name, sizes, block_size=3))
  assert_same(name, run)
  arrays, log_u, ids = problem(name)
  actual = run(arrays, log_u, jnp.float32(TAU), ids)
  pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(on_one_device(name)))
  for a, b in pairs:
    # The scalar's gradient is judged by what it is the sum of.
    assert_close(a, b, scale=1.0 if a.ndim == 0 else 0.0)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", NAMES[:3])
def test_any_cotangent_over_devices(name, fused):
  shape = (2, N) if name == "augmented_nt_xent" else (1, N)
  weights = np.float32(np.random.default_rng(1).normal(size=shape))
  loss = sharded(name, {"row": 2, "col": 2}, block_size=3, fused=fused)
  assert_same(name, with_gradients(loss, weights), weights)


@pytest.mark.parametrize("name", ["augmented_clip", "augmented_nt_xent"])
def test_a_temperature_for_each_anchor(name):
  loss = sharded(name, {"row": 2, "col": 2}, each=True, block_size=3)
  assert_same(name, with_gradients(loss), tau=EACH)


@pytest.mark.parametrize("name", ["augmented_contrastive", "augmented_clip"])
def test_bfloat16_over_devices(name):
  run = with_gradients(sharded(name, {"row": 2, "col": 2}, block_size=3))
  assert_same(name, run, dtype=jnp.bfloat16)


def test_vmap_with_axis_names():
  name = "augmented_clip"

  def loss(arrays, log_u, tau, ids):
    def split(x):
      return x.reshape(2, 2, -1, *x.shape[1:])

    mapped = local_loss(name, ("row", "col"), block_size=3)
    for axis in ("col", "row"):
      mapped = jax.vmap(mapped, in_axes=(0, 0, None, 0), axis_name=axis)
    args = jax.tree.map(split, (arrays, log_u))
    return mapped(*args, tau, split(ids)).reshape(N, 1)

  assert_same(name, with_gradients(loss))


@pytest.mark.parametrize("sizes", [{"data": 4}, {"row": 2, "col": 2}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_on_mesh(name, sizes):
  over = losses.on_mesh(getattr(losses, name), make_mesh(**sizes))

  def loss(arrays, log_u, tau, ids):
    found = over(
      *arrays, *log_u, temperature=tau, group_ids=ids, block_size=3, **OPTIONS
    )
    return found.reshape(-1, N).T

  assert_same(name, with_gradients(loss))


def test_a_step_inside_shard_map():
  """Gradients of shared parameters, and the whole E-step, on the grid."""
  arrays, _, ids = problem("augmented_clip")
  parameters = np.float32(np.random.default_rng(2).normal(size=(D, D)))
  old = np.float32(np.random.default_rng(3).normal(size=(2, N)))

  def step(parameters, tau, arrays, ids, old, index, axes):
    def mean(parameters, tau):
      z = [ops.l2_normalize(x @ parameters) for x in arrays]
      options = OPTIONS | {"temperature": tau, "group_ids": ids, "axes": axes}
      batch = losses.log_partition_clip(*z, **options)
      rule = losses.Conjugate(2.0)
      known = [losses.e_step(rule, *x) for x in zip(old, batch)]
      keys = jax.random.split(jax.random.key(0))
      log_u = [
        losses.draw_auxiliary(key, x, concentration=4.0, index=index)
        for key, x in zip(keys, known)
      ]
      loss = losses.augmented_clip(*z, *log_u, block_size=3, **options)
      value = jnp.mean(loss)
      if axes is not None:
        value = jax.lax.pmean(value, axes)
      return value, jnp.stack(known)

    return jax.value_and_grad(mean, argnums=(0, 1), has_aux=True)(
      parameters, tau
    )

  index = jnp.arange(N) * 7
  args = (parameters, jnp.float32(TAU), arrays, ids, old, index)
  expected = jax.jit(functools.partial(step, axes=None))(*args)
  axes = ("row", "col")
  split = P(None, axes)
  mapped = jax.shard_map(
    functools.partial(step, axes=axes),
    mesh=make_mesh(row=2, col=2),
    in_specs=(P(), P(), P(axes), P(axes), split, P(axes)),
    out_specs=((P(), split), P()),
    check_vma=True,
  )
  actual = jax.jit(mapped)(*args)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    assert_close(a, b, scale=4.0)


@pytest.mark.parametrize("sizes", [{"data": 8}, {"row": 2, "col": 4}], ids=str)
def test_log_partition_and_diagnostics_over_devices(sizes):
  arrays, log_u, ids = problem("augmented_contrastive")

  def both(arrays, log_u, ids, axes):
    options = {"temperature": TAU, "group_ids": ids, "axes": axes}
    found = losses.augmented_diagnostics(
      *arrays, *log_u, log_weight_cap=0.5, block_size=3, **options
    )
    views = losses.log_partition_nt_xent(*arrays, **options)
    found |= {f"view_{k}": v for k, v in enumerate(views)}
    for k, v in enumerate(losses.log_partition_clip(*arrays, **options)):
      found[f"clip_{k}"] = v
    return found

  axes = tuple(sizes) if len(sizes) > 1 else next(iter(sizes))
  mapped = jax.shard_map(
    functools.partial(both, axes=axes),
    mesh=make_mesh(**sizes),
    in_specs=P(axes),
    out_specs=P(axes),
  )
  expected = jax.jit(functools.partial(both, axes=None))(arrays, log_u, ids)
  actual = jax.jit(mapped)(arrays, log_u, ids)
  for name, value in expected.items():
    np.testing.assert_allclose(
      actual[name], value, rtol=3e-6, atol=3e-6, err_msg=name
    )


@pytest.mark.parametrize(
  "concentration, count", [(0.5, 8), (8.0, 4096), (math.inf, 64)]
)
def test_draws_are_the_same_bits_on_any_number_of_devices(concentration, count):
  log_z = jnp.float32(np.random.default_rng(0).normal(scale=5, size=count))
  index = jnp.asarray(np.random.default_rng(1).permutation(10**6)[:count])

  def draw(log_z, index):
    return losses.draw_auxiliary(
      jax.random.key(7),
      log_z,
      concentration=concentration,
      prior=(1.0, 0.1),
      index=index,
    )

  alone = jax.jit(draw)(log_z, index)
  for devices in (2, 8):
    mapped = jax.shard_map(
      draw,
      mesh=make_mesh(data=devices),
      in_specs=P("data"),
      out_specs=P("data"),
    )
    np.testing.assert_array_equal(jax.jit(mapped)(log_z, index), alone)


# --- What is sent, and what is kept -------------------------------------------


def lowered(name, sizes, n, d, block_size):
  arrays = (jax.ShapeDtypeStruct((n, d), jnp.float32),) * 2
  log_u = (jax.ShapeDtypeStruct((n,), jnp.float32),) * 2
  run = with_gradients(sharded(name, sizes, block_size=block_size))
  ids = jax.ShapeDtypeStruct((n,), jnp.int32)
  return run.lower(arrays, log_u, jax.ShapeDtypeStruct((), jnp.float32), ids)


def test_one_gather_and_one_scatter_a_modality():
  n, d = 64, 32
  compiled = lowered("augmented_clip", {"row": 2, "col": 4}, n, d, 4).compile()
  assert collectives(compiled.as_text(), n // 8 * d) == {
    "all-gather": 2,
    "reduce-scatter": 2,
  }


def test_memory_grows_linearly():
  def temporary(n):
    sizes = {"row": 2, "col": 4}
    compiled = lowered("augmented_clip", sizes, n, 16, 64).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(4096) <= 2.2 * temporary(2048)
