"""Uniformity: float64 reference, devices, tiles, properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from tests.losses import structure_references as references
from tests.meshes import make_mesh

N, D = 16, 6


def make_inputs(n=N, count=2):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(count, n, D))
  x /= np.linalg.norm(x, axis=-1, keepdims=True)
  return tuple(x.astype(np.float32))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("block_size", [None, 8, 5, "auto"])
@pytest.mark.parametrize("t", [2.0, 0.5])
def test_value_and_gradient(count, block_size, t):
  features = make_inputs(count=count)

  def loss(features, t):
    return losses.uniformity(*features, t=t, block_size=block_size)

  value, (grads, by_t) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
    features, jnp.float32(t)
  )
  expected = references.uniformity(*features, t=t)
  by = expected.gradients
  assert value.shape == () and value.dtype == jnp.float32
  np.testing.assert_allclose(
    value, expected.per_example[0], rtol=1e-5, atol=2e-6
  )
  for a, b in zip(
    grads, (by[k] for k in ("image", "text", "other_0") if k in by)
  ):
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(b).max())
  np.testing.assert_allclose(by_t, by["t"], rtol=2e-5)


@pytest.mark.parametrize(
  "sizes, axes",
  [
    ({"data": 2}, "data"),
    ({"data": 8}, "data"),
    ({"row": 2, "col": 4}, ("row", "col")),
  ],
)
def test_devices(sizes, axes):
  features = make_inputs()

  def over(*features):
    return jax.shard_map(
      lambda *x: losses.uniformity(*x, axes=axes),
      mesh=make_mesh(**sizes),
      in_specs=P(axes),
      out_specs=P(),
    )(*features)

  both = [
    jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*features)
    for loss in (over, losses.uniformity)
  ]
  for a, b in zip(*map(jax.tree.leaves, both)):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_what_is_known():
  one = np.tile(make_inputs(1)[0], (N, 1))
  np.testing.assert_allclose(
    losses.uniformity(one, one), np.log(2 * N), rtol=1e-6
  )
  assert losses.uniformity(one[:1]) == pytest.approx(0.0, abs=1e-6)
  x = make_inputs()[0]
  turned = x @ np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0]
  order = np.random.default_rng(2).permutation(N)
  expected = losses.uniformity(x)
  for other in (turned.astype(np.float32), x[order]):
    np.testing.assert_allclose(losses.uniformity(other), expected, atol=2e-6)
  low = losses.uniformity(jnp.asarray(x, jnp.bfloat16))
  np.testing.assert_allclose(low, expected, atol=0.02)


def distances(x, y):
  """Squared ones, for unit norm."""
  return 2.0 - 2.0 * x @ y.T


def potential_of_others(x, y, t):
  away = ~jnp.eye(len(x), dtype=bool)
  return jnp.sum(jnp.where(away, jnp.exp(-t * distances(x, y)), 0.0))


def cross_uniformity(v, u, t):
  return jnp.log(potential_of_others(v, u, t) / len(v))


def centroid_uniformity(v, u, t):
  c = (v + u) / 2
  c = c / jnp.linalg.norm(c, axis=1, keepdims=True)
  return jnp.log(potential_of_others(c, c, t) / (len(c) * (len(c) - 1)))


def paired_distance(v, u, t):
  rows = jnp.square(jnp.linalg.norm(v - u, axis=1))
  return t * jnp.sum(jnp.arange(len(v)) * rows)


def derivatives(loss, arrays, t, directions):
  """Value, gradient in all arguments, and the Hessian times a direction."""
  value = jax.value_and_grad(loss, argnums=(0, 1))(arrays, t)
  # Tiles of one array with itself have no reverse of their reverse.
  by_arrays = jax.grad(lambda arrays: loss(arrays, t))
  return value, jax.jvp(by_arrays, (arrays,), (tuple(directions),))[1]


PLAIN = {
  f.__name__: f
  for f in (cross_uniformity, centroid_uniformity, paired_distance)
}


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("t", [2.0, 0.5])
@pytest.mark.parametrize("name", PLAIN)
def test_of_two_modalities(name, t, block_size):
  arrays = make_inputs()
  directions = np.random.default_rng(5).normal(size=(2, N, D))

  def loss(arrays, t):
    if name == "paired_distance":
      return t * jnp.sum(jnp.arange(N) * losses.paired_distance(*arrays))
    return getattr(losses, name)(*arrays, t=t, block_size=block_size)

  with jax.enable_x64(True):
    expected = derivatives(
      lambda arrays, t: PLAIN[name](*arrays, t),
      tuple(map(np.float64, arrays)),
      np.float64(t),
      np.float64(directions),
    )
  found = jax.jit(derivatives, static_argnums=0)(
    loss, arrays, jnp.float32(t), jnp.float32(directions)
  )
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(a, b, atol=3e-6 * (1.0 + np.abs(b).max()))


@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("name", ["cross_uniformity", "centroid_uniformity"])
def test_of_two_modalities_on_devices(name, devices):
  loss = getattr(losses, name)

  def over(*features):
    return jax.shard_map(
      lambda *x: loss(*x, axes="data"),
      mesh=make_mesh(data=devices),
      in_specs=P("data"),
      out_specs=P(),
    )(*features)

  both = [
    jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(*make_inputs())
    for f in (over, loss)
  ]
  for a, b in zip(*map(jax.tree.leaves, both)):
    np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def test_what_is_known_of_two_modalities():
  x, y = make_inputs()
  one = np.tile(x[:1], (N, 1))
  np.testing.assert_allclose(
    losses.cross_uniformity(one, one), np.log(N - 1), rtol=1e-6
  )
  assert losses.centroid_uniformity(one, one) == pytest.approx(0.0, abs=1e-6)
  order = np.random.default_rng(2).permutation(N)
  for name in ("cross_uniformity", "centroid_uniformity"):
    loss = getattr(losses, name)
    np.testing.assert_allclose(loss(x, y), loss(y, x), rtol=1e-5)
    np.testing.assert_allclose(loss(x, y), loss(x[order], y[order]), rtol=1e-5)
  # A gap between the modalities leaves the centroids where they are.
  gap = np.float32(3.0) * np.eye(D, dtype=np.float32)[0]
  moved = losses.centroid_uniformity(x + gap, x - gap)
  np.testing.assert_allclose(moved, losses.centroid_uniformity(x, x), atol=1e-5)
  np.testing.assert_allclose(losses.paired_distance(x, -x), 4.0, rtol=1e-6)
  assert losses.paired_distance(x, x).tolist() == [0.0] * N


@pytest.mark.parametrize("name", PLAIN)
def test_bad_input_of_two_modalities_is_refused(name):
  x, y = make_inputs()
  with pytest.raises(ValueError, match=r"\btext\b.*\(4, 6\)"):
    getattr(losses, name)(x, y[:4])
  if name != "paired_distance":
    with pytest.raises(ValueError, match=r"\bt\b.*got -1\.0"):
      getattr(losses, name)(x, y, t=-1.0)


@pytest.mark.parametrize("name", ["uniformity", *list(PLAIN)[:2]])
def test_no_array_of_pairs_is_formed(name):
  x = jnp.zeros((2048, 8))

  def loss(x):
    given = (x,) if name == "uniformity" else (x, x[::-1])
    return getattr(losses, name)(*given, block_size=256)

  text = jax.jit(jax.grad(loss)).lower(x).compile().as_text()
  assert "2048,2048" not in text and "256,256" in text


def test_bad_input_is_refused():
  x, y = make_inputs()
  with pytest.raises(ValueError, match=r"\bfeatures\b.*got none"):
    losses.uniformity()
  with pytest.raises(ValueError, match=r"\bfeatures\[1\].*got \(4, 6\)"):
    losses.uniformity(x, y[:4])
  with pytest.raises(ValueError, match=r"\bt\b.*got 0\.0"):
    losses.uniformity(x, t=0.0)
