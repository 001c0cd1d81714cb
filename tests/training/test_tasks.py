"""The tasks of fusion models: batches, losses, ranking, whole runs."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import sources, task_pipeline, tasks
from contrastive_jax.data import tokenizer as tokenizer_lib
from contrastive_jax.models import transfer
from contrastive_jax.training import (
  config as config_lib,
)
from contrastive_jax.training import (
  evaluators,
  runner,
  runs,
  sharding,
  task_runs,
  workdirs,
)
from contrastive_jax.training.objectives import fusion
from tests.training import test_albef_objective as pretraining
from tests.training import tiny

# Whole runs and forms like others.
_REST = pytest.mark.exhaustive
ANSWERS = ("red", "green", "dark red", "dark blue", "two")
COUNTS = {"train": 12, "validation": 4, "test": 5}


def make_records(task, first, count):
  rng = np.random.default_rng(first)
  records = []
  for image in range(first, first + count):
    for number in range(1 + image % 3):
      record = {
        "index": 3 * image + number,
        "image_id": image,
        "kind": ("colour", "count")[number % 2],
      }
      if task == "vqa":
        record["question"] = f"what {image} {number}?"
        record["answers"] = (
          tasks.Answer(ANSWERS[(image + number) % 5], 0.7, 7),
          tasks.Answer(ANSWERS[(image + number + 2) % 5], 0.3, 3),
        )[: 1 + image % 2]
      elif task == "nlvr2":
        record["statement"] = f"both {image % 4} {number}."
        record["label"] = (image + number) % 2
      else:
        record["hypothesis"] = f"is {image % 4} {number}."
        record["label"] = (image + number) % 3
      records.append(record)
  shown = {
    r["image_id"]: rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    for r in records
  }
  images = np.stack([shown[r["image_id"]][0] for r in records])
  if task == "nlvr2":
    for r in records:
      r["second_image"] = shown[r["image_id"]][1]
  return sources.ArraySource(images, records)


@functools.cache
def make_data(task):
  splits, first = {}, 0
  for name, count in COUNTS.items():
    splits[name] = make_records(task, first, count)
    first += count
  answers = ANSWERS if task == "vqa" else ()
  return tasks.TaskData("tiny", task, splits, answers, "abc")


@functools.cache
def tokenizer():
  texts = [f"what {i} {i}? both is {i}." for i in range(20)]
  return tokenizer_lib.Tokenizer.train([*texts, *ANSWERS], vocab_size=320)


def make_encoder(task):
  return task_pipeline.Encoder(task, tokenizer(), 12, 10)


def make_config(objective, **changes):
  fields = {
    **pretraining.FIELDS,
    "objective": objective,
    "loss__name": "cross_entropy",
    "fusion__questions_per_image": 2,
    "fusion__answer_length": 10,
    "evaluation__batch_size": 32,
    **changes,
  }
  return tiny.make_config(**{"batch_size": 8, **fields})


def make_objective(config, devices=1):
  from contrastive_jax.training import objectives

  return objectives.create(
    config,
    vocab_size=tokenizer().vocab_size,
    num_examples=100,
    mesh=tiny.make_mesh(devices),
  )


def make_batches(task, *, texts=2, answers=2, size=8, **options):
  return task_pipeline.train_batches(
    make_data(task).splits["train"],
    make_encoder(task),
    batch_size=size,
    seed=0,
    texts_per_image=texts,
    answers_per_text=answers if task == "vqa" else 1,
    **options,
  )


@functools.cache
def batch_of(task):
  return next(make_batches(task))


@functools.cache
def started(objective, **changes):
  """An objective, its parameters off their start, and another momentum model."""
  made = make_objective(make_config(objective, **changes))
  params, state = made.init(jax.random.key(0), {})
  leaves, tree = jax.tree.flatten(params)

  def noisy(seed):
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [
      x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)
    ]
    return jax.tree.unflatten(tree, moved)

  if "momentum" in state:
    state = {**state, "momentum": noisy(2), "count": jnp.int32(3)}
  return made, noisy(1), state


# --- Batches ----------------------------------------------------------------


@pytest.mark.parametrize("task", ["vqa", "nlvr2", "entailment"])
def test_batches(task):
  batches = make_batches(task, texts=3)
  records = make_data(task).splits["train"]
  by_image = {}
  for row in range(len(records)):
    record = records[row]
    by_image.setdefault(record["image_id"], []).append(record)
  seen = set()
  for _ in range(3):  # Two epochs of the twelve images.
    batch = next(batches)
    pair = (2,) if task == "nlvr2" else ()
    assert batch["image"].shape == (8, *pair, 16, 16, 3)
    assert batch["tokens"].shape == (8, 3, 12)
    for i in range(8):
      own = by_image[int(batch["index"][i]) // 3]
      seen.add(int(batch["index"][i]) // 3)
      first = batch["image"][i][0] if pair else batch["image"][i]
      np.testing.assert_array_equal(first, own[0]["image"])
      field = task_pipeline.TEXT_FIELDS[task]
      texts = tokenizer().encode([r[field] for r in own], 12)
      for q in range(3):
        found = (texts == batch["tokens"][i, q]).all(axis=1)
        assert found.any()
        if task == "vqa":
          record = own[int(found.argmax())]
          allowed = tokenizer().encode([a.text for a in record["answers"]], 10)
          for answer, weight in zip(
            batch["answers"][i, q], batch["weights"][i, q]
          ):
            assert (allowed == answer).all(axis=1).any()
            assert weight in np.float32([0.7, 0.3, 0.0])
      # All of an image's texts are there, if it has no more than are asked for.
      assert len({tuple(t) for t in batch["tokens"][i]}) == len(
        {tuple(t) for t in texts}
      )
  assert seen == set(range(12))


def test_a_draw_of_the_answers_has_the_right_sum():
  totals = np.zeros(2)
  batches = make_batches("vqa", texts=1, answers=1, size=12)
  count = 0
  source = make_data("vqa").splits["train"]
  for _ in range(150):
    batch = next(batches)
    for index, answers, weights in zip(
      batch["index"], batch["answers"], batch["weights"]
    ):
      image = int(index) // 3
      if image % 6 == 3:  # One question, two answers.
        record = next(
          source.fields(r)
          for r in range(len(source))
          if source.fields(r)["image_id"] == image
        )
        texts = [a.text for a in record["answers"]]
        assert len(set(texts)) == 2
        place = texts.index(tokenizer().decode(answers[0, 0]))
        totals[place] += weights[0, 0]
        count += 1
  assert count > 250
  np.testing.assert_allclose(totals / count, [0.7, 0.3], atol=4 * 0.46 / 16)


def test_two_hosts_share_a_batch():
  whole = next(make_batches("vqa"))
  parts = [
    next(make_batches("vqa", process_index=i, process_count=2)) for i in (0, 1)
  ]
  for name, value in whole.items():
    # Every second batch of half the size is a host's: in order they are the whole.
    found = np.concatenate([part[name] for part in parts])
    np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize("texts", [1, 2, 8])
def test_evaluation_sees_every_record_once(texts):
  source = make_data("vqa").splits["train"]
  found = []
  for batch, rows in task_pipeline.eval_batches(
    source, make_encoder("vqa"), batch_size=5, texts_per_image=texts
  ):
    assert batch["image"].shape[0] == batch["tokens"].shape[0] == 5
    for i, q in np.argwhere(rows >= 0):
      row = rows[i, q]
      found.append(int(row))
      np.testing.assert_array_equal(batch["image"][i], source[row]["image"])
      np.testing.assert_array_equal(
        batch["tokens"][i, q],
        tokenizer().encode([source[row]["question"]], 12)[0],
      )
  assert sorted(found) == list(range(len(source)))


def test_bad_numbers():
  with pytest.raises(ValueError, match="texts_per_image must be at least 1"):
    make_batches("vqa", texts=0)
  with pytest.raises(ValueError, match="multiple of the 3 hosts; got 8"):
    make_batches("vqa", process_count=3)
  empty = sources.ArraySource(np.zeros((0, 2, 2, 3), np.uint8), [])
  with pytest.raises(ValueError, match="at least one record"):
    task_pipeline.train_batches(
      empty, make_encoder("vqa"), batch_size=1, seed=0
    )


# --- Losses -----------------------------------------------------------------


def outputs(objective, params, batch, image, q):
  """What the model says of one image's question q, one pass alone."""
  model = objective.model

  def call(method, *args):
    return model.apply({"params": params}, *args, method=method)

  plain = objective.plain(batch["image"][image : image + 1])
  if objective.task == "nlvr2":
    tokens = tuple(call("encode_image", plain[:, i])["tokens"] for i in (0, 1))
  else:
    tokens = call("encode_image", plain)["tokens"]
  text = call("encode_text", batch["tokens"][image, q][None])
  states = call("fuse", text["tokens"], text["valid"], tokens)
  if objective.task != "vqa":
    return call("classify", states)[0]
  answers = batch["answers"][image, q]
  count = len(answers)
  return call(
    "decode",
    answers[:, :-1],
    jnp.repeat(states, count, axis=0),
    jnp.repeat(text["valid"], count, axis=0),
  )


