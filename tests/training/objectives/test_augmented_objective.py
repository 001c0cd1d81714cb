"""The augmented loss in the trainer: E-step, tables, diagnostics."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses, ops
from contrastive_jax.training.distributed import example_tables, sharding
from contrastive_jax.training.runs import build
from contrastive_jax.training.trainer import checkpoints, loop
from contrastive_jax.training.trainer import state as state_lib
from tests.losses import augmented_references as references
from tests.training import tiny
from tests.training.stub import ROWS, Stub, assert_gradients_close
from tests.training.stub import batch as make_batch
from tests.training.stub_runs import (
  DATA,
  DIM,
  PLAIN_VIEWS,
  features,
  fit,
  make,
  make_config,
  run,
)

# Programs like others.
_REST = pytest.mark.exhaustive
ONE_OR_FOUR = (pytest.param(1, marks=_REST), 4)


def entries(state, name, devices=1):
  """A table in the order of the examples."""
  auxiliary = state["auxiliary"]
  tables = auxiliary["em"].tables | auxiliary.get("tables", {})
  table = np.asarray(tables[name])
  length = table.shape[0] // example_tables.UNIT * example_tables.UNIT
  return ops.tables.from_sharded(table, length, devices)


@functools.cache
def plain(devices=1, **changes):
  return run(devices, **changes)[0]


@pytest.mark.parametrize("devices", ONE_OR_FOUR)
def test_with_the_batch_s_own_estimate_it_has_the_gradient_of_clip(devices):
  expected = plain(loss="clip", loss__group_positives=False)
  loss, grads, metrics, _ = run(
    devices,
    loss__e_step="batch",
    loss__include_positive=True,
    loss__negative_mass=0.0,
    loss__group_positives=False,
  )[0]
  # u Z-hat is 1 whatever the features are.
  np.testing.assert_allclose(loss, 1.0, rtol=1e-5)
  np.testing.assert_allclose(metrics["weight_sum"], loss)
  assert_gradients_close(grads, expected[1], 1e-5)


@pytest.mark.parametrize("captions", [pytest.param(1, marks=_REST), 2])
def test_without_the_positive_it_has_that_of_decoupled(captions):
  rows = [make_batch(captions=captions)]
  settings = {
    "loss__group_positives": False,
    "objective__captions_per_example": captions,
  }
  expected = run(batches=rows, loss="decoupled", **settings)[0]
  found = run(batches=rows, loss__e_step="batch", **settings)[0]
  assert_gradients_close(found[1], expected[1], 1e-5)


@pytest.mark.parametrize("rule", ["moving_average", "conjugate", "visits"])
@pytest.mark.parametrize("devices", ONE_OR_FOUR)
def test_tables_follow_the_rule(rule, devices):
  """Against a simulation in NumPy, over three batches of other examples."""
  rng = np.random.default_rng(0)
  whole = make_batch()
  batches = []
  for _ in range(3):
    chosen = rng.choice(ROWS, ROWS, replace=True)  # Some of them twice.
    batches.append({k: v[chosen] for k, v in whole.items()})
  changes = {
    "moving_average": {"loss__rate": 0.3},
    "conjugate": {
      "loss__e_step": "conjugate",
      "loss__log_alpha": 2.0,
      "loss__min_rate": 0.0,
    },
    "visits": {
      "loss__rate_schedule": "visits",
      "loss__rate": 1.0,
      "loss__e_step__rate_schedule__decay": 0.5,
    },
  }[rule]
  plain_tables = {"loss__margins": True, "loss__level_rate": 0.0}
  found = run(devices, 3, batches, **changes, **plain_tables, **PLAIN_VIEWS)
  tau = math.exp(-Stub.params["log_logit_scale"])
  known, visits, last = {}, {}, {}
  for t, rows in enumerate(batches):
    image, text = features(rows)
    ids = rows["concept_id"]
    mask = ids[:, None] != ids[None, :]
    estimates = np.stack(
      [
        references.log_z(a, b, temperature=tau, mask=mask)
        for a, b in ((image, text), (text, image))
      ]
    )
    ages = [t - last[i] for i in rows["index"] if i in last]
    assert found[t][2]["unseen_share"] == pytest.approx(
      1 - len(ages) / ROWS, abs=1e-6
    )
    assert found[t][2]["table_age"] == pytest.approx(np.mean(ages or [0]))
    new = {}
    for row, i in enumerate(rows["index"]):
      before, batch = known.get(i), np.exp(estimates[:, row])
      if before is None:
        after = batch
      elif rule == "conjugate":
        b = math.exp(-2.0)
        after = (b + batch) / (b / before + 1.0)
      else:
        rate = 0.3 if rule == "moving_average" else (visits[i] + 1) ** -0.5
        after = (1 - rate) * before + rate * batch
      new.setdefault(i, []).append(np.log(after))
    for i, values in new.items():
      known[i] = np.exp(np.mean(values, axis=0))
      visits[i], last[i] = visits.get(i, 0) + 1, t
  state = found[-1][3]
  table = entries(state, "entries", devices)
  for i in range(len(table)):
    if i in known:
      np.testing.assert_allclose(table[i], np.log(known[i]), rtol=1e-4)
    else:
      assert np.isnan(table[i]).all()
  counted = entries(state, "visits", devices)[:, 0]
  assert {i: int(counted[i]) for i in visits} == visits
  assert counted.sum() == sum(visits.values())


@pytest.mark.usefixtures("all_passes")
@pytest.mark.parametrize(
  "concentration, devices",
  [(2.0, 8)]
  + [pytest.param(*c, marks=_REST) for c in ((2.0, 2), (0.0, 2), (0.0, 8))],
)
def test_any_number_of_devices_makes_the_same_steps(concentration, devices):
  changes = {"loss__concentration": concentration, "loss__rate": 0.4}
  changes["loss__e_step"] = "moving_average"
  expected = run(1, 2, **changes)
  found = run(devices, 2, **changes)
  for (loss, grads, metrics, _), (a, b, c, _) in zip(found, expected):
    np.testing.assert_allclose(loss, a, rtol=1e-5)
    assert_gradients_close(grads, b, 1e-5)
    assert metrics.keys() == c.keys()
    for name in metrics:
      np.testing.assert_allclose(
        metrics[name], c[name], rtol=2e-5, atol=1e-6, err_msg=name
      )
  for name in ("entries", "visits", "last"):
    np.testing.assert_allclose(
      entries(found[-1][3], name, devices),
      entries(expected[-1][3], name),
      rtol=1e-5,
      atol=2e-7,
    )


def test_draws_differ_from_step_to_step_and_have_mean_one():
  rule = {"loss__e_step": "conjugate"}
  mean = run(1, 1, loss__concentration=0.0, **rule)[0][0]
  drawn = [x[0] for x in run(1, 40, loss__concentration=1.0, **rule)]
  assert len(set(map(float, drawn))) == 40
  # Sixteen anchors of two sides and one row each a step.
  error = np.std(drawn) / math.sqrt(len(drawn))
  assert abs(np.mean(drawn) - mean) < 4 * error


def test_lagged_weights_are_those_of_the_step_before():
  rows = make_batch()
  other = {**rows, "tokens": rows["tokens"][::-1].copy()}
  changes = {
    "loss__margins": True,
    "loss__level_rate": 0.0,
    "loss__rate": 1.0,
  }
  lagged = run(1, 2, [rows, other], loss__lagged=True, **changes, **PLAIN_VIEWS)
  image, text = features(rows)
  tau = math.exp(-Stub.params["log_logit_scale"])
  ids = rows["concept_id"]
  mask = ids[:, None] != ids[None, :]

  def log_z(image, text):
    return [
      references.log_z(a, b, temperature=tau, mask=mask)
      for a, b in ((image, text), (text, image))
    ]

  before, now = log_z(image, text), log_z(image, text[::-1])
  expected = np.mean([np.exp(b - a) for a, b in zip(before, now)])
  # At first nothing is known but the batch.
  np.testing.assert_allclose(lagged[0][0], 1.0, rtol=1e-5)
  np.testing.assert_allclose(lagged[1][0], expected, rtol=1e-4)


def test_a_robust_temperature_has_its_objective_s_gradient():
  """d/d tau of tau (log Z + rho), in units of tau, by finite differences."""
  settings = {
    "loss__temperature_mode": "robust",
    "loss__e_step": "batch",
    "loss__rho": 3.0,
    **PLAIN_VIEWS,
  }
  loss, grads, metrics, _ = run(**settings)[0]
  rows = make_batch()
  image, text = features(rows)
  ids = rows["concept_id"]
  mask = ids[:, None] != ids[None, :]

  def objective(log_scale):
    tau = math.exp(-log_scale)
    log_z = [
      references.log_z(a, b, temperature=tau, mask=mask)
      for a, b in ((image, text), (text, image))
    ]
    return tau * (np.mean(log_z) + 3.0)

  at = Stub.params["log_logit_scale"]
  expected = (objective(at + 1e-4) - objective(at - 1e-4)) / 2e-4
  np.testing.assert_allclose(loss, objective(at) * math.exp(at), rtol=1e-5)
  np.testing.assert_allclose(
    grads["log_logit_scale"], expected * math.exp(at), rtol=1e-3
  )
  expected_features = plain(loss__e_step="batch", **PLAIN_VIEWS)[1]
  for tower in ("image", "text"):
    np.testing.assert_allclose(
      grads[tower], expected_features[tower], rtol=1e-4, atol=1e-6
    )
  assert metrics["logit_scale"] == pytest.approx(math.exp(at), rel=1e-6)


@pytest.mark.parametrize("kind", ["fixed", "individual"])
def test_a_temperature_that_is_not_learned_has_no_gradient(kind):
  _, grads, _, _ = run(loss__temperature_mode=kind)[0]
  assert grads["log_logit_scale"] == 0.0
  assert np.abs(grads["image"]).max() > 0


@pytest.mark.parametrize("devices", ONE_OR_FOUR)
def test_individual_temperatures_go_down_their_own_slopes(devices):
  settings = {
    "loss__temperature_mode": "individual",
    "loss__e_step": "batch",
    "loss__rho": 2.0,
    "loss__temperature_rate": 0.05,
    "loss__temperature": 1 / 10.0,
    **PLAIN_VIEWS,
  }
  state = run(devices, 1, **settings)[0][3]
  rows = make_batch()
  image, text = features(rows)
  ids = rows["concept_id"]
  mask = ids[:, None] != ids[None, :]

  def objective(tau):
    return np.stack(
      [
        tau * (references.log_z(a, b, temperature=tau, mask=mask) + 2)
        for a, b in ((image, text), (text, image))
      ],
      axis=1,
    )

  slope = (objective(0.1 + 1e-5) - objective(0.1 - 1e-5)) / 2e-5
  # The momentum's first step is a tenth of the gradient.
  expected = np.clip(0.1 - 0.05 * 0.1 * slope, 0.01, 1.0)
  found = entries(state, "temperature", devices)
  np.testing.assert_allclose(found[:ROWS], expected, rtol=1e-3)
  np.testing.assert_allclose(found[ROWS:], 0.1, rtol=1e-6)


def test_prototypes_learn_what_the_batches_say():
  changes = {
    "loss__e_step": "amortized",
    "loss__prototypes": 24,
    "loss__prototype_refill": 1000,
    **PLAIN_VIEWS,
  }
  found = run(1, 30, **changes)
  gaps = [float(metrics["amortized_gap"]) for _, _, metrics, _ in found]
  assert gaps[-1] < 0.5 * gaps[0]
  state = found[-1][3]["auxiliary"]
  assert "tables" not in state and not state["em"].tables
  assert state["prototypes"]["image"]["prototypes"].shape == (24, DIM)
  # On more devices it is the same fit.
  on_four = run(4, 3, **changes)
  np.testing.assert_allclose(on_four[2][0], found[2][0], rtol=1e-4)


def test_a_cap_bites_and_is_reported():
  changes = {"loss__e_step": "batch", "log_every": 2, **PLAIN_VIEWS}
  free = run(1, 2, **changes)
  capped = run(1, 2, loss__log_weight_cap=1e-3, **changes)
  assert "capped_share" not in free[0][2]
  # Only at steps that are logged.
  assert np.isnan(capped[0][2]["capped_share"])
  assert 0 < capped[1][2]["capped_share"] < 1
  assert capped[1][0] < free[1][0]
  size = free[1][2]["effective_sample_size"]
  assert 1 <= size <= ROWS - 2


@pytest.mark.parametrize(
  "temperature", ["individual", pytest.param("learned", marks=_REST)]
)
def test_a_checkpoint_opens_on_any_number_of_devices(tmp_path, temperature):
  changes = {"loss__temperature_mode": temperature, "steps": 4}
  _, state = fit(tmp_path, 4, **changes)
  found = jax.device_get(state.objective_state)
  for devices in (1, 2, 3):
    objective, params, empty, mesh = make(devices, batch_size=24, **changes)
    objective.init = lambda key, batch: (params, empty)  # noqa: B023
    saved = checkpoints.Checkpoints(tmp_path, keep=None)
    config = make_config(batch_size=24, **changes)
    loaded = saved.restore(tiny.abstract_state(config, objective, mesh.size))
    saved.close()
    tiny.assert_same(
      jax.device_get(loaded.params), jax.device_get(state.params)
    )
    auxiliary = loaded.objective_state["auxiliary"]
    tables = auxiliary["em"].tables | auxiliary.get("tables", {})
    assert len(tables) == (5 if temperature == "individual" else 3)
    for name, table in tables.items():
      np.testing.assert_array_equal(
        entries(loaded.objective_state, name, devices), entries(found, name, 4)
      )
      assert table.sharding == sharding.batch_sharding(mesh)
    np.testing.assert_array_equal(
      auxiliary["em"].level, found["auxiliary"]["em"].level
    )


def test_a_table_of_other_data_is_refused(tmp_path):
  fit(tmp_path, 1, steps=4)
  objective, params, state, mesh = make(1, steps=4)
  longer = jax.tree.map(
    lambda x: jnp.concatenate([x, x]) if jnp.ndim(x) == 2 else x,
    state["auxiliary"],
  )
  objective.init = lambda key, batch: (params, {**state, "auxiliary": longer})
  saved = checkpoints.Checkpoints(tmp_path, keep=None)
  with pytest.raises(checkpoints.CheckpointError, match="auxiliary/em/"):
    config = make_config(steps=4)
    saved.restore(tiny.abstract_state(config, objective, mesh.size))
  saved.close()


def test_killed_and_started_again_it_makes_the_same_run(tmp_path):
  changes = {"loss__concentration": 2.0, "num_threads": 1}

  def kill(state):
    raise KeyboardInterrupt

  _, whole = fit(tmp_path / "whole", 2, **changes)
  with pytest.raises(KeyboardInterrupt):
    fit(tmp_path / "killed", 2, evaluators=[loop.Evaluator(6, kill)], **changes)
  _, resumed = fit(tmp_path / "killed", 2, **changes)
  # NaN, an example not seen, equals itself there.
  tiny.assert_same(jax.device_get(resumed), jax.device_get(whole))


def test_an_unseen_example_is_no_fault_of_a_state():
  _, params, state, _ = make()
  whole = state_lib.TrainState(
    jnp.int32(0), jnp.uint32(0), params, (), state, ema_params=None
  )
  assert all(jax.device_get(state_lib.finite(whole)).values())
  em = state["auxiliary"]["em"]
  table = em.tables["entries"].at[3].set(jnp.inf)
  broken = {
    **state,
    "auxiliary": {"em": em._replace(tables={"entries": table})},
  }
  found = state_lib.finite(whole.replace(objective_state=broken))
  (bad,) = [name for name, good in found.items() if not good]
  assert bad == "objective state auxiliary/em/tables/entries"


def test_an_example_that_the_tables_lack_weighs_as_its_batch_says():
  rows = {**make_batch()}
  rows["index"] = np.where(np.arange(ROWS) == 3, 10**6, rows["index"])
  changes = {"loss__e_step": "moving_average", "loss__rate": 0.5}
  found = run(1, 2, [rows, rows], **changes)
  assert np.isfinite(found[1][0])
  assert found[1][2]["unseen_share"] == pytest.approx(1 / ROWS)


def test_a_cold_temperature_stays_finite():
  changes = {"loss__temperature_mode": "learned", "loss__e_step": "conjugate"}
  objective, params, state, mesh = make(**changes)
  params = {**params, "log_logit_scale": jnp.float32(math.log(100.0))}
  rows = sharding.put_batch(make_batch(), mesh)
  fn = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  for t in range(3):
    (loss, (state, _)), grads = fn(params, state, rows, jax.random.key(t))
    assert np.isfinite(loss)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_the_estimates_of_the_library_are_what_is_stored():
  """A batch seen once: the table holds tau log A, free of the positive."""
  state = run(1, 1, loss__group_positives=False, **PLAIN_VIEWS)[0][3]
  image, text = map(jnp.float32, features(make_batch()))
  tau = math.exp(-Stub.params["log_logit_scale"])
  expected = losses.log_partition_clip(image, text, temperature=tau)
  expected = tau * np.stack(expected) + np.sum(image * text, axis=1)
  found = entries(state, "entries")[:ROWS].T
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  "examples, epochs", [(None, 8 * 100 / 400), (40, 8 * 100 / 40)]
)
def test_the_default_rate_counts_the_examples_of_the_split(examples, epochs):
  # A part of a set has indices up to the whole set's.
  objective = build.build_objective(
    make_config(steps=100, batch_size=8),
    vocab_size=DATA.tokenizer.vocab_size,
    num_examples=400,
    mesh=tiny.make_mesh(1),
    examples=examples,
  )
  assert objective.augmented_pairs is not None
  rule = objective.augmented_pairs.auxiliary._rule(0)
  assert float(rule.rate) == pytest.approx(losses.rate_of_epochs(epochs))
