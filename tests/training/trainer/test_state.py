"""Tests of contrastive_jax.training.trainer.state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from contrastive_jax.training.trainer import state as state_lib
from tests.training import tiny
from tests.training.toy import Toy, make_batches, make_optimizer, make_settings


def run(steps, optimizer=None, **changes):
  """States and metrics of a toy objective, one a step."""
  settings, objective = make_settings(**changes), Toy()
  chosen = make_optimizer(settings, objective, clip_norm=1.0, **optimizer or {})
  optimizer, rate = chosen["optimizer"], chosen["learning_rate"]
  batch = next(make_batches(settings))
  state = state_lib.init_state(settings, objective, optimizer)
  step = jax.jit(
    state_lib.make_train_step(objective, optimizer, settings, rate)
  )
  states, metrics = [state], []
  for _ in range(steps):
    state, values = step(state, batch)
    states.append(state)
    metrics.append(values)
  return states, metrics, (objective, optimizer, settings, batch)


def test_a_step_is_the_update_of_the_loss_at_its_key():
  states, metrics, (objective, optimizer, settings, batch) = run(2)
  value_and_grad = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  for number in range(2):
    before = states[number]
    assert int(before.step) == number
    key = jax.random.fold_in(jax.random.key(settings.seed + 1), number)
    (loss, _), grads = value_and_grad(
      before.params, before.objective_state, batch, key
    )
    updates, _ = optimizer.update(grads, before.opt_state, before.params)
    params = objective.constrain(optax.apply_updates(before.params, updates))
    np.testing.assert_allclose(metrics[number]["loss"], loss, rtol=1e-5)
    for name, value in params.items():
      np.testing.assert_allclose(
        states[number + 1].params[name], value, rtol=1e-4, atol=1e-6
      )
    squares = metrics[number]["squares"]
    np.testing.assert_allclose(
      squares["gradient"]["w"], jnp.sum(grads["w"] ** 2), rtol=1e-4
    )
    np.testing.assert_allclose(
      squares["parameter"]["w"], jnp.sum(before.params["w"] ** 2), rtol=1e-5
    )
    np.testing.assert_allclose(
      metrics[number]["gradient_norm"],
      np.sqrt(sum(squares["gradient"].values())),
      rtol=1e-5,
    )
  assert int(states[2].objective_state["count"]) == 2


def test_the_seed_decides():
  first, same, other = (run(2, seed=s)[0][-1] for s in (3, 3, 4))
  tiny.assert_same(first, same)
  assert np.any(first.params["w"] != other.params["w"])


def test_parameters_are_constrained_after_every_update():
  states, _, _ = run(6, {"learning_rate": 0.1})
  assert all(float(s.params["a"].max()) <= 0.02 for s in states)
  # At the first step the rate is 0 (warm-up); later the bound is reached.
  assert float(states[-1].params["a"].max()) == pytest.approx(0.02)


def test_the_average_follows_its_formula():
  states, _, _ = run(4, ema_decay=0.9)
  average = states[0].params["w"]
  np.testing.assert_array_equal(states[0].ema_params["w"], average)
  for number, state in enumerate(states[1:]):
    rate = min(0.9, (1 + number) / (10 + number))
    average = rate * average + (1 - rate) * state.params["w"]
    np.testing.assert_allclose(state.ema_params["w"], average, rtol=1e-5)
    assert state.eval_params is state.ema_params
  assert np.any(states[-1].ema_params["w"] != states[-1].params["w"])


def test_without_an_average_there_is_none():
  states, _, _ = run(1)
  assert states[-1].ema_params is None
  assert states[-1].eval_params is states[-1].params


@pytest.mark.parametrize(
  "spoil, name",
  [
    (lambda s: s.replace(params=bad(s.params)), "parameter w"),
    (lambda s: s.replace(ema_params=bad(s.params)), "averaged parameter w"),
    (
      lambda s: s.replace(objective_state={"mean": jnp.float32(jnp.inf)}),
      "objective state mean",
    ),
  ],
)
def test_finite_names_what_is_not(spoil, name):
  state = run(1)[0][-1]
  assert all(state_lib.finite(state).values())
  found = state_lib.finite(spoil(state))
  assert [k for k, v in found.items() if not v] == [name]


def bad(params):
  return {**params, "w": params["w"].at[1, 1].set(jnp.nan)}


def test_finite_looks_into_the_optimizer_too():
  state = run(1)[0][-1]
  spoiled = jax.tree.map(
    lambda x: x * jnp.inf if x.dtype == jnp.float32 else x, state.opt_state
  )
  found = state_lib.finite(state.replace(opt_state=spoiled))
  wrong = [k for k, v in found.items() if not v]
  assert wrong and all(k.startswith("optimizer state") for k in wrong)