def by_hand(objective, params, momentum, batch, alpha):
  total, count = 0.0, 0
  for image in range(len(batch["tokens"])):
    for q in range(batch["tokens"].shape[1]):
      z = outputs(objective, params, batch, image, q)
      soft = jax.nn.softmax(outputs(objective, momentum, batch, image, q))
      log_p = jax.nn.log_softmax(z)
      if objective.task == "vqa":
        target = batch["answers"][image, q][:, 1:]
        hard = jax.nn.one_hot(target, z.shape[-1])
        mixed = (1 - alpha) * hard + alpha * soft
        values = -jnp.sum(mixed * log_p, axis=-1) * (target != 0)
        total += jnp.sum(values.sum(1) * batch["weights"][image, q])
      else:
        hard = jax.nn.one_hot(batch["label"][image, q], z.shape[-1])
        total += -jnp.sum(((1 - alpha) * hard + alpha * soft) * log_p)
      count += 1
  return total / count


@pytest.mark.parametrize(
  "task", ["vqa", "nlvr2", pytest.param("entailment", marks=_REST)]
)
def test_a_step_by_hand(task, monkeypatch):
  objective, params, state = started(task)
  batch = {k: v[:2] for k, v in batch_of(task).items()}
  monkeypatch.setattr(
    objective, "_augmented", lambda images, key: objective.plain(images)
  )
  (value, (new, metrics)), grads = jax.jit(
    jax.value_and_grad(objective.loss, has_aux=True)
  )(params, state, batch, jax.random.key(0))
  # The momentum model is updated before it is used; alpha is past its ramp.
  momentum = jax.tree.map(
    lambda m, p: 0.9 * m + 0.1 * p, state["momentum"], params
  )
  expected, wanted = jax.jit(
    jax.value_and_grad(
      lambda p: by_hand(objective, p, momentum, batch, jnp.float32(0.4))
    )
  )(params)
  np.testing.assert_allclose(value, expected, rtol=5e-6)
  pretraining.assert_trees_close(grads, wanted, 5e-5)
  pretraining.assert_trees_close(new["momentum"], momentum, 1e-6)
  assert new["count"] == 4 and 0 <= metrics["accuracy"] <= 1


