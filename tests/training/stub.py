"""A two-tower model that is quickly compiled, and batches for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import ops
from tests.training import tiny

ROWS = 16


@functools.cache
def data():
  return tiny.make_data()


def batch(rows=ROWS, captions=1):
  """Rows 2i and 2i + 1 show one concept."""
  found = data()
  source = found.splits["train"]

  def encode(texts):
    return found.tokenizer.encode(texts, 12)

  # Each its own text, or grouping would not show in the mean.
  texts = [encode([tiny.caption(i) for i in range(rows)])]
  for k in range(1, captions):
    texts.append(encode([source[i]["captions"][k].text for i in range(rows)]))
  return {
    "image": source.images[:rows],
    "tokens": np.stack(texts, axis=1),
    "index": np.arange(rows),
    "concept_id": np.arange(rows, dtype=np.int32) // 2,
  }


def drawn(shapes):
  """Values for parameters: quicker than compiling their initialisers."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name = jax.tree_util.keystr(path)
    if "log_logit_scale" in name:
      return np.float32(2.5)
    value = rng.normal(size=leaf.shape).astype(np.float32)
    if leaf.ndim > 1:
      return value * np.prod(leaf.shape[:-1]).astype(np.float32) ** -0.5
    return 0.02 * value + ("scale" in name or "var" in name)

  return jax.tree_util.tree_map_with_path(draw, shapes)


class Stub:
  """A model that is quickly compiled: one projection a tower."""

  params = {
    "image": np.random.default_rng(1).normal(size=(16 * 16 * 3, 8)) / 20,
    "text": np.random.default_rng(2).normal(size=(tiny.VOCABULARY, 8)),
    "log_logit_scale": 2.0,
    "logit_bias": -3.0,
  }

  def apply(self, variables, x, *, method, **unused):
    params = variables["params"]
    if method == "encode_text":
      feature = jnp.mean(params["text"][x], axis=1)
    else:
      feature = jnp.tanh(x.reshape(len(x), -1) @ params["image"])
    feature = ops.l2_normalize(feature)
    return (feature, {}) if "mutable" in unused else feature


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


def check_same(first, second):
  np.testing.assert_allclose(second[0], first[0], rtol=1e-6)
  assert_gradients_close(first[1], second[1], 1e-5)
