import numpy as np
import pytest

from contrastive_jax import evaluation
from tests.evaluation import reference


def _draw(seed, rows=40, classes=5, levels=None):
  rng = np.random.default_rng(seed)
  scores = rng.normal(size=(rows, classes)).astype(np.float32)
  if levels:
    scores = rng.integers(0, levels, scores.shape).astype(np.float32)
  return scores, rng.choice([1, 0, 0, 0, -1], size=scores.shape)


@pytest.mark.parametrize("points", [2, 11, 101])
@pytest.mark.parametrize("levels", [None, 4])
def test_equals_brute_force(points, levels):
  scores, labels = _draw(points, levels=levels)
  found = evaluation.average_precision(scores, labels, points=points)
  expected = [
    reference.average_precision(scores[:, c], labels[:, c], points)
    for c in range(5)
  ]
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  assert evaluation.mean_average_precision(
    scores, labels, points=points
  ) == pytest.approx(np.mean(expected))


def test_a_recall_of_three_tenths_is_reached_by_three_of_ten():
  # Right, right, right, then wrong ones: in floats 3 / 10 < 0.1 * 3.
  labels = np.array([1] * 3 + [0] * 7 + [1] * 7)[:, None]
  found = evaluation.average_precision(-np.arange(17.0)[:, None], labels)
  # Recalls 0 to .3 at a precision of 1, .4 to 1 at 10 / 17 of the last image.
  np.testing.assert_allclose(found, (4 + 7 * 10 / 17) / 11, rtol=1e-12)


def test_order_does_not_matter_and_ties_lose():
  scores, labels = _draw(3, levels=3)
  found = evaluation.average_precision(scores, labels)
  order = np.random.default_rng(0).permutation(len(scores))
  np.testing.assert_array_equal(
    evaluation.average_precision(scores[order], labels[order]), found
  )
  constant = evaluation.average_precision(0 * scores, labels)
  shares = [(y > 0).sum() / (y >= 0).sum() for y in labels.T]
  np.testing.assert_allclose(constant, shares)


def test_what_is_not_counted_does_not_count():
  scores, labels = _draw(5)
  kept = labels[:, 0] >= 0
  np.testing.assert_array_equal(
    evaluation.average_precision(scores[:, :1], labels[:, :1]),
    evaluation.average_precision(scores[kept, :1], labels[kept, :1]),
  )


def test_a_class_that_no_image_shows_is_not_in_the_mean():
  scores, labels = _draw(7)
  labels[:, 2] = 0
  values = evaluation.average_precision(scores, labels)
  assert np.isnan(values).tolist() == [False, False, True, False, False]
  mean = evaluation.mean_average_precision(scores, labels)
  assert mean == pytest.approx(np.delete(values, 2).mean())


@pytest.mark.parametrize(
  "scores, labels, options, message",
  [
    (
      np.zeros((2, 3)),
      np.zeros((2, 2), int),
      {},
      r"\blabels\b.*\[2, 3\].*got int64\[2, 2\]",
    ),
    (
      np.zeros((2, 3)),
      np.zeros((2, 3)),
      {},
      r"\blabels\b.*got float64\[2, 3\]",
    ),
    (
      np.zeros((2, 1)),
      np.array([[2], [0]]),
      {},
      r"\blabels\b.*1, 0 and -1\b.*got 0 to 2",
    ),
    (
      np.full((2, 1), np.nan),
      np.ones((2, 1), int),
      {},
      r"\bscores\b.*got 2 row.*row 0",
    ),
    (
      np.zeros((2, 1)),
      np.zeros((2, 1), int),
      {},
      r"\blabels\b.*\b1\b.*got int64\[2, 1\]",
    ),
    (
      np.zeros((2, 1)),
      np.ones((2, 1), int),
      {"points": 1},
      r"\bpoints\b.*\b2\b.*got 1",
    ),
  ],
)
def test_bad_input_is_refused(scores, labels, options, message):
  with pytest.raises(ValueError, match=message):
    evaluation.mean_average_precision(scores, labels, **options)