@pytest.mark.parametrize(
  "objective",
  [
    "vqa",
    "text_assignment",
    *(pytest.param(t, marks=_REST) for t in ("nlvr2", "entailment")),
  ],
)
def test_any_number_of_devices(objective):
  _, params, state = started(objective)
  if objective == "text_assignment":
    batch = pretraining.make_batch()
  else:
    batch = batch_of(objective)
  found = []
  for devices in (1, 8):
    other = make_objective(make_config(objective), devices)
    rows = sharding.batch_sharding(tiny.make_mesh(devices))
    placed = {k: jax.device_put(v, rows) for k, v in batch.items()}
    found.append(
      jax.jit(jax.value_and_grad(other.loss, has_aux=True))(
        params, state, placed, jax.random.key(0)
      )
    )
  (value, _), grads = found[0]
  (other_value, _), other_grads = found[1]
  assert value > 0
  np.testing.assert_allclose(other_value, value, rtol=1e-5)
  pretraining.assert_trees_close(other_grads, grads, 1e-4)


def test_without_distillation_there_is_no_momentum_model():
  objective, params, state = started("entailment", fusion__alpha=0.0)
  assert "momentum" not in state
  value, _ = objective.loss(
    params, state, batch_of("entailment"), jax.random.key(0)
  )
  assert np.isfinite(value)


