"""MoCo against a queue: float64 reference, devices, tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from tests.losses import fusion_references as references
from tests.meshes import make_mesh

N, M, D = 8, 24, 6


def unit(rng, n, dtype=np.float32):
  x = rng.normal(size=(n, D))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


def make_inputs(n=N, m=M):
  rng = np.random.default_rng(0)
  return unit(rng, n), unit(rng, n), unit(rng, m)


def with_gradients(loss, arrays, tau, weights):
  def weighted(q, k, queue, tau):
    values = loss(q, k, queue, temperature=tau)
    return jnp.sum(weights * values), values

  run = jax.jit(jax.grad(weighted, argnums=(0, 1, 2, 3), has_aux=True))
  return run(*arrays, jnp.float32(tau))


@pytest.mark.parametrize("n, m", [(N, M), (1, 1), (5, 3)])
@pytest.mark.parametrize("tau", [1.0, 0.1])
@pytest.mark.parametrize("block_size", [None, 4, "auto"])
def test_values_and_gradients(n, m, tau, block_size):
  arrays = make_inputs(n, m)
  weights = np.random.default_rng(1).normal(size=n)

  def loss(*args, **options):
    return losses.moco_v2(*args, **options, block_size=block_size)

  (dq, dk, dqueue, dtau), values = with_gradients(loss, arrays, tau, weights)
  expected = references.moco_v2(*arrays, temperature=tau, weights=weights)
  grad, grad_tau = (expected.gradients[k] for k in ("queries", "temperature"))
  np.testing.assert_allclose(values, expected.per_example, rtol=1e-6, atol=3e-6)
  scale = np.abs(grad).max()
  np.testing.assert_allclose(dq, grad, rtol=0, atol=1e-5 * scale)
  np.testing.assert_allclose(dtau, grad_tau, rtol=1e-4, atol=1e-5)
  assert not np.any(dk) and not np.any(dqueue)


@pytest.mark.parametrize(
  "sizes, axes",
  [
    ({"data": 2}, "data"),
    ({"data": 8}, "data"),
    ({"row": 2, "col": 4}, ("row", "col")),
    ({"row": 4, "col": 2}, ("row", "col")),
  ],
)
def test_devices(sizes, axes):
  arrays = make_inputs()
  weights = np.random.default_rng(1).normal(size=N).astype(np.float32)

  def over(*args, temperature):
    def local(q, k, queue, tau):
      return losses.moco_v2(q, k, queue, temperature=tau, axes=axes)

    return jax.shard_map(
      local,
      mesh=make_mesh(**sizes),
      in_specs=(P(axes), P(axes), P(axes), P()),
      out_specs=P(axes),
    )(*args, temperature)

  actual = with_gradients(over, arrays, 0.2, weights)
  expected = with_gradients(losses.moco_v2, arrays, 0.2, weights)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    np.testing.assert_allclose(
      a, b, rtol=0, atol=2e-6 * max(1, np.abs(b).max())
    )


def test_a_low_temperature_and_bfloat16_are_finite():
  arrays = [jnp.asarray(x, jnp.bfloat16) for x in make_inputs()]
  values = losses.moco_v2(*arrays, temperature=0.01)
  assert values.dtype == jnp.float32 and np.all(np.isfinite(values))


def test_bad_input_is_refused():
  q, k, queue = make_inputs()
  with pytest.raises(ValueError, match=r"\bqueue\b.*\b6\b.*got \(24, 5\)"):
    losses.moco_v2(q, k, queue[:, :5], temperature=0.1)
  with pytest.raises(ValueError, match=r"\bqueue\b.*\[N, d\].*got \(6,\)"):
    losses.moco_v2(q, k, queue[0], temperature=0.1)
  with pytest.raises(ValueError, match=r"\bmomentum_keys\b.*got \(3, 6\)"):
    losses.moco_v2(q, k[:3], queue, temperature=0.1)
  with pytest.raises(ValueError, match=r"\btemperature\b.*got 0\.0"):
    losses.moco_v2(q, k, queue, temperature=0.0)
