"""No function may form the matrix of all similarities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.evaluation import _blockwise, _inputs, geometry, retrieval
from tests.evaluation import peak_memory

_FUNCTIONS = ("retrieval", "relevance", "top_k", "uniformity", "histogram")
_ALLOWED = 300 << 20

needs_high_water = pytest.mark.skipif(
  peak_memory.high_water() is None, reason="the system does not tell the peak"
)


@pytest.fixture(scope="module", name="grown")
def fixture_grown():
  return peak_memory.measure(*_FUNCTIONS)


@needs_high_water
@pytest.mark.parametrize("name", _FUNCTIONS)
def test_peak_memory_of_a_large_case(name, grown):
  assert grown[name] < _ALLOWED


@needs_high_water
def test_the_matrix_of_all_similarities_would_be_seen():
  assert peak_memory.measure("matrix")["matrix"] > 3 * _ALLOWED


def test_memory_of_a_compiled_tile():
  size, d = 512, 16
  block = jax.ShapeDtypeStruct((size, d), jnp.float32)
  row = jax.ShapeDtypeStruct((size,), jnp.float32)
  codes = jax.ShapeDtypeStruct((size,), jnp.int32)
  lowered = [
    retrieval._best_right.lower(row, block, block, (codes, codes)),
    retrieval._count_wrong.lower(codes, row, block, block, (codes, codes), 9),
    geometry._log_kernel_sum.lower(block, block, 0, 0, 9, 2.0),
    geometry._count_bins.lower(block, block, (codes, codes), 9, 9, bins=10),
  ]
  for stage in lowered:
    memory = stage.compile().memory_analysis()
    assert memory.temp_size_in_bytes <= 4 * (4 * size * size)
    # Only vectors leave a tile.
    assert memory.output_size_in_bytes <= 4 * size


def test_block_length_is_bounded_and_repeats():
  assert [_blockwise.block_length(n, 1024) for n in (1, 2, 3, 1000, 5000)] == [
    1,
    2,
    4,
    1024,
    1024,
  ]
  assert _blockwise.block_length(100, 7) == 7


def test_relevance_tiles_cover_the_whole_mask():
  rng = np.random.default_rng(0)
  mask = rng.random((13, 22)) < 0.2
  relevance = _blockwise.Relevance(
    None, None, [np.flatnonzero(row) for row in mask], mask.shape, 5
  )
  full = np.zeros((15, 25), bool)
  for i in range(3):
    for j in range(5):
      tile = np.asarray(_blockwise.right(relevance.tile(i, j)))
      assert relevance.any(i, j) == tile.any()
      full[5 * i : 5 * i + 5, 5 * j : 5 * j + 5] = tile
  np.testing.assert_array_equal(full[:13, :22], mask)
  assert not full[13:].any() and not full[:, 22:].any()


def test_normalization_is_safe_at_the_ends_of_float32():
  x = np.array([[0, 0], [1e-45, 0], [3e-30, 4e-30], [3e30, 4e30]], np.float32)
  unit = _inputs.l2_normalize(x)
  assert np.isfinite(unit).all()
  np.testing.assert_allclose(
    unit, [[0, 0], [1, 0], [0.6, 0.8], [0.6, 0.8]], rtol=1e-6
  )


def test_ties_are_errors_for_a_linear_classifier():
  x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], np.float32)
  labels = np.array([0, 1, 0], np.int32)
  correct = _blockwise.linear_correct(x, jnp.eye(2), jnp.zeros(2), labels, 2)
  assert correct.tolist() == [True, True, False]
