"""A model, a data set and runs so small that they take a moment."""

import json

import jax
import numpy as np
from PIL import Image

from contrastive_jax.data import sources
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.runs import build
from contrastive_jax.training.trainer import loop, optimizers

OVERRIDES = {
  "image": {"widths": (8, 16), "depths": (1, 1)},
  "text": {"width": 32, "depth": 1, "num_heads": 2},
  "embed_dim": 16,
}
# Runs that differ in neither steps, optimizer, model nor vocabulary have the
# same programs: the cache of conftest.py spares compiling them again.
VOCABULARY = 259
_SETTINGS = {
  "steps": 8,
  "batch_size": 8,
  "log_every": 1,
  "checkpoint_every": 4,
  "ema_decay": 0.9,
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
  """A configuration from dotted fields; `structure.TERM` is the term's weight."""
  fields = dict(fields)
  terms = {
    name: fields.pop(name)
    for name in list(fields)
    if name.count(".") == 1
    and name.startswith("structure.")
    and name != "structure.first_view"
  }
  if terms:
    fields["structure"] = tuple(name.split(".")[1] for name in terms)
    fields |= {f"{name}.weight": weight for name, weight in terms.items()}
  draft = config_lib.default_config()
  draft.override(fields)
  return config_lib.parse(draft)


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


def use_devices(monkeypatch, count):
  """Has whole runs take so many devices: their programs compile sooner."""
  make = sharding.make_mesh
  monkeypatch.setattr(
    sharding, "make_mesh", lambda devices=None: make(jax.devices()[:count])
  )


def make_objective(config, data, devices=1):
  """The objective of a configuration."""
  return build.build_objective(
    config,
    vocab_size=data.tokenizer.vocab_size,
    num_examples=data.splits["train"].index_bound,
    mesh=make_mesh(devices),
  )


def caption_rows(objective):
  """Token rows of an image in a step."""
  return objective.example_batch()["tokens"].shape[1]


def make_batches(config, data):
  """The training batches of a run."""
  return build.caption_feed(config).batches(data)


def make_optimizer(config, objective):
  """The optimizer of a configuration."""
  return optimizers.make_optimizer(
    config.optimizer, steps=config.steps, objective=objective
  )


def abstract_state(config, objective, devices=1):
  """The form of a run's state on some of the devices."""
  return loop.abstract_state(
    build.trainer_settings(config),
    objective,
    make_optimizer(config, objective),
    make_mesh(devices),
  )


def fit(
  config,
  workdir,
  data,
  *,
  devices=2,
  objective=None,
  evaluators=(),
  report=lambda line: None,
):
  """`loop.fit` on some of the devices."""
  workdir.mkdir(exist_ok=True)
  objective = objective or make_objective(config, data, devices)
  return loop.fit(
    build.trainer_settings(config),
    objective=objective,
    optimizer=make_optimizer(config, objective),
    learning_rate=optimizers.learning_rate(config.optimizer, config.steps),
    iterator=make_batches(config, data),
    mesh=make_mesh(devices),
    workdir=workdir,
    evaluators=tuple(evaluators),
    report=report,
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