def test_text_assignment_of_a_batch_of_one():
  objective, params, state = started("text_assignment")
  batch = {k: v[:1] for k, v in pretraining.make_batch().items()}
  value, (_, metrics) = objective.loss(params, state, batch, jax.random.key(0))
  assert value == 0 and metrics["accuracy"] == 0


def test_text_assignment_shows_what_the_label_says(monkeypatch):
  """The images at both places, by label: own and other, other and own, others."""
  objective, params, state = started("text_assignment")
  batch = pretraining.make_batch()
  seen = []

  class Spy(fusion.Applied):
    def image(self, images):
      tokens = jnp.arange(len(images), dtype=jnp.float32)
      cls = jax.random.normal(jax.random.key(5), (len(images), 16))
      out = jnp.stack([cls, jnp.broadcast_to(tokens[:, None], cls.shape)], 1)
      return {"tokens": out}

    def fuse_all(self, inputs):
      seen.append([part[:, 1, 0] for part in inputs[0][2]])
      return jnp.zeros((len(batch["index"]), 5, 16))

    def apply(self, *args, method, **options):
      if method == "assign":
        return jnp.zeros((len(batch["index"]), 3))
      return super().apply(*args, method=method, **options)

  monkeypatch.setattr(fusion, "Applied", Spy)
  cases = set()
  for seed in range(6):
    objective.loss(params, state, batch, jax.random.key(seed))
    first, second = (np.asarray(x).astype(int) for x in seen[-1])
    own = np.arange(len(first))
    concept = batch["concept_id"]
    for i in own:
      places = (first[i] == i, second[i] == i)
      cases.add(places)
      assert places != (True, True)
      for other in {first[i], second[i]} - {i}:
        assert concept[other] != concept[i]
      if places == (False, False):
        assert first[i] != second[i]
  assert cases == {(True, False), (False, True), (False, False)}


# --- Answers ----------------------------------------------------------------


def answer_scores(objective, params, states, valid, candidates):
  """[N, C] log-probabilities: of the first token, and of the whole answer."""
  first, whole = [], []
  for row in candidates:
    rows = jnp.broadcast_to(row, (len(states), len(row)))
    z = objective.model.apply(
      {"params": params}, rows[:, :-1], states, valid, method="decode"
    )
    log_p = np.asarray(jax.nn.log_softmax(z), np.float64)
    steps = [log_p[:, t, row[t + 1]] for t in range(len(row) - 1) if row[t + 1]]
    first.append(steps[0])
    whole.append(np.sum(steps, axis=0))
  return np.stack(first, 1), np.stack(whole, 1)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_ranking_in_two_stages(count):
  objective, params, _ = started("vqa")
  candidates = make_encoder("vqa").answers(ANSWERS)
  # Questions that differ more than those of an untrained model.
  states = 3.0 * jax.random.normal(jax.random.key(0), (24, 12, 16))
  valid = jnp.arange(12)[None] < jnp.arange(24)[:, None] % 11 + 1
  found = jax.jit(objective.rank, static_argnums=4)(
    params, states, valid, jnp.asarray(candidates), count
  )
  first, whole = answer_scores(objective, params, states, valid, candidates)
  kept = np.argsort(-first, axis=1, kind="stable")[:, :count]
  best = np.take_along_axis(whole, kept, 1).argmax(1)
  expected = np.take_along_axis(kept, best[:, None], 1)[:, 0]
  np.testing.assert_array_equal(found, expected)
  assert len(set(expected.tolist())) > 1


