"""Tests of contrastive_jax.training.runs.runner, on folders of tiny images."""

import json
import math
import shutil

import pytest

from contrastive_jax.data import sources
from contrastive_jax.data.sets import folder
from contrastive_jax.data.sets.folder import reading
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.runs import build, hits_file, results_file, runner
from contrastive_jax.training.trainer import checkpoints
from tests.training import tiny


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
  tiny.use_devices(monkeypatch, 2)


def folder_config(path, **changes):
  return tiny.make_config(
    data="folder",
    data__path=str(path),
    # Bytes alone: the model has the same shape whatever the captions.
    data__vocab_size=tiny.VOCABULARY,
    **{"evaluation__retrieval__every": 3, **changes},
  )


class Run:
  """Results of `runner.train`, and the lines that it reported."""

  def __init__(self, config, workdir):
    self.config = config
    self.workdir = workdir
    self.lines = []
    self.results = runner.train(config, workdir, report=self.lines.append)


@pytest.fixture(scope="module", name="labelled")
def fixture_labelled(tmp_path_factory):
  root = tmp_path_factory.mktemp("labelled")
  tiny.write_folder(root / "data", 40, labels=True)
  with (root / "data" / "captions.jsonl").open("a") as file:
    file.write('{"image": "missing.png", "captions": ["nothing"]}\n')
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_devices(patch, 2)
    return Run(folder_config(root / "data"), root / "new" / "workdir")


@pytest.fixture(name="copied")
def fixture_copied(labelled, tmp_path):
  """A workdir of the same run, to be spoiled."""
  return shutil.copytree(labelled.workdir, tmp_path / "workdir")


