import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import evaluation
from tests.evaluation import reference


def test_weights_are_normalized_means_of_normalized_prompts():
  rng = np.random.default_rng(0)
  text = rng.normal(size=(6, 4, 8)).astype(np.float32) * 10.0 ** rng.integers(
    -3, 4, (6, 4, 1)
  )
  expected = reference.unit(
    np.stack([reference.unit(prompts).mean(axis=0) for prompts in text])
  )
  weights = evaluation.zero_shot_weights(text)
  np.testing.assert_allclose(weights, expected, atol=1e-6)
  assert weights.dtype == np.float32
  ragged = [text[c][: 1 + c % 4] for c in range(6)]
  expected = reference.unit(
    np.stack([reference.unit(prompts).mean(axis=0) for prompts in ragged])
  )
  weights = evaluation.zero_shot_weights([jnp.asarray(p) for p in ragged])
  np.testing.assert_allclose(weights, expected, atol=1e-6)


@pytest.mark.parametrize("block_size", [7, 1024])
@pytest.mark.parametrize("examples", [1, 50])
def test_metrics_equal_brute_force(examples, block_size):
  rng = np.random.default_rng(1)
  images = rng.normal(size=(examples, 6)).astype(np.float32)
  weights = reference.unit(rng.normal(size=(11, 6)))
  labels = rng.integers(0, 8, examples)
  order = np.argsort(-reference.unit(images) @ weights.T, axis=1)
  metrics = evaluation.zero_shot_metrics(
    images, weights, labels, ks=(1, 3, 5, 20), block_size=block_size
  )
  for k in (1, 3, 5, 20):
    hits = [label in row[:k] for label, row in zip(labels, order)]
    assert metrics[f"accuracy_top{k}"] == pytest.approx(np.mean(hits))
  per_class = [
    np.mean([row[0] == c for row in order[labels == c]])
    for c in np.unique(labels)
  ]
  assert metrics["mean_per_class_accuracy"] == pytest.approx(np.mean(per_class))


def test_collapse_gets_no_credit():
  x = np.ones((30, 4), np.float32)
  weights = evaluation.zero_shot_weights(np.ones((10, 2, 4)))
  metrics = evaluation.zero_shot_metrics(x, weights, np.zeros(30, int))
  assert set(metrics.values()) == {0.0}


def test_order_of_classes_does_not_matter():
  rng = np.random.default_rng(2)
  images = rng.normal(size=(40, 5)).astype(np.float32)
  weights = rng.normal(size=(9, 5)).astype(np.float32)
  labels = rng.integers(0, 9, 40)
  permutation = rng.permutation(9)
  assert evaluation.zero_shot_metrics(
    images, weights, labels
  ) == evaluation.zero_shot_metrics(
    images, weights[permutation], permutation.argsort()[labels]
  )


@pytest.mark.parametrize(
  "text, message",
  [
    (np.ones((2, 3), np.float32), r"\btext_embeddings\b.*got float32\[2, 3\]"),
    ([], r"\btext_embeddings\b.*got none"),
    (
      [np.ones((2, 3)), np.ones((0, 3))],
      r"\btext_embeddings\[1\].*got float64\[0, 3\]",
    ),
    (
      [np.ones((2, 3)), np.ones((2, 4))],
      r"\btext_embeddings\[1\].*\b3\b.*got float64\[2, 4\]",
    ),
  ],
)
def test_bad_prompts_are_refused(text, message):
  with pytest.raises(ValueError, match=message):
    evaluation.zero_shot_weights(text)


@pytest.mark.parametrize(
  "labels, message",
  [
    ([0, 3], r"\blabels\b.*\b0 to 2\b.*got 0 to 3"),
    ([-1, 0], r"\blabels\b.*\b0 to 2\b.*got -1 to 0"),
    ([0], r"\blabels\b.*got 1"),
    ([0.0, 1.0], r"\blabels\b.*got float64\[2\]"),
    (["a", "b"], r"\blabels\b.*got <U1"),
  ],
)
def test_bad_labels_are_refused(labels, message):
  with pytest.raises(ValueError, match=message):
    evaluation.zero_shot_metrics(np.ones((2, 4)), np.eye(3, 4), labels)
