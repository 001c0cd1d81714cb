"""Tests of contrastive_jax.training.trainer.state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from contrastive_jax import models
from contrastive_jax.training.trainer import state as state_lib
from tests.training import tiny


def rates(**changes):
  config = tiny.make_config(optimizer__learning_rate=0.5, **changes)
  schedule = state_lib.learning_rate(config)
  return np.array([schedule(i) for i in range(config.steps + 1)])


def test_the_rate_rises_linearly_and_falls_as_a_cosine():
  values = rates(
    steps=100, optimizer__warmup_share=0.1, optimizer__final_share=0.2
  )
  np.testing.assert_allclose(values[:11], np.linspace(0, 0.5, 11), rtol=1e-6)
  share = np.arange(91) / 90
  cosine = 0.1 + 0.4 * 0.5 * (1 + np.cos(np.pi * share))
  np.testing.assert_allclose(values[10:], cosine, rtol=1e-5)


def test_the_rate_stays_at_its_peak_before_it_falls():
  fields = dict(optimizer__warmup_share=0.1, optimizer__final_share=0.2)
  values = rates(steps=100, optimizer__decay_share=0.25, **fields)
  np.testing.assert_allclose(values[:11], np.linspace(0, 0.5, 11), rtol=1e-6)
  np.testing.assert_array_equal(values[10:76], np.float32(0.5))
  share = np.arange(26) / 25
  cosine = 0.1 + 0.4 * 0.5 * (1 + np.cos(np.pi * share))
  np.testing.assert_allclose(values[75:], cosine, rtol=1e-5)
  # A fall longer than what the warm-up leaves is that of the whole run.
  whole = rates(steps=100, optimizer__decay_share=0.95, **fields)
  np.testing.assert_array_equal(whole, rates(steps=100, **fields))
  level = rates(steps=100, optimizer__decay_share=0.0, **fields)
  np.testing.assert_array_equal(level[10:100], np.float32(0.5))


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_rate_of_short_runs_that_fall_late(steps, decay):
  values = rates(
    steps=steps, optimizer__warmup_share=0.0, optimizer__decay_share=decay
  )
  assert values[0] == 0.5 and np.all(np.isfinite(values))
  assert values.min() >= 0


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_rate_of_short_runs_is_sound(steps, share):
  values = rates(steps=steps, optimizer__warmup_share=share)
  assert np.all(np.isfinite(values)) and np.all(values >= 0)
  assert values.max() <= 0.5
  if round(share * steps) == 0:
    assert values[0] == 0.5


@pytest.mark.parametrize(
  "preset, changes",
  [
    *((preset, {}) for preset in sorted(models.PRESETS)),
    # Parts that no preset has.
    ("vit_b16", {"image": {"pool": "map", "num_registers": 3}}),
  ],
  ids=str,
)
def test_only_kernels_and_embeddings_are_decayed(preset, changes):
  model = models.create_model(
    preset, vocab_size=99, context_length=6, text={"depth": 1}, **changes
  )
  side = models.PRESETS[preset].image_size
  params = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
    jax.ShapeDtypeStruct((1, 6), jnp.int32),
  )["params"]
  named = {
    jax.tree_util.keystr(path, simple=True, separator="/"): value
    for path, value in jax.tree_util.tree_leaves_with_path(
      state_lib.decayed(params)
    )
  }
  yes = {name.split("/")[-1] for name, value in named.items() if value}
  no = {name.split("/")[-1] for name, value in named.items() if not value}
  assert {"kernel", "embedding"} <= yes
  assert yes <= {"kernel", "kernel_0", "kernel_1", "embedding"}
  known = {
    "bias",
    "class_token",
    "log_logit_scale",
    "logit_bias",
    "position_embedding",
    "positions",
    "probe",
    "registers",
    "scale",
    "segment",
  }
  assert {"bias", "scale", "log_logit_scale", "logit_bias"} <= no <= known


def test_matrices_are_the_kernels_with_their_inputs_and_outputs():
  model = models.create_model(
    "vit_b16",
    vocab_size=9,
    context_length=4,
    image={"pool": "map", "depth": 1},
    text={"depth": 1},
  )
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32),
    jax.ShapeDtypeStruct((1, 4), jnp.int32),
  )["params"]
  rules = state_lib.matrices(shapes)
  image = rules["image"]
  whole = optax.contrib.MuonDimensionNumbers
  pool = image["map_pool"]["attention"]
  # [width, heads, d] and [heads, d, width].
  for name in ("query", "key", "value"):
    assert pool[name] == {"kernel": whole((0,), (1, 2)), "bias": None}
  assert pool["out"]["kernel"] == whole((0, 1), (2,))
  # [patch, patch, colours, width]
  assert image["patch_embedding"]["kernel"] == whole((0, 1, 2), (3,))
  assert rules["text"]["token_embedding"]["embedding"] is None
  assert rules["log_logit_scale"] is None
  is_rule = lambda x: x is None or isinstance(x, whole)  # noqa: E731
  flat = jax.tree_util.tree_leaves_with_path(rules, is_leaf=is_rule)
  assert len(flat) == len(jax.tree.leaves(shapes))
  for path, rule in flat:
    name = jax.tree_util.keystr(path[-1:], simple=True)
    assert (rule is not None) == (name == "kernel"), path
  depthwise = {"depthwise": {"kernel_0": jnp.ones((5, 1, 8))}}
  assert state_lib.matrices(depthwise)["depthwise"]["kernel_0"] is None


def test_muon_orthogonalises_matrices_and_leaves_the_rest_to_adam():
  """Against a NumPy version; a second step has its momentum."""
  config = tiny.make_config(
    optimizer={
      "name": "muon",
      "learning_rate": 0.1,
      "warmup_share": 0.0,
      "final_share": 1.0,
      "weight_decay": 0.3,
      "beta1": 0.9,
      "clip_norm": 0.0,
    }
  )
  rng = np.random.default_rng(0)
  kernel, embedding = rng.normal(size=(4, 6)), rng.normal(size=(5, 3))
  params = {
    "dense": {"kernel": jnp.asarray(kernel, jnp.float32)},
    "table": {"embedding": jnp.asarray(embedding, jnp.float32)},
  }
  gradients = rng.normal(size=(2, 4, 6))
  optimizer = state_lib.make_optimizer(config)
  state = optimizer.init(params)
  for g in gradients:
    grads = {
      "dense": {"kernel": jnp.asarray(g, jnp.float32)},
      "table": {"embedding": jnp.full((5, 3), -2.0)},
    }
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)

  moment = np.zeros((4, 6))
  for i, g in enumerate(gradients, start=1):
    moment = 0.9 * moment + 0.1 * g
    # Nesterov's, both corrected for their beginning at 0.
    ahead = 0.9 * moment / (1 - 0.9 ** (i + 1)) + 0.1 * g / (1 - 0.9**i)
    x = ahead / np.linalg.norm(ahead)
    for _ in range(5):
      square = x @ x.T
      x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    # Nearly all singular values are near 1, and the largest side makes the size.
    assert np.all(np.abs(np.linalg.svd(x)[1] - 1) < 0.5)
    kernel -= 0.1 * (0.2 * np.sqrt(6) * x + 0.3 * kernel)
  np.testing.assert_allclose(params["dense"]["kernel"], kernel, atol=1e-4)
  # Of a constant gradient Adam makes steps of the rate, but here it has Nesterov's
  # moment too, whose corrections do not cancel. Nothing decays.
  steps = [
    0.9 * (1 - 0.9**i) / (1 - 0.9 ** (i + 1)) + 0.1 / (1 - 0.9**i)
    for i in (1, 2)
  ]
  np.testing.assert_allclose(
    params["table"]["embedding"], embedding + 0.1 * sum(steps), atol=1e-5
  )


def run(steps, optimizer__ema_decay=0.0, **changes):
  """States and metrics of a toy objective, one a step."""
  config = tiny.make_config(
    optimizer__ema_decay=optimizer__ema_decay, **changes
  )
  source = tiny.make_source(0, 8)
  rng = np.random.default_rng(0)
  batch = {
    "image": source.images,
    "tokens": rng.integers(0, 100, (8, 1, 12)).astype(np.int32),
  }
  optimizer = state_lib.make_optimizer(config)
  objective = tiny.Toy()
  state = state_lib.init_state(objective, optimizer, config, batch)
  step = jax.jit(state_lib.make_train_step(objective, optimizer, config))
  states, metrics = [state], []
  for _ in range(steps):
    state, values = step(state, batch)
    states.append(state)
    metrics.append(values)
  return states, metrics, (objective, config, batch)


def test_a_step_is_the_update_of_the_loss_at_its_key():
  states, metrics, (objective, config, batch) = run(2)
  optimizer = state_lib.make_optimizer(config)
  value_and_grad = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  for number in range(2):
    before = states[number]
    assert int(before.step) == number
    key = jax.random.fold_in(jax.random.key(config.seed + 1), number)
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
  states, _, _ = run(6, optimizer__learning_rate=0.1)
  assert all(float(s.params["a"].max()) <= 0.02 for s in states)
  # At the first step the rate is 0 (warm-up); later the bound is reached.
  assert float(states[-1].params["a"].max()) == pytest.approx(0.02)


def test_gradients_are_clipped_by_their_global_norm():
  config = tiny.make_config(
    optimizer__clip_norm=0.5, optimizer__weight_decay=0.0
  )
  optimizer = state_lib.make_optimizer(config)
  grads = {"a": jnp.full(4, 3.0), "b": jnp.full(4, 4.0)}
  state = optimizer.init(grads)
  _, state = optimizer.update(grads, state, grads)
  (moment,) = [
    s.mu
    for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu"))
    if hasattr(s, "mu")
  ]
  # 10 is the norm of the gradients.
  expected = 0.1 * 3.0 * 0.5 / 10.0
  np.testing.assert_allclose(moment["a"], expected, rtol=1e-5)


def test_the_average_follows_its_formula():
  states, _, _ = run(4, optimizer__ema_decay=0.9)
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
