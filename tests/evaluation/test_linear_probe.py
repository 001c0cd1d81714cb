import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import linear_model

from contrastive_jax import evaluation
from tests.evaluation import reference

# The package exports the function under the name of its module.
module = importlib.import_module("contrastive_jax.evaluation.linear_probe")

_STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3)


def _data(seed=0, spread=2.5):
  rng = np.random.default_rng(seed)
  x, y = reference.blobs(rng, 4, 60, 8, spread=spread)
  order = rng.permutation(len(y))
  x, y = x[order], y[order]
  return x[:120], y[:120], x[120:180], y[120:180], x[180:], y[180:]


def _sklearn(x, y, strength):
  model = linear_model.LogisticRegression(
    C=1 / (len(y) * strength), max_iter=5000, tol=1e-9
  )
  return model.fit(x.astype(np.float64), y)


def _standardize(train_x, *others):
  center = train_x.mean(axis=0, dtype=np.float64)
  scale = np.sqrt(np.mean((train_x - center) ** 2))
  return [(x - center) / scale for x in (train_x, *others)]


@pytest.mark.parametrize("strength", _STRENGTHS)
def test_solution_equals_scikit_learn(strength):
  x, y, *_ = _data()
  (x,) = _standardize(x)
  expected = _sklearn(x, y, strength)
  blocks = x.reshape(3, 40, 8).astype(np.float32)
  params, slope = module._fit(
    {"kernel": jnp.zeros((8, 4)), "bias": jnp.zeros(4)},
    blocks,
    y.reshape(3, 40).astype(np.int32),
    np.full((3, 40), 1 / 120, np.float32),
    strength,
    1e-6,
    500,
  )
  assert slope < 1e-5
  np.testing.assert_allclose(params["kernel"], expected.coef_.T, atol=2e-3)
  bias = params["bias"] - jnp.mean(params["bias"])
  intercept = expected.intercept_ - expected.intercept_.mean()
  np.testing.assert_allclose(bias, intercept, atol=2e-3)


@pytest.mark.parametrize("refit, block_size", [(True, 50), (False, 1024)])
def test_probe_equals_scikit_learn(refit, block_size):
  train_x, train_y, valid_x, valid_y, test_x, test_y = _data()
  result = evaluation.linear_probe(
    train_x,
    train_y,
    valid_x,
    valid_y,
    test_x,
    test_y,
    regularizations=_STRENGTHS[::-1],
    refit=refit,
    block_size=block_size,
  )
  a, b, c = _standardize(train_x, valid_x, test_x)
  scores = [_sklearn(a, train_y, s).score(b, valid_y) for s in _STRENGTHS]
  best = _STRENGTHS[int(np.argmax(scores))]  # the strongest of equals
  assert result["regularization"] == best
  assert result["validation_accuracy"] == pytest.approx(max(scores))
  x, y = (
    (np.concatenate([a, b]), np.concatenate([train_y, valid_y]))
    if refit
    else (a, train_y)
  )
  predicted = _sklearn(x, y, best).predict(c)
  assert result["accuracy"] == pytest.approx(np.mean(predicted == test_y))
  recall = [np.mean(predicted[test_y == k] == k) for k in range(4)]
  assert result["mean_per_class_accuracy"] == pytest.approx(np.mean(recall))
  assert result["gradient_norm"] <= 1e-5


def test_strength_depends_on_validation_data_and_not_on_test_data():
  rng = np.random.default_rng(1)
  # More dimensions than examples and noisy labels: overfitting costs.
  x = rng.normal(size=(240, 60)).astype(np.float32)
  y = (x[:, 0] + 0.8 * rng.normal(size=240) > 0).astype(int)
  fixed = (x[:60], y[:60], x[60:150], y[60:150])
  strengths = (10.0, 1.0, 1e-1, 1e-4)
  options = {"regularizations": strengths, "refit": False}
  result = evaluation.linear_probe(*fixed, x[150:], y[150:], **options)
  assert result["regularization"] > 1e-4
  flipped = evaluation.linear_probe(*fixed, x[150:], 1 - y[150:], **options)
  assert flipped["regularization"] == result["regularization"]
  assert flipped["accuracy"] == pytest.approx(1 - result["accuracy"])
  # Validated on what it was trained on, a weaker strength wins.
  memorised = evaluation.linear_probe(
    *fixed[:2], *fixed[:2], x[150:], y[150:], **options
  )
  assert memorised["regularization"] < result["regularization"]
  assert memorised["validation_accuracy"] == 1.0


def test_the_strongest_of_equals_is_chosen():
  result = evaluation.linear_probe(
    *_data(spread=0.05), regularizations=(1e-3, 1e-1, 1e-2), refit=False
  )
  assert result["validation_accuracy"] == result["accuracy"] == 1.0
  assert result["regularization"] == 0.1


def test_scale_and_order_do_not_matter():
  data = list(_data(2))
  options = {"regularizations": (1e-1, 1e-2), "refit": False}
  result = evaluation.linear_probe(*data, **options)
  order = np.random.default_rng(0).permutation(120)
  data[0], data[1] = data[0][order], data[1][order]
  for i in (0, 2, 4):
    data[i] = 100 * data[i]
  again = evaluation.linear_probe(*data, **options)
  for name in ("accuracy", "validation_accuracy", "regularization"):
    assert again[name] == result[name]


