"""Stochastic EM on meshes, in `shard_map`, `scan` and with a donated state."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from contrastive_jax import losses, ops
from tests.losses.em_steps import COUNT, SIDES, N, make_steps, run

MESHES = [((2,), ("data",)), ((2, 2), ("row", "col")), ((8,), ("data",))]


@pytest.mark.parametrize("shape, names", MESHES, ids=str)
@pytest.mark.parametrize("family", SIDES)
def test_on_a_mesh_it_is_the_same(family, shape, names):
  devices = math.prod(shape)
  mesh = jax.make_mesh(
    shape,
    names,
    axis_types=(AxisType.Auto,) * len(names),
    devices=jax.devices()[:devices],
  )
  options = {"concentration": 3.0, "rule": losses.MovingAverage(0.4)}
  if len(names) == 2:
    options["concentration"] = math.inf
  steps = make_steps(family, 3)
  expected = run(family, steps, **options)
  found = run(
    family,
    steps,
    losses.on_mesh(getattr(losses, f"em_{family}"), mesh),
    losses.em_init(COUNT, sides=SIDES[family], num_devices=devices),
    **options,
  )
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a.loss, b.loss, rtol=2e-5)
    for name in b.details:
      np.testing.assert_allclose(
        a.details[name], b.details[name], rtol=1e-5, atol=1e-5
      )
  a, b = found[-1].state, expected[-1].state
  np.testing.assert_allclose(a.level, b.level, rtol=1e-4, atol=1e-7)
  for name in b.tables:
    np.testing.assert_allclose(
      ops.tables.from_sharded(np.asarray(a.tables[name]), COUNT, devices),
      b.tables[name],
      rtol=1e-5,
      atol=1e-6,
    )


def test_gradients_on_a_mesh_with_a_traced_rule():
  mesh = jax.make_mesh(
    (4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4]
  )
  (image, text), index, _ = make_steps("clip", 1)[0]
  taus = jnp.float32(np.random.default_rng(0).uniform(0.1, 0.3, N))

  def gradient(em_clip, devices):
    @jax.jit
    def of(image, text, rate):
      def loss(image, text):
        state = losses.em_init(COUNT, num_devices=devices)
        for _ in range(2):
          step = em_clip(
            image,
            text,
            state=state,
            index=jnp.asarray(index),
            temperature=taus,
            rule=losses.MovingAverage(rate),
          )
          state = step.state
        return step.loss.mean()

      return jax.grad(loss, (0, 1))(image, text)

    return of(image, text, jnp.float32(0.3))

  for a, b in zip(
    gradient(losses.on_mesh(losses.em_clip, mesh), 4),
    gradient(losses.em_clip, 1),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_by_hand_in_shard_map():
  """With `EMState.specs`, as one writes a training step of one's own."""
  mesh = jax.make_mesh(
    (4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4]
  )
  state = losses.em_init(COUNT, num_devices=4)
  rows, specs = PartitionSpec("data"), state.specs("data")

  @jax.jit
  @functools.partial(
    jax.shard_map,
    mesh=mesh,
    in_specs=(rows, rows, specs, rows),
    out_specs=losses.EMStep(rows, specs, rows),
  )
  def step(image, text, state, index):
    return losses.em_clip(
      image, text, state, index=index, temperature=0.2, axes="data"
    )

  (image, text), index, _ = make_steps("clip", 1)[0]
  found = step(image, text, state, index)
  expected = losses.em_clip(
    image,
    text,
    losses.em_init(COUNT),
    index=jnp.asarray(index),
    temperature=0.2,
  )
  np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
  assert found.state.tables["entries"].sharding.spec == rows


def test_through_scan_with_a_donated_state():
  steps = make_steps("clip", 4)
  expected = run("clip", steps, concentration=2.0)
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *steps)

  @functools.partial(jax.jit, donate_argnums=0)
  def whole(state, steps):
    def body(state, inputs):
      (arrays, index, tau), t = inputs
      step = losses.em_clip(
        *arrays,
        state,
        index=index,
        key=jax.random.key(t),
        temperature=tau,
        concentration=2.0,
      )
      return step.state, step.loss

    return jax.lax.scan(body, state, (steps, jnp.arange(4)))

  state = losses.em_init(COUNT)
  made, values = whole(state, stacked)
  assert state.tables["entries"].is_deleted()
  for a, b in zip(values, expected, strict=True):
    np.testing.assert_allclose(a, b.loss, rtol=1e-5)
  for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(expected[-1].state)):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