def no_training(monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError("it trains")

  monkeypatch.setattr(runner.loop, "fit", refuse)


# A whole run.


def test_a_workdir_describes_itself(labelled):
  names = {path.name for path in labelled.workdir.iterdir()}
  assert names == {
    "checkpoints",
    "checksums",
    "config.json",
    "data.json",
    "hits.npz",
    "metrics.jsonl",
    "model",
    "plots",
    "report.html",
    "results.json",
    "run.lock",
    "skipped.jsonl",
    "tensorboard",
    "tokenizer.json",
  }
  saved = json.loads((labelled.workdir / "config.json").read_text())
  assert saved == labelled.config.to_dict()
  plots = {path.name for path in (labelled.workdir / "plots").iterdir()}
  assert plots == {
    "curves.png",
    "embeddings.png",
    "retrieval.png",
    "similarity.png",
  }


def test_results_are_flat_numbers(labelled):
  saved = json.loads((labelled.workdir / "results.json").read_text())
  assert saved == labelled.results
  hits = hits_file.load(labelled.workdir)
  assert {
    "retrieval/image_to_text/recall_at_1",
    "retrieval/text_to_image/recall_at_10",
    "zero_shot/accuracy_top1",
    "knn/accuracy",
  } <= set(hits)
  for name, own in hits.items():
    assert own.right.dtype == bool and len(own.right) == len(own.things)
    assert own.right.mean() == pytest.approx(saved[name], rel=1e-6)
  assert all(
    isinstance(v, (int, float)) and math.isfinite(v) for v in saved.values()
  )
  for name in (
    "retrieval/image_to_text/recall_at_1",
    "retrieval_validation/text_to_image/recall_at_10",
    "zero_shot/accuracy_top1",
    "linear_probe/accuracy",
    "knn/accuracy",
    "few_shot/accuracy_5_shot",
    "geometry/alignment",
    "train/examples_per_second",
    "train/input_wait",
    "train/seconds",
  ):
    assert name in saved
  assert saved["train/steps"] == 8
  assert saved["train/examples_per_second"] > 0


def order(kind):
  step, of_training = kind
  return step, not of_training


def test_metrics_hold_training_and_validation(labelled):
  lines = (labelled.workdir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  kinds = [(r["step"], "train/loss" in r) for r in rows]
  training = [(step, True) for step in range(1, 9)]
  assert kinds == sorted([*training, (3, False), (6, False)], key=order)
  assert "retrieval_validation/image_to_text/recall_at_1" in rows[3]


def test_rows_that_cannot_be_used_are_listed(labelled):
  lines = (labelled.workdir / "skipped.jsonl").read_text().splitlines()
  (problem,) = map(json.loads, lines)
  assert problem["line"] == 41 and problem["image"] == "missing.png"
  assert problem["skipped"] is True
  (note,) = [line for line in labelled.lines if "cannot be used" in line]
  assert "1 of 41 rows" in note and "skipped.jsonl" in note


def test_evaluating_again_gives_the_same(labelled, capsys):
  run, state = runner.restore(labelled.workdir, report=lambda line: None)
  assert int(state.step) == 8
  again = run.evaluate(state)
  trained = {
    k: v for k, v in labelled.results.items() if not k.startswith("train/")
  }
  assert set(again) == set(trained)
  for name, value in trained.items():
    assert again[name] == pytest.approx(value, abs=1e-6), name


# Started again.


def test_a_finished_run_is_told_and_not_trained(copied, labelled, monkeypatch):
  no_training(monkeypatch)
  lines = []
  results = runner.train(labelled.config, copied, report=lines.append)
  assert results == labelled.results
  assert len(lines) == 1 and "holds a finished run" in lines[0]


def test_killed_in_the_evaluation_it_makes_only_that(copied, labelled):
  (copied / "results.json").unlink()
  (copied / "metrics.jsonl").open("a").write('{"step": 9, "half')
  lines = []
  results = runner.train(labelled.config, copied, report=lines.append)
  assert "Compiling the train step ..." not in lines
  assert f"Resuming {copied} at step 8." in lines
  assert set(results) == set(labelled.results)
  for name, value in labelled.results.items():
    if not name.startswith("train/"):
      assert results[name] == pytest.approx(value, abs=1e-6), name
  log = (copied / "metrics.jsonl").read_text()
  assert log == (labelled.workdir / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
  "changes, said",
  [
    ({"seed": 5}, "config.seed=0, and now it is 5"),
    (
      {"optimizer__beta1": 0.5, "optimizer__beta2": 0.5},
      "config.optimizer.beta1=0.9, and now it is 0.5",
    ),
    ({"augment__crop_scale": (0.1, 1.0)}, "config.augment.crop_scale"),
  ],
)
def test_another_configuration_is_refused(
  copied, labelled, monkeypatch, changes, said
):
  no_training(monkeypatch)
  before = (copied / "config.json").read_bytes()
  other = folder_config(labelled.config.data.path, **changes)
  for finished in (True, False):
    if not finished:
      (copied / "results.json").unlink()
    with pytest.raises(workdirs.WorkdirError) as caught:
      runner.train(other, copied)
    assert said in str(caught.value) and "another --workdir" in str(
      caught.value
    )
  assert (copied / "config.json").read_bytes() == before


@pytest.mark.parametrize("name", ["config.json", "results.json"])
@pytest.mark.parametrize(
  "content", [b"", b'{"seed": 0,', b"[]", b"null", b"\xff\xfe\x00"]
)
def test_a_file_that_is_no_json_object_is_named(
  copied, labelled, monkeypatch, name, content
):
  no_training(monkeypatch)
  (copied / name).write_bytes(content)
  with pytest.raises(workdirs.WorkdirError) as caught:
    runner.train(labelled.config, copied)
  assert str(copied / name) in str(caught.value)
  assert "JSON" in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_hits_are_named(copied):
  path = copied / "hits.npz"
  path.write_bytes(path.read_bytes()[:-40])
  with pytest.raises(workdirs.WorkdirError, match=f"^{path} "):
    hits_file.load(copied)
  path.unlink()
  assert hits_file.load(copied) == {}


def test_results_that_are_no_numbers_are_refused(copied, labelled):
  (copied / "results.json").write_text('{"a": "b"}')
  with pytest.raises(workdirs.WorkdirError, match=r"results\.json.*numbers"):
    runner.train(labelled.config, copied)


def test_a_workdir_without_its_configuration_is_refused(copied, labelled):
  (copied / "config.json").unlink()
  with pytest.raises(workdirs.WorkdirError, match="config.json"):
    runner.train(labelled.config, copied)


def test_a_workdir_that_cannot_be_made(labelled, tmp_path):
  (tmp_path / "file").write_text("")
  for path in (tmp_path / "file", tmp_path / "file" / "below"):
    with pytest.raises(
      workdirs.WorkdirError, match=f"--workdir={path}"
    ) as caught:
      runner.train(labelled.config, path)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
  "changes, said",
  [
    ({"batch_size": 7}, "config.batch_size must be a multiple"),
    (
      {"objective__images_per_concept": 3},
      "config.batch_size must be a multiple of images_per_concept x devices",
    ),
    (
      {"model__overrides": {"text": {"depth": 1, "num_heads": 5}}},
      "num_heads",
    ),
    ({"data__path": "/nowhere"}, "/nowhere does not exist"),
  ],
)
def test_a_mistake_does_not_claim_the_workdir(
  labelled, tmp_path, monkeypatch, changes, said
):
  """It can be put right with the same workdir."""
  no_training(monkeypatch)
  settings = {"data__path": labelled.config.data.path, **changes}
  config = tiny.make_config(data="folder", **settings)
  # Programs print these errors as a sentence, and no other ValueError.
  with pytest.raises((config_lib.UserError, reading.DataError)) as caught:
    runner.train(config, tmp_path, report=lambda line: None)
  assert said in str(caught.value)
  assert not (tmp_path / "config.json").exists()


def test_a_bug_is_not_taken_for_a_mistake(labelled, tmp_path, monkeypatch):
  def fail(*args, **kwargs):
    raise ValueError("a bug")

  monkeypatch.setattr(runner.loop, "fit", fail)
  with pytest.raises(ValueError, match="a bug") as caught:
    runner.train(labelled.config, tmp_path, report=lambda line: None)
  assert not isinstance(caught.value, config_lib.UserError)


@pytest.mark.parametrize("name", ["train", "restore"])
def test_a_damaged_vocabulary_is_named(copied, labelled, name):
  (copied / "results.json").unlink()
  (copied / "tokenizer.json").write_text("{")
  with pytest.raises(workdirs.WorkdirError, match="not a tokenizer") as caught:
    if name == "train":
      runner.train(labelled.config, copied, report=lambda line: None)
    else:
      runner.restore(copied, report=lambda line: None)
  assert str(copied / "tokenizer.json") in str(caught.value)


def test_a_field_that_is_newer_than_the_run(copied, labelled, monkeypatch):
  no_training(monkeypatch)
  values = json.loads((copied / "config.json").read_text())
  del values["objective"]["captions_per_example"]
  (copied / "config.json").write_text(json.dumps(values))
  # Then it was as the default is now.
  results = runner.train(labelled.config, copied, report=lambda line: None)
  assert results == labelled.results
  other = folder_config(
    labelled.config.data.path, objective__captions_per_example=2
  )
  with pytest.raises(workdirs.WorkdirError) as caught:
    runner.train(other, copied)
  assert "config.objective.captions_per_example=1, and now it is 2" in str(
    caught.value
  )


def test_a_field_that_is_no_longer_known(copied, labelled, monkeypatch):
  no_training(monkeypatch)
  values = json.loads((copied / "config.json").read_text())
  values["optimizer"]["beta3"] = 1
  (copied / "config.json").write_text(json.dumps(values))
  with pytest.raises(workdirs.WorkdirError) as caught:
    runner.train(labelled.config, copied)
  message = str(caught.value)
  assert str(copied / "config.json") in message and "beta3" in message
  assert "another --workdir" in message and "\n" not in message


class StopError(Exception):
  """Ends a run where a test has seen enough."""


def recorded(monkeypatch, module, name):
  """The arguments that a function gets, which then ends the run."""
  calls = []

  def record(*args, **kwargs):
    calls.append((args, kwargs))
    raise StopError

  monkeypatch.setattr(module, name, record)
  return calls


def test_a_folder_is_opened_at_the_size_of_the_preset(tmp_path, monkeypatch):
  calls = recorded(monkeypatch, reading, "scan_folder")
  config = folder_config(
    tmp_path,
    model__preset="vit_b16",
    model__image_size=0,
    model__overrides={},
  )
  with pytest.raises(StopError):
    runner.train(config, tmp_path / "run", report=lambda line: None)
  assert calls[0][1]["image_size"] == 224


def test_the_home_directory_may_be_a_tilde(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  tiny.write_folder(tmp_path / "data", 12)
  recorded(monkeypatch, runner.loop, "fit")
  with pytest.raises(StopError):  # It is opened, and would be trained on.
    runner.train(
      folder_config("~/data"), tmp_path / "run", report=lambda line: None
    )


def test_a_large_folder_tells_how_far_it_is(labelled, tmp_path, monkeypatch):
  monkeypatch.setattr(folder, "_REPORT_EVERY", 0.0)
  recorded(monkeypatch, runner.loop, "fit")
  lines = []
  with pytest.raises(StopError):
    runner.train(labelled.config, tmp_path, report=lines.append)
  assert "Checked 1 of 40 images." in lines


def test_progress_is_told_every_few_seconds(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
  lines = []
  progress = folder._image_counter(lines.append)
  for i in range(1, 2001):
    now[0] += 0.01
    progress(i, 2000)
  assert 3 <= len(lines) <= 4
  assert all("of 2,000 images" in line for line in lines)


def test_the_batches_are_closed(labelled, tmp_path, monkeypatch):
  calls = recorded(monkeypatch, runner.loop, "fit")
  with pytest.raises(StopError):
    runner.train(labelled.config, tmp_path, report=lambda line: None)
  with pytest.raises(ValueError, match="closed"):
    next(calls[0][1]["iterator"])


def test_the_vocabulary_of_a_first_try_is_not_kept(tmp_path, monkeypatch):
  recorded(monkeypatch, runner.loop, "fit")
  workdir = tmp_path / "workdir"
  workdir.mkdir()
  (workdir / "tokenizer.json").write_text("of another try")
  config = folder_config(tiny.write_folder(tmp_path / "data", 12))
  with pytest.raises(StopError):
    runner.train(config, workdir, report=lambda line: None)
  learned = (workdir / "tokenizer.json").read_bytes()
  assert b"of another try" not in learned
  # Once the workdir is claimed the vocabulary stays, and so must the data.
  tiny.write_folder(tmp_path / "data", 30)
  with pytest.raises(workdirs.WorkdirError, match=f"data of {workdir}"):
    runner.train(config, workdir, report=lambda line: None)
  assert (workdir / "tokenizer.json").read_bytes() == learned


def test_a_run_goes_on_where_its_data_are_now(copied, labelled, tmp_path):
  moved = shutil.copytree(labelled.config.data.path, tmp_path / "moved")
  config = folder_config(moved, steps=12)
  runner.train(config, copied, report=lambda line: None)
  kept = json.loads((copied / "config.json").read_text())
  assert kept["data"]["path"] == str(moved) and kept["steps"] == 12
  # Other pictures are no data that have moved.
  tiny.write_folder(moved, 30, labels=True)
  with pytest.raises(workdirs.WorkdirError):
    runner.train(
      folder_config(moved, steps=14), copied, report=lambda line: None
    )


# Restored.


@pytest.mark.parametrize("make", [False, True])
def test_there_is_no_run(tmp_path, make):
  workdir = tmp_path / "nothing"
  if make:
    workdir.mkdir()
  with pytest.raises(
    workdirs.WorkdirError, match=rf"^{workdir} .*config\.json"
  ):
    runner.restore(workdir)
  assert workdir.exists() == make


def test_there_is_no_checkpoint(copied):
  shutil.rmtree(copied / "checkpoints")
  with pytest.raises(workdirs.WorkdirError, match=str(copied)) as caught:
    runner.restore(copied)
  assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_there_is_no_such_step(copied):
  with pytest.raises(workdirs.WorkdirError, match=r"\b2\b.* 4, 8"):
    runner.restore(copied, step=2)


def test_the_configuration_no_longer_parses(copied):
  values = json.loads((copied / "config.json").read_text())
  values["optimizer"]["beta3"] = 1
  (copied / "config.json").write_text(json.dumps(values))
  with pytest.raises(config_lib.ConfigError, match=r"optimizer\.beta3"):
    runner.restore(copied)


def test_a_checkpoint_of_another_model_is_told(copied, labelled):
  values = json.loads((copied / "config.json").read_text())
  values["model"]["overrides"]["image"]["widths"] = [8, 24]
  (copied / "config.json").write_text(json.dumps(values))
  with pytest.raises(checkpoints.CheckpointError, match=r"\bimage/.*24\b"):
    runner.restore(copied, report=lambda line: None)


# Small folders.


@pytest.mark.exhaustive
def test_a_folder_without_labels_and_with_few_things(tmp_path):
  root = tiny.write_folder(tmp_path / "data", 5)
  run = Run(folder_config(root, evaluation__plots=False), tmp_path / "workdir")
  assert {k.split("/")[0] for k in run.results} == {
    "retrieval",
    "retrieval_validation",
    "geometry",
    "train",
  }
  assert any("Only 5 " in line for line in run.lines)
  assert sum(line.startswith("Left out: ") for line in run.lines) == 2
  assert not (tmp_path / "workdir" / "plots").exists()
  assert (tmp_path / "workdir" / "skipped.jsonl").read_text() == ""


def test_without_the_evaluation_at_the_end(tmp_path, labelled):
  config = folder_config(
    labelled.config.data.path,
    evaluation=("retrieval",),
    evaluation__retrieval__final=False,
  )
  run = Run(config, tmp_path)
  assert {k.split("/")[0] for k in run.results} == {"train"}
  assert not (tmp_path / "plots").exists()


# Captions and tables.


def test_captions_are_drawn_by_language(data):
  config = tiny.make_config(captions__main_language_share=0.7)
  feed = build.caption_feed(config)
  assert feed.sampler(data).languages == {"en": 0.7, "de": pytest.approx(0.3)}
  alone = sources.PairData("x", {}, ("ja",), None)
  assert feed.sampler(alone).languages == {"ja": 1.0}


def test_table():
  text = results_file.table({"b/x": 0.123456, "a": 3, "b/y": 12345.0})
  assert text.splitlines() == [
    "a             3",
    "",
    "b/x      0.1235",
    "b/y      12,345",
  ]
  assert results_file.table({}) == ""


def test_table_with_items():
  results = {"x/a_16": 0.5, "x/a_2": 0.25, "x/b": 0.125}
  lines = results_file.table(results, {"x/a_2": 1234, "x/b": 8}).splitlines()
  assert [line.split()[0] for line in lines[:3]] == ["x/a_2", "x/a_16", "x/b"]
  assert lines[0].endswith("of 1,234") and "of" not in lines[1].split()
  assert "1 scores" in lines[-1] and "0.12" in lines[-1]


def test_changed_data_is_refused_on_resuming(tmp_path):
  root, workdir = tmp_path / "data", tmp_path / "run"
  # As many steps as other runs here, whose programs it shares.
  config = folder_config(
    tiny.write_folder(root, 12),
    evaluation=("retrieval",),
    evaluation__retrieval__final=False,
  )

  def quiet(line):
    del line

  runner.train(config, workdir, report=quiet)
  (workdir / "results.json").unlink()
  captions = root / "captions.jsonl"
  text = captions.read_text()
  changed = text.replace('"captions": ["', '"captions": ["new ')
  assert changed != text
  captions.write_text(changed)
  for process in (0, 1):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(runner.jax, "process_index", lambda: process)
      with pytest.raises(workdirs.WorkdirError, match=f"data of {workdir}"):
        runner.restore(workdir, report=quiet)
  with pytest.raises(workdirs.WorkdirError, match=f"data of {workdir}"):
    runner.train(config, workdir, report=quiet)
  captions.write_text(text)
  # Reading alone writes no fingerprint where there is none.
  kept = (workdir / "data.json").read_text()
  (workdir / "data.json").unlink()
  runner.restore(workdir, report=quiet)
  assert not (workdir / "data.json").exists()
  (workdir / "data.json").write_text(kept)
  assert runner.train(config, workdir, report=quiet)["train/steps"] == 8
