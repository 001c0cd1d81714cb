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


def test_no_array_of_pairs_is_formed():
  x = jnp.zeros((2048, 8))

  def loss(x):
    return losses.uniformity(x, block_size=256)

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
