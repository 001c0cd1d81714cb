"""Geometric consistency of a batch split over devices, and what is compiled."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from tests.losses import structure_references as references
from tests.losses.structure.checks import (
  FORMS,
  WEIGHTS,
  assert_close,
  cotangents,
  only,
  with_gradients,
)
from tests.meshes import make_mesh

# --- A batch split over devices ---------------------------------------------

N, D = 16, 8


def local_loss(form, axes=None, options=None):
  options = WEIGHTS if options is None else options
  return functools.partial(
    losses.geometric_consistency, form=form, axes=axes, **options
  )


def sharded(form, mesh, axes, options=None):
  return jax.shard_map(
    lambda arrays: local_loss(form, axes, options)(*arrays),
    mesh=mesh,
    in_specs=(P(axes),),
    out_specs=P(axes),
    check_vma=True,
  )


def check_global(loss, n=N, arrays=4, options=None):
  """Losses and gradients of the global batch, to 1e-6."""
  inputs = references.make_inputs(n, D, arrays=arrays)
  options = WEIGHTS if options is None else options
  expected = references.geometric_consistency(
    *inputs, weights=cotangents(n), **options
  )
  per_example, gradients = with_gradients(lambda *x: loss(x))(
    inputs, cotangents(n)
  )
  assert_close(per_example, expected.per_example, what="loss")
  for name, gradient in zip(references.ARRAYS, gradients):
    assert_close(gradient, expected.gradients[name], what=name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_one_axis(form, devices):
  check_global(sharded(form, make_mesh(data=devices), "data"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
  "sizes, axes",
  [
    ({"row": 2, "col": 4}, ("row", "col")),
    ({"row": 2, "col": 4}, ("col", "row")),
    ({"data": 4}, ("data",)),
    # The batch is whole on every device along "model".
    ({"data": 4, "model": 2}, "data"),
  ],
)
def test_grids(form, sizes, axes):
  check_global(sharded(form, make_mesh(**sizes), axes))


@pytest.mark.parametrize("form", FORMS)
def test_equal_weights_without_augmentation_on_a_grid(form):
  loss = sharded(form, make_mesh(row=2, col=4), ("row", "col"), {})
  check_global(loss, n=8, arrays=2, options={})


def test_no_term_at_all_on_devices():
  loss = sharded("gram", make_mesh(data=4), "data", only())
  per_example = jax.jit(loss)(references.make_inputs(N, D))
  np.testing.assert_array_equal(per_example, np.zeros(N))


@pytest.mark.parametrize("form", FORMS)
def test_vmap_with_an_axis_name(form):
  def loss(arrays):
    split = [jnp.reshape(x, (4, -1, D)) for x in arrays]
    mapped = jax.vmap(local_loss(form, "data"), axis_name="data")
    return mapped(*split).reshape(-1)

  check_global(loss)


@pytest.mark.parametrize("form", FORMS)
def test_nested_vmap_with_two_axis_names(form):
  def loss(arrays):
    mapped = local_loss(form, ("row", "col"))
    for axis in ("col", "row"):
      mapped = jax.vmap(mapped, axis_name=axis)
    return mapped(*(jnp.reshape(x, (2, 4, -1, D)) for x in arrays)).reshape(-1)

  check_global(loss)


def test_auto_judges_the_global_batch():
  mesh = make_mesh(data=8)
  inputs = references.make_inputs(N, D)  # 2 rows a device, 16 in all, d = 8
  jaxpr = str(jax.make_jaxpr(sharded("auto", mesh, "data"))(inputs))
  assert "all_gather" not in jaxpr
  assert "psum" in jaxpr
  inputs = references.make_inputs(D, D)
  jaxpr = str(jax.make_jaxpr(sharded("auto", mesh, "data"))(inputs))
  assert "all_gather" in jaxpr


# Gradients taken inside, as training steps do.


def batch_mean(form, axes=None):
  def mean(parameters, arrays):
    rows = (x @ parameters for x in arrays)
    rows = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in rows)
    return jnp.mean(local_loss(form, axes)(*rows))

  return mean


def make_parameters():
  return np.random.default_rng(2).normal(size=(D, D)).astype(np.float32)


def assert_step_close(actual, expected):
  assert_close(actual, np.asarray(expected, np.float64), 2e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axes", ["data", ("row", "col")])
def test_step_inside_shard_map(form, axes):
  sizes = {"data": 4} if axes == "data" else {"row": 2, "col": 2}

  def step(parameters, arrays):
    def mean(parameters):
      return jax.lax.pmean(batch_mean(form, axes)(parameters, arrays), axes)

    return jax.value_and_grad(mean)(parameters)

  mapped = jax.shard_map(
    step,
    mesh=make_mesh(**sizes),
    in_specs=(P(), P(axes)),
    out_specs=P(),
    check_vma=True,
  )
  arguments = (make_parameters(), references.make_inputs(N, D))
  expected = jax.jit(jax.value_and_grad(batch_mean("direct")))(*arguments)
  jax.tree.map(assert_step_close, jax.jit(mapped)(*arguments), expected)


@pytest.mark.parametrize("form", FORMS)
def test_step_inside_pmap(form):
  if jax.device_count() < 4:
    pytest.fail("needs 4 devices")

  def step(parameters, arrays):
    mean = batch_mean(form, "data")
    return jax.lax.pmean(jax.value_and_grad(mean)(parameters, arrays), "data")

  parameters, arrays = make_parameters(), references.make_inputs(N, D)
  split = tuple(x.reshape(4, -1, D) for x in arrays)
  actual = jax.pmap(
    step, axis_name="data", in_axes=(None, 0), devices=jax.devices()[:4]
  )(parameters, split)
  actual = jax.tree.map(lambda x: np.asarray(x)[0], actual)
  expected = jax.jit(jax.value_and_grad(batch_mean("direct")))(
    parameters, arrays
  )
  jax.tree.map(assert_step_close, actual, expected)


# --- What is compiled -------------------------------------------------------


def compiled(loss, n, d, arrays=4, sharding=None):
  """The compiled gradient of the mean loss."""

  def mean(inputs):
    return jnp.mean(loss(inputs))

  shape = jax.ShapeDtypeStruct((n, d), jnp.float32, sharding=sharding)
  lowered = jax.jit(jax.value_and_grad(mean)).lower((shape,) * arrays)
  return lowered.compile()


def sizes(text):
  """Number of elements of every array in some compiled text."""
  found = re.findall(r"\b(?:f32|f64|bf16|s32|pred)\[([\d,]*)\]", text)
  return [int(np.prod([int(x) for x in s.split(",") if x])) for s in found]


def collectives(text):
  """(kind, elements of the largest operand) of every collective."""
  pattern = (
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute|collective-broadcast)(?:-start)?\("
  )
  return [(kind, max(sizes(kept))) for kept, kind in re.findall(pattern, text)]


@pytest.mark.parametrize("axes", ["data", ("row", "col")])
@pytest.mark.parametrize("options", [{}, WEIGHTS], ids=["equal", "all"])
def test_gram_form_sends_gram_matrices_alone(axes, options):
  n, d, devices = 320, 24, 8
  mesh = make_mesh(**({"data": 8} if axes == "data" else {"row": 2, "col": 4}))
  sharding = NamedSharding(mesh, P(axes))

  def text(form):
    loss = sharded(form, mesh, axes, options)
    return compiled(loss, n, d, 4 if options else 2, sharding).as_text()

  found = collectives(text("gram"))
  assert {kind for kind, _ in found} == {"all-reduce"}
  assert max(size for _, size in found) == d * d
  # Nothing is larger than a device's own features: no [N, d], no [n, N].
  assert max(sizes(text("gram"))) == n // devices * d

  direct = text("direct")
  assert "all-gather" in {kind for kind, _ in collectives(direct)}
  assert max(sizes(direct)) >= n // devices * n


def test_gram_form_has_no_matrix_of_pairs_on_one_device():
  n, d = 320, 24

  def largest(form):
    loss = local_loss(form)
    return max(sizes(compiled(lambda x: loss(*x), n, d).as_text()))

  assert largest("gram") == n * d
  assert largest("direct") >= n * n


def test_gram_form_takes_a_tenth_of_the_operations():
  n, d = 8192, 512

  def flops(form):
    loss = local_loss(form, options={})
    program = compiled(lambda x: loss(*x), n, d, arrays=2)
    return program.cost_analysis()["flops"]

  # Eight products of n d d and six of n n d.
  gram, direct = flops("gram"), flops("direct")
  assert gram >= 16 * n * d * d
  assert gram <= direct / 10