def test_free_generation_is_greedy():
  objective, params, _ = started("vqa")
  batch = batch_of("vqa")
  states, valid = objective.question_states(
    params, batch["image"], batch["tokens"]
  )
  start = int(make_encoder("vqa").answers(["red"])[0, 0])
  end = tokenizer().end_id
  rows = jax.jit(
    functools.partial(objective.generate, start_id=start, end_id=end, length=6)
  )(params, states, valid)
  for i, row in enumerate(np.asarray(rows)):
    assert row[0] == start
    for t in range(1, 6):
      if row[t - 1] in (end, 0):
        assert row[t] == 0
        continue
      z = objective.model.apply(
        {"params": params},
        jnp.asarray(row[None, :t]),
        states[i : i + 1],
        valid[i : i + 1],
        method="decode",
      )[0, -1]
      z = np.asarray(z).copy()
      z[[0, -1]] = -np.inf
      assert row[t] == z.argmax()


# --- Whole runs -------------------------------------------------------------


@pytest.fixture(name="pretrained", scope="module")
def fixture_pretrained(tmp_path_factory):
  """The workdir of a short pre-training, and the parameters that it ended with."""
  workdir = tmp_path_factory.mktemp("pretrained")
  data = dataclasses.replace(tiny.make_data(), tokenizer=tokenizer())
  config = pretraining.make_config(steps=2, optimizer__ema_decay=0.0)
  state, _ = tiny.fit(config, workdir, data)
  workdirs.write_json(workdir / "config.json", config.to_dict())
  workdirs.write_json(workdir / "results.json", {})
  tokenizer().save(workdir / "tokenizer.json")
  return workdir, state.params


