"""Models of images alone, and fusion models, as their objectives answer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contrastive_jax
from contrastive_jax import inference
from contrastive_jax.data import tasks
from contrastive_jax.training.runs import open_data, runner
from tests.training import tiny, tiny_albef, tiny_tasks

QUIET = {"evaluation__plots": False}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  tiny.use_devices(monkeypatch, 1)


def trained(config, workdir):
  """A finished run: opened, its state, and its model."""
  runner.train(config, workdir, report=lambda line: None)
  run, state = runner.restore(workdir, report=lambda line: None)
  model = contrastive_jax.load(workdir, batch_size=8, devices=jax.devices()[:1])
  return run, state, model


@pytest.mark.parametrize(
  "objective",
  [
    "simclr",
    *(
      pytest.param(name, marks=pytest.mark.exhaustive)
      for name in ("moco_v3", "superclass")
    ),
  ],
)
def test_a_model_of_images(objective, tmp_path):
  data = tiny.write_folder(tmp_path / "data", 24, labels=True)
  config = tiny.make_config(
    objective=objective,
    data="folder",
    data__path=str(data),
    data__vocab_size=tiny.VOCABULARY,
    steps=2,
    **QUIET,
  )
  run, state, model = trained(config, tmp_path / "run")
  source = run.data.splits["train"]
  np.testing.assert_array_equal(
    model.encode_image(list(source._paths["image"])),
    run.encoder.images(state, source).images,
  )
  assert not (tmp_path / "run" / "model" / "tokenizer.json").exists()
  with pytest.raises(inference.ModelError, match="images alone"):
    model.encode_text("a")


def test_batch_statistics_come_with_it(tmp_path):
  data = tiny.write_folder(tmp_path / "data", 24)
  config = tiny.make_config(
    data="folder",
    data__path=str(data),
    data__vocab_size=tiny.VOCABULARY,
    steps=2,
    model__preset="resnet50",
    model__image_size=32,
    model__overrides={
      "image": {"stage_sizes": (1, 1), "width": 8},
      "text": {"width": 32, "depth": 1, "num_heads": 2},
      "embed_dim": 16,
    },
    **QUIET,
  )
  run, state, model = trained(config, tmp_path / "run")
  assert set(model.variables) == {"params", "batch_stats"}
  source = run.data.splits["train"]
  np.testing.assert_array_equal(
    model.encode_image(list(source._paths["image"])),
    run.encoder.images(state, source).images,
  )


# --- Fusion models ------------------------------------------------------------


def of_task(task, monkeypatch, tmp_path, **changes):
  """A trained model of a task, its run, and the test records."""
  monkeypatch.setattr(
    open_data, "open_data", lambda *unused: tiny_tasks.make_data(task)
  )
  config = tiny_tasks.make_config(task, steps=2, **QUIET, **changes)
  run, state, model = trained(config, tmp_path / task)
  source = run.data.splits["test"]
  records = [source[i] for i in range(len(source))]
  texts = [record[tasks.TEXT_FIELDS[task]] for record in records]
  return run, state, model, records, texts


def test_a_pretrained_one_embeds_and_matches(monkeypatch, tmp_path):
  data = dataclasses.replace(tiny.make_data(), tokenizer=tiny_tasks.tokenizer())
  monkeypatch.setattr(open_data, "open_data", lambda *unused: data)
  config = tiny_albef.make_config(steps=2, structure__separation=0.5, **QUIET)
  run, state, model = trained(config, tmp_path / "albef")
  source = data.splits["train"]
  pictures = [source[i]["image"] for i in range(16)]
  texts = [tiny.caption(i) for i in range(16)]
  for head in model.heads:
    np.testing.assert_allclose(
      model.encode_image(pictures, head=head),
      run.encoder.images(state, source, head=head).images[:16],
      atol=1e-6,
    )
    np.testing.assert_allclose(
      model.encode_text(texts, head=head),
      run.encoder.texts(state, texts, head=head),
      atol=1e-6,
    )
  objective, params = run.objective, state.eval_params
  tokens = run.data.tokenizer.encode(texts, run.context_length)
  log_odds = objective.match(
    params, objective.image_tokens(params, jnp.stack(pictures)), tokens
  )
  np.testing.assert_allclose(
    model.match(pictures, texts), jax.nn.sigmoid(log_odds), atol=1e-6
  )
  # One picture and several texts.
  np.testing.assert_allclose(
    model.match(pictures[3], texts[:11]),
    model.match([pictures[3]] * 11, texts[:11]),
    atol=1e-6,
  )
  assert model.description.logit_scale == pytest.approx(
    1 / float(params["temperature"])
  )
  with pytest.raises(ValueError, match="16.*got 3"):
    model.match(pictures[:3], texts)
  with pytest.raises(inference.ModelError, match="'vqa'.*'pretrain'"):
    model.answer(pictures[0], "what?")


@pytest.mark.parametrize("way", ["rank", "generate"])
def test_answers(way, monkeypatch, tmp_path):
  run, state, model, records, questions = of_task(
    "vqa", monkeypatch, tmp_path, objective__answering=way
  )
  expected = run.measures["task"].predictions(state, run.data.splits["test"])
  pictures = [record["image"] for record in records]
  assert model.answer(pictures, questions) == expected
  if way == "rank":
    assert model.description.answers == tiny_tasks.ANSWERS
    assert set(model.answer(pictures, questions, answers=["two"])) == {"two"}
  else:
    assert model.answer(pictures, questions, answers=()) == expected
  with pytest.raises(ValueError, match="head"):
    model.encode_image(pictures)


def test_entailment(monkeypatch, tmp_path):
  run, state, model, records, texts = of_task(
    "entailment", monkeypatch, tmp_path
  )
  predicted = run.measures["task"].predictions(state, run.data.splits["test"])
  found = model.entails([record["image"] for record in records], texts)
  assert found.names == [tasks.ENTAILMENT_LABELS[i] for i in predicted]
  np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-5)


def test_statements_on_two_pictures(monkeypatch, tmp_path):
  run, state, model, records, texts = of_task("nlvr2", monkeypatch, tmp_path)
  predicted = run.measures["task"].predictions(state, run.data.splits["test"])
  pair = [[record[k] for record in records] for k in ("image", "second_image")]
  found = model.compare(*pair, texts)
  assert ((found > 0.5) == np.array(predicted)).all()
  assert np.abs(found - model.compare(*pair[::-1], texts)).max() > 1e-4
  with pytest.raises(inference.ModelError, match="'entailment'.*'nlvr2'"):
    model.entails(pair[0], texts)
