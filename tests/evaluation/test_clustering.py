"""Clusters against scikit-learn's, and what is known of them."""

import numpy as np
import pytest
from sklearn import cluster, metrics

from contrastive_jax import evaluation


def blobs(count=60, classes=4, spread=0.2, seed=0):
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(classes, 8))
  labels = np.arange(count) % classes
  return centres[labels] + spread * rng.normal(size=(count, 8)), labels


def inertia(x, labels):
  return sum(
    np.square(x[labels == k] - x[labels == k].mean(0)).sum()
    for k in np.unique(labels)
  )


@pytest.mark.parametrize("normalize", [False, True])
def test_clear_clusters_are_found(normalize):
  x, labels = blobs()
  found = evaluation.k_means(x, 4, normalize=normalize)
  assert evaluation.v_measure(labels, found)["v_measure"] == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_as_tight_as_the_library_s(seed):
  x, _ = blobs(200, 7, spread=1.0, seed=seed)
  found = evaluation.k_means(x, 7, normalize=False, restarts=8, seed=seed)
  theirs = cluster.KMeans(7, n_init=8, random_state=seed).fit(x)
  assert set(found) == set(range(7))
  assert inertia(x, found) <= 1.02 * theirs.inertia_


def test_equal_rows_and_as_many_clusters_as_rows():
  x = np.ones((5, 3), np.float32)
  assert evaluation.k_means(x, 3).shape == (5,)
  x, _ = blobs(6)
  assert sorted(evaluation.k_means(x, 6)) == list(range(6))
  assert set(evaluation.k_means(x, 1)) == {0}


def test_a_start_is_its_seed_s():
  x, _ = blobs(50, 5, spread=2.0)
  one, again = (evaluation.k_means(x, 5, seed=3, restarts=1) for _ in range(2))
  np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize("seed", range(4))
def test_the_v_measure_is_the_library_s(seed):
  rng = np.random.default_rng(seed)
  labels, clusters = rng.integers(0, 5, 80), rng.integers(0, 3 + seed, 80)
  found = evaluation.v_measure(labels, clusters)
  expected = metrics.homogeneity_completeness_v_measure(labels, clusters)
  np.testing.assert_allclose([*found.values()], expected, atol=1e-12)
  # Names do not matter.
  named = np.array([f"c{c}" for c in clusters])
  assert evaluation.v_measure(labels, named) == found


def test_the_v_measure_of_one_class_or_one_cluster():
  for labels, clusters in (
    ([0, 0], [0, 1]),
    ([0, 1], [0, 0]),
    ([0, 0], [1, 1]),
  ):
    found = evaluation.v_measure(labels, clusters)
    expected = metrics.homogeneity_completeness_v_measure(labels, clusters)
    np.testing.assert_allclose([*found.values()], expected, atol=1e-12)


@pytest.mark.parametrize(
  ("call", "named"),
  [
    (lambda x: evaluation.k_means(x, 0), "clusters.*got 0"),
    (lambda x: evaluation.k_means(x, 99), "clusters.*got 99"),
    (lambda x: evaluation.k_means(x, 2, restarts=0), "restarts.*got 0"),
    (lambda x: evaluation.k_means(x, 2, iterations=0), "iterations.*got 0"),
    (lambda x: evaluation.k_means(x[0], 2), r"x .*\[8\]"),
    (lambda x: evaluation.v_measure([], []), "labels"),
    (lambda x: evaluation.v_measure([1, 2], [1]), r"clusters.*\[1\]"),
  ],
)
def test_mistakes(call, named):
  with pytest.raises(ValueError, match=named):
    call(blobs(8)[0])


def test_centred_modalities_have_no_gap():
  x, _ = blobs()
  shift = 3.0 * np.eye(8)[0]
  one, other = x + shift, x - shift
  assert evaluation.modality_gap(one, other)["centroid_distance"] > 1.0
  first, second = evaluation.center(one), evaluation.center(other)
  np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1.0, rtol=1e-6)
  assert evaluation.modality_gap(first, second)["centroid_distance"] < 0.3
  # The mean is that of unit-norm rows, and may be another set's.
  unit = one / np.linalg.norm(one, axis=1, keepdims=True)
  expected = unit[:10] - unit.mean(0)
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  found = evaluation.center(one[:10], one)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  assert not evaluation.center(one[:1]).any()
  with pytest.raises(ValueError, match="reference"):
    evaluation.center(one, other[:, :3])
