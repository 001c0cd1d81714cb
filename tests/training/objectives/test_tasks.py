"""The tasks of fusion models: batches, losses, ranking."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.data import sources, task_pipeline, tasks
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import fusion_base
from tests.training import tiny
from tests.training import tiny_albef as pretraining
from tests.training.tiny_tasks import (
  ANSWERS,
  batch_of,
  make_batches,
  make_config,
  make_data,
  make_encoder,
  make_objective,
  started,
  tokenizer,
)

# Whole runs and forms like others.
_REST = pytest.mark.exhaustive


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
      field = tasks.TEXT_FIELDS[task]
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
  with pytest.raises(ValueError, match="^texts_per_image .* 0"):
    make_batches("vqa", texts=0)
  with pytest.raises(ValueError, match=r"^batch_size .*\b3\b.* 8"):
    make_batches("vqa", process_count=3)
  empty = sources.ArraySource(np.zeros((0, 2, 2, 3), np.uint8), [])
  with pytest.raises(ValueError, match="^source "):
    task_pipeline.train_batches(
      empty, make_encoder("vqa"), batch_size=1, seed=0
    )


# --- Losses -----------------------------------------------------------------


def outputs(objective, params, batch, image, q):
  """The model's output for one image's question q, in a separate pass."""
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
  "task",
  ["vqa", *(pytest.param(t, marks=_REST) for t in ("nlvr2", "entailment"))],
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
  objective, params, state = started("entailment", objective__alpha=0.0)
  assert "momentum" not in state
  value, _ = objective.loss(
    params, state, batch_of("entailment"), jax.random.key(0)
  )
  assert np.isfinite(value)


@pytest.mark.parametrize("task", ["vqa", "nlvr2"])
@pytest.mark.parametrize("seen", ["image", "text"])
def test_a_blind_model_is_told_nothing_of_the_other_input(task, seen):
  objective, params, _ = started(task, objective__inputs=seen)
  batch = jax.tree.map(jnp.asarray, batch_of(task))
  hidden = {"image": "tokens", "text": "image"}[seen]
  applied = fusion_base.Applied(objective.model, params)

  def logits(**changes):
    return jax.jit(lambda b: objective.logits(applied, b))(
      {**batch, "image": objective.plain(batch["image"]), **changes}
    )

  changed = {
    "image": objective.plain(batch["image"][::-1]),
    # The first token is every text's.
    "tokens": batch["tokens"].at[..., 1:].set(7),
  }
  plain = logits()
  np.testing.assert_array_equal(plain, logits(**{hidden: changed.pop(hidden)}))
  assert np.abs(plain - logits(**changed)).max() > 1e-3


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

  class Spy(fusion_base.Applied):
    def image(self, images):
      tokens = jnp.arange(len(images), dtype=jnp.float32)
      cls = jax.random.normal(jax.random.key(5), (len(images), 16))
      out = jnp.stack([cls, jnp.broadcast_to(tokens[:, None], cls.shape)], 1)
      return {"tokens": out}

    def fuse(self, texts, image):
      seen.append([part[:, 1, 0] for part in image])
      return jnp.zeros((len(batch["index"]), 5, 16))

    def apply(self, *args, method, **options):
      if method == "assign":
        return jnp.zeros((len(batch["index"]), 3))
      return super().apply(*args, method=method, **options)

  monkeypatch.setattr(fusion_base, "Applied", Spy)
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
  decode = jax.jit(functools.partial(objective.model.apply, method="decode"))
  for i, row in enumerate(np.asarray(rows)):
    assert row[0] == start
    for t in range(1, 6):
      if row[t - 1] in (end, 0):
        assert row[t] == 0
        continue
      z = decode(
        {"params": params},
        jnp.asarray(row[None, :t]),
        states[i : i + 1],
        valid[i : i + 1],
      )[0, -1]
      z = np.asarray(z).copy()
      z[[0, -1]] = -np.inf
      assert row[t] == z.argmax()