def test_collapse_is_not_better_than_the_commonest_class():
  y = np.repeat([0, 1, 2, 3], [60, 20, 20, 20])
  rng = np.random.default_rng(0)
  x = np.tile(rng.normal(size=(1, 8)), (120, 1)).astype(np.float32)
  noisy = x * (1 + 1e-7 * rng.normal(size=x.shape)).astype(np.float32)
  for z in (x, noisy):
    result = evaluation.linear_probe(
      z, y, z, y, z, y, regularizations=(1e-3,), refit=False
    )
    assert result["accuracy"] <= 0.5


def test_iterations_that_run_out_are_reported():
  result = evaluation.linear_probe(
    *_data(), regularizations=(1e-3,), refit=False, max_iterations=2
  )
  assert result["gradient_norm"] > 1e-5


def test_logits_of_all_rows_never_exist_together():
  blocks, rows, d, classes = 64, 128, 4, 100
  arguments = (
    {
      "kernel": jax.ShapeDtypeStruct((d, classes), jnp.float32),
      "bias": jax.ShapeDtypeStruct((classes,), jnp.float32),
    },
    jax.ShapeDtypeStruct((blocks, rows, d), jnp.float32),
    jax.ShapeDtypeStruct((blocks, rows), jnp.int32),
    jax.ShapeDtypeStruct((blocks, rows), jnp.float32),
    jax.ShapeDtypeStruct((), jnp.float32),
  )
  gradient = jax.jit(jax.grad(module._objective))
  memory = gradient.lower(*arguments).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 4 * blocks * rows * classes / 4


@pytest.mark.parametrize(
  "change, message",
  [
    ({"regularizations": ()}, r"\bregularizations\b.*got \(\)"),
    ({"regularizations": (-1.0,)}, r"\bregularizations\b.*got \(-1\.0,\)"),
    ({"max_iterations": 0}, r"\bmax_iterations\b.*got 0"),
    ({"tolerance": -1.0}, r"\btolerance\b.*got -1\.0"),
    ({"valid_y": [0, 2]}, r"\bvalid_y\b.*got \[2\]"),
    ({"test_y": [0, 3]}, r"\btest_y\b.*got \[3\]"),
    ({"train_y": [0, 0, 0, 0]}, r"\btrain_y\b.*got only \[0\]"),
    ({"valid_x": np.ones((2, 4))}, r"\bvalid_x\b.*\b3\b.*got float64\[2, 4\]"),
    ({"valid_x": np.ones((0, 3))}, r"\bvalid_x\b.*\b1\b.*got float64\[0, 3\]"),
  ],
)
def test_bad_input_is_refused(change, message):
  arguments = {
    "train_x": np.ones((4, 3)),
    "train_y": [0, 1, 0, 1],
    "valid_x": np.ones((2, 3)),
    "valid_y": [0, 1],
    "test_x": np.ones((2, 3)),
    "test_y": [0, 1],
  }
  with pytest.raises(ValueError, match=message):
    evaluation.linear_probe(**(arguments | change))


def _several(rng, rows, truth):
  x = rng.normal(size=(rows, len(truth))).astype(np.float32)
  y = (x @ truth + rng.normal(size=(rows, truth.shape[1])) > 0.8).astype(int)
  y[rng.random(y.shape) < 0.1] = -1
  return x, y


@pytest.mark.parametrize("refit", [True, False])
def test_several_classes_equal_scikit_learn_one_by_one(refit):
  rng = np.random.default_rng(4)
  truth = rng.normal(size=(6, 3))
  parts = [_several(rng, rows, truth) for rows in (90, 50, 70)]
  (train_x, train_y), (valid_x, valid_y), (test_x, test_y) = parts
  scaled = _standardize(train_x, valid_x, test_x)

  def score(strength, x, y, at, labels):
    columns = []
    for c in range(3):
      kept = y[:, c] >= 0
      model = _sklearn(x[kept], y[kept, c], strength)
      columns.append(model.decision_function(at))
    return np.mean(
      [
        reference.average_precision(s, labels[:, c], 11)
        for c, s in enumerate(columns)
      ]
    )

  on_validation = [
    score(strength, scaled[0], train_y, scaled[1], valid_y)
    for strength in _STRENGTHS
  ]
  best = _STRENGTHS[int(np.argmax(on_validation))]
  found = evaluation.multi_label_probe(
    *(train_x, train_y, valid_x, valid_y, test_x, test_y),
    regularizations=_STRENGTHS,
    refit=refit,
    block_size=64,
  )
  assert found["regularization"] == best
  assert found["validation_mean_average_precision"] == pytest.approx(
    max(on_validation), abs=1e-6
  )
  x, y = scaled[0], train_y
  if refit:
    x = np.concatenate([x, scaled[1]])
    y = np.concatenate([train_y, valid_y])
  expected = score(best, x, y, scaled[2], test_y)
  assert found["mean_average_precision"] == pytest.approx(expected, abs=1e-6)
  assert found["gradient_norm"] <= 1e-5


def test_several_classes_must_be_as_many_everywhere():
  x, y = np.eye(3), np.eye(3, dtype=int)
  with pytest.raises(
    ValueError, match=r"\btest_y\b.*\[3, 3\].*got int64\[3, 2\]"
  ):
    evaluation.multi_label_probe(x, y, x, y, x, y[:, :2])
