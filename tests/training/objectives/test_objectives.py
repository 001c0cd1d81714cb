"""Tests of contrastive_jax.training.objectives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from contrastive_jax.training.distributed import sharding
from tests.training import tiny
from tests.training.stub import (
  ROWS,
  Stub,
  batch,
  check_same,
  data,
  drawn,
)

LOSSES = ("clip", "clip_four_term", "decoupled", "sigmoid", "hard_negative")


@functools.cache
def variables():
  objective = tiny.make_objective(tiny.make_config(), data())
  return drawn(jax.eval_shape(objective.init, jax.random.key(0), batch()))


def make(devices, stub, **changes):
  """An objective with its parameters, on a mesh."""
  config = tiny.make_config(batch_size=ROWS, **changes)
  objective = tiny.make_objective(config, data(), devices)
  params, state = variables()
  if stub:
    objective.model = Stub()
    params, state = jax.tree.map(jnp.float32, Stub.params), {"model": {}}
  everywhere = sharding.replicated(tiny.make_mesh(devices))
  return objective, *jax.device_put((params, state), everywhere)


@functools.cache
def value_and_grad(devices=1, stub=False, **changes):
  """Loss, gradient and metrics of one batch."""
  objective, params, state = make(devices, stub, **changes)
  captions = tiny.caption_rows(objective)
  on_mesh = sharding.put_batch(
    batch(captions=captions), tiny.make_mesh(devices)
  )
  fn = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  (loss, (_, metrics)), grads = fn(params, state, on_mesh, jax.random.key(5))
  return jax.device_get((loss, grads, metrics))


def check_trains(name, loss, grads, metrics):
  assert loss.shape == () and np.isfinite(loss) and loss > 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    path = jax.tree_util.keystr(path)
    assert np.all(np.isfinite(leaf)), path
    if "logit_bias" in path:
      # Only the sigmoid loss has a bias.
      assert (leaf != 0) == (name == "sigmoid")
    else:
      assert np.any(leaf != 0), path
  np.testing.assert_allclose(metrics["image_embedding"], ROWS, rtol=1e-5)
  texts = ROWS * (2 if name == "clip_four_term" else 1)
  np.testing.assert_allclose(metrics["text_embedding"], texts, rtol=1e-5)


def test_a_model_trains():
  check_trains("clip", *value_and_grad(1))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains(name):
  check_trains(name, *value_and_grad(8, stub=True, loss=name))


@pytest.mark.parametrize(
  "devices", [2, pytest.param(8, marks=pytest.mark.exhaustive)]
)
def test_a_model_on_a_mesh_gives_the_same(devices):
  assert tiny.make_config().augment.random_resized_crop
  assert tiny.make_config().augment.color_jitter > 0
  check_same(value_and_grad(1), value_and_grad(devices))


@pytest.mark.parametrize(
  "name, devices",
  [
    *(
      pytest.param(name, devices, marks=pytest.mark.exhaustive)
      for name, devices in (("clip", 2), ("clip", 4), ("decoupled", 8))
    ),
    *((name, 8) for name in LOSSES if name != "decoupled"),
  ],
)
def test_every_loss_on_a_mesh_gives_the_same(name, devices):
  whole = value_and_grad(1, stub=True, loss=name)
  check_same(whole, value_and_grad(devices, stub=True, loss=name))


@pytest.mark.parametrize(
  "name, devices, stub",
  [
    pytest.param("clip", 2, False, marks=pytest.mark.exhaustive),
    ("clip", 1, True),
    ("clip_four_term", 2, True),
  ],
)
def test_microbatches_do_not_change_the_gradient(name, devices, stub):
  whole = value_and_grad(devices, stub=stub, loss=name)
  parts = value_and_grad(devices, stub=stub, loss=name, microbatches=4)
  check_same(whole, parts)


PLAIN = {"augment__random_resized_crop": False, "augment__color_jitter": 0.0}


@pytest.mark.parametrize("devices", [1, 2])
def test_group_positives_matter_and_the_loss_is_that_of_the_features(devices):
  values = []
  for grouped, groups in ((True, jnp.arange(ROWS) // 2), (False, None)):
    objective, params, state = make(
      devices, stub=True, loss__group_positives=grouped, **PLAIN
    )
    on_mesh = sharding.put_batch(batch(), tiny.make_mesh(devices))
    loss = jax.jit(lambda *args: objective.loss(*args)[0])
    value = loss(params, state, on_mesh, jax.random.key(0))
    expected = losses.clip(
      objective.encode_image(params, state, batch()["image"]),
      objective.encode_text(params, state, batch()["tokens"][:, 0]),
      logit_scale=jnp.exp(2.0),
      group_ids=groups,
    )
    np.testing.assert_allclose(value, jnp.mean(expected), rtol=1e-5)
    values.append(float(value))
  assert abs(values[0] - values[1]) > 1e-3


def test_augmentation_is_by_key():
  objective, params, state = make(1, stub=True)
  loss = jax.jit(lambda key: objective.loss(params, state, batch(), key)[0])
  first, again, other = (loss(jax.random.key(i)) for i in (0, 0, 1))
  assert first == again and first != other


def test_two_views_have_draws_of_their_own():
  objective, params, state = make(1, stub=True, loss="clip_four_term")
  seen = {"encode_image": [], "encode_text": []}

  class Recorder(Stub):
    def apply(self, variables, x, *, method, **settings):
      seen[method].append(np.asarray(x))
      return super().apply(variables, x, method=method, **settings)

  objective.model = Recorder()
  objective.loss(params, state, batch(captions=2), jax.random.key(0))
  first, second = seen["encode_image"]
  # The views of every image differ, not only of some.
  assert np.any(first != second, axis=(1, 2, 3)).all()


@pytest.mark.parametrize("devices, microbatches", [(1, 1), (2, 1), (2, 2)])
def test_terms_and_captions_are_those_of_the_losses(devices, microbatches):
  objective, params, state = make(
    devices,
    stub=True,
    microbatches=microbatches,
    objective__captions_per_example=3,
    objective__images_per_concept=2,
    loss__label_smoothing=0.2,
    objective__image_image=0.7,
    **PLAIN,
  )
  inputs = batch(captions=3)
  on_mesh = sharding.put_batch(inputs, tiny.make_mesh(devices))
  loss = jax.jit(lambda *args: objective.loss(*args)[0])
  value = loss(params, state, on_mesh, jax.random.key(0))
  scale, groups = jnp.exp(2.0), jnp.asarray(inputs["concept_id"])
  image = objective.encode_image(params, state, inputs["image"])
  expected = [
    losses.clip(
      image,
      objective.encode_text(params, state, inputs["tokens"][:, k]),
      logit_scale=scale,
      group_ids=groups,
      label_smoothing=0.2,
    )
    for k in range(3)
  ]
  within = losses.nt_xent(
    image[0::2], image[1::2], temperature=1 / scale, group_ids=groups[0::2]
  )
  expected = jnp.mean(jnp.stack(expected)) + 0.7 * jnp.mean(within)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_four_terms_of_several_captions_are_averaged():
  objective, params, state = make(
    1,
    stub=True,
    loss="clip_four_term",
    objective__captions_per_example=2,
    **PLAIN,
  )
  inputs = batch(captions=3)
  value = objective.loss(params, state, inputs, jax.random.key(0))[0]
  image = objective.encode_image(params, state, inputs["image"])
  *texts, view = (
    objective.encode_text(params, state, inputs["tokens"][:, k])
    for k in range(3)
  )
  expected = [
    losses.clip_four_term(
      image,
      text,
      image,
      view,
      logit_scale=jnp.exp(2.0),
      group_ids=jnp.asarray(inputs["concept_id"]),
    )
    for text in texts
  ]
  np.testing.assert_allclose(value, jnp.mean(jnp.stack(expected)), rtol=1e-5)


@pytest.mark.parametrize(
  "maximum, before, after",
  [
    (100.0, 500.0, 100.0),
    (20.0, 50.0, 20.0),
    (20.0, 7.0, 7.0),
    (20.0, 0.2, 1.0),
  ],
)
def test_the_temperature_stays_within_its_bounds(maximum, before, after):
  config = tiny.make_config(loss__min_temperature=1.0 / maximum)
  objective = tiny.make_objective(config, data())
  params = {"log_logit_scale": jnp.log(before), "w": jnp.ones(3)}
  constrained = objective.constrain(params)
  np.testing.assert_allclose(
    jnp.exp(constrained["log_logit_scale"]), after, rtol=1e-5
  )
  np.testing.assert_array_equal(constrained["w"], params["w"])


def test_the_initial_temperature_is_the_configured_one():
  config = tiny.make_config(loss__temperature=0.05)
  objective = tiny.make_objective(config, data())
  params = jax.eval_shape(objective.init, jax.random.key(0), batch())[0]
  assert params["log_logit_scale"].shape == ()
  assert objective.model.init_logit_scale == 20.0


class TestBatchNorm:
  """The ResNet preset, as small as it goes."""

  def settings(self, **changes):
    small = {
      "image": {
        "stage_sizes": [1],
        "width": 8,
        "features": 16,
        "num_heads": 2,
      },
      "text": {"width": 32, "depth": 1, "num_heads": 2},
      "embed_dim": 16,
    }
    return {
      "batch_size": ROWS,
      "model__preset": "rn50",
      "model__image_size": 32,
      "model__overrides": small,
      **changes,
    }

  def test_more_than_one_microbatch_is_refused(self):
    objective = tiny.make_objective(
      tiny.make_config(**self.settings(microbatches=2)), data()
    )
    with pytest.raises(ValueError, match="config.microbatches > 1.*'rn50'"):
      jax.eval_shape(objective.init, jax.random.key(0), batch())

  def test_one_trains_and_keeps_statistics(self):
    objective = tiny.make_objective(
      tiny.make_config(**self.settings()), data(), 2
    )
    mesh = tiny.make_mesh(2)
    params, state = jax.device_put(
      drawn(jax.eval_shape(objective.init, jax.random.key(0), batch())),
      sharding.replicated(mesh),
    )
    assert set(state["model"]) == {"batch_stats"}
    loss, (new_state, _) = jax.jit(objective.loss)(
      params, state, sharding.put_batch(batch(), mesh), jax.random.key(1)
    )
    assert np.isfinite(loss)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state, new_state)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize(
  "overrides, said",
  [
    ("{", ["config.model.overrides", "'{'"]),
    ("[1]", ["config.model.overrides", "[1]"]),
    ({"image_size": 8}, ["'image_size'", "config.model.image_size"]),
    ({"vocab_size": 8}, ["'vocab_size'"]),
    ({"independent_head": "mlp"}, ["'independent_head'", "config.structure"]),
    ({"embed_dims": 8}, ["'embed_dim'"]),
    ({"embed_dim": "x"}, ["embed_dim", "int", "'x'"]),
    ({"image": 3}, ["image", "mapping"]),
    ({"image": {"width": [8]}}, ["'widths'"]),
  ],
)
def test_bad_overrides_are_refused(overrides, said):
  with pytest.raises(ValueError) as caught:
    tiny.make_objective(tiny.make_config(model__overrides=overrides), data())
  for part in said:
    assert part in str(caught.value)


def test_bad_augmentation_is_refused():
  with pytest.raises(ValueError, match="crop_scale"):
    config = tiny.make_config(augment__crop_scale=(0.9, 0.1))
    tiny.make_objective(config, data())


def test_an_unknown_preset_names_the_nearest():
  with pytest.raises(ValueError, match="'tiny'"):
    tiny.make_objective(tiny.make_config(model__preset="tinny"), data())
