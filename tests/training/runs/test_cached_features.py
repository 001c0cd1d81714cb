"""Features of towers that are not trained, computed once."""

import jax
import numpy as np

from contrastive_jax import models
from contrastive_jax.training.runs import cached_features
from tests.training import tiny


def make(tokenizer, encode, batch_size):
  images = np.zeros((3, 2), np.float32)
  return cached_features.CachedFeatures(images, tokenizer, encode, batch_size)


def test_texts_are_encoded_once():
  class Letters:
    def encode(self, texts, length):
      return np.array([[len(text)] * length for text in texts], np.int32)

  calls = []

  def encode(tokens):
    calls.append(tokens[:, 0].tolist())
    return tokens[:, :2].astype(np.float32)

  texts = make(Letters(), encode, 2)
  found = texts.of_texts(["a", "bbb", "a", "cc"], 4)
  np.testing.assert_array_equal(found[:, 0], [1, 3, 1, 2])
  assert calls == [[1, 3], [2]]
  texts.of_texts(["cc", "a"], 4)
  assert len(calls) == 2
  texts.of_texts(["a"], 5)  # Cut at another length it may be another text.
  assert len(calls) == 3


def test_features_of_texts_are_few_sizes_and_not_kept_for_ever(monkeypatch):
  monkeypatch.setattr(cached_features, "_MOST_TEXTS", 4)
  sizes = []

  class Lengths:
    def encode(self, texts, length):
      return np.array([[len(text)] for text in texts])

  def encode(tokens):
    sizes.append(len(tokens))
    return tokens.astype(np.float32)

  texts = make(Lengths(), encode, 8)
  words = ["x" * (i + 1) for i in range(11)]
  found = texts.of_texts(words, 4)
  assert found[:, 0].tolist() == list(range(1, 12))
  assert sizes == [8, 4] and len(texts._known) == 4
  assert texts.of_texts(words[:1], 4).tolist() == [[1.0]]
  assert sizes == [8, 4, 1]


def test_progress_of_features_is_told(monkeypatch):
  source = tiny.make_source(0, 5)
  clock = iter(range(0, 1000, 20))
  monkeypatch.setattr(cached_features.time, "monotonic", lambda: next(clock))
  lines = []
  found = cached_features.of_images(
    source,
    lambda x: x.reshape(len(x), -1)[:, :3].astype(np.float32),
    2,
    lines.append,
  )
  assert found.shape == (5, 3)
  assert lines[0] == "Features of 2 of 5 images, 30 s to go."


def test_features_of_a_bert_whose_weights_are_numpy_arrays():
  """As a file has them: an embedding is looked up by a traced index."""
  model = models.TwoTower(
    models.ConvNet(widths=(4,), depths=(1,)),
    models.BertEncoder(
      vocab_size=30,
      context_length=8,
      width=8,
      depth=1,
      num_heads=2,
      pool="mean",
    ),
    embed_dim=4,
  )
  images, tokens = np.zeros((2, 8, 8, 3), np.float32), np.array([[1, 5, 6, 0]])
  variables = jax.jit(model.init)(jax.random.key(0), images, tokens)
  image, text = cached_features.encoders(
    model, jax.tree.map(np.asarray, variables), lambda x: x
  )
  assert image(images).shape == (2, 4)
  found = text(tokens)
  expected = model.text.apply(
    {"params": variables["params"]["text"]}, tokens, train=False
  )
  np.testing.assert_allclose(found, expected, atol=1e-5)
