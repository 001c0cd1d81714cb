"""ALBEF's objective: a step by hand, devices, queue and momentum, options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from contrastive_jax.training.objectives import fusion_base, momentum_queue
from contrastive_jax.training.trainer import checkpoints, loop
from tests.training import tiny
from tests.training.tiny_albef import (
  DATA,
  ROWS,
  assert_trees_close,
  make_batch,
  make_config,
  moved,
  start,
  step,
)

# Whole runs and forms like others.
_REST = pytest.mark.exhaustive


# --- One step, by hand ------------------------------------------------------

OTHER_IMAGES = np.array([2, 3, 0, 6, 7, 1, 4, 5])
OTHER_TEXTS = np.array([7, 2, 1, 0, 6, 3, 5, 4])


def fixed_negatives(key, similarity, *, group_ids, positions):
  """Two draws a step, in this order."""
  del key, group_ids, positions
  fixed_negatives.calls += 1
  table = (OTHER_IMAGES, OTHER_TEXTS)[fixed_negatives.calls % 2]
  n = similarity.shape[0]
  return jnp.asarray(table), jnp.arange(n) != 3


def fixed_masks(key, tokens, maskable, *, vocab_size, mask_id, share):
  del key, share
  assert mask_id == vocab_size - 1
  chosen = maskable & (jnp.arange(tokens.shape[1]) % 3 == 1)
  return jnp.where(chosen, mask_id, tokens), chosen


def by_hand(objective, params, state, batch, alpha):
  """The sum of the losses, each from whole matrices and one pass a pair."""
  model = objective.model
  old = jax.lax.stop_gradient(params)
  momentum = jax.tree.map(
    lambda m, p: 0.9 * m + 0.1 * p, state["momentum"], old
  )
  images = objective._views.plain(batch["image"])
  tokens = batch["tokens"][:, 0]
  tau = params["temperature"]

  def call(p, method, *args):
    return model.apply({"params": p}, *args, method=method)

  def text_of(p, rows):
    out = call(p, "encode_text", rows)
    return out

  image, text = call(params, "encode_image", images), text_of(params, tokens)
  image_m, text_m = (
    call(momentum, "encode_image", images),
    text_of(momentum, tokens),
  )
  groups = batch["concept_id"]

  def contrast(q, qm, k, side, alpha=alpha):
    keys = jnp.concatenate([k, state["queue"][side]])
    ids = jnp.concatenate([groups, state["queue"]["ids"]])
    hard = (groups[:, None] == ids[None]).astype(jnp.float32)
    hard /= hard.sum(1, keepdims=True)
    soft = jax.nn.softmax(qm @ keys.T / tau)
    target = jax.lax.stop_gradient(alpha * soft + (1 - alpha) * hard)
    log_p = jax.nn.log_softmax(q @ jax.lax.stop_gradient(keys).T / tau)
    return -jnp.mean(jnp.sum(target * log_p, axis=1))

  contrastive = 0.5 * (
    contrast(image["feature"], image_m["feature"], text_m["feature"], "text")
    + contrast(text["feature"], text_m["feature"], image_m["feature"], "image")
  )
  if objective._in_modal:
    for side, x, m in (("image", image, image_m), ("text", text, text_m)):
      own = contrast(x["feature"], m["feature"], m["feature"], side, 0.0)
      contrastive += 0.5 * own
    contrastive /= 2

  def matches(rows_of_text, rows_of_image, label):
    states = call(
      params,
      "fuse",
      text["tokens"][rows_of_text],
      text["valid"][rows_of_text],
      image["tokens"][rows_of_image],
    )
    log_p = jax.nn.log_softmax(call(params, "match", states))
    return -log_p[:, label]

  own = np.arange(ROWS)
  kept = own != 3
  values = jnp.concatenate(
    [
      matches(own, own, 1),
      matches(own, OTHER_IMAGES, 0)[kept],
      matches(OTHER_TEXTS, own, 0)[kept],
    ]
  )
  matching = jnp.mean(values)

  valid = tokens != 0
  last = valid.sum(1) - 1
  place = np.arange(tokens.shape[1])
  chosen = (place % 3 == 1) & (place > 0) & (place[None] < last[:, None])
  masked = jnp.where(chosen, objective.mask_id, tokens)

  def words(p, image):
    inner = text_of(p, masked)
    states = call(p, "fuse", inner["tokens"], inner["valid"], image["tokens"])
    return call(p, "predict_tokens", states)

  log_p = jax.nn.log_softmax(words(params, image))
  hard = jnp.take_along_axis(log_p, tokens[..., None], axis=2)[..., 0]
  soft = jax.nn.softmax(words(momentum, image_m))
  soft = jnp.sum(jax.lax.stop_gradient(soft) * log_p, axis=2)
  language = -jnp.sum(((1 - alpha) * hard + alpha * soft) * chosen)
  language /= chosen.sum()
  assert chosen.sum() > ROWS
  weights = objective._settings
  return (
    weights.contrast * contrastive
    + weights.matching * matching
    + weights.language * language
  )


@pytest.mark.parametrize(
  "count, in_modal",
  [
    (1, False),
    (1, True),
    *(pytest.param(c, False, marks=_REST) for c in (0, 7)),
  ],
)
def test_a_step_by_hand(monkeypatch, count, in_modal):
  """Alpha's ramp is 2 of the 8 steps."""
  changes = {
    "objective__contrast": 0.7,
    "objective__matching": 1.3,
    "objective__language": 0.9,
    "loss__in_modal": in_modal,
  }
  objective, params, state = start(**changes)
  state = {**state, "count": jnp.int32(count)}
  ids = np.arange(16, dtype=np.int32) // 3 - 1
  state["queue"] = {**state["queue"], "ids": jnp.asarray(ids)}
  batch = make_batch()
  monkeypatch.setattr(losses, "sample_hard_negatives", fixed_negatives)
  monkeypatch.setattr(losses, "mask_tokens", fixed_masks)
  fixed_negatives.calls = 1
  # The views are plain ones here: nothing of the augmentation is on.
  monkeypatch.setattr(
    objective._views, "random", lambda key, x: objective._views.plain(x)
  )
  (value, (_, metrics)), grads = step(objective, params, state, batch)
  alpha = 0.4 * min(1.0, count / 2)
  expected, wanted = jax.jit(
    jax.value_and_grad(
      lambda p: by_hand(objective, p, state, batch, jnp.float32(alpha))
    )
  )(params)
  np.testing.assert_allclose(metrics["alpha"], alpha, rtol=1e-6)
  np.testing.assert_allclose(value, expected, rtol=2e-6)
  assert_trees_close(grads, wanted, 2e-5)
  assert float(np.abs(grads["temperature"])) > 1e-4


