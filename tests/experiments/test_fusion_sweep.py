"""The sweeps over fusion models: their stages, and what runs share."""

import copy
import dataclasses
import json
import pathlib

import pytest

from contrastive_jax.data.sets.choices import DATA_SETS
from contrastive_jax.programs.sweep import Job, jobs
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.objectives import views
from contrastive_jax.training.objectives.choices import OBJECTIVES
from contrastive_jax.training.objectives.contrasts import LOSSES
from contrastive_jax.training.runs import runner
from experiments.sweeps import fusion_structure


@pytest.fixture(name="made")
def fixture_made(monkeypatch):
  """Configuration and folder of each run that would be trained."""
  calls = []

  def train(config, workdir, report):
    del report
    if not (pathlib.Path(workdir) / "done").exists():
      calls.append((config, workdir))
    pathlib.Path(workdir).mkdir(exist_ok=True)
    (pathlib.Path(workdir) / "done").touch()
    return {f"{objective(config)}/accuracy": 0.5}

  monkeypatch.setattr(runner, "train", train)
  return calls


def objective(config):
  """The name of a configuration's objective."""
  return OBJECTIVES.name_of(config.objective)


def configurations():
  """Configurations of every arm and its tasks, with seed 0."""
  made = fusion_structure.get_sweep()
  return {
    arm.method: made.configurations(Job(arm, 0, None)) for arm in made.arms
  }


def test_a_run_is_a_pretraining_and_all_tasks(made):
  config, others = configurations()["ALBEF"]
  results = fusion_structure.Stages()(config, others)
  assert [objective(c) for c, _ in made] == [
    "albef",
    "vqa",
    "entailment",
    "vqa",
  ]
  data = [DATA_SETS.name_of(c.data) for c, _ in made]
  assert data == ["scenes"] * 3 + ["easy_vqa"]
  assert [c.steps for c, _ in made] == list(fusion_structure.STEPS.values())
  (first, folder), *tasks = made
  assert first == config
  assert first.initial.workdir == "runs/fusion/vqa"
  assert first.initial.part == "encoders"
  assert {c.initial.part for c, _ in tasks} == {"all"}
  assert {c.initial.workdir for c, _ in tasks} == {str(folder)}
  assert all(c.model == config.model for c, _ in tasks)
  assert results["easy_vqa/vqa/accuracy"] == 0.5
  assert set(results) == {
    "pretraining/albef/accuracy",
    "vqa/vqa/accuracy",
    "entailment/entailment/accuracy",
    "easy_vqa/vqa/accuracy",
  }


def test_models_that_see_one_side_share_the_pretraining(made):
  configs, stages = configurations(), fusion_structure.Stages()
  for method in ("ALBEF", "texts alone", "images alone", "+ bridge"):
    stages(*configs[method])
  objectives = [objective(c) for c, _ in made]
  assert [i for i, name in enumerate(objectives) if name == "albef"] == [0, 10]
  inputs = [c.objective.inputs for c, _ in made if objective(c) != "albef"]
  assert inputs == ["both"] * 3 + ["text"] * 3 + ["image"] * 3 + ["both"] * 3
  # The earlier pre-training is gone, the later one there.
  first, second = (folder for c, folder in made if objective(c) == "albef")
  assert not first.exists() and second.exists()


def test_blind_models_have_no_retrieval_of_their_own(made):
  configs, stages = configurations(), fusion_structure.Stages()
  assert "pretraining/albef/accuracy" in stages(*configs["ALBEF"])
  blind = stages(*configs["texts alone"])
  assert "vqa/vqa/accuracy" in blind
  assert not any(name.startswith("pretraining/") for name in blind)


def test_a_record_is_of_its_tasks_too(made, tmp_path):
  whole = fusion_structure.get_sweep()
  short = dataclasses.replace(
    whole,
    arms=whole.arms[:1],
    seeds=(0,),
    metrics={"vqa/vqa/accuracy": "questions"},
  )
  jobs.run(short, tmp_path, report=lambda line: None)
  record = json.loads((tmp_path / "fusion_structure.json").read_text())
  assert len(record["runs"]) == 1
  assert record["others"]["vqa"]["steps"] == fusion_structure.STEPS["vqa"]
  lines = []
  jobs.run(short, tmp_path, report=lines.append)
  assert not lines  # The same again is the same.
  others = copy.deepcopy(dict(whole.others))
  others["vqa"].steps += 1
  changed = dataclasses.replace(short, others=others)
  with pytest.raises(config_lib.UserError, match=r"others\.vqa\.steps"):
    jobs.run(changed, tmp_path, report=lambda line: None)


def test_statements_about_two_images_are_a_sweep_of_their_own(made):
  whole = fusion_structure.get_sweep("nlvr2")
  job = Job(whole.arms[0], 0, None)
  results = whole.train_fn(*whole.configurations(job))
  assert [objective(c) for c, _ in made] == ["albef", "nlvr2"]
  assert [c.steps for c, _ in made] == [400, 800]
  assert made[1][0].optimizer.learning_rate == 1e-3
  # From the pre-training, not from another task.
  assert made[1][0].initial.workdir == str(made[0][1])
  assert "nlvr2/nlvr2/accuracy" in results
  assert list(whole.others) == ["nlvr2"] and len(whole.arms) == 5


def test_arms_differ_in_what_their_names_say():
  configs = configurations()
  base, _ = configs["ALBEF"]
  for kind, weight in (
    ("separation", 0.25),
    ("bridge", 0.1),
    ("consistency", 0.1),
  ):
    config, _ = configs[f"+ {kind}"]
    assert {k: t.weight for k, t in config.structure.terms.items()} == {
      kind: weight
    }
    assert config.other_view == views.Momentum()
  augmented, _ = configs["augmented"]
  assert LOSSES.name_of(augmented.loss) == "augmented"
  assert augmented.loss.temperature_mode == base.loss.temperature_mode
  for method, field in (
    ("- contrast", "contrast"),
    ("- matching", "matching"),
    ("- masked language", "language"),
    ("- distillation", "alpha"),
  ):
    config, _ = configs[method]
    assert getattr(config.objective, field) == 0
    assert getattr(base.objective, field) > 0
  assert not base.structure.terms and base.other_view is None
  order = list(configs)
  # Arms that share a pre-training follow each other.
  assert order[:3] == ["ALBEF", "texts alone", "images alone"]