@pytest.fixture(name="opened")
def fixture_opened(monkeypatch):
  monkeypatch.setattr(
    task_runs,
    "_open_data",
    lambda config, workdir, report: (make_data(config.objective), None),
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
    optimizer__ema_decay=0.5,
    fusion__initial=str(workdir),
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
  predicted = run.scorer.predictions(state, run.data.splits["test"])
  records = run.data.splits["test"].records
  if task == "vqa":
    # Of ten annotators three are .9 by the official rule, seven or ten are 1.
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


def test_it_says_where_it_begins(opened, tmp_path):
  lines = []
  config = make_config("entailment", steps=1, evaluation__plots=False)
  runner.train(config, tmp_path, report=lines.append)
  assert any("It begins at random" in line for line in lines)


@_REST
def test_killed_and_started_again(opened, tmp_path, monkeypatch):
  config = make_config(
    "entailment", steps=8, evaluation__plots=False, evaluation__final=False
  )
  runner.train(config, tmp_path / "a", report=lambda line: None)
  whole = runner.restore(tmp_path / "a", report=lambda line: None)[1]

  class StopError(Exception):
    pass

  def stop(self, state):
    raise StopError

  changed = config_lib.parse(
    {
      **config.to_dict(),
      "evaluation": {**config.to_dict()["evaluation"], "retrieval_every": 6},
    }
  )
  with monkeypatch.context() as patch:
    patch.setattr(task_runs.TaskRun, "validate", stop)
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
  shutil.copytree(workdir, two_towers)
  values = workdirs.read_json(two_towers / "config.json")
  workdirs.write_json(
    two_towers / "config.json", {**values, "objective": "clip"}
  )
  wider = json.dumps({**json.loads(pretraining.OVERRIDES), "text_depth": 2})
  for number, (changes, message) in enumerate(
    (
      ({"fusion__initial": str(empty)}, "which has no config.json"),
      ({"fusion__initial": str(two_towers)}, "of a run of a fusion model"),
      (
        {"fusion__initial": str(workdir), "model__overrides": wider},
        "initial: The two models must have the same encoders, but text_layers/"
        "layer_1/attention/out/bias is absent in the one to begin with",
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
    ("vqa", {"fusion__answer_length": 14}, "answer_length must be at most one"),
    ("nlvr2", {"evaluation__benchmarks": "cifar10"}, "which embeds no images"),
    ("vqa", {"loss__temperature": "robust"}, "needs config.loss.name='augm"),
  ],
)
def test_fields_that_do_not_go_together(task, changes, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    make_config(task, **changes)


@pytest.mark.parametrize(
  "overrides, message",
  [
    ({"task": "vqa"}, "must not hold 'task': the run decides it"),
    ({"pad_id": 5}, "must not hold 'pad_id'"),
    ({"num_heads": 3}, "width must be divisible by num_heads = 3; got 16"),
    ({"image": {"pool": "gap"}}, "image must have pool='cls'; got 'gap'"),
  ],
)
def test_overrides_that_make_no_model(overrides, message, opened, tmp_path):
  merged = {**json.loads(pretraining.OVERRIDES), **overrides}
  config = make_config("vqa", model__overrides=json.dumps(merged))
  with pytest.raises(config_lib.ConfigError, match=message):
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
    fusion__initial=str(workdir),
  )
  results = runner.train(config, tmp_path / "run", report=lambda line: None)
  shutil.rmtree(workdir)
  run, state = runner.restore(tmp_path / "run", report=lambda line: None)
  again = run.evaluate(state, report=lambda line: None)
  assert again.items() <= results.items()


@_REST
def test_retrieval_begins_with_pretraining(pretrained, tmp_path, monkeypatch):
  """Fine-tuning with objective=albef, at another size of image."""
  workdir, source = pretrained
  data = dataclasses.replace(tiny.make_data(), tokenizer=tokenizer())
  monkeypatch.setattr(runs, "_open_data", lambda *unused: data)
  config = pretraining.make_config(
    steps=1,
    model__image_size=24,
    optimizer__learning_rate=0.0,
    evaluation__plots=False,
    fusion__initial=str(workdir),
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
def test_written_answers_are_scored(pretrained, opened, tmp_path):
  config = make_config(
    "vqa",
    steps=1,
    evaluation__plots=False,
    fusion__answering="generate",
    fusion__initial=str(pretrained[0]),
  )
  runner.train(config, tmp_path, report=lambda line: None)
  run, state = runner.restore(tmp_path, report=lambda line: None)
  said = run.scorer.predictions(state, run.data.splits["test"])
  assert len(said) == len(run.data.splits["test"])
  assert all(isinstance(text, str) for text in said)


def test_a_split_without_answers_is_left_out(pretrained, tmp_path, monkeypatch):
  data = make_data("vqa")
  records = [{**r, "answers": ()} for r in data.splits["test"].records]
  bare = sources.ArraySource(data.splits["test"].images, records)
  splits = {**data.splits, "test": bare, "validation": bare}
  other = dataclasses.replace(data, splits=splits)
  monkeypatch.setattr(task_runs, "_open_data", lambda *unused: (other, None))
  lines = []
  config = make_config("vqa", steps=1, evaluation__retrieval_every=1)
  results = runner.train(config, tmp_path, report=lines.append)
  assert not any("accuracy" in name for name in results if "train" not in name)
  assert sum("questions without an answer" in line for line in lines) == 2


def test_scenes_through_the_trainer(tmp_path):
  config = make_config(
    "entailment",
    steps=1,
    data__name="scenes",
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
  config = make_config("vqa", data__name="scenes", data__data_dir=str(tmp_path))
  with pytest.raises(
    config_lib.ConfigError, match="config.model.image_size must be an integer"
  ):
    runner.train(config, tmp_path / "run", report=lambda line: None)


def write_official(root, splits=("train", "validation")):
  """Entailment in ALBEF's form."""
  (root / "images").mkdir(parents=True)
  rng = np.random.default_rng(0)
  files = {}
  for split in splits:
    rows = []
    for i in range(8):
      pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
      Image.fromarray(pixels).save(root / "images" / f"{split}{i}.png")
      label = ("entailment", "neutral", "contradiction")[i % 3]
      rows.append(
        {"image": f"{split}{i}.png", "sentence": f"is {i}", "label": label}
      )
    files[split] = str(root / f"{split}.json")
    (root / f"{split}.json").write_text(json.dumps(rows))
  return files


def official(root, files, **changes):
  return make_config(
    "entailment",
    steps=1,
    data__name="official",
    data__format="albef",
    data__path=str(root),
    data__image_root=str(root / "images"),
    data__official_options=json.dumps({"path": files}),
    evaluation__plots=False,
    **changes,
  )


def test_official_files_through_the_trainer(tmp_path):
  files = write_official(tmp_path / "data")
  config = official(tmp_path / "data", files)
  results = runner.train(config, tmp_path / "run", report=lambda line: None)
  assert 0 <= results["entailment_validation/accuracy"] <= 1


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"data__format": ""}, "needs config.data.format"),
    ({"data__format": "coco"}, "config.data: "),
    (
      {"data__official_options": "[1]"},
      "official_options must be a JSON object",
    ),
    ({"data__official_options": "{"}, "official_options must be JSON; got '{'"),
    ({"data__official_options": '{"mincount": 1}'}, "config.data: .*mincount"),
  ],
)
def test_mistakes_in_official_data(changes, message, tmp_path):
  root = tmp_path / "data"
  config = official(root, write_official(root))
  values = config.to_dict()
  for name, value in changes.items():
    values["data"][name.removeprefix("data__")] = value
  with pytest.raises(config_lib.ConfigError, match=message):
    runner.train(
      config_lib.parse(values), tmp_path / "run", report=lambda line: None
    )