# --- Devices ----------------------------------------------------------------


@pytest.mark.parametrize(
  "loss, block, in_modal",
  [
    ("soft_target", 0, False),
    ("soft_target", 4, True),
    pytest.param("augmented", 4, None, marks=_REST),
    pytest.param("soft_target", 4, False, marks=_REST),
    pytest.param("augmented", 0, None, marks=_REST),
  ],
)
def test_any_number_of_devices(loss, block, in_modal):
  changes = {
    "loss": loss,
    "objective__negative_block": block,
    "structure__separation": 0.5,
    "structure__bridge": 0.3,
    "structure__consistency": 0.2,
    "other_view": "momentum",
    "objective__mask_share": 0.5,
  }
  if in_modal is not None:
    changes["loss__in_modal"] = in_modal
  batch = make_batch()
  results = []
  for devices in (1, 2) if block else (1, 8):
    objective, params, state = start(devices, **changes)
    state = {**state, "count": jnp.int32(5)}
    results.append(step(objective, params, state, batch))
  (value, (state, metrics)), grads = results[0]
  (other, (other_state, other_metrics)), other_grads = results[1]
  np.testing.assert_allclose(other, value, rtol=1e-5)
  assert_trees_close(other_grads, grads, 1e-4)
  assert set(other_metrics) == set(metrics)
  if loss == "soft_target":
    assert_trees_close(other_state["queue"], state["queue"], 1e-5)
  for name in ("orthogonality", "brownian_bridge", "geometric_consistency"):
    assert float(metrics[name]) > 0


