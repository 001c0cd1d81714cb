"""experiments.fusion_study: its stages, in order, and what each begins with."""

import pathlib

import pytest

from contrastive_jax.training import config as config_lib
from contrastive_jax.training.objectives.choices import OBJECTIVES
from contrastive_jax.training.runs import initial_choices
from experiments import fusion_study

ALL = ("vqa", "nlvr2", "entailment")


def test_stages():
  workdir = pathlib.Path("runs/x")
  found = fusion_study.stages(workdir, ALL, seed=3)
  assert list(found) == ["pretraining", *ALL]
  assert [
    OBJECTIVES.name_of(config.objective) for config in found.values()
  ] == ["albef", *ALL]
  assert {config.seed for config in found.values()} == {3}
  assert found["pretraining"].initial == initial_choices.Random()
  starts = {name: found[name].initial.workdir for name in ALL}
  assert starts == {
    "vqa": "runs/x/pretraining",
    "nlvr2": "runs/x/vqa",
    "entailment": "runs/x/pretraining",
  }
  for name in ALL:
    # The parameters of the one must fit the other.
    assert found[name].model == found["pretraining"].model
    assert found[name].data == found["pretraining"].data


def test_fewer_tasks_and_steps():
  found = fusion_study.stages(pathlib.Path("x"), ["vqa"], steps=5)
  assert list(found) == ["pretraining", "vqa"]
  assert {config.steps for config in found.values()} == {5}


def test_what_a_task_begins_with_is_made_before_it():
  for tasks in (["nlvr2", "vqa"], ["nlvr2"]):
    found = fusion_study.stages(pathlib.Path("x"), tasks)
    assert list(found) == ["pretraining", "vqa", "nlvr2"]
  assert list(fusion_study.stages(pathlib.Path("x"), [])) == ["pretraining"]


def test_more_steps():
  usual, more, least = (
    fusion_study.stages(pathlib.Path("x"), ["vqa"], times=times)
    for times in (1.0, 2.5, 1e-6)
  )
  for name, config in usual.items():
    assert more[name].steps == round(2.5 * config.steps)
    assert least[name].steps == 1


def test_steps_and_their_factor_exclude_each_other(monkeypatch, tmp_path):
  for name, value in (
    ("steps", "5"),
    ("times", "2"),
    ("workdir", str(tmp_path)),
  ):
    monkeypatch.setattr(
      fusion_study._FLAGS[name],
      "value",
      fusion_study._FLAGS[name].parser.parse(value),
    )
  monkeypatch.setattr(fusion_study._FLAGS["tasks"], "value", ["vqa"])
  fusion_study._FLAGS.mark_as_parsed()
  with pytest.raises(config_lib.UserError, match="--steps.*--times"):
    fusion_study.main()


def test_a_mistyped_task():
  with pytest.raises(config_lib.UserError, match="--tasks.*vqa, .*'vqq'"):
    fusion_study.stages(pathlib.Path("x"), ["vqq"])


def test_runs_are_made_in_order(tmp_path):
  made, lines = [], []

  def train(config, workdir):
    name = OBJECTIVES.name_of(config.objective)
    made.append((name, workdir))
    return {f"{name}/accuracy": 0.25}

  configs = fusion_study.stages(tmp_path, ["entailment"])
  results = fusion_study.run(
    tmp_path, configs, train=train, report=lines.append
  )
  assert made == [
    ("albef", tmp_path / "pretraining"),
    ("entailment", tmp_path / "entailment"),
  ]
  assert results == {
    "pretraining/albef/accuracy": 0.25,
    "entailment/entailment/accuracy": 0.25,
  }
  assert lines[0] == "Stage 1 of 2: pretraining."
