"""ALBEF's losses: float64 references, devices, draws and their distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from tests.losses import fusion_references as references
from tests.meshes import make_mesh

D = 6


def unit(rng, n):
  x = rng.normal(size=(n, D))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def make_inputs(n=8, m=24, *, groups=0):
  """Query, its momentum feature, momentum keys, queue, ids of both."""
  rng = np.random.default_rng(0)
  arrays = unit(rng, n), unit(rng, n), unit(rng, n), unit(rng, m)
  if not groups:
    return arrays, None, None
  ids = rng.integers(0, groups, n + m).astype(np.int32)
  return arrays, ids[:n], ids[n:]


def with_gradients(loss, arrays, tau, alpha, weights):
  def weighted(q, qm, k, queue, tau):
    values = loss(q, qm, k, queue, temperature=tau, alpha=alpha)
    return jnp.sum(weights * values), values

  run = jax.jit(jax.grad(weighted, argnums=(0, 1, 2, 3, 4), has_aux=True))
  return run(*arrays, jnp.float32(tau))


@pytest.mark.parametrize("n, m, groups", [(8, 24, 0), (1, 1, 0), (7, 5, 3)])
@pytest.mark.parametrize("tau", [1.0, 0.07])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_values_and_gradients(n, m, groups, tau, alpha):
  arrays, ids, queue_ids = make_inputs(n, m, groups=groups)
  weights = np.random.default_rng(1).normal(size=n)

  def loss(*args, **options):
    return losses.soft_target_contrastive(
      *args, **options, group_ids=ids, queue_ids=queue_ids
    )

  (dq, *others, dtau), values = with_gradients(
    loss, arrays, tau, alpha, weights
  )
  expected = references.soft_target_contrastive(
    *arrays,
    temperature=tau,
    alpha=alpha,
    group_ids=ids,
    queue_ids=queue_ids,
    weights=weights,
  )
  grad, grad_tau = (expected.gradients[k] for k in ("queries", "temperature"))
  np.testing.assert_allclose(values, expected.per_example, rtol=2e-6, atol=5e-6)
  scale = max(np.abs(grad).max(), 1e-3)
  np.testing.assert_allclose(dq, grad, rtol=0, atol=1e-5 * scale)
  np.testing.assert_allclose(dtau, grad_tau, rtol=1e-4, atol=2e-4)
  assert not any(np.any(x) for x in others)


def test_without_a_queue():
  (q, qm, k, _), _, _ = make_inputs()
  empty = np.zeros((0, D), np.float32)
  expected = references.soft_target_contrastive(
    q, qm, k, empty, temperature=0.2, alpha=0.3
  ).per_example
  values = losses.soft_target_contrastive(q, qm, k, temperature=0.2, alpha=0.3)
  np.testing.assert_allclose(values, expected, rtol=2e-6)


def test_many_rows_are_taken_in_parts(monkeypatch):
  from contrastive_jax.ops.similarity import _means

  arrays, ids, queue_ids = make_inputs(23, 9, groups=4)

  def values():
    return losses.soft_target_contrastive(
      *arrays,
      temperature=0.1,
      alpha=0.5,
      group_ids=ids,
      queue_ids=queue_ids,
    )

  whole = values()
  monkeypatch.setattr(_means, "_ROWS", 5)
  np.testing.assert_allclose(values(), whole, rtol=1e-6)


@pytest.mark.parametrize("groups", [0, 3])
@pytest.mark.parametrize(
  "sizes, axes",
  [
    ({"data": 1}, "data"),
    ({"data": 2}, "data"),
    ({"data": 8}, "data"),
    ({"row": 2, "col": 2}, ("row", "col")),
  ],
)
def test_devices(sizes, axes, groups):
  arrays, ids, queue_ids = make_inputs(groups=groups)
  weights = np.random.default_rng(1).normal(size=8).astype(np.float32)

  def over(*args, temperature, alpha):
    def local(q, qm, k, queue, tau, ids, queue_ids):
      return losses.soft_target_contrastive(
        q,
        qm,
        k,
        queue,
        temperature=tau,
        alpha=alpha,
        group_ids=ids,
        queue_ids=queue_ids,
        axes=axes,
      )

    return jax.shard_map(
      local,
      mesh=make_mesh(**sizes),
      in_specs=(P(axes), P(axes), P(axes), P(axes), P(), P(axes), P(axes)),
      out_specs=P(axes),
    )(*args, temperature, ids, queue_ids)

  def one(*args, **options):
    return losses.soft_target_contrastive(
      *args, **options, group_ids=ids, queue_ids=queue_ids
    )

  actual = with_gradients(over, arrays, 0.2, 0.4, weights)
  expected = with_gradients(one, arrays, 0.2, 0.4, weights)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    np.testing.assert_allclose(
      a, b, rtol=0, atol=3e-6 * max(1, np.abs(b).max())
    )


def test_a_low_temperature_and_bfloat16():
  arrays, _, _ = make_inputs()
  arrays = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
  values = losses.soft_target_contrastive(*arrays, temperature=0.01, alpha=0.4)
  assert values.dtype == jnp.float32
  # The reference takes the rounded features: logits are float32, up to 100.
  rounded = [np.asarray(x, np.float64) for x in arrays]
  expected = references.soft_target_contrastive(
    *rounded, temperature=0.01, alpha=0.4
  ).per_example
  np.testing.assert_allclose(values, expected, rtol=1e-5, atol=5e-5)


def test_bad_input_of_the_contrast():
  (q, qm, k, queue), ids, queue_ids = make_inputs(groups=3)
  call = losses.soft_target_contrastive
  with pytest.raises(ValueError, match=r"\bqueue\b.*\b6\b.*got \(24, 5\)"):
    call(q, qm, k, queue[:, :5], temperature=0.1, alpha=0.0)
  with pytest.raises(ValueError, match=r"\bqueue_ids\b.*group_ids.*queue"):
    call(q, qm, k, queue, temperature=0.1, alpha=0.0, group_ids=ids)
  with pytest.raises(ValueError, match=r"\bqueue_ids\b.*group_ids.*queue"):
    call(q, qm, k, queue, temperature=0.1, alpha=0.0, queue_ids=queue_ids)
  with pytest.raises(ValueError, match=r"\balpha\b.*\[0, 1\].*got 1\.5"):
    call(q, qm, k, temperature=0.1, alpha=1.5)
  with pytest.raises(ValueError, match=r"\btemperature\b.*got -1\.0"):
    call(q, qm, k, temperature=-1.0, alpha=0.5)


# --- Hard negatives ---------------------------------------------------------


def test_negatives_follow_the_softmax_over_other_groups():
  rng = np.random.default_rng(0)
  similarity = rng.normal(size=(4, 4)).astype(np.float32)
  ids = np.array([0, 1, 1, 2])
  keys = jax.random.split(jax.random.key(1), 20_000)
  columns, valid = jax.jit(
    jax.vmap(
      lambda k: losses.sample_hard_negatives(k, similarity, group_ids=ids)
    )
  )(keys)
  assert valid.all()
  found = np.stack([np.bincount(c, minlength=4) for c in columns.T]) / 20_000
  expected = np.exp(similarity) * (ids[:, None] != ids[None])
  expected /= expected.sum(1, keepdims=True)
  # Four standard errors of a share.
  np.testing.assert_allclose(found, expected, atol=4 * 0.5 / 20_000**0.5)
  assert not found[expected == 0].any()


def test_rows_without_a_negative():
  columns, valid = losses.sample_hard_negatives(
    jax.random.key(0), jnp.zeros((1, 1))
  )
  assert columns.tolist() == [0] and valid.tolist() == [False]
  columns, valid = losses.sample_hard_negatives(
    jax.random.key(0), jnp.zeros((3, 3)), group_ids=jnp.array([5, 5, 5])
  )
  assert columns.tolist() == [0, 1, 2] and not valid.any()


def test_draws_depend_on_the_place_in_the_batch_alone():
  key = jax.random.key(3)
  similarity = jnp.zeros((6, 6))
  whole, _ = losses.sample_hard_negatives(key, similarity)
  places = jnp.arange(6)[::-1]
  other, _ = losses.sample_hard_negatives(
    key, similarity, positions=places, group_ids=jnp.arange(6)
  )
  # Row i has the noise of place 5 - i; only its own column differs.
  noise = [
    jax.random.gumbel(jax.random.fold_in(key, p), (6,)) for p in range(6)
  ]
  for row in range(6):
    wanted = noise[5 - row].at[row].set(-jnp.inf).argmax()
    assert other[row] == wanted
    assert whole[row] == noise[row].at[row].set(-jnp.inf).argmax()


def test_bad_similarity():
  with pytest.raises(
    ValueError, match=r"\bsimilarity\b.*\[N, N\].*got \(2, 3\)"
  ):
    losses.sample_hard_negatives(jax.random.key(0), jnp.zeros((2, 3)))


# --- Matching, masking, distillation ----------------------------------------


def test_matching():
  z = np.random.default_rng(0).normal(size=(5, 2))
  matches = np.array([0, 1, 1, 0, 1])
  valid = np.array([True, True, False, True, True])
  expected = references.image_text_matching(
    z, matches=matches, valid=valid, weights=np.ones(5)
  )
  values = losses.image_text_matching(jnp.float32(z), matches, valid)
  np.testing.assert_allclose(values, expected.per_example, rtol=1e-6)
  gradient = jax.grad(
    lambda x: losses.image_text_matching(x, matches, valid).sum()
  )(jnp.float32(z))
  wanted = expected.gradients["logits"]
  np.testing.assert_allclose(gradient, wanted, atol=1e-6)
  with pytest.raises(ValueError, match=r"\blogits\b.*\[N, 2\].*got \(2, 3\)"):
    losses.image_text_matching(jnp.zeros((2, 3)), matches[:2])
  with pytest.raises(ValueError, match=r"\bmatches\b.*got float32"):
    losses.image_text_matching(jnp.float32(z), matches * 0.7)
  with pytest.raises(ValueError, match=r"\bvalid\b.*got \(5, 1\)"):
    losses.image_text_matching(jnp.float32(z), matches, valid[:, None])


def test_masking_has_the_published_shares():
  tokens = jnp.tile(jnp.arange(10, 60), (400, 1))
  maskable = jnp.tile(jnp.arange(50) >= 10, (400, 1))
  masked, chosen = losses.mask_tokens(
    jax.random.key(0), tokens, maskable, vocab_size=1000, mask_id=3
  )
  assert not chosen[:, :10].any()
  n = chosen[:, 10:].size
  assert abs(chosen[:, 10:].mean() - 0.15) < 4 * (0.15 * 0.85 / n) ** 0.5
  np.testing.assert_array_equal(masked[~chosen], tokens[~chosen])
  hidden = (masked == 3)[chosen].mean()
  kept = (masked == tokens)[chosen].mean()
  error = 4 * 0.5 / chosen.sum() ** 0.5
  # A random token is the right or the mask's own once in a thousand draws.
  assert abs(hidden - 0.8) < error and abs(kept - 0.1) < error
  other = np.asarray(masked[chosen & (masked != 3) & (masked != tokens)])
  assert other.min() < 20 and other.max() > 980


def test_masking_depends_on_the_place_in_the_batch_alone():
  tokens = jnp.ones((6, 8), jnp.int32)
  options = dict(vocab_size=50, mask_id=0, share=0.5)
  whole, _ = losses.mask_tokens(
    jax.random.key(0), tokens, tokens > 0, **options
  )
  part, _ = losses.mask_tokens(
    jax.random.key(0),
    tokens[2:4],
    tokens[2:4] > 0,
    positions=jnp.array([2, 3]),
    **options,
  )
  np.testing.assert_array_equal(part, whole[2:4])


def test_bad_masking():
  tokens = jnp.ones((1, 2), jnp.int32)
  call = losses.mask_tokens
  key = jax.random.key(0)
  with pytest.raises(ValueError, match=r"\bmask_id\b.*got 5"):
    call(key, tokens, tokens > 0, vocab_size=5, mask_id=5)
  with pytest.raises(ValueError, match=r"\bmaskable\b.*got int32 \(1, 2\)"):
    call(key, tokens, tokens, vocab_size=5, mask_id=1)
  with pytest.raises(ValueError, match=r"\btokens\b.*got float32 \(1, 2\)"):
    call(key, tokens * 1.0, tokens > 0, vocab_size=5, mask_id=1)
  with pytest.raises(ValueError, match=r"\bshare\b.*got 1\.1"):
    call(key, tokens, tokens > 0, vocab_size=5, mask_id=1, share=1.1)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_masked_language_modeling(alpha):
  rng = np.random.default_rng(0)
  z, teacher = rng.normal(size=(2, 3, 4, 7))
  tokens = rng.integers(0, 7, (3, 4))
  chosen = rng.random((3, 4)) < 0.5
  expected = references.masked_language_modeling(
    z,
    teacher,
    tokens=tokens,
    chosen=chosen,
    alpha=alpha,
    weights=np.ones(12),
  )

  def loss(z, teacher):
    return losses.masked_language_modeling(
      z, tokens, chosen, teacher_logits=teacher, alpha=alpha
    )

  z32, teacher32 = jnp.float32(z), jnp.float32(teacher)
  np.testing.assert_allclose(
    loss(z32, teacher32).ravel(), expected.per_example, rtol=2e-6
  )
  by_z, by_teacher = jax.grad(lambda *x: loss(*x).sum(), argnums=(0, 1))(
    z32, teacher32
  )
  np.testing.assert_allclose(by_z, expected.gradients["logits"], atol=1e-6)
  assert not by_teacher.any()


def test_gradients_of_both_targets_are_rounded_once():
  rng = np.random.default_rng(0)
  low = jnp.asarray(rng.normal(size=(4, 3, 9)), jnp.bfloat16)
  teacher = jnp.float32(rng.normal(size=(4, 3, 9)))
  tokens = rng.integers(0, 9, (4, 3))

  def gradient(z):
    return jax.grad(
      lambda z: losses.masked_language_modeling(
        z, tokens, tokens >= 0, teacher_logits=teacher, alpha=0.4
      ).sum()
    )(z)

  wanted = gradient(low.astype(jnp.float32)).astype(jnp.bfloat16)
  np.testing.assert_array_equal(gradient(low), wanted)


def test_bad_language_modeling():
  z, tokens = jnp.zeros((1, 2, 3)), jnp.zeros((1, 2), jnp.int32)
  call = losses.masked_language_modeling
  with pytest.raises(ValueError, match=r"\bteacher_logits\b.*alpha"):
    call(z, tokens, tokens > 0, alpha=0.4)
  with pytest.raises(ValueError, match=r"\blogits\b.*got \(2, 3\)"):
    call(z[0], tokens, tokens > 0)
  with pytest.raises(ValueError, match=r"\btokens\b.*got float32"):
    call(z, tokens * 1.0, tokens > 0)
  with pytest.raises(ValueError, match=r"\bchosen\b.*got int32 \(1, 2\)"):
    call(z, tokens, tokens)
  with pytest.raises(ValueError, match=r"\bchosen\b.*got bool \(2,\)"):
    call(z, tokens, (tokens > 0)[0])
  with pytest.raises(ValueError, match=r"\bteacher_logits\b.*got \(2, 3\)"):
    losses.distillation(z, z[0])
