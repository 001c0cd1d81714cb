"""Weighted k-nearest-neighbour classification."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from contrastive_jax.evaluation import _blockwise, _inputs, retrieval


def knn_accuracy(
  train_x: Any,
  train_y: Any,
  test_x: Any,
  test_y: Any,
  *,
  k: int | Sequence[int] = 20,
  temperature: float = 0.07,
  block_size: int = _blockwise.DEFAULT_BLOCK_SIZE,
) -> dict[str, float]:
  """Accuracy of the vote of the k nearest training examples by cosine.

  `votes_c = sum_{j in the k nearest, y_j = c} exp(cos(x, x_j) / temperature)`;
  an example is right if its class has strictly more votes than any other.

  Args:
    train_x: floating `[N, d]`.
    train_y: integers or strings `[N]`.
    test_x: floating `[M, d]`.
    test_y: like `train_y`, `[M]`, only classes that occur there.
    k: neighbours, at most N; or several numbers of neighbours.
    temperature: of the weights.
    block_size: rows and columns of a tile.

  Returns:
    `accuracy`; or `accuracy_k{k}` for each, if `k` is a sequence.

  Raises:
    ValueError: wrong shapes or types, fewer than two classes, a test class
      without training examples, or `k` above N.

  Reference:
    Wu et al., Unsupervised feature learning via non-parametric instance
    discrimination, CVPR 2018 (weights and temperature).

  >>> knn_accuracy(np.eye(2), [0, 1], np.eye(2), [0, 1], k=1)
  {'accuracy': 1.0}
  """
  single = isinstance(k, (int, np.integer))
  ks = _inputs.cutoffs("k", (k,) if single else k)
  correct = _correct(
    train_x, train_y, test_x, test_y, ks, temperature, block_size
  )
  accuracy = {count: float(np.mean(right)) for count, right in correct.items()}
  if single:
    return {"accuracy": accuracy[ks[0]]}
  return {f"accuracy_k{count}": value for count, value in accuracy.items()}


def knn_correct(
  train_x: Any,
  train_y: Any,
  test_x: Any,
  test_y: Any,
  *,
  k: int = 20,
  temperature: float = 0.07,
  block_size: int = _blockwise.DEFAULT_BLOCK_SIZE,
) -> np.ndarray:
  """Test examples that `knn_accuracy` counts as right: bool `[M]`.

  Arguments and errors are those of `knn_accuracy`, with one k.

  >>> knn_correct(np.eye(2), [0, 1], np.eye(2), [0, 0], k=1)
  array([ True, False])
  """
  (k,) = _inputs.cutoffs("k", (k,))
  return _correct(
    train_x, train_y, test_x, test_y, (k,), temperature, block_size
  )[k]


def _correct(
  train_x: Any,
  train_y: Any,
  test_x: Any,
  test_y: Any,
  ks: Sequence[int],
  temperature: float,
  block_size: int,
) -> dict[int, np.ndarray]:
  """Bool [M] by number of neighbours: whether each test example is right."""
  _inputs.positive("temperature", temperature)
  train_x, test_x = _inputs.same_width(
    {"train_x": train_x, "test_x": test_x}, normalize=True
  )
  (train_y, test_y), classes = _inputs.class_codes(
    {"train_y": train_y, "test_y": test_y}, (train_x, test_x)
  )
  if max(ks) > len(train_x):
    raise ValueError(
      f"k must be at most the number of training examples ({len(train_x)}),"
      f" got {max(ks)}."
    )
  indices, scores = retrieval.top_k(
    test_x, train_x, max(ks), normalize=False, block_size=block_size
  )
  # Relative to the nearest one, so that no temperature can overflow.
  logits = (scores - scores[:, :1]).astype(np.float64) / temperature
  weights = np.exp(logits)
  correct = {count: [] for count in ks}
  # The votes of a block of examples are [block, C], as a tile is.
  for start in range(0, len(test_x), block_size):
    block = slice(start, start + block_size)
    labels, truth = train_y[indices[block]], test_y[block]
    rows = np.arange(len(truth))
    for count in ks:
      flat = rows[:, None] * classes + labels[:, :count]
      votes = np.bincount(
        flat.ravel(),
        weights=weights[block, :count].ravel(),
        minlength=len(truth) * classes,
      ).reshape(len(truth), classes)
      own = votes[rows, truth]
      votes[rows, truth] = 0
      # A margin, as round-off must not decide a tied vote.
      correct[count].append(own > votes.max(axis=1) * (1 + 1e-6))
  return {count: np.concatenate(parts) for count, parts in correct.items()}
