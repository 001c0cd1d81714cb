"""Brownian bridge and alignment: float64 references, limits, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from tests.losses import structure_references as references
from tests.losses.structure.checks import (
  assert_close,
  cotangents,
  with_gradients,
)
from tests.meshes import make_mesh

N, D = 8, 6


def make_arrays(views, n=N, dtype=np.float32):
  start, end, *bridged = references.make_inputs(
    n, D, arrays=2 + views, dtype=dtype
  )
  return start, end, np.stack(bridged)


TIMES = np.linspace(0.1, 0.9, N, dtype=np.float32)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("t", [0.25, TIMES], ids=["fixed", "drawn"])
def test_value_and_gradient(t, views, weighted):
  arrays = make_arrays(views)
  weights = cotangents(N)
  t = np.broadcast_to(np.float32(t), N)

  def loss(start, end, bridged, t):
    return losses.brownian_bridge(start, end, bridged, t=t, weighted=weighted)

  rows, grads = with_gradients(loss)((*arrays, t), weights)
  expected = references.brownian_bridge(
    *arrays, t=t, weights=weights, weighted=weighted
  )
  assert rows.dtype == jnp.float32
  assert_close(rows, expected.per_example)
  for name, a in zip(("start", "end", "bridged", "t"), grads):
    assert_close(a, expected.gradients[name], what=name)


def test_one_view_needs_no_axis_of_its_own():
  start, end, views = make_arrays(1)
  np.testing.assert_array_equal(
    losses.brownian_bridge(start, end, views[0]),
    losses.brownian_bridge(start, end, views),
  )


def test_the_expansion_for_unit_vectors_and_the_printed_line():
  start, end, (z,) = make_arrays(1, n=64, dtype=np.float64)
  for t in (0.25, 0.6):
    to_ends = t * np.sum(start * z, 1) + (1 - t) * np.sum(end * z, 1)
    square = t**2 + (1 - t) ** 2 + 2 * t * (1 - t) * np.sum(start * end, 1)
    found = losses.brownian_bridge(*map(jnp.float32, (start, end, z)), t=t)
    expansion = 2.0 - 2.0 * to_ends / np.sqrt(square)
    np.testing.assert_allclose(found, expansion, rtol=1e-6, atol=1e-6)
    # The term that the paper prints as equal grows where the distance falls.
    printed = to_ends / square
    assert np.corrcoef(printed, found)[0, 1] < -0.9


def test_at_its_ends_the_mean_is_one_modality():
  start, end, (z,) = make_arrays(1)
  for t, at in ((0.0, end), (1.0, start)):
    found = losses.brownian_bridge(start, end, z, t=t)
    np.testing.assert_allclose(found, np.sum((z - at) ** 2, 1), rtol=1e-6)
    np.testing.assert_allclose(
      losses.brownian_bridge(start, end, at, t=t), 0.0, atol=1e-12
    )


def test_order_rotation_and_low_precision():
  start, end, views = make_arrays(2)
  expected = losses.brownian_bridge(start, end, views)
  order = np.random.default_rng(0).permutation(N)
  turn = np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0]
  moved = [np.float32(x[..., order, :] @ turn) for x in (start, end, views)]
  np.testing.assert_allclose(
    losses.brownian_bridge(*moved), expected[order], rtol=2e-6
  )
  low = [jnp.asarray(x, jnp.bfloat16) for x in (start, end, views)]
  rows = losses.brownian_bridge(*low)
  assert rows.dtype == jnp.float32
  exact = references.brownian_bridge(*low, t=0.25)
  assert_close(rows, exact.per_example)
  one = losses.brownian_bridge(start[:1], end[:1], views[:, :1])
  np.testing.assert_allclose(one, expected[:1], rtol=1e-6)


def test_opposite_ends_have_a_finite_gradient():
  x = make_arrays(1)[0]
  loss = lambda s, e: losses.brownian_bridge(s, e, x, t=0.5).sum()  # noqa: E731
  for gradient in jax.grad(loss, argnums=(0, 1))(x, -x):
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_devices_change_nothing(devices):
  start, end, views = make_arrays(2)
  key = jax.random.key(3)

  def step(start, end, views):
    index = losses_index(start.shape[0])
    t = losses.draw_bridge_time(key, index)
    return losses.brownian_bridge(start, end, views, t=t), t

  def losses_index(n):
    return jax.lax.axis_index("data") * n + jnp.arange(n)

  mapped = jax.jit(
    jax.shard_map(
      step,
      mesh=make_mesh(data=devices),
      in_specs=(P("data"), P("data"), P(None, "data")),
      out_specs=P("data"),
    )
  )
  rows, t = mapped(start, end, views)
  np.testing.assert_array_equal(t, losses.draw_bridge_time(key, jnp.arange(N)))
  expected = references.brownian_bridge(start, end, views, t=t)
  assert_close(rows, expected.per_example)


def test_drawn_times_are_uniform():
  t = losses.draw_bridge_time(
    jax.random.key(0), jnp.arange(4000), low=0.2, high=0.6
  )
  assert 0.2 <= t.min() < 0.201 and 0.599 < t.max() < 0.6
  assert abs(t.mean() - 0.4) < 4 * (0.4 / np.sqrt(12 * 4000))


@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
def test_alignment(epsilon):
  image, text = references.make_inputs(N, D, arrays=2)
  weights = cotangents(N)
  loss = functools.partial(losses.alignment, epsilon=epsilon)
  rows, grads = with_gradients(loss)((image, text), weights)
  expected = references.alignment(image, text, epsilon=epsilon, weights=weights)
  s = np.sum(np.float64(image) * text, axis=1)
  # 1 / s^2 multiplies the rounding of a small product.
  rounding = 1e-6 + 4e-7 / np.abs(s).min()
  assert_close(rows, expected.per_example, rounding)
  assert_close(grads[0], expected.gradients["image"], 3 * rounding)
  assert_close(grads[1], expected.gradients["text"], 3 * rounding)
  np.testing.assert_allclose(
    losses.alignment(image, image, epsilon=0.0), 1.0, rtol=1e-6
  )


def test_features_that_are_orthogonal_are_not_infinite():
  x, y = jnp.eye(2)
  gradient = jax.grad(lambda x: losses.alignment(x[None], y[None])[0])(x)
  assert np.isfinite(gradient).all()
  assert float(losses.alignment(x[None], y[None])[0]) == pytest.approx(1e3)


def test_bad_input_is_refused():
  start, end, views = make_arrays(1)
  bridge = losses.brownian_bridge
  with pytest.raises(ValueError, match=r"\bbridged\b.*\[N, d\].*got \(6,\)"):
    bridge(start, end, views[0][0])
  with pytest.raises(ValueError, match=r"\bend\b.*got \(3, 6\)"):
    bridge(start, end[:3], views)
  with pytest.raises(ValueError, match=r"\bbridged\b.*got \(3, 6\)"):
    bridge(start, end, views[:, :3])
  with pytest.raises(ValueError, match=r"\bt\b.*\[0, 1\].*got 1\.5"):
    bridge(start, end, views, t=1.5)
  with pytest.raises(ValueError, match=r"\bt\b.*\(0, 1\).*got 0\.0"):
    bridge(start, end, views, t=0.0, weighted=True)
  with pytest.raises(ValueError, match=r"\bt\b.*got \(3,\)"):
    bridge(start, end, views, t=np.zeros(3))
  with pytest.raises(ValueError, match=r"\blow and high\b.*got 0\.5 and 0\.5"):
    losses.draw_bridge_time(jax.random.key(0), jnp.arange(2), low=0.5, high=0.5)
  with pytest.raises(ValueError, match=r"\bindex\b.*got float32"):
    losses.draw_bridge_time(jax.random.key(0), jnp.ones(2))
  with pytest.raises(ValueError, match=r"\bepsilon\b.*got -1\.0"):
    losses.alignment(start, end, epsilon=-1.0)
