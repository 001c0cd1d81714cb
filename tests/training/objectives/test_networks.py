"""Networks that predict log-partitions in the trainer (AmorLIP)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from contrastive_jax import models
from contrastive_jax.training.trainer import loop
from tests.losses import augmented_references as references
from tests.models import partition_reference
from tests.training import tiny
from tests.training.stub import Stub, assert_gradients_close
from tests.training.stub import batch as make_batch
from tests.training.stub_runs import (
  DIM,
  PLAIN_VIEWS,
  features,
  fit,
  make,
  make_config,
  run,
)

TAU = math.exp(-Stub.params["log_logit_scale"])
NETWORK = {
  "loss__e_step": "amortized",
  "loss__predictor": "network",
  "loss__width": 0.5,
  **PLAIN_VIEWS,
}
SIDES = ("image", "text")


def learned(state):
  """Networks and their average after a step, on the host."""
  found = jax.device_get(state["auxiliary"])
  return found["networks"], found["average"]


def log_means(rows):
  """The stub's features of a batch, log A-hat and the positives, in float64."""
  image, text = features(rows)
  ids = rows["concept_id"]
  mask = ids[:, None] != ids[None, :]
  nothing = np.zeros(len(image))
  found = [
    references.log_z(a, b, temperature=TAU, mask=mask, positive=nothing)
    for a, b in ((image, text), (text, image))
  ]
  return (image, text), np.stack(found), (image * text).sum(1) / TAU


@pytest.mark.parametrize(
  "objective", ["kl", pytest.param("l2", marks=pytest.mark.exhaustive)]
)
def test_a_step_is_that_of_adam_on_the_formula(objective):
  """Three steps of both networks at once, written with plain autodiff."""
  changes = {"loss__objective": objective, "loss__network_steps": 3, **NETWORK}
  _, _, state, _ = make(**changes)
  before, _ = learned(state)
  (pair, log_a, _) = log_means(make_batch())
  module = models.PartitionNetwork(width=0.5)

  def total(params):
    value = 0.0
    for side, x, known in zip(SIDES, pair, log_a):
      nu = module.apply({"params": params[side]}, jnp.float32(x)) / TAU
      gap = jnp.float32(known) - nu
      here = jnp.mean(gap**2)
      if objective == "kl":
        here = 0.1 * here + jnp.mean(jnp.exp(gap) * (gap - 1.0) + 1.0)
      value += here
    return value

  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
  expected, memory = before, optimizer.init(before)
  for _ in range(3):
    updates, memory = optimizer.update(jax.grad(total)(expected), memory)
    expected = optax.apply_updates(expected, updates)
  after, average = learned(run(1, 1, **changes)[0][3])
  for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(expected)):
    np.testing.assert_allclose(a, b, atol=2e-5)
  moved = jax.tree.map(lambda a, b: 0.92 * a + 0.08 * b, before, after)
  for a, b in zip(jax.tree.leaves(average), jax.tree.leaves(moved)):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_weights_are_of_the_average_and_of_the_batch_in_a_growing_share():
  """Against NumPy: the first three steps, the average read before it moves."""
  changes = {**NETWORK, "loss__min_rate": 0.0}
  steps, mix = make_config(**changes).steps, 0.8
  _, _, state, _ = make(**changes)
  pair, log_a, positive = log_means(make_batch())
  _, average = learned(state)
  for t, (loss, _, metrics, state) in enumerate(run(1, 3, **changes)):
    share = mix * 0.5 * (1.0 - math.cos(math.pi * 2 * t / steps))
    own = np.stack(
      [
        partition_reference.network(average[side], x) / TAU
        for side, x in zip(SIDES, pair)
      ]
    )
    target = np.log(share * np.exp(own) + (1 - share) * np.exp(log_a))
    np.testing.assert_allclose(loss, np.exp(log_a - target).mean(), rtol=1e-4)
    for s, side in enumerate(SIDES):
      np.testing.assert_allclose(
        metrics[f"log_partition_{side}"],
        (target[s] - positive).mean(),
        rtol=1e-4,
        atol=1e-4,
      )
    _, average = learned(state)


@pytest.mark.exhaustive
def test_without_a_mix_weights_are_of_the_average_alone():
  changes = {**NETWORK, "loss__target_mix": 0.0, "loss__min_rate": 0.0}
  _, _, state, _ = make(**changes)
  pair, log_a, _ = log_means(make_batch())
  _, average = learned(state)
  own = np.stack(
    [
      partition_reference.network(average[side], x) / TAU
      for side, x in zip(SIDES, pair)
    ]
  )
  loss = run(1, 1, **changes)[0][0]
  np.testing.assert_allclose(loss, np.exp(log_a - own).mean(), rtol=1e-4)


def test_the_average_moves_every_so_many_steps():
  found = run(1, 3, **{**NETWORK, "loss__target_every": 2})
  averages = [learned(step[3])[1] for step in found]
  same = [
    all(
      np.array_equal(a, b)
      for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    )
    for x, y in zip(averages, averages[1:])
  ]
  assert same == [True, False]


def test_the_networks_loss_has_no_gradient_for_the_towers():
  """At first all of the target is the batch's: the gradient is DCL's own."""
  expected = run(loss__e_step="batch", **PLAIN_VIEWS)[0]
  found = run(1, 1, **NETWORK)[0]
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
  assert_gradients_close(found[1], expected[1], 1e-5)


@pytest.mark.exhaustive
def test_networks_learn_what_the_batches_say():
  changes = {
    **NETWORK,
    "loss__network_rate": 1e-2,
    "loss__target_mix": 0.0,
    "loss__target_decay": 0.5,
  }
  found = run(1, 40, **changes)
  gaps = [float(metrics["amortized_gap"]) for _, _, metrics, _ in found]
  assert gaps[-1] < 0.3 * gaps[0]
  auxiliary = found[-1][3]["auxiliary"]
  assert "tables" not in auxiliary and not auxiliary["em"].tables
  shape = auxiliary["networks"]["text"]["fc1_0"]["kernel"].shape
  assert shape == (DIM, DIM // 2)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
  "captions", [2, pytest.param(1, marks=pytest.mark.exhaustive)]
)
def test_any_number_of_devices_makes_the_same_steps(captions):
  changes = {**NETWORK, "objective__captions_per_example": captions}
  rows = [make_batch(captions=captions)] * 3
  expected, found = (run(n, 3, rows, **changes) for n in (1, 2))
  for (loss, grads, metrics, _), (a, b, c, _) in zip(found, expected):
    np.testing.assert_allclose(loss, a, rtol=1e-5)
    assert_gradients_close(grads, b, 1e-5)
    for name in metrics:
      np.testing.assert_allclose(
        metrics[name], c[name], rtol=5e-5, atol=1e-5, err_msg=name
      )
  pairs = zip(*(jax.tree.leaves(learned(x[-1][3])) for x in (found, expected)))
  for a, b in pairs:
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
  "devices", [2, pytest.param(1, marks=pytest.mark.exhaustive)]
)
def test_killed_and_started_again_it_makes_the_same_run(tmp_path, devices):
  changes = {**NETWORK, "num_threads": 1}

  def kill(state):
    raise KeyboardInterrupt

  _, whole = fit(tmp_path / "whole", devices, **changes)
  with pytest.raises(KeyboardInterrupt):
    fit(
      tmp_path / "killed",
      devices,
      evaluators=[loop.Evaluator(6, kill)],
      **changes,
    )
  _, resumed = fit(tmp_path / "killed", devices, **changes)
  tiny.assert_same(jax.device_get(resumed), jax.device_get(whole))
