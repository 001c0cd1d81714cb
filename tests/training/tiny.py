"""A model, a data set and runs so small that they take a moment."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from contrastive_jax.data import sources
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import objectives
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.runs import image_text
from contrastive_jax.training.trainer import loop

OVERRIDES = json.dumps(
  {
    "image": {"widths": [8, 16], "depths": [1, 1]},
    "text": {"width": 32, "depth": 1, "num_heads": 2},
    "embed_dim": 16,
  }
)
# Runs that differ in neither steps, optimizer, model nor vocabulary have the
# same programs: the cache of conftest.py spares compiling them again.
VOCABULARY = 259
_SETTINGS = {
  "steps": 8,
  "batch_size": 8,
  "log_every": 1,
  "checkpoint_every": 4,
  "optimizer.ema_decay": 0.9,
  "model.image_size": 16,
  "model.context_length": 12,
  "model.overrides": OVERRIDES,
  "evaluation.batch_size": 8,
}
_COLOURS = "red green blue grey black white".split()


def settings(**changes):
  """Dotted fields of a tiny run; `optimizer__beta1` is `optimizer.beta1`."""
  renamed = {k.replace("__", "."): v for k, v in changes.items()}
  return {**_SETTINGS, **renamed}


def make_config(**changes):
  """The configuration of a tiny run."""
  return parse(settings(**changes))


def parse(fields):
  """A configuration from dotted fields."""
  nested = {}
  for name, value in fields.items():
    *sections, last = name.split(".")
    place = nested
    for section in sections:
      place = place.setdefault(section, {})
    place[last] = value
  return config_lib.parse(nested)


def caption(i):
  """A text that tells example i from all others."""
  return f"{_COLOURS[i % 6]} thing {i}"


def make_source(first, count, *, label=True):
  """Random pictures; two in a row show the same concept."""
  rng = np.random.default_rng(first)
  records = [
    {
      "index": i,
      "concept_id": i // 2,
      "captions": (
        sources.Caption(caption(i // 2), "name", "en"),
        sources.Caption(f"Ding {i // 2}", "name", "de"),
        sources.Caption(_COLOURS[i // 2 % 6], "keyword", "en"),
      ),
      "label": _COLOURS[i // 2 % 3] if label else "",
    }
    for i in range(first, first + count)
  ]
  images = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
  return sources.ArraySource(images, records)


def make_data():
  """24 training, 8 validation and 8 test images in memory."""
  splits = {
    "train": make_source(0, 24),
    "validation": make_source(24, 8),
    "test": make_source(32, 8),
  }
  texts = [c.text for r in splits["train"].records for c in r["captions"]]
  return sources.PairData(
    name="tiny",
    splits=splits,
    languages=("en", "de"),
    tokenizer=tokenizer_lib.Tokenizer.train(texts, vocab_size=VOCABULARY),
  )


def write_folder(root, count, *, labels=False):
  """`count` random pictures with captions.jsonl, for config.data=folder."""
  root.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  rows = []
  for i in range(count):
    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / f"{i:03}.png")
    row = {"image": f"{i:03}.png", "captions": [caption(i)]}
    rows.append(row | ({"label": _COLOURS[i % 2]} if labels else {}))
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (root / "captions.jsonl").write_text(lines, encoding="utf-8")
  return root


def make_mesh(devices):
  """The first so many of the simulated devices."""
  return sharding.make_mesh(jax.devices()[:devices])


def make_objective(config, data, devices=1):
  """The objective of a configuration."""
  return objectives.create(
    config,
    vocab_size=data.tokenizer.vocab_size,
    num_examples=data.splits["train"].index_bound,
    mesh=make_mesh(devices),
  )


def make_batches(config, data):
  """The training batches of a run."""
  run = image_text.Run(config, None, data, None, None, None)
  return run.batches()


def fit(config, workdir, data, *, devices=2, objective=None, evaluators=()):
  """`loop.fit` on some of the devices."""
  workdir.mkdir(exist_ok=True)
  return loop.fit(
    config,
    objective=objective or make_objective(config, data, devices),
    iterator=make_batches(config, data),
    mesh=make_mesh(devices),
    workdir=workdir,
    evaluators=tuple(evaluators),
    report=lambda line: None,
  )


def assert_same(first, second):
  """Two pytrees are equal in every bit."""
  flat, tree = jax.tree_util.tree_flatten_with_path(first)
  other, other_tree = jax.tree_util.tree_flatten_with_path(second)
  assert tree == other_tree
  for (path, a), (_, b) in zip(flat, other):
    name = jax.tree_util.keystr(path)
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=name)
    assert a.dtype == b.dtype, name


class Toy:
  """An objective that is quickly compiled: a linear fit with some noise.

  From its step `bad_step` (0 is the first one) on, `bad` is not finite: the
  "loss", an "embedding", the "gradient" alone, or the objective's "state".
  """

  def __init__(self, *, bad="", bad_step=0):
    self._bad = bad
    self._bad_step = bad_step

  def init(self, key, batch):
    del batch
    params = {"a": jnp.zeros(3), "w": jax.random.normal(key, (4, 2))}
    if self._bad == "parameter":
      params["w"] = params["w"].at[0, 0].set(jnp.inf)
    return params, {"count": jnp.int32(0), "mean": jnp.float32(0)}

  def loss(self, params, state, batch, key):
    is_bad = state["count"] >= self._bad_step
    x = batch["image"].reshape(len(batch["image"]), -1)[:, :4] / 255.0
    target = batch["tokens"][:, 0, 1:3] / 100.0
    noise = 0.1 * jax.random.normal(key, target.shape)
    loss = jnp.mean((x @ params["w"] - target + noise) ** 2)
    loss += jnp.mean((params["a"] - 1.0) ** 2)

    def spoiled(kind, x):
      return jnp.where(is_bad, jnp.nan, x) if self._bad == kind else x

    if self._bad == "gradient":
      # sqrt at 0 has a value and no derivative.
      loss += jnp.sqrt(jnp.where(is_bad, 0.0 * params["w"][0, 0], 1.0))
    metrics = {
      "mean_input": jnp.mean(x),
      "image_embedding": spoiled("embedding", jnp.sum(x**2)),
    }
    state = {
      "count": state["count"] + 1,
      "mean": spoiled("state", jnp.mean(x)),
    }
    return spoiled("loss", loss), (state, metrics)

  def constrain(self, params):
    return {**params, "a": jnp.minimum(params["a"], 0.02)}
