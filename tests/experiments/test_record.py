"""Tests of experiments.record."""

import json
import shlex

import pytest

from contrastive_jax import recipes
from contrastive_jax.training import config as config_lib
from experiments import record
from tests.training import tiny


def write_run(folder, seed, score, **changes):
  """A finished run's files."""
  folder.mkdir()
  values = tiny.make_config(seed=seed, **changes).to_dict()
  (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
  numbers = {
    f"retrieval/{way}/recall_at_{k}": score
    for way in ("image_to_text", "text_to_image")
    for k in (1, 5, 10)
  }
  (folder / "results.json").write_text(json.dumps(numbers), encoding="utf-8")
  return folder


def test_seeds_are_summarized(tmp_path):
  runs = [write_run(tmp_path / str(s), s, 0.1 * s) for s in (1, 2, 3)]
  found = record.collect(runs)
  assert found["seeds"] == [1, 2, 3]
  entry = found["numbers"]["retrieval/image_to_text/recall_at_1"]
  assert entry["mean"] == pytest.approx(0.2)
  # Student's t for two degrees of freedom, times .1 / sqrt 3.
  assert entry["half_width"] == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
  page = record.page("some", found)
  assert "| 0.200 ± 0.248 |" in page
  assert "--config.seed=3 --workdir=runs/seed3" in page
  # Every field in which the runs are not the default recipe.
  assert "--config.batch_size=8 " in page and "--config.loss=" not in page


def test_one_seed_has_no_interval(tmp_path):
  found = record.collect([write_run(tmp_path / "a", 0, 0.5)])
  assert "| 0.500 |" in record.page("some", found)


def test_a_run_of_an_older_version_has_the_defaults(tmp_path):
  run = write_run(tmp_path / "a", 0, 0.5)
  values = json.loads((run / "config.json").read_text())
  del values["structure"], values["loss"]["block_size"]
  (run / "config.json").write_text(json.dumps(values), encoding="utf-8")
  found = record.collect([run, write_run(tmp_path / "b", 1, 0.5)])
  assert found["config"]["structure"]["terms"] == {}
  assert found["config"]["loss"]["block_size"] == 0
  assert record.page("some", found)


def test_runs_that_differ_are_refused(tmp_path):
  runs = [
    write_run(tmp_path / "a", 0, 0.5),
    write_run(tmp_path / "b", 1, 0.5, batch_size=16),
  ]
  with pytest.raises(
    config_lib.UserError, match=r"config\.batch_size: 8 and 16"
  ):
    record.collect(runs)
  (runs[0] / "results.json").unlink()
  with pytest.raises(
    config_lib.UserError, match=rf"^{runs[0]} .*results\.json"
  ):
    record.collect(runs)
  with pytest.raises(config_lib.UserError, match="--workdirs"):
    record.collect([])


RUNS = {
  "another loss": {
    "loss": "augmented",
    "loss.e_step": "conjugate",
    "loss.temperature": 0.1,
    "structure": ("bridge", "consistency"),
    "structure.bridge.time": (0.5, 0.75),
    "other_view": "momentum",
  },
  "another objective": {
    "objective": "simclr",
    "objective.projector": (16, 8),
    "evaluation": ("geometry",),
  },
  "another set": {
    "data": "folder",
    "data.path": "my pictures",
    "model.overrides": {"image": {"widths": [8, 16]}},
    "augment.flip": 0.5,
    "evaluation": (),
  },
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
  "recipe",
  [
    "clip_emoji",
    "clip_folder",
    "clip_rn50_cc3m",
    "simclr_emoji",
    "structure_emoji",
    "superclass_emoji",
    "vqa_scenes",
  ],
)
def test_the_command_of_a_recipe_makes_the_run(run, recipe):
  draft = config_lib.default_config()
  draft.override(RUNS[run])
  wanted = config_lib.parse(draft)
  values = json.loads(json.dumps(wanted.to_dict()))
  flags = shlex.split(" ".join(record.command(values, recipe)))
  named = [f for f in flags if f.startswith("--config=")]
  assert named == [f"--config={recipe}"] * (recipe != "clip_emoji")
  made = recipes.load(recipe)
  made.override(
    dict(
      f.removeprefix("--config.").split("=", 1) for f in flags if f not in named
    )
  )
  assert json.loads(json.dumps(config_lib.parse(made).to_dict())) == values


def test_a_recipe_that_is_not_there_is_refused():
  with pytest.raises(config_lib.UserError, match="--recipe.*'no_such'"):
    record.command({}, "no_such")
