import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive_jax import evaluation
from tests.evaluation import reference


def _random(seed, queries, gallery, d=12):
  rng = np.random.default_rng(seed)
  q = rng.normal(size=(queries, d)).astype(np.float32)
  g = rng.normal(size=(gallery, d)).astype(np.float32)
  return rng, q, g


@pytest.mark.parametrize("block_size", [7, 16, 1024])
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (41, 53)])
def test_ragged_ground_truth_equals_brute_force(shape, block_size):
  rng, q, g = _random(0, *shape)
  # Few identifiers: many images a caption and many captions an image.
  query_ids = rng.integers(0, 9, shape[0])
  gallery_ids = rng.integers(0, 7, shape[1])
  query_ids[0] = gallery_ids[0]
  right = reference.mask_from_ids(query_ids, gallery_ids)
  scores = reference.unit(q) @ reference.unit(g).T
  expected = reference.ranks(scores, right)
  ranks = evaluation.retrieval_ranks(
    q, g, query_ids, gallery_ids, block_size=block_size
  )
  assert ranks.tolist() == [shape[1] + 1 if r is None else r for r in expected]

  judged = np.array([r for r in expected if r is not None])
  metrics = evaluation.retrieval_metrics(
    q, g, query_ids, gallery_ids, ks=(1, 2, 100), block_size=block_size
  )
  assert metrics == {
    "recall_at_1": np.mean(judged <= 1),
    "recall_at_2": np.mean(judged <= 2),
    "recall_at_100": 1.0,
    "median_rank": np.median(judged),
    "mean_rank": np.mean(judged),
    "queries": len(judged),
    "queries_without_match": shape[0] - len(judged),
  }
  assert all(type(value) is float for value in metrics.values())


@pytest.mark.parametrize("block_size", [8, 1024])
def test_explicit_relevance_equals_brute_force(block_size):
  rng, q, g = _random(1, 37, 29)
  # Not an equivalence relation: no identifiers could express it.
  right = rng.random((37, 29)) < 0.1
  right[3] = False
  right[4] = True
  relevance = [np.flatnonzero(row)[::-1] for row in right]
  expected = reference.ranks(reference.unit(q) @ reference.unit(g).T, right)
  ranks = evaluation.retrieval_ranks(
    q, g, relevance=relevance, block_size=block_size
  )
  assert ranks.tolist() == [30 if r is None else r for r in expected]
  assert ranks[3] == 30 and ranks[4] == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 12))
def test_exact_ties_count_against_the_model(seed, queries, gallery):
  rng = np.random.default_rng(seed)
  # Small integers: exact scores, most of them tied.
  q = rng.integers(-1, 2, (queries, 3)).astype(np.float32)
  g = rng.integers(-1, 2, (gallery, 3)).astype(np.float32)
  query_ids = rng.integers(0, 4, queries)
  gallery_ids = rng.integers(0, 4, gallery)
  right = reference.mask_from_ids(query_ids, gallery_ids)
  expected = reference.ranks(q @ g.T, right)
  ranks = evaluation.retrieval_ranks(
    q, g, query_ids, gallery_ids, normalize=False, block_size=4
  )
  assert ranks.tolist() == [gallery + 1 if r is None else r for r in expected]


@pytest.mark.parametrize("dimension", [1, 3, 77])
def test_collapse_scores_worst(dimension):
  rng = np.random.default_rng(2)
  row = rng.normal(size=dimension)
  x = np.tile(row, (50, 1)).astype(np.float32)
  # Round-off as a network would leave it.
  noisy = x * (1 + 1e-7 * rng.normal(size=x.shape)).astype(np.float32)
  for gallery in (x, noisy):
    metrics = evaluation.retrieval_metrics(
      x, gallery, np.arange(50), np.arange(50), block_size=16
    )
    assert metrics["recall_at_10"] == 0.0
    assert metrics["median_rank"] == 50.0


def test_zero_vectors_tie_and_lose():
  x = np.zeros((4, 3), np.float32)
  ranks = evaluation.retrieval_ranks(x, x, range(4), range(4))
  assert ranks.tolist() == [4, 4, 4, 4]