def test_official_data_without_training(tmp_path):
  root = tmp_path / "data"
  files = write_official(root, splits=("validation",))
  with pytest.raises(config_lib.ConfigError, match="has no training examples"):
    runner.train(
      official(root, files), tmp_path / "run", report=lambda line: None
    )


def test_data_that_have_no_such_task(tmp_path):
  config = make_config("nlvr2", data__name="emoji")
  with pytest.raises(
    config_lib.ConfigError, match="needs config.data=scenes or official"
  ):
    runner.train(config, tmp_path, report=lambda line: None)


@_REST
def test_text_assignment_begins_nlvr2(
  pretrained, opened, tmp_path, monkeypatch
):
  """Pre-training, text assignment, NLVR2: each begins where the other ended."""
  workdir, _ = pretrained
  data = dataclasses.replace(tiny.make_data(), tokenizer=tokenizer())
  monkeypatch.setattr(runs, "_open_data", lambda *unused: data)
  config = make_config("text_assignment", steps=2, fusion__initial=str(workdir))
  results = runner.train(config, tmp_path / "a", report=lambda line: None)
  assert set(results) >= {"train/steps"} and "retrieval" not in str(results)
  assert (tmp_path / "a/plots/curves.png").exists()
  _, state = runner.restore(tmp_path / "a", report=lambda line: None)
  config = make_config(
    "nlvr2",
    steps=1,
    optimizer__learning_rate=0.0,
    evaluation__plots=False,
    fusion__initial=str(tmp_path / "a"),
  )
  runner.train(config, tmp_path / "b", report=lambda line: None)
  _, begun = runner.restore(tmp_path / "b", report=lambda line: None)
  tiny.assert_same(
    begun.params["fusion_layers"], state.eval_params["fusion_layers"]
  )


def test_pretraining_is_scored_before_and_after_matching(tmp_path, monkeypatch):
  data = dataclasses.replace(tiny.make_data(), tokenizer=tokenizer())
  monkeypatch.setattr(runs, "_open_data", lambda *unused: data)
  config = pretraining.make_config(
    steps=2, fusion__rerank=3, evaluation__batch_size=8
  )
  results = runner.train(config, tmp_path, report=lambda line: None)
  run, state = runner.restore(tmp_path, report=lambda line: None)
  source = data.splits["test"]
  texts, ids = evaluators.names_of(source, keywords=True)
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
