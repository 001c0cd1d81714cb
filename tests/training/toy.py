"""An objective that is quickly compiled, runs of it, and what they leave."""

import json

import grain
import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.training.objectives import base
from contrastive_jax.training.trainer import checkpoints, loop, optimizers
from contrastive_jax.training.trainer.optimizer_choices import AdamW
from contrastive_jax.training.trainer.settings import TrainerSettings
from tests.training import tiny

# Runs that differ in none of these have the same programs: the cache of
# tests/conftest.py spares compiling them again.
SETTINGS = {"steps": 8, "batch_size": 8, "log_every": 1, "checkpoint_every": 4}
_TIMES = ("train/examples_per_second", "train/input_wait")


class Toy(base.Objective):
  """A linear fit with some noise.

  From its step `bad_step` (0 is the first one) on, `bad` is not finite: the
  "loss", an "embedding", the "gradient" alone, or the objective's "state".
  """

  def __init__(self, *, bad="", bad_step=0):
    self._bad = bad
    self._bad_step = bad_step

  def example_batch(self):
    return {}

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


def make_settings(**changes):
  """The settings of a toy run."""
  return TrainerSettings(**{**SETTINGS, **changes})


def make_optimizer(settings, objective, **fields):
  """AdamW of a toy run, without clipping, as arguments of `loop.fit`."""
  choice = AdamW(**{"clip_norm": 0.0, **fields})
  return {
    "optimizer": optimizers.make_optimizer(
      choice, steps=settings.steps, objective=objective
    ),
    "learning_rate": optimizers.learning_rate(choice, settings.steps),
  }


def make_batches(settings):
  """Endless batches of 24 random examples."""
  rng = np.random.default_rng(0)
  examples = [
    {
      "image": rng.integers(0, 256, (16, 16, 3), dtype=np.uint8),
      "tokens": rng.integers(0, 100, (1, 12), dtype=np.int32),
      "index": np.int64(i),
    }
    for i in range(24)
  ]
  dataset = grain.MapDataset.source(examples).seed(settings.seed).shuffle()
  batches = dataset.repeat().batch(settings.batch_size, drop_remainder=True)
  options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
  return iter(batches.to_iter_dataset(read_options=options))


def fit(
  workdir,
  *,
  objective=None,
  optimizer=None,
  iterator=None,
  devices=2,
  report=lambda line: None,
  evaluators=(),
  **changes,
):
  """`loop.fit` of a toy; `optimizer` are fields, `changes` are settings."""
  workdir.mkdir(exist_ok=True)
  settings = make_settings(**changes)
  objective = objective or Toy()
  return loop.fit(
    settings,
    objective=objective,
    **make_optimizer(settings, objective, **optimizer or {}),
    iterator=iterator or make_batches(settings),
    mesh=tiny.make_mesh(devices),
    workdir=workdir,
    evaluators=evaluators,
    report=report,
  )


def restored(workdir, step=None, **changes):
  """The state of a toy's checkpoint."""
  settings, objective = make_settings(**changes), Toy()
  optimizer = make_optimizer(settings, objective)["optimizer"]
  return restore(
    workdir,
    loop.abstract_state(settings, objective, optimizer, tiny.make_mesh(1)),
    step,
  )


def restore(workdir, abstract, step=None):
  """A checkpoint, read into shapes, types and shardings."""
  saved = checkpoints.Checkpoints(workdir, keep=None)
  try:
    return saved.restore(abstract, step=step)
  finally:
    saved.close()


def rows_of(workdir):
  """The rows of metrics.jsonl without what depends on the clock."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [{k: v for k, v in r.items() if k not in _TIMES} for r in rows]


def steps_in(workdir):
  """The steps of a run's checkpoints."""
  return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())
