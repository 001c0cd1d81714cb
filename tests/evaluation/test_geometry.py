import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import evaluation
from tests.evaluation import reference


def _random(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("rows", [1, 37])
def test_alignment_equals_brute_force(rows, normalize):
  x, y = _random(0, rows, 5), _random(1, rows, 5)
  a, b = (reference.unit(x), reference.unit(y)) if normalize else (x, y)
  distances = [np.linalg.norm(p - q) for p, q in zip(a, b)]
  for alpha in (1.0, 2.0, 3.0):
    value = evaluation.alignment(x, y, alpha=alpha, normalize=normalize)
    expected = np.mean([distance**alpha for distance in distances])
    assert value == pytest.approx(expected, rel=1e-5)
  assert evaluation.alignment(x, x) == 0.0


@pytest.mark.parametrize("block_size", [5, 16, 1024])
@pytest.mark.parametrize("rows", [2, 37])
def test_uniformity_equals_brute_force(rows, block_size):
  x = _random(2, rows, 5)
  u = reference.unit(x)
  for t in (0.5, 2.0):
    pairs = [
      np.exp(-t * np.sum((u[i] - u[j]) ** 2))
      for i in range(rows)
      for j in range(rows)
      if i != j
    ]
    value = evaluation.uniformity(x, t=t, block_size=block_size)
    assert value == pytest.approx(np.log(np.mean(pairs)), rel=1e-5)


def test_uniformity_without_normalization_does_not_underflow():
  x = np.array([[0.0], [30.0], [-30.0]])
  # Mean of exp(-1800), exp(-1800) and exp(-7200).
  value = evaluation.uniformity(x, normalize=False)
  assert value == pytest.approx(-1800 + np.log(2 / 3), rel=1e-6)


def test_collapse_is_least_uniform_and_order_does_not_matter():
  collapsed = np.tile(_random(3, 1, 50), (40, 1))
  assert evaluation.uniformity(collapsed) == pytest.approx(0, abs=1e-5)
  x = _random(4, 40, 50)
  value = evaluation.uniformity(x)
  assert value < -3.5
  assert evaluation.uniformity(x[::-1], block_size=16) == pytest.approx(
    value, rel=1e-6
  )


def test_modality_gap_equals_brute_force():
  x, y = _random(5, 30, 6), _random(6, 30, 6) + 0.7
  a, b = reference.unit(x), reference.unit(y)
  gap = evaluation.modality_gap(x, jnp.asarray(y))
  assert gap["centroid_distance"] == pytest.approx(
    np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)), rel=1e-5
  )
  assert gap["mean_paired_distance"] == pytest.approx(
    np.linalg.norm(a - b, axis=1).mean(), rel=1e-5
  )
  gap = evaluation.modality_gap(x, x + np.float32(2), normalize=False)
  assert gap["centroid_distance"] == pytest.approx(2 * np.sqrt(6), rel=1e-5)
  permuted = evaluation.modality_gap(x[::-1], y[::-1])
  assert permuted == pytest.approx(evaluation.modality_gap(x, y))


@pytest.mark.parametrize("block_size", [7, 1024])
@pytest.mark.parametrize("explicit", [True, False])
def test_histogram_equals_brute_force(explicit, block_size):
  rng = np.random.default_rng(7)
  x, y = _random(8, 33, 4), _random(9, 21, 4)
  ids, others = rng.integers(0, 6, 33), rng.integers(0, 6, 21)
  right = reference.mask_from_ids(ids, others)
  truth = (
    {"relevance": [np.flatnonzero(row) for row in right]}
    if explicit
    else {"query_ids": ids, "gallery_ids": others}
  )
  histogram = evaluation.similarity_histogram(
    x, y, bins=20, block_size=block_size, **truth
  )
  cosine = reference.unit(x) @ reference.unit(y).T
  edges = np.linspace(-1, 1, 21)
  np.testing.assert_array_equal(histogram["edges"], edges)
  for name, values in (
    ("positives", cosine[right]),
    ("negatives", cosine[~right]),
  ):
    expected = np.histogram(values, edges)[0]
    np.testing.assert_array_equal(histogram[name], expected)
    assert histogram[name].dtype == np.int64


def test_histogram_keeps_the_ends():
  x = np.array([[3.0, 4.0], [-3.0, -4.0]])
  histogram = evaluation.similarity_histogram(x, x, [0, 1], [0, 1], bins=10)
  assert histogram["positives"][-1] == 2
  assert histogram["negatives"][0] == 2


_X = np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: evaluation.alignment(_X, _X[:2]), r"\bsecond\b.*got 2"),
    (
      lambda: evaluation.alignment(_X, _X[:, :1]),
      r"\bsecond\b.*\b2\b.*got float32\[3, 1\]",
    ),
    (lambda: evaluation.alignment(_X, _X, alpha=0.0), r"\balpha\b.*got 0\.0"),
    (lambda: evaluation.modality_gap(_X, _X[:2]), r"\bsecond\b.*got 2"),
    (
      lambda: evaluation.modality_gap(_X[0], _X),
      r"\bfirst\b.*got float32\[2\]",
    ),
    (
      lambda: evaluation.uniformity(_X[:1]),
      r"\bx\b.*\b2\b.*got float32\[1, 2\]",
    ),
    (lambda: evaluation.uniformity(_X, t=-1), r"\bt\b.*got -1"),
    (
      lambda: evaluation.uniformity(_X, block_size=1.5),
      r"\bblock_size\b.*got 1\.5",
    ),
    (
      lambda: evaluation.similarity_histogram(_X, _X, [0, 1, 2], [0]),
      r"\bgallery_ids\b.*got 1",
    ),
    (
      lambda: evaluation.similarity_histogram(
        _X, _X, range(3), range(3), bins=0
      ),
      r"\bbins\b.*got 0",
    ),
  ],
)
def test_bad_input_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
