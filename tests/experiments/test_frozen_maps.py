"""Tests of experiments.frozen.{features,maps}."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from contrastive_jax import losses, ops
from experiments.frozen import features, maps
from tests.experiments.tiny_features import (
  THINGS,
  WIDTH,
  made,
)

# Programs like others.
_REST = pytest.mark.exhaustive
table_error = jax.jit(maps.table_error, static_argnums=(0, 1))
TINY = maps.MapSettings(dim=3, temperature=0.2)
EM = maps.Method("em", losses.MovingAverage(0.5), level_rate=0.1)


def by_hand(method, inputs, *, batch, epochs, seed, rate):
  """The same run as a plain loop; maps, memory and weight of the last epoch."""
  key = jax.random.key(jnp.uint32(seed))
  steps = THINGS // batch
  optimizer = maps.optimizer_of(rate, steps * epochs, TINY)
  params = maps.initial(jax.random.fold_in(key, 0), WIDTH, WIDTH, method, TINY)
  tau, text = TINY.temperature, jnp.asarray(inputs.text)

  def objective(params, memory, image, index, key):
    a = ops.l2_normalize(image[index] @ params["image"])
    b = ops.l2_normalize(text[index] @ params["text"])
    if method.loss == "clip":
      logits = a @ b.T / tau
      both = [
        jax.nn.logsumexp(s, axis=1) - jnp.diag(s) for s in (logits, logits.T)
      ]
      return jnp.mean(jnp.stack(both)), (memory, jnp.nan)
    step = losses.em_clip(
      a,
      b,
      memory,
      index=index,
      key=key,
      temperature=tau,
      rule=method.rule,
      margins=method.margins,
      level_rate=method.level_rate,
      concentration=method.concentration,
    )
    return step.loss.mean(), (step.state, step.loss.mean())

  @jax.jit
  def one(params, state, memory, *batch):
    grads, found = jax.grad(objective, has_aux=True)(params, memory, *batch)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, *found

  @jax.jit
  def epoch_of(number):
    chosen, drawn, of_steps = jax.random.split(
      jax.random.fold_in(key, number), 3
    )
    return (
      jax.random.permutation(chosen, THINGS),
      jax.random.randint(drawn, (THINGS,), 0, 2),
      jax.random.split(of_steps, steps),
    )

  state, memory = optimizer.init(params), losses.em_init(THINGS)
  image, weights = None, []
  for number in range(1, epochs + 1):
    order, pick, keys = epoch_of(number)
    image = inputs.image[inputs.drawings[np.arange(THINGS), pick]]
    weights = []
    for step, step_key in enumerate(keys):
      index = order[step * batch : (step + 1) * batch]
      params, state, memory, weight = one(
        params, state, memory, image, index, step_key
      )
      weights.append(weight)
  return params, memory, np.mean(weights), image


def ranks_of(params, image, text, own):
  a = np.asarray(ops.l2_normalize(image @ params["image"]))
  b = np.asarray(ops.l2_normalize(text @ params["text"]))
  s = a @ b.T
  return [(row > row[i]).sum() for row, i in zip(s, own)]


@pytest.mark.parametrize(
  "method",
  [
    maps.Method("clip"),
    EM,
    pytest.param(
      dataclasses.replace(EM, margins=True, level_rate=0.0, concentration=8.0),
      marks=_REST,
    ),
  ],
)
def test_a_run_is_that_of_a_plain_loop(method):
  inputs, options = made(), {"batch": 4, "epochs": 2}
  found = maps.train(
    method,
    inputs,
    seeds=(3, 4),
    rates=(0.1, 0.05),
    probes=(2,),
    settings=TINY,
    **options,
  )
  params, memory, weight, image = by_hand(
    method, inputs, seed=4, rate=0.05, **options
  )
  np.testing.assert_allclose(found.weight_sum[1, -1], weight, rtol=1e-4)
  if method.loss == "em" and math.isinf(method.concentration):
    # An average of rate 0.5 bounds them by 2.
    assert (found.weight_max <= 2 + 1e-4).all()
    assert (found.weight_max >= found.weight_sum.max(1)).all()
  for name, task in inputs.tasks.items():
    assert found.ranks[name][1].tolist() == ranks_of(params, *task)
  if method.loss == "em":
    carry = maps._Carry(params, None, memory)
    error = table_error(method, TINY, carry, (image, inputs.text))
    np.testing.assert_allclose(found.table_error[1, 0], error, rtol=1e-3)
  else:
    assert np.isnan(found.table_error).all()


@pytest.mark.parametrize(
  "loss",
  ["decoupled", *(pytest.param(x, marks=_REST) for x in ("sigmoid", "exact"))],
)
def test_other_losses_train(loss):
  inputs = made()
  # Names that are their drawings can be found.
  easy = inputs._replace(text=inputs.image[::2], image=inputs.image[::2])
  easy = easy._replace(drawings=np.arange(THINGS, dtype=np.int32)[:, None])
  found = maps.train(
    maps.Method(loss),
    easy,
    batch=4,
    epochs=60,
    seeds=(0, 1),
    rates=(0.05, 0.05),
    settings=dataclasses.replace(TINY, dim=6),
  )
  hits = [np.mean(found.ranks[name] == 0) for name in maps.CATALOGUE]
  assert min(hits) > 0.6
  weights = found.weight_sum[:, -1]
  if loss == "decoupled":
    assert (weights == 1).all()
  elif loss == "exact":
    assert ((weights > 0.2) & (weights < 5)).all()


def test_a_hidden_layer_is_trained():
  settings = dataclasses.replace(TINY, hidden=5)
  params = maps.initial(jax.random.key(0), WIDTH, WIDTH, EM, settings)
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(2, 4, WIDTH)).astype(np.float32)
  for name, given, found in zip(
    ("image", "text"), (x, y), maps.embed(params, x, y)
  ):
    hidden = np.asarray(params[f"{name}_hidden"])
    assert hidden.shape == (WIDTH, 5)
    want = np.asarray(jax.nn.gelu(given @ hidden)) @ params[name]
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)
  gradient = jax.grad(lambda p: maps.embed(p, x, y)[0][0, 0])(params)
  assert (jnp.abs(gradient["image_hidden"]) > 0).any()


@_REST
def test_temperatures_of_single_runs():
  options = {"batch": 4, "epochs": 3, "seeds": (1, 1), "rates": (0.1, 0.1)}
  both = maps.train(EM, made(), **options, temperatures=(0.1, 0.3))
  for i, tau in enumerate((0.1, 0.3)):
    own = dataclasses.replace(maps.MapSettings(), temperature=tau)
    alone = maps.train(EM, made(), **options, settings=own)
    np.testing.assert_allclose(
      both.weight_sum[i], alone.weight_sum[i], rtol=1e-4
    )


def test_exact_weights_are_the_rows_of_the_partition_over_all():
  rng = np.random.default_rng(0)
  image, text = (
    ops.l2_normalize(jnp.asarray(rng.normal(size=(8, 3)), jnp.float32))
    for _ in range(2)
  )
  index = jnp.array([5, 0, 3])
  found = maps.exact_log_partition(
    (image[index], text[index]), (image, text), index, 0.3
  )
  every = losses.log_partition_clip(image, text, temperature=0.3)
  for one, all_of_them in zip(found, every):
    np.testing.assert_allclose(one, all_of_them[index], rtol=1e-5, atol=1e-6)


def test_a_table_without_error_is_the_truth():
  inputs = jax.tree.map(jnp.asarray, made())
  carry = maps._Carry(
    maps.initial(jax.random.key(0), WIDTH, WIDTH, EM, TINY),
    None,
    losses.em_init(THINGS),
  )
  visible = inputs.image[::2], inputs.text
  pair = maps.embed(carry.params, *visible)
  step = jax.jit(losses.em_clip, static_argnames="temperature")(
    *pair,
    carry.memory,
    index=jnp.arange(THINGS),
    temperature=TINY.temperature,
  )
  carry = carry._replace(memory=step.state)
  assert table_error(EM, TINY, carry, visible) < 1e-5


def test_ties_and_nan_count_against_an_item():
  same, broken = jnp.ones((3, 2)), jnp.full((3, 2), jnp.nan)
  places = jnp.arange(3)
  assert maps._ranks(same, same, places).tolist() == [2, 2, 2]
  assert maps._ranks(broken, same, places).tolist() == [2, 2, 2]
  assert maps._ranks(jnp.eye(3), jnp.eye(3), places).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"batch": 10}, r"^batch .*\[2, 9\].* 10"),
    ({"rates": (1.0,)}, "2 seeds.* 1 "),
    ({"temperatures": (1.0,)}, "2 seeds.* 1 "),
  ],
)
def test_what_cannot_be_trained_is_refused(change, message):
  options = {"batch": 4, "epochs": 1, "seeds": (0, 1), "rates": (0.1, 0.1)}
  with pytest.raises(ValueError, match=message):
    maps.train(EM, made(), **(options | change))


def raw_features():
  """As `features.extract` gives them, of three things."""
  rng = np.random.default_rng(0)
  concept = np.array([7, 7, 7, 2, 4, 4])
  raw = {
    "catalogue/image": rng.normal(size=(6, 5)) * [9, 3, 1, 1, 1] + 4,
    "catalogue/text": rng.normal(size=(3, 4)),
    "catalogue/concept": concept,
  }
  for task in ("unseen artist", "unseen things", "validation"):
    own = np.array([4, 2] if task == "unseen artist" else [11, 10, 11])
    raw[f"{task}/image"] = rng.normal(size=(len(own), 5))
    raw[f"{task}/text"] = rng.normal(size=(2, 4))
    raw[f"{task}/concept"] = own
  return raw


def test_features_are_made_once(monkeypatch, tmp_path):
  made_for, lines = [], []

  def extract(config, report):
    made_for.append(config.model.image_size)
    return raw_features()

  monkeypatch.setattr(features, "extract", extract)
  one, provenance = features.load(str(tmp_path), lines.append)
  two, again = features.load(str(tmp_path), lines.append)
  assert made_for == [112] and len(lines) == 1
  assert again == provenance and len(provenance["features_sha256"]) == 64
  np.testing.assert_array_equal(one.image, two.image)
  assert [p.suffix for p in tmp_path.iterdir()] == [".npz"]


def test_inputs_are_whitened_by_training_things_alone():
  raw = raw_features()
  found = features.inputs(raw)
  np.testing.assert_allclose(found.image.mean(0), 0, atol=1e-5)
  for x in (found.image, found.text):
    assert np.square(x).sum(1).mean() == pytest.approx(1, rel=1e-5)
  # Uncorrelated; a deviation is the root of what it was.
  deviation = np.linalg.svd(
    raw["catalogue/image"] - raw["catalogue/image"].mean(0)
  )[1]
  ours = np.linalg.svd(found.image)[1]
  np.testing.assert_allclose(
    ours / ours[0], np.sqrt(deviation / deviation[0]), rtol=1e-4
  )
  # Sorted things; each drawing as often as others of its thing.
  assert found.drawings.shape == (3, 12)
  assert np.bincount(found.drawings[0]).tolist() == [0, 0, 0, 12]
  assert np.bincount(found.drawings[1]).tolist() == [0, 0, 0, 0, 6, 6]
  assert np.bincount(found.drawings[2]).tolist() == [4, 4, 4]
  assert found.tasks["unseen artist"].own.tolist() == [1, 0]
  assert found.tasks["unseen artist"].text is found.text
  assert found.tasks["unseen things"].own.tolist() == [1, 0, 1]
  raw["unseen things/image"] = raw["unseen things/image"] + 100
  again = features.inputs(raw)
  np.testing.assert_array_equal(again.image, found.image)


def test_rates_of_learning_end_at_zero():
  schedule = maps.optimizer_of(0.5, 10, TINY)
  params = {"image": jnp.zeros((2, 2)), "bias": jnp.zeros(())}
  state, sizes = schedule.init(params), []
  for _ in range(11):
    updates, state = schedule.update(
      jax.tree.map(jnp.ones_like, params), state, params
    )
    sizes.append(float(-updates["bias"]))
  assert sizes[0] == 0 and math.isclose(max(sizes), 0.5, rel_tol=1e-3)
  assert sizes[-1] == pytest.approx(0, abs=1e-6)