def test_tie_tolerance_bounds_what_is_a_tie():
  angles = np.array([0.1, 0.1 + 1e-2])
  g = np.stack([np.cos(angles), np.sin(angles)], axis=1)
  q = np.array([[1.0, 0.0]])
  # The right item leads by about 1e-3.
  for tolerance, rank in ((0.0, 1), (1e-4, 1), (1e-2, 2)):
    ranks = evaluation.retrieval_ranks(
      q, g, [0], [0, 1], tie_tolerance=tolerance
    )
    assert ranks.tolist() == [rank]


def test_order_of_the_gallery_and_of_the_queries_does_not_matter():
  rng, q, g = _random(3, 40, 60)
  query_ids, gallery_ids = rng.integers(0, 20, 40), rng.integers(0, 20, 60)
  ranks = evaluation.retrieval_ranks(q, g, query_ids, gallery_ids)
  a, b = rng.permutation(40), rng.permutation(60)
  permuted = evaluation.retrieval_ranks(
    q[a], g[b], query_ids[a], gallery_ids[b], block_size=16
  )
  assert (permuted[a.argsort()] == np.minimum(ranks, 61)).all()


def test_scale_of_the_embeddings_does_not_matter_for_cosine():
  _, q, g = _random(4, 20, 20)
  ids = np.arange(20)
  ranks = evaluation.retrieval_ranks(q, g, ids, ids)
  for scale in (1e-30, 1e30):
    scaled = evaluation.retrieval_ranks(q * np.float32(scale), g, ids, ids)
    assert (scaled == ranks).all()


def test_inner_products_are_used_when_not_normalized():
  q = np.array([[1.0, 0.0]])
  g = np.array([[1.0, 0.0], [5.0, 9.0]])
  assert evaluation.retrieval_ranks(q, g, [0], [0, 1]).tolist() == [1]
  ranks = evaluation.retrieval_ranks(q, g, [0], [0, 1], normalize=False)
  assert ranks.tolist() == [2]


def test_identifiers_keep_64_bits_and_may_be_strings():
  x = np.eye(2, dtype=np.float32)
  wide = np.array([1, 1 + 2**32], np.int64)
  metrics = evaluation.retrieval_metrics(x, x[::-1], wide, wide)
  assert metrics["recall_at_1"] == 0.0
  high = np.array([2**63, 2**63 + 1], np.uint64)
  metrics = evaluation.retrieval_metrics(x[:1], x[::-1], [5], [6, 5])
  assert metrics["recall_at_1"] == 1.0
  ranks = evaluation.retrieval_ranks(x, x, high, np.array([1, 2]))
  assert ranks.tolist() == [3, 3]
  ranks = evaluation.retrieval_ranks(x, x, ["cat", "dog"], ["dog", "dog"])
  assert ranks.tolist() == [3, 1]


def test_jax_and_low_precision_inputs():
  _, q, g = _random(5, 20, 24)
  low_q, low_g = jnp.asarray(q, jnp.bfloat16), jnp.asarray(g, jnp.bfloat16)
  right = reference.mask_from_ids(np.arange(20), np.arange(24))
  scores = reference.unit(low_q) @ reference.unit(low_g).T
  ranks = evaluation.retrieval_ranks(
    low_q, low_g, jnp.arange(20), jnp.arange(24)
  )
  assert ranks.tolist() == reference.ranks(scores, right)


@pytest.mark.parametrize("block_size", [5, 16, 1024])
@pytest.mark.parametrize("k", [1, 7, 23])
def test_top_k_equals_a_stable_sort(k, block_size):
  _, q, g = _random(6, 19, 23)
  g[11] = g[4]  # an exact tie: the lower index comes first
  indices, scores = evaluation.top_k(q, g, k, block_size=block_size)
  expected = reference.unit(q) @ reference.unit(g).T
  # float32 may tell the twins apart or not; judge by score, then by index.
  order = np.argsort(-np.round(expected, 9), axis=1, kind="stable")[:, :k]
  np.testing.assert_array_equal(indices, order)
  taken = np.take_along_axis(expected, order, axis=1)
  np.testing.assert_allclose(scores, taken, atol=1e-6)
  assert indices.dtype == np.int32 and scores.dtype == np.float32


