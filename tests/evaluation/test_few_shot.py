import jax
import numpy as np
import pytest

from contrastive_jax import evaluation
from contrastive_jax.evaluation import few_shot
from tests.evaluation import reference

_STRENGTHS = np.array([10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4])


def _prepared(x, y, classes):
  """Balanced weights, and `x` centred and scaled by hand."""
  weight = np.array([1 / (classes * np.sum(y == label)) for label in y])
  x = x.astype(np.float64)
  center = np.average(x, axis=0, weights=weight)
  spread = np.average(np.sum((x - center) ** 2, axis=1), weights=weight)
  return weight, center, np.sqrt(spread)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (4, 4, 4), (2, 9, 5)])
@pytest.mark.parametrize("d", [3, 40])
def test_ridge_equals_its_normal_equations(sizes, d):
  rng = np.random.default_rng(0)
  y = np.repeat([0, 1, 2], sizes)
  x = (5 * rng.normal(size=(len(y), d)) + 7).astype(np.float32)
  weight, center, scale = _prepared(x, y, 3)
  for strength in (1e-3, 1.0):
    kernel, bias, chosen = few_shot._fit_ridge(x, y, np.array([strength]), 3)
    assert chosen == strength
    expected, intercept = reference.ridge(
      (x - center) / scale, y, strength, weight, 3
    )
    logits = ((x - center) / scale) @ expected + intercept
    np.testing.assert_allclose(x @ kernel + bias, logits, atol=2e-5)


@pytest.mark.parametrize("seed", range(6))
def test_strength_is_that_of_least_leave_one_out_error(seed):
  rng = np.random.default_rng(seed)
  x, y = reference.blobs(rng, 3, 4, 6, spread=0.3 + seed)
  x, y = x[:-2], y[:-2]
  weight, center, scale = _prepared(x, y, 3)
  z = (x - center) / scale
  losses = []
  for strength in _STRENGTHS:
    loss = 0.0
    for i in range(len(y)):
      rest = np.arange(len(y)) != i
      kernel, bias = reference.ridge(
        z[rest], y[rest], strength, weight[rest], 3
      )
      loss += weight[i] * np.sum((np.eye(3)[y[i]] - z[i] @ kernel - bias) ** 2)
    losses.append(loss)
  chosen = few_shot._fit_ridge(x, y, _STRENGTHS, 3)[2]
  assert chosen == _STRENGTHS[np.argmin(losses)]


def test_accuracy_equals_a_loop_over_draws():
  rng = np.random.default_rng(1)
  x, y = reference.blobs(rng, 4, 9, 8, spread=2.5)
  test_x, test_y = x + 2 * rng.normal(size=x.shape), y
  key = jax.random.key(3)
  metrics = evaluation.few_shot_accuracy(
    x,
    y,
    test_x,
    test_y,
    key=key,
    shots=(2, 5),
    draws=3,
    regularizations=(0.1,),
    block_size=10,
  )
  for shots in (2, 5):
    accuracies = []
    for draw in range(3):
      position = few_shot._draw(jax.random.fold_in(key, draw), y)
      drawn = position < shots
      assert np.bincount(y[drawn]).tolist() == [shots] * 4
      weight, center, scale = _prepared(x[drawn], y[drawn], 4)
      kernel, bias = reference.ridge(
        (x[drawn] - center) / scale, y[drawn], 0.1, weight, 4
      )
      logits = (test_x - center) / scale @ kernel + bias
      accuracies.append(np.mean(logits.argmax(axis=1) == test_y))
    assert metrics[f"accuracy_{shots}_shot"] == pytest.approx(
      np.mean(accuracies)
    )
    assert metrics[f"accuracy_{shots}_shot_std"] == pytest.approx(
      np.std(accuracies, ddof=1)
    )


def test_draws_are_nested_fair_and_keyed():
  y = np.repeat([0, 1, 2], [50, 1, 7])
  position = few_shot._draw(jax.random.key(0), y)
  for label, size in enumerate((50, 1, 7)):
    assert sorted(position[y == label]) == list(range(size))
  again = few_shot._draw(jax.random.key(0), y)
  assert (position == again).all()
  other = few_shot._draw(jax.random.key(1), y)
  assert (position != other).any()
  first = [
    few_shot._draw(jax.random.key(seed), y)[-7:].argmin() for seed in range(350)
  ]
  # Each of 7 is first in 50 of 350 draws, with a deviation of 6.5.
  assert np.bincount(first, minlength=7).min() > 20


def test_small_classes_give_what_they_have():
  rng = np.random.default_rng(2)
  x, y = reference.blobs(rng, 3, 20, 8, spread=0.1)
  keep = (y > 0) | (np.arange(60) < 2)  # two examples of class 0
  metrics = evaluation.few_shot_accuracy(
    x[keep], y[keep], x, y, key=jax.random.key(0), shots=(16,), draws=2
  )
  assert metrics == {"accuracy_16_shot": 1.0, "accuracy_16_shot_std": 0.0}


def test_scale_and_shift_of_the_embeddings_do_not_matter():
  rng = np.random.default_rng(3)
  x, y = reference.blobs(rng, 4, 12, 6, spread=2.0)
  train, test = slice(0, None, 2), slice(1, None, 2)
  results = [
    evaluation.few_shot_accuracy(
      z[train], y[train], z[test], y[test], key=jax.random.key(0), shots=(1, 4)
    )
    for z in (x, 1000 * x, x + 5)
  ]
  assert results[0] == results[1] == results[2]
  assert 0.25 < results[0]["accuracy_1_shot"] < 1
  assert results[0]["accuracy_1_shot"] < results[0]["accuracy_4_shot"]


def test_collapse_gets_no_credit():
  rng = np.random.default_rng(4)
  y = np.repeat([0, 1], [30, 10])
  x = np.tile(rng.normal(size=(1, 33)), (40, 1)).astype(np.float32)
  # Round-off as a network would leave it: memorised, it would classify.
  noisy = x * (1 + 1e-7 * rng.normal(size=x.shape)).astype(np.float32)
  assert (noisy != x).any()
  for z in (x, noisy):
    metrics = evaluation.few_shot_accuracy(
      z, y, z, y, key=jax.random.key(0), shots=(1, 16), draws=2
    )
    assert set(metrics.values()) == {0.0}


@pytest.mark.parametrize(
  "change, message",
  [
    ({"shots": (0,)}, r"\bshots\b.*got \(0,\)"),
    ({"draws": 0}, r"\bdraws\b.*got 0"),
    ({"regularizations": (0.0,)}, r"\bregularizations\b.*got \(0\.0,\)"),
    ({"regularizations": ()}, r"\bregularizations\b.*got \(\)"),
    ({"train_y": [1, 1, 1, 1]}, r"\btrain_y\b.*got only \[1\]"),
    ({"test_y": [0, 2]}, r"\btest_y\b.*\btrain_y\b.*got \[2\]"),
    ({"test_y": [0.0, 1.0]}, r"\btest_y\b.*got float64\[2\]"),
    ({"test_x": np.full((2, 3), np.inf)}, r"\btest_x\b.*got 2 row.*row 0"),
  ],
)
def test_bad_input_is_refused(change, message):
  arguments = {
    "train_x": np.ones((4, 3)),
    "train_y": [0, 1, 0, 1],
    "test_x": np.ones((2, 3)),
    "test_y": [0, 1],
    "key": jax.random.key(0),
  }
  with pytest.raises(ValueError, match=message):
    evaluation.few_shot_accuracy(**(arguments | change))
