"""Linear probes: logistic regression by L-BFGS, of one class or of several."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.evaluation import _blockwise, _inputs
from contrastive_jax.evaluation.average_precision import (
  mean_average_precision,
)

_REGULARIZATIONS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)

_Params = dict[str, jax.Array]


def _objective(
  params: _Params,
  x: jax.Array,
  labels: jax.Array,
  weights: jax.Array,
  strength: jax.Array,
) -> jax.Array:
  """Weighted cross-entropy plus half the penalty, one block at a time."""
  import optax  # Only probes need it; the package installs without.

  # Rematerialised: the logits of all blocks would be [N, C] residuals.
  @jax.checkpoint
  def add_block(
    total: jax.Array, block: tuple[jax.Array, jax.Array, jax.Array]
  ) -> tuple[jax.Array, None]:
    x, labels, weights = block
    logits = _blockwise.scores(x, params["kernel"].T) + params["bias"]
    if labels.ndim == 2:
      losses = optax.losses.sigmoid_binary_cross_entropy(logits, labels)
    else:
      losses = optax.losses.softmax_cross_entropy_with_integer_labels(
        logits, labels
      )
    return total + jnp.sum(weights * losses), None

  total, _ = jax.lax.scan(add_block, jnp.float32(0), (x, labels, weights))
  return total + 0.5 * strength * jnp.sum(params["kernel"] ** 2)


@jax.jit
def _fit(
  params: _Params,
  x: jax.Array,
  labels: jax.Array,
  weights: jax.Array,
  strength: jax.Array,
  tolerance: float,
  max_iterations: int,
) -> tuple[_Params, jax.Array]:
  """Minimises `_objective` from `params` on.

  Args:
    params: `kernel` `[d, C]` and `bias` `[C]`.
    x: float32 `[blocks, rows, d]`.
    labels: int32 `[blocks, rows]`, or one regression a class from float32
      `[blocks, rows, C]`.
    weights: float32 like `labels`, of sum 1 (over examples), zero for padding.
    strength: scalar L2 strength.
    tolerance: largest entry of the gradient to stop at.
    max_iterations: steps at most.

  Returns:
    The parameters and the largest entry of the gradient there.
  """
  import optax

  def objective(params: _Params) -> jax.Array:
    return _objective(params, x, labels, weights, strength)

  solver = optax.lbfgs()
  value_and_grad = optax.value_and_grad_from_state(objective)

  def largest(tree: Any) -> jax.Array:
    leaves = [jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.max(jnp.stack(leaves))

  def step(carry: Any) -> Any:
    params, state, count, _, _ = carry
    value, grad = value_and_grad(params, state=state)
    updates, state = solver.update(
      grad, state, params, value=value, grad=grad, value_fn=objective
    )
    params = optax.apply_updates(params, updates)
    # The line search leaves the gradient at the new parameters in its state.
    slope = largest(optax.tree_utils.tree_get(state, "grad"))
    # A zero step means that float32 sees no descent any more.
    return params, state, count + 1, slope, largest(updates) > 0

  def unfinished(carry: Any) -> jax.Array:
    _, _, count, slope, moved = carry
    return (count < max_iterations) & (slope > tolerance) & moved

  start = (params, solver.init(params), 0, jnp.float32(jnp.inf), True)
  params, _, _, slope, _ = jax.lax.while_loop(unfinished, step, start)
  return params, slope


def _blocks(array: np.ndarray, length: int) -> jax.Array:
  """Pads `[N, ...]` with zeros and cuts it into `[blocks, length, ...]`."""
  missing = -len(array) % length
  padding = ((0, missing),) + ((0, 0),) * (array.ndim - 1)
  padded = np.pad(array, padding)
  return jax.device_put(padded.reshape(-1, length, *array.shape[1:]))


def _scaled(train_x: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
  """Embeddings, centred and scaled as `linear_probe` says."""
  center = train_x.mean(axis=0, dtype=np.float64).astype(np.float32)
  train_x = train_x - center
  spread = np.mean(np.square(train_x), dtype=np.float64)
  energy = spread + np.mean(np.square(center), dtype=np.float64)
  usable = spread > _inputs.LEAST_SPREAD * energy
  scale = np.float32(1 / np.sqrt(spread) if usable else 0)
  return [train_x * scale, *((x - center) * scale for x in others)]


def _probe(
  x: Sequence[np.ndarray],
  y: Sequence[np.ndarray],
  classes: int,
  score: Callable[[_Params, np.ndarray, np.ndarray], dict[str, float]],
  *,
  regularizations: Sequence[float],
  refit: bool,
  max_iterations: int,
  tolerance: float,
  block_size: int,
) -> dict[str, float]:
  """Fits with each strength from the strongest down, then with the best again.

  Args:
    x: float32 `[N, d]` of training, validation and test.
    y: labels of each: int32 `[N]`, or int8 `[N, C]` of 1, 0 and -1.
    classes: C.
    score: of parameters, embeddings and labels; the best strength has most of
      the first number on validation.
    regularizations: see `linear_probe`, as all below.
    refit: see there.
    max_iterations: see there.
    tolerance: see there.
    block_size: see there.

  Returns:
    The scores on the test set; the best score on validation as
    `validation_{name}`, `regularization` and `gradient_norm`.
  """
  strengths = _inputs.strengths("regularizations", regularizations)
  _inputs.positive("max_iterations", max_iterations, integer=True)
  _inputs.positive("tolerance", tolerance)
  train_x, valid_x, test_x = _scaled(*x)
  train_y, valid_y, test_y = y
  # Both fits see the same arrays and differ by the weights alone: one
  # compilation serves them.
  both_x = np.concatenate([train_x, valid_x]) if refit else train_x
  both_y = np.concatenate([train_y, valid_y]) if refit else train_y
  targets = both_y if both_y.ndim == 1 else (both_y > 0).astype(np.float32)
  length = _blockwise.block_length(len(both_x), block_size)
  x_blocks, label_blocks = _blocks(both_x, length), _blocks(targets, length)

  def weights(rows: int) -> jax.Array:
    """Weights of the first `rows` rows; those of each class add up to 1."""
    counted = (both_y >= 0).astype(np.float32)
    counted[rows:] = 0
    return _blocks(counted / np.maximum(counted.sum(axis=0), 1), length)

  def fit(
    params: _Params, weights: jax.Array, strength: Any
  ) -> tuple[_Params, jax.Array]:
    return _fit(
      params,
      x_blocks,
      label_blocks,
      weights,
      strength,
      tolerance,
      max_iterations,
    )

  params = {
    "kernel": jnp.zeros((both_x.shape[1], classes), jnp.float32),
    "bias": jnp.zeros(classes, jnp.float32),
  }
  of_train = weights(len(train_x))
  best_value, best = -1.0, (params, jnp.float32(0), strengths[0])
  for strength in strengths:
    params, slope = fit(params, of_train, strength)
    value = next(iter(score(params, valid_x, valid_y).values()))
    if value > best_value:
      best_value, best = value, (params, slope, strength)
  params, slope, strength = best
  if refit:
    params, slope = fit(params, weights(len(both_x)), strength)
  scores = score(params, test_x, test_y)
  return scores | {
    f"validation_{next(iter(scores))}": best_value,
    "regularization": float(strength),
    "gradient_norm": float(slope),
  }


def linear_probe(
  train_x: Any,
  train_y: Any,
  valid_x: Any,
  valid_y: Any,
  test_x: Any,
  test_y: Any,
  *,
  regularizations: Sequence[float] = _REGULARIZATIONS,
  refit: bool = True,
  max_iterations: int = 200,
  tolerance: float = 1e-5,
  block_size: int = _blockwise.DEFAULT_BLOCK_SIZE,
) -> dict[str, float]:
  """Test accuracy of a linear classifier on frozen embeddings.

  Minimises `mean_i CE(W^T (x_i - m) / s + b, y_i) + l/2 |W|^2` in float32 with
  L-BFGS, where `m` is the mean of the training embeddings and `s` the root
  mean square of their centred entries (one number: the probe does not depend
  on the scale nor on a rotation of the embeddings). `l` is the one of
  `regularizations` with the best validation accuracy, the strongest of equals.
  Embeddings are not normalised to unit length here. The strengths are tried
  from the strongest down, each started at the solution of the one before. In
  scikit-learn's terms `C = 1 / (N l)` on the scaled embeddings.

  Args:
    train_x: floating `[N, d]`.
    train_y: integers or strings `[N]`.
    valid_x: floating `[V, d]`, what the strength is chosen on.
    valid_y: like `train_y`, `[V]`, only classes that occur there.
    test_x: floating `[M, d]`.
    test_y: like `train_y`, `[M]`, only classes that occur there.
    regularizations: candidates for `l`.
    refit: fit again on training and validation data together with the chosen
      strength, as CLIP's probe does.
    max_iterations: L-BFGS steps at most for each strength.
    tolerance: largest entry of the gradient to stop at.
    block_size: rows a tile; the logits of all rows never exist together.

  Returns:
    `accuracy` and `mean_per_class_accuracy` on the test set,
    `validation_accuracy` (before the refit), `regularization` (the chosen
    `l`), and `gradient_norm`, the largest entry of the gradient at the
    reported solution: above `tolerance` the iterations ran out.

  Raises:
    ValueError: wrong shapes or types, fewer than two classes, or a validation
      or test class without training examples.

  Reference:
    Radford et al., Learning transferable visual models from natural language
    supervision, 2021, appendix A.3; Liu and Nocedal, On the limited memory
    BFGS method, 1989.

  >>> x, y = np.repeat(np.eye(3), 4, axis=0), np.repeat([0, 1, 2], 4)
  >>> linear_probe(x, y, x, y, x, y, regularizations=(1e-2,))["accuracy"]
  1.0
  """
  x = _inputs.same_width(
    {"train_x": train_x, "valid_x": valid_x, "test_x": test_x}
  )
  y, classes = _inputs.class_codes(
    {"train_y": train_y, "valid_y": valid_y, "test_y": test_y}, x
  )

  def score(
    params: _Params, x: np.ndarray, labels: np.ndarray
  ) -> dict[str, float]:
    right = _blockwise.linear_correct(
      x, params["kernel"], params["bias"], labels, block_size
    )
    return {
      "accuracy": float(np.mean(right)),
      "mean_per_class_accuracy": _blockwise.mean_per_class(right, labels),
    }

  return _probe(
    x,
    y,
    classes,
    score,
    regularizations=regularizations,
    refit=refit,
    max_iterations=max_iterations,
    tolerance=tolerance,
    block_size=block_size,
  )


def multi_label_probe(
  train_x: Any,
  train_y: Any,
  valid_x: Any,
  valid_y: Any,
  test_x: Any,
  test_y: Any,
  *,
  regularizations: Sequence[float] = _REGULARIZATIONS,
  refit: bool = True,
  max_iterations: int = 200,
  tolerance: float = 1e-5,
  block_size: int = _blockwise.DEFAULT_BLOCK_SIZE,
) -> dict[str, float]:
  """Average precision of one linear classifier a class on frozen embeddings.

  Each class minimises `mean_i BCE(w_c^T (x_i - m) / s + b_c, y_ic) + l/2
  |w_c|^2` over the examples that count for it; `m`, `s`, the order of the
  strengths and what a refit is are those of `linear_probe`. One `l` serves all
  classes: the one with the best validation score, the strongest of equals.

  Args:
    train_x: floating `[N, d]`.
    train_y: integers `[N, C]`: 1 for a class that an image shows, 0 for one
      that it does not, -1 for one that is not counted.
    valid_x: floating `[V, d]`, what the strength is chosen on.
    valid_y: like `train_y`, `[V, C]`.
    test_x: floating `[M, d]`.
    test_y: like `train_y`, `[M, C]`.
    regularizations: candidates for `l`.
    refit: fit again on training and validation data together with the chosen
      strength.
    max_iterations: L-BFGS steps at most for each strength.
    tolerance: largest entry of the gradient to stop at.
    block_size: rows a tile.

  Returns:
    `mean_average_precision` on the test set (VOC 2007's, of 11 points),
    `validation_mean_average_precision` (before the refit), `regularization`
    and `gradient_norm`, as of `linear_probe`.

  Raises:
    ValueError: wrong shapes or types, or no class shown in a validation or
      test image.

  >>> x = np.repeat(np.eye(3), 4, axis=0)
  >>> y = (x < 0.5).astype(int)
  >>> multi_label_probe(x, y, x, y, x, y)["mean_average_precision"]
  1.0
  """
  x = _inputs.same_width(
    {"train_x": train_x, "valid_x": valid_x, "test_x": test_x}
  )
  classes = np.shape(train_y)[-1] if np.ndim(train_y) == 2 else 1
  labels = {"train_y": train_y, "valid_y": valid_y, "test_y": test_y}
  y = [
    _inputs.multi_labels(name, value, (len(part), classes))
    for (name, value), part in zip(labels.items(), x)
  ]

  def score(
    params: _Params, x: np.ndarray, labels: np.ndarray
  ) -> dict[str, float]:
    # float32 with NumPy: a linear layer of few classes.
    logits = x @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    return {"mean_average_precision": mean_average_precision(logits, labels)}

  return _probe(
    x,
    y,
    classes,
    score,
    regularizations=regularizations,
    refit=refit,
    max_iterations=max_iterations,
    tolerance=tolerance,
    block_size=block_size,
  )
