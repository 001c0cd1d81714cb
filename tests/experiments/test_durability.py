"""Tests of experiments.durability: its moments, comparisons and page."""

import collections
import itertools
import json
import pathlib
import shutil
import types

import numpy as np
import pytest

from contrastive_jax.recipes import clip_emoji
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.objectives.choices import OBJECTIVES
from contrastive_jax.training.objectives.contrasts import LOSSES
from contrastive_jax.training.runs import runner
from experiments.durability import kills, lives, report, soak
from tests.training import tiny


@pytest.fixture(name="finished", scope="module")
def fixture_finished(tmp_path_factory):
  root = tmp_path_factory.mktemp("runs")
  folder = tiny.write_folder(root / "images", 16, labels=True)
  config = tiny.make_config(
    data="folder",
    data__path=str(folder),
    steps=2,
    evaluation=("retrieval", "geometry"),
    evaluation__plots=False,
  )
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_devices(patch, 1)
    runner.train(config, root / "run", report=lambda line: None)
  return root / "run"


def test_every_kind_of_moment_comes():
  kinds = kills.moments(20, np.random.default_rng(0))
  assert kinds[0] == "compilation" and kinds[-2:] == ["evaluation"] * 2
  counts = collections.Counter(kinds)
  assert sum(counts.values()) == 20
  assert set(counts) == {*kills._MOMENTS, "evaluation"}
  assert min(counts.values()) >= 2


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_kills_are_enough_for_a_try(count):
  found = kills.moments(count, np.random.default_rng(1))
  assert len(found) == count and found[0] == "compilation"


@pytest.mark.exhaustive  # Two whole runs.
def test_the_same_run_does_not_differ_from_itself(finished, tmp_path):
  shutil.copytree(finished, tmp_path / "copy")
  # But for the clock.
  path = tmp_path / "copy" / "results.json"
  results = json.loads(path.read_text())
  path.write_text(json.dumps({**results, "train/seconds": 1e6}))
  assert kills.differences(finished, tmp_path / "copy") == []


def test_a_lost_line_and_other_scores_are_seen(finished, tmp_path):
  other = tmp_path / "other"
  shutil.copytree(finished, other)
  path = other / "metrics.jsonl"
  path.write_text("".join(path.read_text().splitlines(True)[1:]))
  path = other / "results.json"
  results = json.loads(path.read_text())
  path.write_text(json.dumps({**results, "train/steps": 3}))
  assert kills.differences(finished, other) == ["the log", "the scores"]


def test_a_changed_bit_of_the_state_is_seen(finished, monkeypatch):
  restore = runner.restore
  counts = itertools.count()

  def changed(workdir, **kwargs):
    run, state = restore(workdir, **kwargs)
    if next(counts):
      state = state.replace(seed=state.seed + 1)
    return run, state

  monkeypatch.setattr(runner, "restore", changed)
  assert kills.differences(finished, finished) == [".seed"]


def test_moments_are_told_by_what_a_life_leaves(tmp_path):
  said = []
  life = types.SimpleNamespace(
    workdir=tmp_path, began=0.0, text=lambda: "\n".join(said)
  )
  rng = np.random.default_rng(0)
  assert lives.preparing(rng, 1.0)(life)
  saving, scoring = lives.saving(rng, 1.0), lives.scoring(rng, 1.0)
  evaluating, stepping = lives.evaluating(rng, 1.0), lives.stepping(rng, 1.0)
  everything = (saving, scoring, evaluating, stepping)
  assert not any(moment(life) for moment in everything)

  def comes(moment):
    for _ in range(3000):
      if moment(life):
        return True
      lives.time.sleep(0.001)
    return False

  (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir(parents=True)
  assert comes(saving)
  said.append("Compiling the train step ...")
  assert not evaluating(life) and not stepping(life)
  row = {"step": 100, "train/loss": 1.0, "train/x": "x" * 4000}
  (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
  assert comes(evaluating) and comes(stepping)
  said.append("Evaluating ...")
  assert comes(scoring)


def test_the_page_tells_what_was_found(tmp_path):
  errors = {"value": 1.41, "gradient": 0.75, "cases": 10, "sharp": 7}
  numbers = {
    "command": "python -m it",
    "cases": 20,
    "bound": 8.0,
    "unit": "a little",
    "failures": [],
    "losses": [
      {"loss": "clip", "dtype": dtype, **errors}
      for dtype in ("float32", "bfloat16")
    ],
  }
  path = tmp_path / "durability_numbers.json"
  path.write_text(json.dumps(numbers))
  row = {
    "kills": {"save": 3, "step": 4},
    "half_written": 2,
    "leaves": 10,
    "lines": 20,
    "differences": [],
    "seconds": 60.0,
  }
  other = {**row, "differences": ["the log"], "longest_wait": 7.2, "named": 5}
  report.write(tmp_path, "kills", {"clip_1_device": row, "clip_2": other})
  report.write(
    tmp_path,
    "soak",
    {
      "steps": 2000,
      "slope": 0.25,
      "memory": [900.0, 903.0],
      "open_files": [20, 21],
      "late": 0,
      "compilations": 33,
    },
  )
  text = (tmp_path / "durability.md").read_text()
  assert "| clip 1 device | 7: 3 save, 4 step | 2 | 10, 20 | none |  |" in text
  assert "| the log | at most 7 s; named 5 of 7 |" in text
  assert "| 0.25 | 1 |" in text and "| 900, 903 | level |" in text
  assert "| 20, 21 | level |" in text and "0 of 33" in text
  assert "| clip | 1.4, 0.75 | 1.4, 0.75 | 20 | 14 |" in text
  assert "Failures: none." in text
  assert set(report.read(tmp_path)) == {"kills", "soak", "versions"}


@pytest.mark.parametrize("objective", kills.OBJECTIVES)
def test_the_flags_of_a_run_are_a_configuration(objective):
  fields = dict(
    argument.removeprefix("--config.").split("=", 1)
    for argument in kills.arguments(objective, pathlib.Path("images"))
    if argument.startswith("--config.")
  )
  draft = clip_emoji.get_config()
  draft.override(fields)
  config = config_lib.parse(draft)
  assert OBJECTIVES.name_of(config.objective) == objective
  assert LOSSES.name_of(config.loss) == "augmented"
  assert [
    e.every
    for e in config.evaluation.evaluators.values()
    if hasattr(e, "every")
  ] == [lives.VALIDATE_EVERY]


@pytest.mark.exhaustive
@pytest.mark.long
def test_a_run_is_killed_and_is_the_same(monkeypatch):
  given = kills.arguments

  def shorter(objective, data, *, steps):
    assert steps == 600
    return given(objective, data, steps=60)

  monkeypatch.setattr(kills, "arguments", shorter)
  found = kills.study("clip", "1_device", kills=1, seed=0)
  assert sum(found["kills"].values()) == 1
  assert found["differences"] == [] and found["lines"] >= 60


@pytest.mark.exhaustive
@pytest.mark.long
def test_memory_and_files_are_watched(monkeypatch):
  monkeypatch.setattr(soak, "_VALIDATE_EVERY", 25)
  found = soak.run(100)
  assert found["samples"] > 2 and found["late"] == 0
  assert found["memory"][0] > 100
  assert found["open_files"][0] > 2
