"""Runs that begin with another one's model, and finished runs that go on."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contrastive_jax
from contrastive_jax.models import layers, warm_start
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.runs import results_file, runner
from tests.training import tiny

QUIET = {"evaluation": (), "evaluation__plots": False}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  tiny.use_devices(monkeypatch, 1)


@pytest.fixture(scope="module", name="data")
def fixture_data(tmp_path_factory):
  return tiny.write_folder(tmp_path_factory.mktemp("data"), 24, labels=True)


def make_config(data, **changes):
  return tiny.make_config(
    data="folder",
    data__path=str(data),
    data__vocab_size=tiny.VOCABULARY,
    **{"steps": 2, **QUIET, **changes},
  )


def finished(data, workdir, **changes):
  """A run's state at its end, and what it reported."""
  lines = []
  runner.train(make_config(data, **changes), workdir, report=lines.append)
  run, state = runner.restore(workdir, report=lambda line: None)
  return run, state, lines


@pytest.fixture(scope="module", name="earlier")
def fixture_earlier(data, tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_devices(patch, 1)
    workdir = tmp_path_factory.mktemp("earlier") / "run"
    return workdir, finished(data, workdir)[1]


def begun(workdir, **changes):
  """Fields of a run of one step of no size that begins with another one."""
  return {
    "initial": "run",
    "initial__workdir": str(workdir),
    "steps": 1,
    "optimizer__learning_rate": 0.0,
    "ema_decay": 0.0,
    **changes,
  }


@pytest.mark.parametrize("part", ["", "model"])
def test_a_clip_begins_with_a_clip(data, earlier, tmp_path, part):
  workdir, source = earlier
  fields = begun(workdir / part, seed=5)
  _, state, lines = finished(data, tmp_path / "run", **fields)
  tiny.assert_same(state.params, source.eval_params)
  count = len(jax.tree.leaves(state.params))
  assert any(line.startswith(f"{count} arrays") for line in lines)
  kept = [
    (folder / "tokenizer.json").read_bytes()
    for folder in (workdir, tmp_path / "run")
  ]
  assert kept[0] == kept[1]


def test_image_towers_go_both_ways(data, earlier, tmp_path):
  workdir, source = earlier
  one = begun(workdir, objective="simclr")
  _, state, lines = finished(data, tmp_path / "simclr", **one)
  tiny.assert_same(state.params["tower"], source.eval_params["image"])
  assert any("projection_head" in line for line in lines)
  other = begun(tmp_path / "simclr" / "model", seed=9)
  _, state, lines = finished(data, tmp_path / "clip", **other)
  tiny.assert_same(state.params["image"], source.eval_params["image"])
  assert any("text" in line for line in lines)


@pytest.mark.exhaustive
def test_a_momentum_encoder_begins_as_the_model(data, earlier, tmp_path):
  workdir, source = earlier
  fields = begun(workdir, objective="moco_v3")
  _, state, _ = finished(data, tmp_path / "moco", **fields)
  momentum = state.objective_state["momentum"]["params"]
  image = source.eval_params["image"]
  tiny.assert_same(state.params["tower"], image)
  # An average that a step rounds.
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9),
    momentum["tower"],
    image,
  )
  assert "prediction_head" not in momentum


def test_what_does_not_fit_stays_as_initialised(data, earlier, tmp_path):
  workdir, source = earlier
  wider = {**tiny.OVERRIDES, "image": {"widths": (8, 32), "depths": (1, 1)}}
  fields = begun(workdir, model__overrides=wider)
  _, state, lines = finished(data, tmp_path / "wider", **fields)
  first, second = "stage_0_block_0", "stage_1_block_0"
  tiny.assert_same(
    state.params["image"][first], source.eval_params["image"][first]
  )
  assert state.params["image"][second]["conv_0"]["kernel"].shape[-1] == 32
  listed = [line for line in lines if "initialised" in line]
  assert "params/image/" in listed[0]


def test_a_run_that_cannot_begin_is_refused(data, earlier, tmp_path):
  workdir, _ = earlier
  with pytest.raises(config_lib.ConfigError, match="config.initial.workdir"):
    finished(data, tmp_path / "a", **begun(tmp_path / "none"))
  damaged = shutil.copytree(workdir / "model", tmp_path / "damaged")
  (damaged / "config.json").write_text("{}")
  with pytest.raises(config_lib.ConfigError, match="initial.workdir.*format"):
    finished(data, tmp_path / "b", **begun(damaged))


def test_nothing_in_common_is_an_error():
  source = {"params": {"text": {"kernel": np.zeros((2, 3))}}}
  target = {"params": {"image": {"kernel": np.zeros((2, 3))}}}
  with pytest.raises(ValueError, match="params/text/kernel"):
    warm_start.begin(source, target)


def test_positions_are_resized():
  def variables(count, root):
    table = jnp.arange(count * 2.0).reshape(count, 2)
    return {"params": {root: {"position_embedding": table}}}

  small, large = variables(5, "tower"), variables(10, "image")
  found, fit = warm_start.begin(small, large)
  expected = layers.resize_positions(
    small["params"]["tower"]["position_embedding"], 10, 1
  )
  np.testing.assert_array_equal(
    found["params"]["image"]["position_embedding"], expected
  )
  assert fit.resized == ("params/image/position_embedding",)
  assert not fit.initial and not fit.unused


# --- More steps ---------------------------------------------------------------


def test_a_finished_run_goes_on(data, earlier, tmp_path):
  workdir = shutil.copytree(earlier[0], tmp_path / "run")
  run, state, lines = finished(data, workdir, steps=5)
  assert int(state.step) == run.steps == 5
  results = results_file.read(workdir)
  assert results["train/steps"] == 5
  rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5]
  model = contrastive_jax.load(workdir, devices=jax.devices()[:1])
  tiny.assert_same(model.variables["params"], state.eval_params)
  # Finished once more.
  lines = []
  again = runner.train(make_config(data, steps=5), workdir, report=lines.append)
  assert again == results and len(lines) == 1


def test_it_goes_on_as_one_that_was_killed_between(data, earlier, tmp_path):
  """The configuration has more steps already, and the results are the old ones."""
  workdir = shutil.copytree(earlier[0], tmp_path / "run")
  config = make_config(data, steps=5)
  (workdir / "config.json").write_text(json.dumps(config.to_dict()))
  _, state, _ = finished(data, workdir, steps=5)
  assert int(state.step) == 5


@pytest.mark.parametrize("changes", [{"steps": 1}, {"steps": 5, "seed": 3}])
def test_nothing_else_may_change(data, earlier, tmp_path, changes):
  workdir = shutil.copytree(earlier[0], tmp_path / "run")
  before = (workdir / "results.json").read_bytes()
  with pytest.raises(workdirs.WorkdirError):
    runner.train(make_config(data, **changes), workdir)
  assert (workdir / "results.json").read_bytes() == before


def test_an_unfinished_run_does_not_change_its_steps(data, earlier, tmp_path):
  workdir = shutil.copytree(earlier[0], tmp_path / "run")
  (workdir / "results.json").unlink()
  with pytest.raises(workdirs.WorkdirError, match="steps"):
    runner.train(make_config(data, steps=5), workdir)
