"""FLOPs of traced programs against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from experiments.benchmarks import flops
from tests.meshes import make_mesh


def count(f, *shapes):
  arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  return flops.products(jax.jit(f).trace(*arrays).jaxpr)


def test_a_product_and_its_gradient():
  def loss(w, x):
    return jnp.sum(jnp.tanh(x @ w))

  forward = 2 * 8 * 16 * 4
  assert count(loss, (16, 4), (8, 16)) == forward
  assert count(jax.grad(loss), (16, 4), (8, 16)) == 2 * forward
  assert count(jax.grad(loss, (0, 1)), (16, 4), (8, 16)) == 3 * forward


def test_batched_products_and_convolutions():
  assert count(lambda a, b: a @ b, (3, 8, 5), (3, 5, 4)) == 3 * 2 * 8 * 4 * 5

  def conv(x, k):
    return jax.lax.conv_general_dilated(
      x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  assert count(conv, (2, 8, 8, 3), (3, 3, 3, 16)) == 2 * (2 * 4 * 4 * 16) * 27


def test_loops_remat_and_branches():
  def body(x, _):
    return jnp.tanh(x @ x), None

  def scanned(x):
    return jnp.sum(jax.lax.scan(jax.checkpoint(body), x, length=7)[0])

  once = 2 * 8**3
  assert count(scanned, (8, 8)) == 7 * once
  # Forward, again under checkpoint, and two products of the gradient.
  assert count(jax.grad(scanned), (8, 8)) == 7 * 4 * once

  def branches(x):
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

  assert count(branches, (8, 8)) == 2 * once
  with pytest.raises(ValueError, match="length is not known"):
    count(
      lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, x),
      (8, 8),
    )


@pytest.mark.parametrize("sizes", [(1, 1), (1, 8), (2, 4)])
def test_the_tiled_loss_on_a_mesh_is_four_products(sizes):
  n, d = 64, 16
  mesh = make_mesh(row=sizes[0], col=sizes[1])

  def loss(x, y):
    def local(x, y):
      return losses.clip(
        x, y, logit_scale=10.0, axes=("row", "col"), block_size=8
      )

    rows = P(("row", "col"))
    values = jax.shard_map(
      local, mesh=mesh, in_specs=(rows, rows), out_specs=rows
    )(x, y)
    return jnp.mean(values)

  found = count(jax.grad(loss, (0, 1)), (n, d), (n, d))
  assert found == 4 * 2 * n * n * d
