"""Tests of contrastive_jax.training.evaluators.embeddings."""

import copy
import dataclasses

import jax
import numpy as np
import pytest

from contrastive_jax.data import sources
from contrastive_jax.training.evaluators import (
  embeddings,
  geometry,
)
from contrastive_jax.training.trainer import state as state_lib
from tests.training import tiny

Caption = sources.Caption


@pytest.fixture(scope="module")
def encoding(data):
  config = tiny.make_config(ema_decay=0.5)
  objective = tiny.make_objective(config, data)
  batch = objective.example_batch()
  params, extra = jax.jit(objective.init)(jax.random.key(0), batch)
  optimizer = tiny.make_optimizer(config, objective)
  state = state_lib.TrainState(
    0, 0, params, optimizer.init(params), extra, None
  )
  encoder = embeddings.Encoder(
    objective,
    data,
    context_length=12,
    batch_size=5,
    mesh=tiny.make_mesh(1),
  )
  return encoder, objective, state


def test_encoder_equals_the_model_whatever_the_last_batch(encoding, data):
  encoder, objective, state = encoding
  split = data.splits["test"]  # 8 images in batches of 5.
  found = encoder.images(state, split)
  expected = jax.jit(objective.encode_image)(
    state.params, state.objective_state, split.images
  )
  np.testing.assert_allclose(found.images, expected, atol=1e-6)
  assert found.images.dtype == np.float32
  assert found.concept_ids.tolist() == [r["concept_id"] for r in split.records]
  assert found.labels.tolist() == [r["label"] for r in split.records]

  texts = [tiny.caption(i) for i in range(7)]
  found = encoder.texts(state, texts)
  tokens = data.tokenizer.encode(texts, 12)
  expected = jax.jit(objective.encode_text)(
    state.params, state.objective_state, tokens
  )
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_encoder_uses_the_averaged_parameters(encoding, data):
  encoder, _, state = encoding
  nothing = jax.tree.map(lambda x: 0 * x, state.params)
  averaged = dataclasses.replace(state, params=nothing, ema_params=state.params)
  split = data.splits["test"]
  np.testing.assert_array_equal(
    encoder.images(averaged, split).images, encoder.images(state, split).images
  )
  np.testing.assert_array_equal(
    encoder.texts(averaged, ["a"]), encoder.texts(state, ["a"])
  )


def test_what_is_fine_tuned_is_the_image_encoder(encoding, data):
  _, objective, state = encoding
  settings = {"context_length": 12, "batch_size": 4, "mesh": tiny.make_mesh(2)}
  encoder = embeddings.Encoder(objective, data, **settings)
  split = data.splits["test"]
  tuner = encoder.fine_tuner(state, classes=3, image_size=16, batch_size=5)
  assert tuner.batch_size == 6
  sides = {"image", "image_projection"}
  trained = {k: v for k, v in state.params.items() if k in sides}
  shapes = [leaf.shape for leaf in jax.tree.leaves(trained)]
  assert [leaf.shape for leaf in tuner._moving] == shapes
  head = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
  options = {"head": head, "key": jax.random.key(0), "weight_decay": 0.0}
  rows, labels = np.arange(8), np.arange(8, dtype=np.int32) % 3
  found = []
  for epochs in (0, 10):
    tuned = tuner.fit(
      split.images.__getitem__,
      labels,
      rows,
      learning_rate=0.01,
      epochs=epochs,
      **options,
    )
    found.append(tuner.scores(tuned, split.images.__getitem__, rows))
  z = encoder.images(state, split).images
  np.testing.assert_allclose(found[0], 4.0 * z @ head.T, atol=1e-4)
  before, after = (-jax.nn.log_softmax(x)[rows, labels].mean() for x in found)
  assert after < 0.8 * before

  frozen = copy.copy(objective)
  frozen.frozen = ("image",)
  encoder = embeddings.Encoder(frozen, data, **settings)
  with pytest.raises(ValueError, match="config.objective.frozen"):
    encoder.fine_tuner(state, classes=3, image_size=16, batch_size=5)


def test_paired_texts_are_the_first_captions(encoding, data):
  encoder, _, state = encoding
  split = data.splits["validation"]
  first = [r["captions"][0].text for r in split.records]
  np.testing.assert_array_equal(
    geometry.paired_texts(encoder, state, split),
    encoder.texts(state, first),
  )


def test_captions_are_read_without_decoding_an_image(encoding, data):
  class Blind(sources.ArraySource):
    def __getitem__(self, index):
      raise AssertionError("an image was read")

  encoder, _, state = encoding
  split = data.splits["validation"]
  found = geometry.paired_texts(
    encoder, state, Blind(split.images, split.records)
  )
  assert found.shape == (len(split), 16)
