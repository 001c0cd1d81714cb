"""Several processes: the same losses and parameters as one."""

import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from PIL import Image

from contrastive_jax.models import pretrained
from contrastive_jax.recipes import clip_emoji
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import processes
from contrastive_jax.training.distributed import start as start_lib
from contrastive_jax.training.runs import runner
from contrastive_jax.training.trainer import metric_log
from tests.training import tiny
from tests.training.program import (
  STEPS,
  command,
  fields_of,
  free_port,
  start,
  unscored,
)


def fusion_fields(folder, *, fsdp):
  """Fields of ALBEF's pre-training on the folder, with dropout and Muon."""
  fields = fields_of(folder, fsdp=fsdp)
  del fields["objective.captions_per_example"]
  return fields | {
    "objective": "albef",
    "loss": "soft_target",
    "loss.temperature_mode": "fixed",
    "loss.queue_size": 32,
    "optimizer": "muon",
    "model.preset": "albef_tiny",
    "model.overrides": {
      "image": {"width": 32, "depth": 1, "patch_size": 8, "stem_width": 0},
      # Large enough to be split: 301 x 256.
      "width": 256,
      "fusion_depth": 1,
      "dropout": 0.1,
    },
  }


def task_fields(root, initial, *, fsdp):
  """Fields of entailment in files of ALBEF's form, begun with a pre-training."""
  rng = np.random.default_rng(0)
  rows = []
  root.mkdir(exist_ok=True)
  for i in range(24):
    pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / f"{i}.png")
    label = ("entailment", "neutral", "contradiction")[i % 3]
    rows.append({"image": f"{i}.png", "sentence": f"thing {i}", "label": label})
  for split in ("ve_train", "ve_test"):
    (root / f"{split}.json").write_text(json.dumps(rows))
    rows = [{**row, "image": f"copy_{row['image']}"} for row in rows]
    for i in range(24):
      (root / f"copy_{i}.png").write_bytes((root / f"{i}.png").read_bytes())
  fields = {
    name: value
    for name, value in fusion_fields(root, fsdp=fsdp).items()
    if not name.startswith(("loss", "evaluation.retrieval"))
  }
  return fields | {
    "objective": "entailment",
    "objective.texts_per_image": 2,
    "data": "official",
    "data.format": "albef",
    "initial": "run",
    "initial.workdir": str(initial),
    "evaluation.task.every": 2,
  }


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory):
  return tiny.write_folder(tmp_path_factory.mktemp("images"), 40, labels=True)


def train_in_two(fields, workdir, **variables):
  """Trains in two processes of one device each."""
  port = free_port()
  running = start(
    [
      command(
        fields,
        workdir,
        f"--coordinator=localhost:{port}",
        "--process_count=2",
        f"--process_id={i}",
      )
      for i in range(2)
    ],
    devices=1,
    **variables,
  )
  first, second = (p.communicate(timeout=300)[0] for p in running)
  for process, text in zip(running, (first, second)):
    assert process.returncode == 0, text
  assert "step 3/3" in first and "results.json and the model" in first
  assert "step" not in second


def train_in_one(fields, workdir):
  """Trains in this process; returns the configuration."""
  draft = clip_emoji.get_config()  # The program's default.
  draft.override(unscored(fields))
  config = config_lib.parse(draft)
  runner.train(config, workdir, report=lambda _: None)
  return config


def check_like(one, two, config):
  """Raises unless two runs had the same losses and parameters."""
  losses = [
    [r["train/loss"] for r in metric_log.read_metrics(w) if "train/loss" in r]
    for w in (one, two)
  ]
  assert len(losses[0]) == STEPS
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
  # Its checkpoint, written by two processes, opens in one with 8 devices.
  states = [runner.restore(w, report=lambda _: None)[1] for w in (one, two)]
  for a, b in zip(*map(jax.tree.leaves, (s.params for s in states))):
    # Where a gradient is next to nothing, AdamW makes steps of its noise: here
    # and there one as long as the learning rate.
    difference = np.abs(np.asarray(a) - np.asarray(b))
    assert difference.max() < 2 * config.optimizer.learning_rate
    assert np.mean(difference > 5e-4) < 1e-4


def test_two_processes_are_like_one(folder, tmp_path):
  one, two = tmp_path / "one", tmp_path / "two"
  config = train_in_one(fields_of(folder, fsdp=False), one)
  programs = tmp_path / "programs"
  train_in_two(
    fields_of(folder, fsdp=True),
    two,
    JAX_COMPILATION_CACHE_DIR=str(programs),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
  )
  # The next run would read them, with the collectives of their loops in any order.
  assert not programs.exists() or not any(programs.iterdir())
  check_like(one, two, config)
  results = json.loads((two / "results.json").read_text())
  assert {"retrieval", "zero_shot", "knn", "train"} <= {
    name.split("/")[0] for name in results
  }