def test_same_tile_shape_compiles_once():
  from contrastive_jax.evaluation import retrieval

  ids = np.arange(70)
  x = np.random.default_rng(7).normal(size=(70, 5)).astype(np.float32)
  evaluation.retrieval_metrics(x, x, ids, ids, block_size=32)
  compiled = retrieval._count_wrong._cache_size()
  for count in (33, 40, 63, 65):
    evaluation.retrieval_metrics(x[:count], x, ids[:count], ids, block_size=32)
  assert retrieval._count_wrong._cache_size() == compiled


_X = np.ones((3, 2), np.float32)
_NAN = np.array([[1.0, 2.0], [np.nan, 1.0], [0.0, 1.0]])


@pytest.mark.parametrize(
  "arguments, message",
  [
    ((_X[0], _X, [0], [0]), r"\bqueries\b.*got float32\[2\]"),
    ((_X.astype(int), _X, [0], [0]), r"\bqueries\b.*got int64\[3, 2\]"),
    (
      (_X, np.ones((3, 4)), [0], [0]),
      r"\bgallery\b.*\b2\b.*got float64\[3, 4\]",
    ),
    ((_X[:0], _X, [], [0]), r"\bqueries\b.*\b1\b.*got float32\[0, 2\]"),
    ((_X, _NAN, range(3), range(3)), r"\bgallery\b.*got 1 row.*row 1"),
    ((_X, _X, range(2), range(3)), r"\bquery_ids\b.*got 2"),
    ((_X, _X, [0.5, 1, 2], range(3)), r"\bquery_ids\b.*got float64\[3\]"),
    (
      (_X, _X, ["a", "b", "c"], range(3)),
      r"\bgallery_ids\b.*got int64 and <U1",
    ),
    (
      (_X, _X, range(3)),
      r"\bquery_ids and gallery_ids\b.*got query_ids and None",
    ),
    ((_X, _X, [1, 2, 3], [4, 5, 6]), r"\bgallery\b.*got none for 3 queries"),
  ],
)
def test_bad_input_is_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    evaluation.retrieval_metrics(*arguments)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"ks": ()}, r"\bks\b.*got \(\)"),
    ({"ks": (0,)}, r"\bks\b.*got \(0,\)"),
    ({"ks": (1.5,)}, r"\bks\b.*got \(1\.5,\)"),
    ({"block_size": 0}, r"\bblock_size\b.*got 0"),
    ({"tie_tolerance": -1.0}, r"\btie_tolerance\b.*got -1\.0"),
    ({"tie_tolerance": float("nan")}, r"\btie_tolerance\b.*got nan"),
    ({"relevance": [[0], [1], [2]]}, r"\brelevance\b.*got both"),
  ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    evaluation.retrieval_metrics(_X, _X, range(3), range(3), **options)


@pytest.mark.parametrize(
  "relevance, message",
  [
    ([[0], [1]], r"\brelevance\b.* 3 .*got 2"),
    ([[0], [1], [3]], r"\brelevance\[2\].*\b0 to 2\b.*got 3 to 3"),
    ([[0], [-1], [2]], r"\brelevance\[1\].*got -1 to -1"),
    ([[0], [0.5], [2]], r"\brelevance\[1\].*got float64\[1\]"),
    ([[], [], []], r"\bgallery\b.*got none for 3 queries"),
  ],
)
def test_bad_relevance_is_refused(relevance, message):
  with pytest.raises(ValueError, match=message):
    evaluation.retrieval_metrics(_X, _X, relevance=relevance)


def test_top_k_refuses_more_than_there_are():
  with pytest.raises(ValueError, match=r"\bk\b.*\(3\).*got 4"):
    evaluation.top_k(_X, _X, 4)
  with pytest.raises(ValueError, match=r"\bk\b.*got 0"):
    evaluation.top_k(_X, _X, 0)


def test_overflowing_inner_products_are_refused():
  with pytest.raises(ValueError, match=r"\bgallery\b.*1e\+20"):
    evaluation.top_k(_X, _X * 1e20, 1, normalize=False)


def test_results_are_plain_host_values():
  ids = jax.device_put(np.arange(3))
  ranks = evaluation.retrieval_ranks(_X, _X, ids, ids)
  assert isinstance(ranks, np.ndarray) and ranks.dtype == np.int64