def test_second_heads_by_name():
  objective, params, state = start(structure__separation=0.5)
  batch = make_batch()
  for encode, x, encoded in (
    (objective.encode_image, batch["image"], "image"),
    (objective.encode_text, batch["tokens"][:, 0], "text"),
  ):
    applied = fusion_base.Applied(objective.model, params)
    inputs = objective._views.plain(x) if encoded == "image" else x
    found = getattr(applied, encoded)(inputs)
    z, second = found["feature"], found["independent"]
    assert np.abs(z - second).max() > 0.1
    both = np.concatenate([z, second], axis=1) / np.sqrt(2)
    expected = {"shared": z, "independent": second, "both": both}
    for head, value in expected.items():
      given = encode(params, state, x, head=head)
      np.testing.assert_allclose(given, value, atol=1e-6)


# --- Queue and momentum -----------------------------------------------------


@pytest.mark.parametrize("size, batch", [(16, 8), (10, 8), (7, 3), (3, 8)])
def test_the_queue_is_a_ring(size, batch):
  held = momentum_queue.create(jax.random.key(0), size, 4)
  np.testing.assert_allclose(
    jnp.linalg.norm(held["image"], axis=1), 1, rtol=1e-5
  )
  assert (held["ids"] == momentum_queue.NO_ID).all()
  image, text = np.array(held["image"]), np.array(held["text"])
  ids, pointer = np.array(held["ids"]), 0
  rng = np.random.default_rng(0)
  push = jax.jit(momentum_queue.push)
  for number in range(5):
    new = rng.normal(size=(2, batch, 4)).astype(np.float32)
    new_ids = np.arange(batch) + 100 * number
    held = push(held, new[0], new[1], new_ids)
    for row in range(batch):  # One by one, the later over the earlier.
      image[pointer], text[pointer] = new[:, row]
      ids[pointer] = new_ids[row]
      pointer = (pointer + 1) % size
    np.testing.assert_array_equal(held["image"], image)
    np.testing.assert_array_equal(held["text"], text)
    np.testing.assert_array_equal(held["ids"], ids)
    assert held["pointer"] == pointer


def test_momentum_is_updated_before_it_is_used():
  objective, params, state = start()
  _, (new, _) = step(objective, params, state, make_batch())[0]
  expected = jax.tree.map(
    lambda m, p: 0.9 * np.float64(m) + 0.1 * np.float64(p),
    state["momentum"],
    params,
  )
  assert_trees_close(new["momentum"], expected, 1e-6)
  features = jax.jit(objective.encode_image)(
    new["momentum"], new, make_batch()["image"]
  )
  np.testing.assert_allclose(new["queue"]["image"][:ROWS], features, atol=1e-5)
  np.testing.assert_array_equal(
    new["queue"]["ids"][:ROWS], make_batch()["concept_id"]
  )
  assert new["count"] == 1


@_REST
def test_a_queue_opens_on_any_number_of_devices(tmp_path):
  config = make_config(steps=2)
  whole, _ = tiny.fit(config, tmp_path, DATA, devices=4)
  saved = checkpoints.Checkpoints(tmp_path, keep=None)
  for devices in (1, 8):
    objective = tiny.make_objective(config, DATA, devices)
    loaded = saved.restore(tiny.abstract_state(config, objective, devices))
    for name, value in whole.objective_state["queue"].items():
      found = loaded.objective_state["queue"][name]
      np.testing.assert_array_equal(found, value)
      rows = 16 // devices if value.ndim else None
      if rows:  # Each device has its part.
        assert found.addressable_shards[0].data.shape[0] == rows
  saved.close()


# --- Options and edges ------------------------------------------------------


@_REST
def test_a_batch_of_one():
  objective, params, state = start(batch_size=1)
  (value, (_, metrics)), grads = step(objective, params, state, make_batch(1))
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  # The pair alone counts, and its negatives do not.
  assert metrics["matching_accuracy"] in (0.0, 1.0)


@_REST
@pytest.mark.parametrize("name", ["contrast", "matching", "language"])
def test_each_loss_can_be_left_out(name):
  terms = {
    "contrast": "contrastive_loss",
    "matching": "matching_loss",
    "language": "language_loss",
  }
  objective, params, state = start(**{f"objective__{name}": 0.0})
  (value, (_, metrics)), _ = step(objective, params, state, make_batch())
  others = [v for k, v in terms.items() if k != name]
  assert terms[name] not in metrics
  np.testing.assert_allclose(value, sum(metrics[k] for k in others), rtol=1e-6)


