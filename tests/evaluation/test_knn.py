import numpy as np
import pytest

from contrastive_jax import evaluation
from tests.evaluation import reference


def _brute_force(train_x, train_y, test_x, test_y, k, temperature):
  scores = reference.unit(test_x) @ reference.unit(train_x).T
  correct = []
  for row, label in zip(scores, test_y, strict=True):
    votes = dict.fromkeys(set(train_y), 0.0)
    for j in np.argsort(-row, kind="stable")[:k]:
      votes[train_y[j]] += np.exp(row[j] / temperature)
    own = votes.pop(label)
    correct.append(own > max(votes.values()))
  return np.mean(correct)


@pytest.mark.parametrize("block_size", [7, 1024])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equals_brute_force(temperature, block_size):
  rng = np.random.default_rng(0)
  train_x, train_y = reference.blobs(rng, 5, 8, 6, spread=3.0)
  test_x = train_x[rng.permutation(40)[:33]]
  test_x = test_x + rng.normal(size=test_x.shape)
  test_y = rng.integers(0, 5, 33)
  ks = (1, 3, 20, 40)
  metrics = evaluation.knn_accuracy(
    train_x,
    train_y,
    test_x,
    test_y,
    k=ks,
    temperature=temperature,
    block_size=block_size,
  )
  for k in ks:
    expected = _brute_force(train_x, train_y, test_x, test_y, k, temperature)
    assert metrics[f"accuracy_k{k}"] == pytest.approx(expected)
  single = evaluation.knn_accuracy(
    train_x, train_y, test_x, test_y, k=3, temperature=temperature
  )
  assert single == {"accuracy": metrics["accuracy_k3"]}


def test_separable_classes_with_any_labels():
  rng = np.random.default_rng(1)
  x, y = reference.blobs(rng, 4, 10, 16, spread=0.1)
  names = np.array(["ant", "bee", "cat", "dog"])[y]
  for labels in (y, y * 1000 - 7, names):
    metrics = evaluation.knn_accuracy(
      x[::2], labels[::2], x[1::2], labels[1::2], k=5
    )
    assert metrics == {"accuracy": 1.0}


def test_a_tied_vote_is_wrong():
  train_x = np.array([[1.0, 1.0], [1.0, -1.0]])
  test_x = np.array([[1.0, 0.0]])
  for label in (0, 1):
    metrics = evaluation.knn_accuracy(train_x, [0, 1], test_x, [label], k=2)
    assert metrics == {"accuracy": 0.0}


def test_collapse_is_not_better_than_the_first_class():
  x, y = np.ones((40, 3)), np.repeat(np.arange(4), 10)
  metrics = evaluation.knn_accuracy(x, y, x, y, k=(10, 20))
  assert metrics["accuracy_k10"] <= 0.25
  assert metrics["accuracy_k20"] == 0.0


def test_order_of_training_examples_does_not_matter():
  rng = np.random.default_rng(2)
  x, y = reference.blobs(rng, 3, 20, 5, spread=3.0)
  test_x, test_y = x + rng.normal(size=x.shape), y
  order = rng.permutation(len(y))
  assert evaluation.knn_accuracy(
    x, y, test_x, test_y, k=7
  ) == evaluation.knn_accuracy(x[order], y[order], test_x, test_y, k=7)
  right = evaluation.knn_correct(x, y, test_x, test_y, k=7)
  assert right.dtype == bool and 0 < right.mean() < 1
  # Example by example, each is right or wrong by itself.
  for i in (0, 30, 59):
    one = evaluation.knn_accuracy(
      x, y, test_x[i : i + 1], test_y[i : i + 1], k=7
    )
    assert one["accuracy"] == right[i]


@pytest.mark.parametrize(
  "change, message",
  [
    ({"k": 5}, r"\bk\b.*\(4\).*got 5"),
    ({"k": 0}, r"\bk\b.*got \(0,\)"),
    ({"k": ()}, r"\bk\b.*got \(\)"),
    ({"temperature": 0.0}, r"\btemperature\b.*got 0\.0"),
    ({"train_y": [0, 0, 0, 0]}, r"\btrain_y\b.*got only \[0\]"),
    ({"train_y": [0, 1, 1]}, r"\btrain_y\b.*\b4\b.*got 3"),
    ({"test_y": [0, 7]}, r"\btest_y\b.*got \[7\]"),
    ({"test_y": ["a", "b"]}, r"\btest_y\b.*got <U1 and int64"),
    ({"test_x": np.ones((2, 5))}, r"\btest_x\b.*\b3\b.*got float64\[2, 5\]"),
  ],
)
def test_bad_input_is_refused(change, message):
  arguments = {
    "train_x": np.ones((4, 3)),
    "train_y": [0, 1, 0, 1],
    "test_x": np.ones((2, 3)),
    "test_y": [0, 1],
    "k": 2,
  }
  with pytest.raises(ValueError, match=message):
    evaluation.knn_accuracy(**(arguments | change))
