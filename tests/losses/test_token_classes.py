"""Caption tokens as classes, against the float64 reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from tests.losses import rounding, token_class_references
from tests.losses.distributed import assert_close
from tests.meshes import make_mesh

N, L, V = 16, 7, 23
SPECIAL = (0, 2)


def problem(seed=0, scale=3.0, dtype=np.float32):
  """Scores, captions with repetitions, weights of tokens, and cotangents."""
  rng = np.random.default_rng(seed)
  logits = (scale * rng.normal(size=(N, V))).astype(dtype)
  tokens = rng.integers(0, V, (N, L)).astype(np.int32)
  tokens[:, 3] = tokens[:, 1]
  tokens[0] = 0  # A caption of nothing but padding.
  weights = rng.gamma(1.0, size=V).astype(np.float32)
  return logits, tokens, weights, rng.normal(size=N).astype(np.float32)


def run(logits, tokens, token_weights, cotangents, **options):
  def total(logits, token_weights):
    values = losses.superclass(
      logits, tokens, token_weights=token_weights, **options
    )
    return jnp.sum(cotangents * values), values

  argnums = (0,) if token_weights is None else (0, 1)
  return jax.jit(jax.grad(total, argnums, has_aux=True))(logits, token_weights)


@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored_ids", [(), SPECIAL])
def test_equals_reference(scale, weighted, ignored_ids):
  logits, tokens, weights, cotangents = problem(scale=scale)
  weights = weights if weighted else None
  grads, values = run(
    logits, tokens, weights, cotangents, ignored_ids=ignored_ids
  )
  assert values.dtype == jnp.float32
  expected = token_class_references.superclass(
    logits,
    tokens=tokens,
    token_weights=weights,
    ignored_ids=ignored_ids,
    weights=cotangents,
  )
  expected.check(values, {"logits": grads[0]})
  if weighted:
    np.testing.assert_array_equal(grads[1], 0.0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_scores(dtype):
  logits, tokens, weights, cotangents = problem(dtype=dtype)
  grads, values = run(jnp.asarray(logits), tokens, weights, cotangents)
  expected = token_class_references.superclass(
    logits, tokens=tokens, token_weights=weights, weights=cotangents
  )
  assert values.dtype == jnp.float32 and grads[0].dtype == dtype
  expected.assert_values(values)
  half = float(jnp.finfo(dtype).eps) / 2
  expected.assert_gradient("logits", grads[0], rtol=1e-6 + 1.001 * half)


def test_second_derivative():
  """Along a direction: the slope of the float64 gradient."""
  logits, tokens, weights, cotangents = problem()
  move = np.random.default_rng(1).normal(size=logits.shape)

  def gradient(logits):
    return run(logits, tokens, weights, cotangents)[0][0]

  _, actual = jax.jvp(gradient, (logits,), (jnp.float32(move),))

  def exact(step):
    return token_class_references.superclass(
      np.float64(logits) + step * move,
      tokens=tokens,
      token_weights=weights,
      weights=cotangents,
    ).gradients["logits"]

  near, far = (exact(h) - exact(-h) for h in (1e-4, 2e-4))
  np.testing.assert_allclose(actual, (8 * near - far) / 12e-4, atol=1e-5)


def test_one_token_is_the_cross_entropy():
  logits, *_ = problem()
  labels = np.arange(N) % V
  np.testing.assert_allclose(
    losses.superclass(logits, labels[:, None]),
    -jax.nn.log_softmax(logits)[np.arange(N), labels],
    rtol=1e-6,
  )


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_order_repetition_and_size_of_weights_do_not_matter(seed):
  logits, tokens, weights, _ = problem(seed)
  rng = np.random.default_rng(seed)
  options = {"ignored_ids": SPECIAL}
  expected = losses.superclass(logits, tokens, token_weights=weights, **options)
  twice = rng.permuted(np.concatenate([tokens, tokens], 1), axis=1)
  rows = rng.permutation(N)
  for actual in (
    losses.superclass(logits, twice, token_weights=weights, **options),
    losses.superclass(logits, tokens, token_weights=7 * weights, **options),
    losses.superclass(
      logits[rows], tokens[rows], token_weights=weights, **options
    )[np.argsort(rows)],
  ):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
  ones = np.ones(V, np.float32)
  np.testing.assert_array_equal(
    losses.superclass(logits, tokens, token_weights=ones),
    losses.superclass(logits, tokens),
  )


def test_rows_in_which_nothing_counts_have_no_gradient():
  logits, tokens, weights, cotangents = problem()
  tokens[1] = [-1, V, -(2**31), 2**31 - 1, V, -1, 0]
  weights[5], tokens[2] = 0.0, 5
  grads, values = run(logits, tokens, weights, cotangents, ignored_ids=SPECIAL)
  np.testing.assert_array_equal(values[:3], 0.0)
  np.testing.assert_array_equal(grads[0][:3], 0.0)
  assert np.all(values[3:] > 0)


def test_no_target_as_wide_as_the_vocabulary():
  """Arrays [N, V] are those of the log-sum-exp, none of them made by a scatter."""
  logits, tokens, weights, _ = problem()
  jaxpr = jax.make_jaxpr(
    lambda x: losses.superclass(x, tokens, token_weights=weights)
  )(logits)
  assert "scatter" not in {e.primitive.name for e in jaxpr.jaxpr.eqns}


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_on_devices(devices):
  logits, tokens, weights, cotangents = problem()
  mesh, rows = make_mesh(data=devices), P("data")

  def local(logits, tokens, cotangents):
    def total(logits):
      counts = losses.count_documents(
        tokens, V, ignored_ids=SPECIAL, axes="data"
      )
      known = losses.inverse_document_frequency(counts, N)
      values = losses.superclass(
        logits, tokens, token_weights=known, ignored_ids=SPECIAL
      )
      return jnp.sum(cotangents * values), values

    grads, values = jax.grad(total, has_aux=True)(logits)
    return values, grads

  values, grads = jax.jit(
    jax.shard_map(
      local, mesh=mesh, in_specs=(rows,) * 3, out_specs=(rows, rows)
    )
  )(logits, tokens, cotangents)
  expected = token_class_references.superclass(
    logits,
    tokens=tokens,
    token_weights=token_class_references.inverse_document_frequency(
      tokens, V, SPECIAL
    ),
    ignored_ids=SPECIAL,
    weights=cotangents,
  )
  expected.check(values, {"logits": grads})


# --- Weights ------------------------------------------------------------------


def test_weights_of_a_corpus():
  _, tokens, *_ = problem()
  halves = [
    losses.count_documents(part, V, ignored_ids=SPECIAL)
    for part in (tokens[:5], tokens[5:])
  ]
  whole = losses.count_documents(tokens, V, ignored_ids=SPECIAL)
  np.testing.assert_array_equal(halves[0] + halves[1], whole)
  assert whole.dtype == jnp.float32 and not np.any(whole[np.array(SPECIAL)])
  assert_close(
    losses.inverse_document_frequency(whole, N),
    token_class_references.inverse_document_frequency(tokens, V, SPECIAL),
  )


def test_weights_are_those_of_running_means():
  """As published: means over a batch, its number and 1 / B beside them."""
  rng = np.random.default_rng(2)
  batch, means, counts = 8, np.zeros(V), np.zeros(V, np.float32)
  for step in range(1, 4):
    tokens = rng.integers(0, V, (batch, L))
    targets = np.zeros((batch, V))
    np.put_along_axis(targets, tokens, 1.0, 1)
    means += targets.mean(0)
    counts += losses.count_documents(tokens, V)
    np.testing.assert_allclose(
      losses.inverse_document_frequency(counts, float(step * batch)),
      np.log((step + 1 / batch) / (means + 1 / batch)),
      atol=4 * rounding.FLOAT32_EPSILON,
    )


# --- Bad input ----------------------------------------------------------------


@pytest.mark.parametrize(
  "argument, value",
  [
    ("logits", np.zeros((N, V, 1), np.float32)),
    ("logits", np.zeros((N, V), np.int32)),
    ("logits", [[0.0]]),
    ("tokens", np.zeros((N,), np.int32)),
    ("tokens", np.zeros((N, L), np.float32)),
    ("tokens", np.zeros((N - 1, L), np.int32)),
    ("token_weights", np.ones(V - 1, np.float32)),
    ("token_weights", np.ones(V, np.int32)),
    ("ignored_ids", (0.5,)),
  ],
)
def test_bad_arguments_are_refused_by_name(argument, value):
  logits, tokens, weights, _ = problem()
  given = {"logits": logits, "tokens": tokens, "token_weights": weights}
  with pytest.raises(ValueError, match=rf"\b{argument}\b"):
    losses.superclass(**(given | {argument: value}))


@pytest.mark.parametrize("value", [0, -3, 2.0, True])
def test_a_bad_size_of_the_vocabulary_is_refused(value):
  with pytest.raises(ValueError, match=rf"\bvocab_size\b.*got {value}"):
    losses.count_documents(np.zeros((2, 3), np.int32), value)


@pytest.mark.parametrize(
  "argument, value",
  [
    ("counts", np.zeros((2, 3))),
    ("counts", np.zeros(0)),
    ("num_documents", -1.0),
    ("num_documents", float("nan")),
    ("num_documents", np.ones(2)),
  ],
)
def test_bad_counts_are_refused_by_name(argument, value):
  given = {"counts": np.zeros(3), "num_documents": 4.0}
  with pytest.raises(ValueError, match=rf"\b{argument}\b"):
    losses.inverse_document_frequency(**(given | {argument: value}))
