"""Tests of contrastive_jax.training.objectives."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from contrastive_jax.training import sharding
from tests.training import tiny

LOSSES = ("clip", "clip_four_term", "decoupled", "sigmoid")
ROWS = 16


@functools.cache
def _data():
  return tiny.make_data()


def batch(rows=ROWS):
  """Rows 2i and 2i + 1 show one concept."""
  data = _data()
  source = data.splits["train"]
  encode = lambda texts: data.tokenizer.encode(texts, 12)
  captions = [source[i]["captions"] for i in range(rows)]
  return {
      "image": source.images[:rows],
      "tokens": encode([c[0].text for c in captions]),
      "tokens_augmented": encode([c[1].text for c in captions]),
      "index": np.arange(rows),
      "concept_id": np.arange(rows, dtype=np.int32) // 2,
  }


@functools.cache
def variables():
  """Parameters; those that start at zero get a value, so that all matter."""
  objective = tiny.make_objective(tiny.make_config(), _data())
  params, state = jax.jit(objective.init)(jax.random.key(0), batch())
  leaves, tree = jax.tree.flatten(params)
  rng = np.random.default_rng(0)
  leaves = [
      x + 0.02 * rng.normal(size=x.shape).astype(np.float32) for x in leaves
  ]
  return jax.tree.unflatten(tree, leaves), state


@functools.cache
def value_and_grad(devices=1, **changes):
  """Loss, gradient and metrics of one batch, on a mesh."""
  config = tiny.make_config(batch_size=ROWS, **changes)
  objective = tiny.make_objective(config, _data(), devices)
  mesh = tiny.make_mesh(devices)
  params, state = jax.device_put(variables(), sharding.replicated(mesh))
  fn = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  (loss, (_, metrics)), grads = fn(
      params, state, sharding.put_batch(batch(), mesh), jax.random.key(5)
  )
  return jax.device_get((loss, grads, metrics))


def assert_gradients_close(first, second, tolerance):
  """Each tensor, relative to its own largest entry."""
  first, second = map(jax.tree_util.tree_leaves_with_path, (first, second))
  assert len(first) == len(second)
  # A bias before a norm has a gradient of rounding errors alone.
  largest = max(float(np.max(np.abs(x))) for _, x in first)
  for (path, a), (_, b) in zip(first, second):
    scale = max(float(np.max(np.abs(a))), 1e-3 * largest)
    np.testing.assert_allclose(
        a / scale, b / scale, atol=tolerance, err_msg=jax.tree_util.keystr(path)
    )


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains(name):
  loss, grads, metrics = value_and_grad(8, loss__name=name)
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
  np.testing.assert_allclose(metrics["text_embedding"], ROWS, rtol=1e-5)


@pytest.mark.parametrize(
    "name, devices",
    [("clip", 2), ("clip", 4), *((name, 8) for name in LOSSES)],
)
def test_a_mesh_of_any_size_gives_the_same(name, devices):
  assert tiny.make_config().augment.random_resized_crop
  assert tiny.make_config().augment.color_jitter > 0
  loss, grads, _ = value_and_grad(1, loss__name=name)
  on_mesh, mesh_grads, _ = value_and_grad(devices, loss__name=name)
  np.testing.assert_allclose(on_mesh, loss, rtol=1e-6)
  assert_gradients_close(grads, mesh_grads, 1e-5)


@pytest.mark.parametrize("devices", [1, 2])
def test_microbatches_do_not_change_the_gradient(devices):
  loss, grads, _ = value_and_grad(devices)
  in_parts, part_grads, _ = value_and_grad(devices, microbatches=4)
  np.testing.assert_allclose(in_parts, loss, rtol=1e-6)
  assert_gradients_close(grads, part_grads, 1e-5)


def test_microbatches_with_two_views():
  whole = value_and_grad(1, loss__name="clip_four_term")
  parts = value_and_grad(1, loss__name="clip_four_term", microbatches=2)
  np.testing.assert_allclose(parts[0], whole[0], rtol=1e-6)
  assert_gradients_close(whole[1], parts[1], 1e-5)


def _features(devices=1):
  """Embeddings of the batch without augmentation, and the scale."""
  config = tiny.make_config(
      batch_size=ROWS,
      augment__random_resized_crop=False,
      augment__color_jitter=0.0,
  )
  objective = tiny.make_objective(config, _data(), devices)
  params, state = variables()
  images = jax.jit(objective.encode_image)(params, state, batch()["image"])
  texts = jax.jit(objective.encode_text)(params, state, batch()["tokens"])
  return images, texts, jnp.exp(params["log_logit_scale"])


def test_group_positives_matter_and_the_loss_is_that_of_the_features():
  off = {"augment__random_resized_crop": False, "augment__color_jitter": 0.0}
  grouped, _, _ = value_and_grad(2, **off)
  apart, _, _ = value_and_grad(2, loss__group_positives=False, **off)
  assert abs(grouped - apart) > 1e-2
  images, texts, scale = _features()
  for value, groups in (
      (grouped, jnp.arange(ROWS) // 2),
      (apart, jnp.arange(ROWS)),
  ):
    expected = losses.clip(images, texts, logit_scale=scale, group_ids=groups)
    np.testing.assert_allclose(value, jnp.mean(expected), rtol=1e-5)


def test_augmentation_is_by_key():
  config = tiny.make_config(batch_size=ROWS)
  objective = tiny.make_objective(config, _data())
  params, state = variables()
  loss = jax.jit(lambda key: objective.loss(params, state, batch(), key)[0])
  first = loss(jax.random.key(0))
  assert first == loss(jax.random.key(0))
  assert first != loss(jax.random.key(1))


def test_two_views_differ():
  objective = tiny.make_objective(
      tiny.make_config(batch_size=ROWS, loss__name="clip_four_term"), _data()
  )
  positions = jnp.arange(ROWS)
  views = [
      objective._view(jax.random.key(0), purpose, batch(), positions)
      for purpose in (0, 1)
  ]
  # Every image has draws of its own.
  differing = np.any(np.asarray(views[0] != views[1]), axis=(1, 2, 3))
  assert differing.all()


@pytest.mark.parametrize(
    "maximum, before, after",
    [(100.0, 500.0, 100.0), (20.0, 50.0, 20.0), (20.0, 7.0, 7.0),
     (20.0, 0.2, 1.0)],
)
def test_the_logit_scale_stays_within_its_bounds(maximum, before, after):
  config = tiny.make_config(loss__max_logit_scale=maximum)
  objective = tiny.make_objective(config, _data())
  params = {"log_logit_scale": jnp.log(before), "w": jnp.ones(3)}
  constrained = objective.constrain(params)
  np.testing.assert_allclose(
      jnp.exp(constrained["log_logit_scale"]), after, rtol=1e-5
  )
  np.testing.assert_array_equal(constrained["w"], params["w"])


def test_the_initial_scale_is_the_configured_one():
  objective = tiny.make_objective(
      tiny.make_config(loss__init_logit_scale=20.0), _data()
  )
  params = jax.eval_shape(objective.init, jax.random.key(0), batch())[0]
  assert params["log_logit_scale"].shape == ()
  assert objective.model.init_logit_scale == 20.0


class TestBatchNorm:
  """The ResNet preset, as small as it goes."""

  def settings(self, **changes):
    small = {
        "image": {"stage_sizes": [1], "width": 8, "features": 16},
        "text": {"width": 32, "depth": 1, "num_heads": 2},
        "embed_dim": 16,
    }
    return {
        "batch_size": ROWS,
        "model__preset": "rn50",
        "model__image_size": 32,
        "model__overrides": json.dumps(small),
        **changes,
    }

  def test_more_than_one_microbatch_is_refused(self):
    objective = tiny.make_objective(
        tiny.make_config(**self.settings(microbatches=2)), _data()
    )
    with pytest.raises(ValueError, match="config.microbatches > 1.*'rn50'"):
      jax.eval_shape(objective.init, jax.random.key(0), batch())

  def test_one_trains_and_keeps_statistics(self):
    objective = tiny.make_objective(
        tiny.make_config(**self.settings()), _data(), 2
    )
    mesh = tiny.make_mesh(2)
    params, state = jax.device_put(
        jax.jit(objective.init)(jax.random.key(0), batch()),
        sharding.replicated(mesh),
    )
    assert set(state) == {"batch_stats"}
    (loss, (new_state, _)), grads = jax.jit(
        jax.value_and_grad(objective.loss, has_aux=True)
    )(params, state, sharding.put_batch(batch(), mesh), jax.random.key(1))
    assert np.isfinite(loss)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state, new_state)
    assert all(jax.tree.leaves(moved))
    # Evaluation uses them: an image's embedding is its own affair.
    encode = jax.jit(objective.encode_image)
    whole = encode(params, new_state, batch()["image"])
    part = encode(params, new_state, batch()["image"][:4])
    np.testing.assert_allclose(whole[:4], part, atol=1e-5)


@pytest.mark.parametrize(
    "overrides, said",
    [
        ("{", "config.model.overrides must be JSON"),
        ("[1]", "must be a JSON object"),
        ('{"image_size": 8}', "set config.model.image_size instead"),
        ('{"vocab_size": 8}', "must not hold 'vocab_size'"),
        ('{"embed_dims": 8}', "did you mean 'embed_dim'"),
        ('{"embed_dim": "x"}', "embed_dim must be of type int; got 'x'"),
        ('{"image": 3}', "image must be a mapping"),
        ('{"image": {"width": [8]}}', "did you mean 'widths'"),
    ],
)
def test_bad_overrides_are_refused(overrides, said):
  config = tiny.make_config(model__overrides=overrides)
  with pytest.raises(ValueError) as caught:
    tiny.make_objective(config, _data())
  assert said in str(caught.value)


def test_bad_augmentation_is_refused():
  config = tiny.make_config(augment__crop_scale=(0.9, 0.1))
  with pytest.raises(ValueError, match="crop_scale"):
    tiny.make_objective(config, _data())


def test_an_unknown_preset_names_the_nearest():
  with pytest.raises(ValueError, match="did you mean 'tiny'"):
    tiny.make_objective(tiny.make_config(model__preset="tinny"), _data())