@_REST
def test_without_queue_and_distillation():
  objective, params, state = start(loss__queue_size=0, objective__alpha=0.0)
  assert "queue" not in state
  (value, (_, metrics)), _ = step(objective, params, state, make_batch())
  assert np.isfinite(value) and metrics["alpha"] == 0


@_REST
def test_a_fixed_temperature_has_no_gradient():
  objective, params, state = start(loss__temperature_mode="fixed")
  _, grads = step(objective, params, state, make_batch())
  assert grads["temperature"] == 0


def test_the_temperature_is_bounded():
  objective, params, _ = start()
  for value, bound in ((2.0, 0.5), (-1.0, 0.001), (0.07, 0.07)):
    out = objective.constrain({**params, "temperature": jnp.float32(value)})
    np.testing.assert_allclose(out["temperature"], bound, rtol=1e-6)


@_REST
def test_no_end_token_is_masked(monkeypatch):
  seen = []

  def mask(key, tokens, maskable, **options):
    seen.append((tokens, maskable))
    return tokens, maskable

  monkeypatch.setattr(losses, "mask_tokens", mask)
  objective, params, state = start()
  batch = make_batch()
  batch["tokens"][0, 0] = 5  # Full: no padding after the end.
  objective.loss(params, state, batch, jax.random.key(0))
  tokens, maskable = map(np.asarray, seen[0])
  for row, flags in zip(tokens, maskable):
    last = np.flatnonzero(row)[-1]
    expected = (np.arange(12) > 0) & (np.arange(12) < last)
    np.testing.assert_array_equal(flags, expected)


def test_it_learns_and_resumes(tmp_path):
  """Killed after half of the steps it ends with the same bits."""
  changes = {"steps": 8, "optimizer__learning_rate": 3e-3}
  whole, numbers = tiny.fit(make_config(**changes), tmp_path / "a", DATA)
  assert np.isfinite(numbers["train/examples_per_second"])

  class StopError(Exception):
    pass

  def stop(state):
    if int(state.step) == 6:
      raise StopError
    return {}

  config = make_config(**changes)
  with pytest.raises(StopError):
    tiny.fit(config, tmp_path / "b", DATA, evaluators=[loop.Evaluator(1, stop)])
  again, _ = tiny.fit(config, tmp_path / "b", DATA)
  tiny.assert_same(again, whole)


@pytest.mark.parametrize(
  "changes, named",
  [
    ({"loss__queue_size": 9}, ["config.loss.queue_size", "2", "9"]),
    (
      {"objective__negative_block": 3},
      ["config.objective.negative_block", "3"],
    ),
    ({"loss": "clip"}, ["config.loss", "soft_target, augmented", "'clip'"]),
    (
      {"loss": "augmented", "loss__temperature_mode": "robust"},
      ["config.loss.temperature_mode", "learned, fixed", "'robust'"],
    ),
    (
      {
        "structure__separation": 1.0,
        "structure__separation__independent_head": "mlp",
      },
      ["independent_head", "linear", "'mlp'"],
    ),
    (
      {"objective__captions_per_example": 2},
      ["config.objective.captions_per_example", "objective=clip", "albef"],
    ),
    (
      {"structure__bridge": 1.0, "other_view": "augmented"},
      ["config.other_view", "momentum", "'augmented'"],
    ),
    ({"microbatches": 2}, ["config.microbatches", "objective=clip", "albef"]),
    ({"model__preset": "tiny"}, ["config.model.preset", "'tiny'"]),
    (
      {
        "objective__contrast": 0.0,
        "objective__matching": 0.0,
        "objective__language": 0.0,
      },
      ["config.objective.contrast", "above 0"],
    ),
  ],
)
def test_mistakes(changes, named):
  with pytest.raises(ValueError) as caught:
    objective = tiny.make_objective(make_config(**changes), DATA, 2)
    params, state = moved()
    jax.eval_shape(
      objective.loss, params, state, make_batch(), jax.random.key(0)
    )
  for name in named:
    assert name in str(caught.value)
