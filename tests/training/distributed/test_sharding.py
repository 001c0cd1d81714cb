"""The mesh of a run, and how its state and batches lie on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.training.distributed import sharding


@pytest.mark.parametrize(
  "count, shape",
  [(1, (1, 1)), (2, (1, 2)), (4, (2, 2)), (6, (2, 3)), (8, (2, 4))],
)
def test_the_mesh_is_a_grid(count, shape):
  mesh = sharding.make_mesh(jax.devices()[:count])
  assert mesh.axis_names == ("row", "col")
  assert mesh.devices.shape == shape


def test_sides_that_a_torus_does_not_have_are_passed_over(monkeypatch):
  make = jax.make_mesh

  def torus(shape, *args, **options):
    if shape == (2, 4):
      raise NotImplementedError
    return make(shape, *args, **options)

  monkeypatch.setattr(jax, "make_mesh", torus)
  assert sharding.make_mesh(jax.devices()[:8]).devices.shape == (1, 8)


def test_large_leaves_are_split_along_their_longest_axis_that_divides():
  mesh = sharding.make_mesh(jax.devices()[:8])
  both = ("row", "col")
  leaves = {
    "wide": (256, 512),
    "odd": (1001, 128),
    "small": (64, 64),
    "neither": (1001, 101),
    "scalar": (),
  }
  tree = {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in leaves.items()}
  specs = jax.tree.map(
    lambda s: s.spec, sharding.state_sharding(tree, mesh, fsdp=True)
  )
  assert specs == {
    "wide": P(None, both),
    "odd": P(None, both),
    "small": P(),
    "neither": P(),
    "scalar": P(),
  }
  whole = sharding.state_sharding(tree, mesh, fsdp=False)
  assert all(s.is_fully_replicated for s in jax.tree.leaves(whole))


def test_rows_of_a_batch_are_split_in_order():
  mesh = sharding.make_mesh(jax.devices()[:4])
  batch = sharding.put_batch({"x": np.arange(8)}, mesh)
  parts = [s.data.tolist() for s in batch["x"].addressable_shards]
  assert sorted(parts) == [[0, 1], [2, 3], [4, 5], [6, 7]]
  np.testing.assert_array_equal(batch["x"], np.arange(8))