@pytest.mark.exhaustive
def test_a_run_goes_on_with_another_number_of_processes(folder, tmp_path):
  """With the same losses: of the checkpoint of step 2, the third."""
  one, two = tmp_path / "one", tmp_path / "two"
  config = train_in_one(fields_of(folder, fsdp=False), one)
  shutil.copytree(one, two)
  shutil.rmtree(two / "checkpoints" / str(STEPS))
  (two / "results.json").unlink()
  fields = fields_of(folder, fsdp=False)
  train_in_two(unscored(fields), two)
  check_like(one, two, config)


@pytest.mark.exhaustive
@pytest.mark.long
def test_fusion_models_in_two_processes_are_like_in_one(folder, tmp_path):
  """Queue, negatives and dropout too; then a task that begins with either."""
  one, two = tmp_path / "one", tmp_path / "two"
  config = train_in_one(fusion_fields(folder, fsdp=False), one)
  train_in_two(fusion_fields(folder, fsdp=True), two)
  check_like(one, two, config)
  results = json.loads((two / "results.json").read_text())
  assert {"retrieval", "retrieval_reranked"} <= {
    name.split("/")[0] for name in results
  }
  # Both begin with what two processes wrote.
  root = tmp_path / "task"
  config = train_in_one(task_fields(root, two, fsdp=False), tmp_path / "first")
  train_in_two(task_fields(root, two, fsdp=True), tmp_path / "second")
  check_like(tmp_path / "first", tmp_path / "second", config)
  results = json.loads((tmp_path / "second" / "results.json").read_text())
  assert 0 <= results["entailment/accuracy"] <= 1


@pytest.mark.exhaustive
@pytest.mark.long
def test_published_weights_in_two_processes_are_like_in_one(folder, tmp_path):
  overrides = {
    "image": {"width": 32, "depth": 1, "patch_size": 8, "num_heads": 2},
    "text": {"width": 256, "depth": 1, "num_heads": 4},
    "embed_dim": 16,
  }
  fields = fields_of(folder, fsdp=False) | {
    "model.preset": "vit_b32",
    "tokenizer": "clip",
    "model.overrides": overrides,
  }
  # A run of no steps, whose model is what the others begin with.
  train_in_one(fields | {"steps": 0, "seed": 3}, tmp_path / "made")
  run, state = runner.restore(tmp_path / "made", report=lambda _: None)
  path = tmp_path / "clip.safetensors"
  pretrained.save(run.objective.model, {"params": state.params}, path)
  fields |= {"initial": "weights", "initial.weights": str(path)}
  one, two = tmp_path / "one", tmp_path / "two"
  config = train_in_one(fields, one)
  train_in_two(fields | {"fsdp": True}, two)
  check_like(one, two, config)


@pytest.mark.parametrize(
  "killed", [1, pytest.param(0, marks=pytest.mark.exhaustive)]
)
def test_a_killed_process_stops_the_other(folder, tmp_path, killed):
  """It names process 1; without process 0 the runtime aborts it."""
  workdir, port = tmp_path / "run", free_port()
  running = start(
    [
      command(
        fields_of(folder, fsdp=True),
        workdir,
        f"--coordinator=localhost:{port}",
        "--process_count=2",
        f"--process_id={i}",
        "--dead_after=3",
        "--config.steps=1000000",
      )
      for i in range(2)
    ],
    devices=1,
  )
  deadline = time.monotonic() + 120
  while not metric_log.read_metrics(workdir) and time.monotonic() < deadline:
    assert all(p.poll() is None for p in running)
    time.sleep(0.2)
  gone, other = running[killed], running[1 - killed]
  gone.kill()
  gone.communicate()
  began = time.monotonic()
  text, _ = other.communicate(timeout=60)
  assert time.monotonic() - began < 30
  if killed == 0:
    assert other.returncode == -signal.SIGABRT, text
    return
  assert other.returncode == processes.EXIT_CODE, text
  last = text.strip().splitlines()[-1]
  assert last.startswith(f"Process {killed} of 2 on "), text
  assert last.endswith(
    "has not answered for 3 s, so this process stops too; the same command"
    " resumes at the last checkpoint."
  )
  assert "Traceback" not in text


@pytest.mark.parametrize(
  "given, said",
  [
    (("", 2, -1), "need --coordinator"),
    (("host", 2, 0), "HOST:PORT"),
    (("h:1", 2, 2), "from 0 to N - 1"),
  ],
)
def test_flags_that_do_not_go_together(given, said):
  with pytest.raises(config_lib.UserError, match=said):
    start_lib.start_processes(*given)
