"""Scores of fusion models: answers, statements, entailment, re-ranking."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import evaluation
from contrastive_jax.data import pipeline, sources, task_pipeline, tasks
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.evaluators import embeddings
from contrastive_jax.training.objectives import fusion_base
from contrastive_jax.training.trainer import state as state_lib


class TaskScorer:
  """Predicts a split's records with one model, in batches of one shape."""

  def __init__(
    self,
    objective: Any,
    data: tasks.TaskData,
    encoder: task_pipeline.Encoder,
    config: config_lib.Config,
    mesh: jax.sharding.Mesh,
  ):
    """Prepares the jitted prediction; it splits a batch over the mesh."""
    self._objective = objective
    self._data = data
    self._encoder = encoder
    # Texts multiply what an image costs.
    self._batch_size = max(mesh.size, config.evaluation.batch_size // 8)
    self._batch_size -= self._batch_size % mesh.size
    rows = sharding.batch_sharding(mesh)
    candidates = None
    if data.task == "vqa":
      candidates = jnp.asarray(encoder.answers(data.answers))
    count = min(config.fusion.candidates, max(1, len(data.answers)))

    def predict(params, batch):
      batch = jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(x, rows), batch
      )
      if candidates is not None:
        states, valid = objective.question_states(
          params, batch["image"], batch["tokens"]
        )
        if config.fusion.answering == "generate":
          return objective.generate(
            params,
            states,
            valid,
            start_id=encoder.tokenizer.start_id,
            end_id=encoder.tokenizer.end_id,
            length=config.fusion.answer_length,
          )
        return objective.rank(params, states, valid, candidates, count)
      applied = fusion_base.Applied(objective.model, params)
      plain = {**batch, "image": objective.plain(batch["image"])}
      return jnp.argmax(objective.logits(applied, plain), axis=1)

    self._predict = jax.jit(predict, out_shardings=sharding.replicated(mesh))

  def predictions(
    self, state: state_lib.TrainState, source: sources.Source
  ) -> list[Any]:
    """What is said of each record: of vqa an answer, else the number of a class."""
    found: list[Any] = [None] * len(source)
    for batch, rows in task_pipeline.eval_batches(
      source, self._encoder, batch_size=self._batch_size
    ):
      values = np.asarray(self._predict(state.eval_params, batch))
      for row, value in zip(rows.reshape(-1), values):
        if row >= 0:
          found[row] = self._said(value)
    return found

  def _said(self, value: np.ndarray) -> Any:
    if self._data.task != "vqa":
      return int(value)
    if value.ndim:
      return self._encoder.tokenizer.decode(value.tolist())
    return self._data.answers[int(value)]

  def accuracy(
    self, state: state_lib.TrainState, source: sources.Source, *, name: str
  ) -> dict[str, float]:
    """`{name}/accuracy`, and `{name}/accuracy/{kind}` of each kind of record.

    Of vqa it is the official one, `evaluation.vqa_accuracy`.
    """
    predicted = self.predictions(state, source)
    records = [source.fields(row) for row in range(len(source))]
    kinds = [record["kind"] for record in records]
    if self._data.task == "vqa":
      scores = evaluation.vqa_accuracy(
        predicted,
        [record["answers"] for record in records],
        kinds,
      )
    else:
      right = np.array(predicted) == [record["label"] for record in records]
      scores = {"accuracy": float(np.mean(right))}
      for kind in sorted(set(kinds) - {""}):
        chosen = np.array([other == kind for other in kinds])
        scores[f"accuracy/{kind}"] = float(np.mean(right[chosen]))
    return {f"{name}/{key}": value for key, value in scores.items()}


def reranked(
  objective: Any,
  encoder: embeddings.Encoder,
  state: state_lib.TrainState,
  data: sources.PairData,
  *,
  config: config_lib.Config,
  mesh: jax.sharding.Mesh,
  report: Callable[[str], None] = print,
) -> dict[str, float]:
  """Retrieval on the test split, whose first answers matching ranks again.

  Args:
    objective: an `Albef`.
    encoder: embeds.
    state: the model.
    data: the data set.
    config: `fusion.rerank` answers are ranked again.
    mesh: the devices.
    report: receives lines for the user.

  Returns:
    `retrieval_reranked/image_to_text/recall_at_1` and so on, for 1, 5 and 10,
    both ways; empty without test images.
  """
  source = data.splits[sources.TEST]
  if not len(source):
    return {}
  texts, text_ids = embeddings.names_of(source, keywords=True)
  tokens = data.tokenizer.encode(texts, config.model.context_length)
  images = encoder.images(state, source)
  similarity = images.images @ encoder.texts(state, texts).T
  match = _Matcher(objective, state, source, tokens, config, mesh)
  out = {}
  for way, scores, asked, answers in (
    ("image_to_text", similarity, images.concept_ids, text_ids),
    ("text_to_image", similarity.T, text_ids, images.concept_ids),
  ):
    kept = min(config.fusion.rerank, scores.shape[1])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :kept]
    pairs = np.stack(
      [np.repeat(np.arange(len(scores)), kept), best.reshape(-1)], axis=1
    )
    report(f"Matching {len(pairs):,} pairs, {way.replace('_', ' ')}.")
    # Image first, whichever asks.
    values = match(pairs if way == "image_to_text" else pairs[:, ::-1])
    order = np.argsort(-values.reshape(-1, kept), axis=1, kind="stable")
    ranked = np.take_along_axis(best, order, axis=1)
    # A question without a right answer counts nothing, as in `retrieval`.
    possible = np.isin(asked, answers)
    right = (answers[ranked] == asked[:, None])[possible]
    for k in (1, 5, 10):
      hits = right[:, :k].any(axis=1)
      out[f"retrieval_reranked/{way}/recall_at_{k}"] = float(hits.mean())
  return out


class _Matcher:
  """Scores pairs of images and texts; a part of the images is held at once."""

  def __init__(self, objective, state, source, tokens, config, mesh):
    self._source, self._tokens = source, tokens
    self._params = state.eval_params
    # A pair costs what an image costs.
    self._size = config.evaluation.batch_size
    # On every device, so that every host can look at all of it.
    everywhere = sharding.replicated(mesh)
    self._encode = jax.jit(objective.image_tokens, out_shardings=everywhere)
    self._match = jax.jit(objective.match, out_shardings=everywhere)

  def __call__(self, pairs: np.ndarray) -> np.ndarray:
    """The log-odds [P] of rows (image, text) that belong together."""
    values = np.empty(len(pairs), np.float32)
    parts = pipeline.eval_images(self._source, self._size)
    for number, (images, count) in enumerate(parts):
      image_tokens = np.asarray(self._encode(self._params, images))
      first = number * self._size
      here = np.flatnonzero(
        (pairs[:, 0] >= first) & (pairs[:, 0] < first + count)
      )
      for start in range(0, len(here), self._size):
        places = here[start : start + self._size]
        image, text = pairs[np.resize(places, self._size)].T
        found = self._match(
          self._params, image_tokens[image - first], self._tokens[text]
        )
        values[places] = np.asarray(found)[: len(places)]
    return values
