"""Few-shot classification by least squares in closed form."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from contrastive_jax.evaluation import _blockwise, _inputs


def _fit_ridge(
  x: np.ndarray, labels: np.ndarray, strengths: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, float]:
  """Class-balanced ridge regression, its strength chosen by leave-one-out.

  In NumPy and float64: the problem is small, and every number of shots would
  be a compilation of its own.

  Args:
    x: floating `[n, d]`.
    labels: integers `[n]`, every class of `[0, classes)` present.
    strengths: float64 `[S]`.
    classes: number of classes C.

  Returns:
    Kernel float32 `[d, C]`, bias float32 `[C]` (both for `x` as it came) and
    the chosen strength.
  """
  x = x.astype(np.float64)
  # Every class weighs the same however many images it has. The weights sum to
  # one, and so does the mean squared norm: a strength means the same for any
  # number of shots and any scale of the embeddings.
  weight = 1 / (classes * np.bincount(labels, minlength=classes)[labels])
  center = weight @ x
  centered = x - center
  spread = weight @ np.sum(centered**2, axis=1)
  energy = weight @ np.sum(x**2, axis=1)
  scale = 1 / np.sqrt(spread) if spread > _inputs.LEAST_SPREAD * energy else 0.0
  root = np.sqrt(weight)[:, None]
  left, singular, right = np.linalg.svd(
    root * centered * scale, full_matrices=False
  )
  residual = root * (np.eye(classes)[labels] - 1 / classes)
  projected = left.T @ residual

  def leave_one_out(strength: float) -> float:
    shrink = singular**2 / (singular**2 + strength)
    error = residual - left @ (shrink[:, None] * projected)
    # `weight` is the leverage of the intercept, which is not penalised.
    leverage = weight + left**2 @ shrink
    return float(np.sum((error / (1 - leverage)[:, None]) ** 2))

  strength = min(strengths.tolist(), key=leave_one_out)
  solve = singular / (singular**2 + strength)
  kernel = scale * (right.T @ (solve[:, None] * projected))
  bias = 1 / classes - center @ kernel
  return kernel.astype(np.float32), bias.astype(np.float32), strength


def _draw(key: jax.Array, labels: np.ndarray) -> np.ndarray:
  """Random position `[n]` of each example among those of its class."""
  # Sorted on the host: a sort takes XLA seconds to compile.
  bits = np.asarray(jax.random.bits(key, (len(labels),)))
  order = np.argsort(bits, kind="stable")
  by_class = order[np.argsort(labels[order], kind="stable")]
  starts = np.cumsum(np.bincount(labels)) - np.bincount(labels)
  position = np.empty(len(labels), np.int64)
  position[by_class] = np.arange(len(labels)) - starts[labels[by_class]]
  return position


def few_shot_accuracy(
  train_x: Any,
  train_y: Any,
  test_x: Any,
  test_y: Any,
  *,
  key: jax.Array,
  shots: Sequence[int] = (1, 2, 4, 8, 16),
  draws: int = 5,
  regularizations: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
  block_size: int = _blockwise.DEFAULT_BLOCK_SIZE,
) -> dict[str, float]:
  """Test accuracy of ridge regression on a few examples of each class.

  Minimises `sum_i w_i |W^T (x_i - m) / s + b - onehot(y_i)|^2 + l |W|^2` over
  the drawn examples, where `w_i` is one over C times the number drawn of the
  class, and `m` and `s` are the weighted mean and spread of the draw. `l` is
  the one of `regularizations` with the least leave-one-out squared error on
  the drawn examples (closed form); neither test data nor any other training
  example is looked at. With one shot, leaving one out leaves its class
  without an example; the strongest wins then, which classifies by the inner
  product with the centred examples.

  The examples of a draw are the first ones in a random order of `fold_in(key,
  draw)`: more shots of a draw contain its fewer shots. A class with fewer
  examples than shots gives all that it has. A test example whose class ties
  with another one is wrong.

  Args:
    train_x: floating `[N, d]`, what shots are drawn from.
    train_y: integers or strings `[N]`.
    test_x: floating `[M, d]`.
    test_y: like `train_y`, `[M]`, only classes that occur there.
    key: PRNG key of the draws.
    shots: examples a class.
    draws: number of random draws.
    regularizations: candidates for `l`.
    block_size: rows a tile of the test set.

  Returns:
    `accuracy_{s}_shot`, the mean over draws, and `accuracy_{s}_shot_std`, the
    sample standard deviation over draws (0 for a single draw), for each s.

  Raises:
    ValueError: wrong shapes or types, fewer than two classes, or a test class
      without training examples.

  Reference:
    Zhai et al., A large-scale study of representation learning with the Visual
    Task Adaptation Benchmark, 2019; `fewshot_lsr` of big_vision.

  >>> x = np.repeat(np.eye(3), 4, axis=0)
  >>> y = np.repeat([0, 1, 2], 4)
  >>> few_shot_accuracy(x, y, x, y, key=jax.random.key(0), shots=(2,))
  {'accuracy_2_shot': 1.0, 'accuracy_2_shot_std': 0.0}
  """
  shots = _inputs.cutoffs("shots", shots)
  _inputs.positive("draws", draws, integer=True)
  candidates = _inputs.strengths("regularizations", regularizations)
  train_x, test_x = _inputs.same_width({"train_x": train_x, "test_x": test_x})
  (train_y, test_y), classes = _inputs.class_codes(
    {"train_y": train_y, "test_y": test_y}, (train_x, test_x)
  )
  accuracy = {count: [] for count in shots}
  for draw in range(draws):
    position = _draw(jax.random.fold_in(key, draw), train_y)
    for count in shots:
      chosen = np.flatnonzero(position < count)
      kernel, bias, _ = _fit_ridge(
        train_x[chosen], train_y[chosen], candidates, classes
      )
      correct = _blockwise.linear_correct(
        test_x, kernel, bias, test_y, block_size
      )
      accuracy[count].append(np.mean(correct))
  metrics = {}
  for count, values in accuracy.items():
    metrics[f"accuracy_{count}_shot"] = float(np.mean(values))
    deviation = np.std(values, ddof=1) if draws > 1 else 0.0
    metrics[f"accuracy_{count}_shot_std"] = float(deviation)
  return metrics
