"""Agreement with the peers: optax, live; open_clip and torch, by golden file.

`python -m tests.losses.make_golden` writes the golden file.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from contrastive_jax import losses
from tests.losses import make_golden, references, rounding


@functools.cache
def golden():
  with np.load(make_golden.PATH) as arrays:
    return dict(arrays)


def assert_close(actual, expected, max_logit=0.0):
  """To 1e-6 of the largest entry, and the rounding of float32 logits."""
  rtol = 1e-6 + rounding.FLOAT32_EPSILON * max_logit
  scale = np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * scale)


@pytest.mark.parametrize("peer", ["clip", "sigmoid", "clip_groups"])
@pytest.mark.parametrize("case", make_golden.CASES)
def test_torch_peers(case, peer):
  stored = golden()
  name = peer.partition("_")[0]
  arguments = {
    argument: stored[f"{case}/{argument}"]
    for argument in references.ARRAYS[name] + references.SCALARS[name]
  }
  group_ids = None
  if peer == "clip_groups":
    group_ids = stored[f"{case}/group_ids"]

  @jax.jit
  @jax.value_and_grad
  def mean(arguments):
    return jnp.mean(getattr(losses, name)(**arguments, group_ids=group_ids))

  reference = references.LOSSES[name](**arguments, group_ids=group_ids)
  np.testing.assert_allclose(
    reference.per_example.mean(), stored[f"{case}/{peer}/value"], rtol=1e-12
  )
  # The reference knows how float32 rounds; the numbers are the peer's.
  peers = {k: stored[f"{case}/{peer}/{k}"] for k in arguments}
  for argument, gradient in peers.items():
    np.testing.assert_allclose(
      reference.gradients[argument], gradient, rtol=1e-9, atol=1e-13
    )
  reference = dataclasses.replace(
    reference,
    per_example=stored[f"{case}/{peer}/value"],
    gradients=peers,
  )
  value, gradients = mean(arguments)
  reference.assert_values(value)
  for argument, gradient in gradients.items():
    reference.assert_gradient(argument, gradient)


def test_golden_inputs_are_those_of_the_script():
  for case, (seed, n, d, *_) in make_golden.CASES.items():
    for name, value in make_golden._inputs(seed, n, d).items():
      np.testing.assert_allclose(golden()[f"{case}/{name}"], value, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_optax_ntxent(temperature):
  """Optax labels the rows of all views, normalises them and averages.

  It agrees with SimCLR for pairs. With more than two rows of a label the two
  part: optax averages over positive pairs and leaves the other positives out
  of a pair's denominator.
  """
  rng = np.random.default_rng(0)
  first = rng.normal(size=(6, 8)).astype(np.float32)
  second = first + rng.normal(size=(6, 8)).astype(np.float32)
  labels = jnp.tile(jnp.arange(6), 2)

  def ours(first, second):
    def unit(x):
      return x / jnp.linalg.norm(x, axis=1, keepdims=True)

    return jnp.mean(
      losses.nt_xent(unit(first), unit(second), temperature=temperature)
    )

  def theirs(first, second):
    rows = jnp.concatenate([first, second])
    return optax.losses.ntxent(rows, labels, temperature)

  def gradient_of(f):
    return jax.jit(jax.value_and_grad(f, argnums=(0, 1)))

  value, gradients = gradient_of(ours)(first, second)
  expected, expected_gradients = gradient_of(theirs)(first, second)
  # Both sides are float32: each rounds its logits.
  assert_close(value, expected, 2 / temperature)
  jax.tree.map(
    lambda a, b: assert_close(a, b, 2 / temperature),
    gradients,
    expected_gradients,
  )


@pytest.mark.parametrize("grouped", [False, True])
def test_optax_cross_entropies(grouped):
  """Row by row: InfoNCE is a softmax, SigLIP a sigmoid cross-entropy."""
  q, k = references.make_inputs("info_nce", 8, 16).values()
  ids = np.array([0, 1, 0, 2, 3, 1, 0, 4]) if grouped else np.arange(8)
  same = jnp.asarray(ids[:, None] == ids[None, :], jnp.float32)
  group_ids = ids if grouped else None
  logits = q @ k.T
  np.testing.assert_allclose(
    losses.info_nce(q, k, temperature=0.1, group_ids=group_ids),
    optax.losses.softmax_cross_entropy(
      logits / 0.1, same / same.sum(axis=1, keepdims=True)
    ),
    rtol=1e-6,
    atol=1e-5,
  )
  np.testing.assert_allclose(
    losses.sigmoid(
      q, k, logit_scale=10.0, logit_bias=-4.0, group_ids=group_ids
    ),
    optax.losses.sigmoid_binary_cross_entropy(10 * logits - 4, same).sum(1),
    rtol=3e-6,
  )
