"""Whole runs on the tasks of fusion models: begun, resumed, scored, refused."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import sources
from contrastive_jax.models import transfer
from contrastive_jax.training import (
  config as config_lib,
)
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.evaluators import retrieval, task_accuracy
from contrastive_jax.training.runs import open_data, runner
from tests.training import tiny
from tests.training import tiny_albef as pretraining
from tests.training.tiny_tasks import (
  make_config,
  make_data,
  tokenizer,
  write_official,
)

# Whole runs and forms like others.
_REST = pytest.mark.exhaustive


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  tiny.use_devices(monkeypatch, 1)


@pytest.fixture(name="pretrained", scope="module")
def fixture_pretrained(tmp_path_factory):
  """The workdir of a short pre-training, and the parameters that it ended with."""
  workdir = tmp_path_factory.mktemp("pretrained")
  data = dataclasses.replace(tiny.make_data(), tokenizer=tokenizer())
  config = pretraining.make_config(steps=2, ema_decay=0.0)
  state, _ = tiny.fit(config, workdir, data)
  workdirs.write_json(workdir / "config.json", config.to_dict())
  workdirs.write_json(workdir / "results.json", {})
  tokenizer().save(workdir / "tokenizer.json")
  return workdir, state.params


def begun_with(workdir, **changes):
  """Fields of a run that begins with another one."""
  return {"initial": "run", "initial__workdir": str(workdir), **changes}


@pytest.fixture(name="opened")
def fixture_opened(monkeypatch):
  monkeypatch.setattr(
    open_data,
    "open_data",
    lambda config, workdir, report: make_data(config.objective.task),
  )


@pytest.mark.parametrize(
  "task",
  ["vqa", *(pytest.param(t, marks=_REST) for t in ("nlvr2", "entailment"))],
)
def test_a_run_begins_with_an_earlier_one(task, pretrained, opened, tmp_path):
  workdir, source = pretrained
  lines = []
  config = make_config(
    task,
    steps=1,
    optimizer__learning_rate=0.0,
    ema_decay=0.5,
    **begun_with(workdir),
  )
  results = runner.train(config, tmp_path / task, report=lines.append)
  run, state = runner.restore(tmp_path / task, report=lines.append)
  begun = jax.jit(run.objective.init)(jax.random.key(config.seed), {})[0]
  expected = transfer(source, begun)
  for name in ("image", "embeddings", "text_layers", "fusion_layers"):
    tiny.assert_same(state.params[name], expected[name])
  # Averages that a step rounds.
  pretraining.assert_trees_close(state.ema_params, expected, 1e-6)
  pretraining.assert_trees_close(
    state.objective_state["momentum"], expected, 1e-6
  )
  assert 0 <= results[f"{task}/accuracy"] <= 1
  assert f"{task}_validation/accuracy" in results
  assert 0 <= results[f"{task}/text_only_accuracy"] <= 1
  assert (tmp_path / task / "plots" / "curves.png").exists()
  predicted = run.measures["task"].predictions(state, run.data.splits["test"])
  records = run.data.splits["test"].records
  if task == "vqa":
    # Three of ten annotators are .9 by the official rule, seven or ten are 1.
    same = [
      sum(a.count for a in r["answers"] if a.text == p)
      for p, r in zip(predicted, records)
    ]
    right = [{0: 0.0, 3: 0.9}.get(count, 1.0) for count in same]
  else:
    right = [p == r["label"] for p, r in zip(predicted, records)]
  np.testing.assert_allclose(
    results[f"{task}/accuracy"], np.mean(right), rtol=1e-9
  )


@_REST
def test_killed_and_started_again(opened, tmp_path, monkeypatch):
  config = make_config(
    "entailment",
    steps=8,
    evaluation__plots=False,
    evaluation__task__final=False,
  )
  runner.train(config, tmp_path / "a", report=lambda line: None)
  whole = runner.restore(tmp_path / "a", report=lambda line: None)[1]

  class StopError(Exception):
    pass

  def stop(self, state):
    raise StopError

  values = config.to_dict()
  values["evaluation"]["evaluators"]["task"]["every"] = 6
  changed = config_lib.parse(values)
  with monkeypatch.context() as patch:
    patch.setattr(task_accuracy.TaskMeasure, "validate", stop)
    with pytest.raises(StopError):
      runner.train(changed, tmp_path / "b", report=lambda line: None)
  runner.train(changed, tmp_path / "b", report=lambda line: None)
  again = runner.restore(tmp_path / "b", report=lambda line: None)[1]
  tiny.assert_same(again, whole)


def test_mistakes_do_not_claim_the_workdir(pretrained, opened, tmp_path):
  workdir, _ = pretrained
  empty = tmp_path / "empty"
  empty.mkdir()
  two_towers = tmp_path / "towers"
  config = tiny.make_config(steps=1)
  tiny.fit(config, two_towers, tiny.make_data())
  workdirs.write_json(two_towers / "config.json", config.to_dict())
  workdirs.write_json(two_towers / "results.json", {})
  tokenizer().save(two_towers / "tokenizer.json")
  wider = {**pretraining.OVERRIDES, "text_depth": 2}
  for number, (changes, message) in enumerate(
    (
      (begun_with(empty), "no config.json"),
      (begun_with(two_towers), "config.initial.workdir: .*'embeddings'"),
      (
        begun_with(workdir, model__overrides=wider),
        "config.initial.workdir: .* text_layers/layer_1/attention/out/bias",
      ),
    )
  ):
    run = tmp_path / f"run{number}"
    with pytest.raises(config_lib.ConfigError, match=message) as caught:
      runner.train(make_config("vqa", **changes), run, report=lambda line: None)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert not (run / "config.json").exists()


@pytest.mark.parametrize(
  "task, changes, message",
  [
    ("vqa", {"objective__answer_length": 14}, "objective.answer_length"),
    ("nlvr2", {"evaluation": ("benchmarks",)}, "config.evaluation=benchmarks"),
    ("vqa", {"loss": "augmented"}, "config.loss"),
  ],
)
def test_fields_that_do_not_go_together(task, changes, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    make_config(task, **changes)


@pytest.mark.parametrize(
  "overrides, message",
  [
    ({"task": "vqa"}, "config.model.overrides .*'task'"),
    ({"pad_id": 5}, "config.model.overrides .*'pad_id'"),
    ({"num_heads": 3}, "num_heads = 3; got 16"),
    ({"image": {"pool": "gap"}}, "pool='cls'; got 'gap'"),
  ],
)
def test_overrides_that_make_no_model(overrides, message, opened, tmp_path):
  merged = {**pretraining.OVERRIDES, **overrides}
  with pytest.raises(config_lib.ConfigError, match=message):
    config = make_config("vqa", model__overrides=merged)
    runner.train(config, tmp_path, report=lambda line: None)


def test_a_run_that_has_begun_needs_the_earlier_one_no_more(
  pretrained, opened, tmp_path
):
  workdir = tmp_path / "pretrained"
  shutil.copytree(pretrained[0], workdir)
  config = make_config(
    "entailment",
    steps=1,
    evaluation__plots=False,
    **begun_with(workdir),
  )
  results = runner.train(config, tmp_path / "run", report=lambda line: None)
  shutil.rmtree(workdir)
  run, state = runner.restore(tmp_path / "run", report=lambda line: None)
  again = run.evaluate(state)
  assert again.items() <= results.items()


@_REST
def test_retrieval_begins_with_pretraining(pretrained, tmp_path, monkeypatch):
  """Fine-tuning with objective=albef, at another size of image."""
  workdir, source = pretrained
  data = dataclasses.replace(tiny.make_data(), tokenizer=tokenizer())
  monkeypatch.setattr(open_data, "open_data", lambda *unused: data)
  config = pretraining.make_config(
    steps=1,
    model__image_size=24,
    optimizer__learning_rate=0.0,
    evaluation__plots=False,
    **begun_with(workdir),
  )
  runner.train(config, tmp_path, report=lambda line: None)
  _, state = runner.restore(tmp_path, report=lambda line: None)
  tiny.assert_same(state.params["fusion_layers"], source["fusion_layers"])
  positions = state.params["image"]["position_embedding"]
  old = source["image"]["position_embedding"]
  assert (old.shape[0], positions.shape[0]) == (5, 10)
  np.testing.assert_array_equal(positions[0], old[0])
  np.testing.assert_allclose(
    positions[1:].reshape(3, 3, -1)[1, 1], old[1:].mean(0), atol=1e-6
  )


@_REST
def test_a_run_can_begin_with_the_encoders_alone(pretrained, opened, tmp_path):
  workdir, source = pretrained
  config = make_config(
    "entailment",
    steps=1,
    seed=5,  # Or fusion layers would begin as the earlier run's did.
    optimizer__learning_rate=0.0,
    evaluation__plots=False,
    **begun_with(workdir, initial__part="encoders"),
  )
  runner.train(config, tmp_path, report=lambda line: None)
  _, state = runner.restore(tmp_path, report=lambda line: None)
  for name in ("image", "embeddings", "text_layers"):
    tiny.assert_same(state.params[name], source[name])
  own, theirs = (
    params["fusion_layers"]["layer_1"]["key_value"]["key"]["kernel"]
    for params in (state.params, source)
  )
  assert np.abs(np.asarray(own) - np.asarray(theirs)).max() > 0.01


@_REST
def test_written_answers_are_scored(pretrained, opened, tmp_path):
  config = make_config(
    "vqa",
    steps=1,
    evaluation__plots=False,
    objective__answering="generate",
    **begun_with(pretrained[0]),
  )
  runner.train(config, tmp_path, report=lambda line: None)
  run, state = runner.restore(tmp_path, report=lambda line: None)
  said = run.measures["task"].predictions(state, run.data.splits["test"])
  assert len(said) == len(run.data.splits["test"])
  assert all(isinstance(text, str) for text in said)


@_REST
def test_a_split_without_answers_is_left_out(pretrained, tmp_path, monkeypatch):
  data = make_data("vqa")
  records = [{**r, "answers": ()} for r in data.splits["test"].records]
  bare = sources.ArraySource(data.splits["test"].images, records)
  splits = {**data.splits, "test": bare, "validation": bare}
  other = dataclasses.replace(data, splits=splits)
  monkeypatch.setattr(open_data, "open_data", lambda *unused: other)
  lines = []
  config = make_config("vqa", steps=1, evaluation__task__every=1)
  results = runner.train(config, tmp_path, report=lines.append)
  assert not any("accuracy" in name for name in results if "train" not in name)
  assert sum("questions without an answer" in line for line in lines) == 2


@_REST
def test_scenes_through_the_trainer(tmp_path):
  config = make_config(
    "entailment",
    steps=1,
    data__scenes=64,
    data__data_dir=str(tmp_path / "data"),
    model__image_size=32,
    evaluation__plots=False,
  )
  results = runner.train(config, tmp_path / "run", report=lambda line: None)
  assert 0 <= results["entailment/accuracy"] <= 1
  assert results["entailment/text_only_accuracy"] < 0.5
  assert "entailment_test_unseen_pairs/accuracy" in results


def test_scenes_of_a_size_that_they_do_not_have(tmp_path):
  config = make_config("vqa", data__data_dir=str(tmp_path))
  with pytest.raises(config_lib.ConfigError, match="config.model.image_size"):
    runner.train(config, tmp_path / "run", report=lambda line: None)


def official(root, files, objective="entailment", **changes):
  make = make_config
  if objective == "albef":
    make = lambda _, **fields: pretraining.make_config(**fields)  # noqa: E731
  return make(
    objective,
    **{
      "steps": 1,
      "data": "official",
      "data__format": "albef",
      "data__path": str(root),
      "data__image_root": str(root / "images"),
      "data__options": {"path": files},
      "evaluation__plots": False,
      **changes,
    },
  )


@pytest.mark.parametrize("objective", ["albef", "text_assignment"])
def test_captions_are_read_with_the_words_of_the_earlier_run(
  objective, pretrained, tmp_path
):
  """Parameters mean nothing under a vocabulary that these captions would give."""
  files = write_official(tmp_path / "data")
  for file in files.values():
    path = pathlib.Path(file)
    rows = json.loads(path.read_text())
    for row in rows:
      row["caption"] = row["sentence"]
    path.write_text(json.dumps(rows))
  config = official(
    tmp_path / "data",
    files,
    objective=objective,
    **begun_with(pretrained[0]),
  )
  (tmp_path / "run").mkdir()
  run = runner.open_run(config, tmp_path / "run", report=lambda line: None)
  text = "what 3 is 5."
  assert run.data.tokenizer.encode([text], 12).tolist() == (
    tokenizer().encode([text], 12).tolist()
  )
  fresh = official(tmp_path / "data", files, objective=objective)
  (tmp_path / "fresh").mkdir()
  own = runner.open_run(fresh, tmp_path / "fresh", report=lambda line: None)
  assert own.data.tokenizer.vocab_size != tokenizer().vocab_size


def test_official_files_through_the_trainer(tmp_path):
  files = write_official(tmp_path / "data")
  config = official(tmp_path / "data", files)
  lines = []
  results = runner.train(config, tmp_path / "run", report=lines.append)
  assert 0 <= results["entailment_validation/accuracy"] <= 1
  # Where it begins is said.
  assert any("config.initial.workdir" in line for line in lines)


@pytest.mark.parametrize("steps", [0, 1])
def test_official_data_of_a_task_needs_training_examples(steps, tmp_path):
  files = write_official(tmp_path / "data", splits=("validation",))
  config = dataclasses.replace(official(tmp_path / "data", files), steps=steps)
  with pytest.raises(
    config_lib.ConfigError, match="config.data.path .* training"
  ):
    runner.train(config, tmp_path / "run", report=lambda line: None)


def write_vqa_v2(root):
  """VQA v2 with a test whose answers are kept back, and Visual Genome."""

  def write(name, value):
    (root / name).write_text(json.dumps(value))

  def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), "red").save(path)

  root.mkdir()
  numbers = {"train2014": (1, 2), "val2014": (3,), "test2015": (4, 5)}
  for subset, images in numbers.items():
    for i in images:
      image(root / subset / f"COCO_{subset}_{i:012d}.jpg")
    asked = [
      {"question_id": 10 * i + j, "image_id": i, "question": f"Is {j} it?"}
      for i in images
      for j in range(2)
    ]
    write(f"v2_OpenEnded_mscoco_{subset}_questions.json", {"questions": asked})
    if subset != "test2015":
      given = [
        {
          "question_id": q["question_id"],
          "answer_type": "other",
          "multiple_choice_answer": "a dog",
          "answers": [{"answer": a} for a in ["a dog"] * 6 + ["yes"] * 4],
        }
        for q in asked
      ]
      write(f"v2_mscoco_{subset}_annotations.json", {"annotations": given})
  image(root / "VG_100K" / "7.jpg")
  url = "https://host/VG_100K/7.jpg"
  write("image_data.json", [{"image_id": 7, "url": url}])
  genome = {"qa_id": 1, "image_id": 7, "question": "Who?", "answer": "A dog."}
  write("question_answers.json", [{"id": 7, "qas": [genome]}])
  return {
    "visual_genome": str(root / "question_answers.json"),
    "min_count": 1,
  }


@_REST
@pytest.mark.parametrize("answering", ["rank", "generate"])
def test_vqa_v2_with_visual_genome_through_the_trainer(answering, tmp_path):
  """Answers that nobody may score here are written for the official server."""
  root = tmp_path / "data"
  options = write_vqa_v2(root)
  config = make_config(
    "vqa",
    steps=1,
    data="official",
    data__format="vqa_v2",
    data__path=str(root),
    data__options=options,
    objective__answering=answering,
    evaluation__plots=False,
  )
  lines = []
  results = runner.train(config, tmp_path / "run", report=lines.append)
  assert 0 <= results["vqa_validation/accuracy"] <= 1
  assert not any(name.startswith("vqa/") for name in results)
  assert any("5 training records" in line for line in lines)
  path = tmp_path / "run" / "answers_test.json"
  rows = json.loads(path.read_text())
  assert sorted(row["question_id"] for row in rows) == [40, 41, 50, 51]
  assert all(row.keys() == {"question_id", "answer"} for row in rows)
  assert all(isinstance(row["answer"], str) for row in rows)
  if answering == "rank":
    assert {row["answer"] for row in rows} <= {"dog", "yes"}
  assert f"4 answers for the server of VQA are in {path}." in lines
  # Answers of an earlier state do not take their place.
  run, state = runner.restore(tmp_path / "run", report=lambda line: None)
  earlier = dataclasses.replace(state, step=state.step - 1)
  run.evaluate(earlier)
  assert (tmp_path / "run" / "answers_test_0.json").exists()


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"data__format": ""}, "config.data.format"),
    ({"data__format": "coco"}, "config.data.format"),
    ({"data__options": {"mincount": 1}}, "config.data.options.*mincount"),
  ],
)
def test_mistakes_in_official_data(changes, message, tmp_path):
  root = tmp_path / "data"
  files = write_official(root)
  with pytest.raises(config_lib.ConfigError, match=message):
    config = official(root, files, **changes)
    runner.train(config, tmp_path / "run", report=lambda line: None)


def test_official_data_without_training(tmp_path):
  root = tmp_path / "data"
  files = write_official(root, splits=("validation",))
  with pytest.raises(
    config_lib.ConfigError, match="config.data.path .* training"
  ):
    runner.train(
      official(root, files), tmp_path / "run", report=lambda line: None
    )


def test_data_that_have_no_such_task():
  with pytest.raises(config_lib.ConfigError, match="config.data=.*got 'emoji'"):
    make_config("nlvr2", data="emoji")


@_REST
def test_text_assignment_begins_nlvr2(
  pretrained, opened, tmp_path, monkeypatch
):
  """Pre-training, text assignment, NLVR2: each begins where the other ended."""
  workdir, _ = pretrained
  data = dataclasses.replace(tiny.make_data(), tokenizer=tokenizer())
  other = open_data.open_data  # For the task that comes after it.
  monkeypatch.setattr(
    open_data,
    "open_data",
    lambda config, *rest: (
      other(config, *rest) if config.objective.task == "nlvr2" else data
    ),
  )
  config = make_config("text_assignment", steps=2, **begun_with(workdir))
  results = runner.train(config, tmp_path / "a", report=lambda line: None)
  assert set(results) >= {"train/steps"} and "retrieval" not in str(results)
  assert (tmp_path / "a/plots/curves.png").exists()
  _, state = runner.restore(tmp_path / "a", report=lambda line: None)
  config = make_config(
    "nlvr2",
    steps=1,
    optimizer__learning_rate=0.0,
    evaluation__plots=False,
    **begun_with(tmp_path / "a"),
  )
  runner.train(config, tmp_path / "b", report=lambda line: None)
  _, begun = runner.restore(tmp_path / "b", report=lambda line: None)
  tiny.assert_same(
    begun.params["fusion_layers"], state.eval_params["fusion_layers"]
  )


def test_pretraining_is_scored_before_and_after_matching(tmp_path, monkeypatch):
  data = dataclasses.replace(tiny.make_data(), tokenizer=tokenizer())
  monkeypatch.setattr(open_data, "open_data", lambda *unused: data)
  config = pretraining.make_config(
    steps=2, evaluation__reranked__candidates=3, evaluation__batch_size=8
  )
  results = runner.train(config, tmp_path, report=lambda line: None)
  run, state = runner.restore(tmp_path, report=lambda line: None)
  source = data.splits["test"]
  texts, ids = retrieval.names_of(source, keywords=True)
  tokens = tokenizer().encode(texts, 12)
  images = run.encoder.images(state, source)
  scores = images.images @ run.encoder.texts(state, texts).T
  params = state.eval_params
  tokens_of = jax.jit(run.objective.image_tokens)(params, source.images)
  match = jax.jit(lambda *pair: run.objective.match(params, *pair))
  for way, similarity, asked, answers in (
    ("image_to_text", scores, images.concept_ids, ids),
    ("text_to_image", scores.T, ids, images.concept_ids),
  ):
    right = []
    for row, line in enumerate(similarity):
      best = np.argsort(-line, kind="stable")[:3]
      matched = []
      for other in best:
        i, t = (row, other) if way == "image_to_text" else (other, row)
        matched.append(float(match(tokens_of[i : i + 1], tokens[t : t + 1])[0]))
      first = best[int(np.argmax(matched))]
      right.append(answers[first] == asked[row])
    key = f"{way}/recall_at_1"
    np.testing.assert_allclose(
      results[f"retrieval_reranked/{key}"], np.mean(right)
    )
    # Three are ranked: nothing more is found among ten.
    at_10 = results[f"retrieval_reranked/{way}/recall_at_10"]
    assert at_10 <= results[f"retrieval/{way}/recall_at_10"]
