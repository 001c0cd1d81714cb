"""Accuracy of a fusion model's task: answers, statements, entailment."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import evaluation
from contrastive_jax.data import sources, task_pipeline, tasks
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.evaluators import base
from contrastive_jax.training.objectives import fusion_base
from contrastive_jax.training.trainer import state as state_lib


class TaskMeasure(base.Measure):
  """Predicts a split's records, in batches of one shape, and scores them."""

  def __init__(self, run: base.Opened, chosen: Any = None):
    """Prepares the jitted prediction; it splits a batch over the mesh."""
    super().__init__(run, chosen)
    assert (
      run.reader is not None
    )  # The objectives of this evaluator have tasks.
    self._reader = run.reader
    self._task, mesh = run.data.task, run.mesh
    validation = run.data.splits.get(sources.VALIDATION, ())
    self.validates = not _unscorable(validation)
    self.curves = {self._task: f"{self._name(sources.VALIDATION)}/accuracy"}
    # Texts multiply what an image costs.
    size = max(mesh.size, run.batch_size // 8)
    self._batch_size = size - size % mesh.size
    rows = sharding.batch_sharding(mesh)
    predict = self._answer if self._task == "vqa" else self._classify

    def split(params, batch):
      return predict(
        params,
        jax.tree.map(
          lambda x: jax.lax.with_sharding_constraint(x, rows), batch
        ),
      )

    self._predict = jax.jit(split, out_shardings=sharding.replicated(mesh))

  def validate(self, state: state_lib.TrainState) -> dict[str, float]:
    """The accuracy on the validation split."""
    return self.accuracy(state, sources.VALIDATION)

  def final(self, state: state_lib.TrainState) -> dict[str, float]:
    """The accuracy on all splits but that of training, and of texts alone.

    Where the answers to questions are kept back, as those of VQA v2's tests are,
    the model's answers are written instead, see `write_answers`.
    """
    out = {}
    for split, source in self.run.data.splits.items():
      if split == sources.TRAIN:
        continue
      reason = _unscorable(source)
      if reason:
        self.run.report(f"Left out: the split {split}, because {reason}.")
        # Only official data have numbers by which a server knows the questions.
        if len(source) and "question_id" in source.fields(0):
          self.write_answers(state, split)
        continue
      out |= self.accuracy(state, split)
      alone = text_only_accuracy(self.run.data, split)
      out[f"{self._name(split)}/text_only_accuracy"] = alone["accuracy"]
    return out

  def predictions(
    self, state: state_lib.TrainState, source: sources.Source
  ) -> list[Any]:
    """The answer to each record of vqa, else the number of each one's class."""
    found: list[Any] = [None] * len(source)
    for batch, rows in task_pipeline.eval_batches(
      source, self._reader, batch_size=self._batch_size
    ):
      values = np.asarray(self._predict(state.eval_params, batch))
      for row, value in zip(rows.reshape(-1), values):
        if row >= 0:
          found[row] = self._said(value)
    return found

  def accuracy(
    self, state: state_lib.TrainState, split: str
  ) -> dict[str, float]:
    """`TASK_SPLIT/accuracy`, and `TASK_SPLIT/accuracy/KIND` of each kind of record.

    For vqa it is the official one, `evaluation.vqa_accuracy`. Names of the test
    split's scores leave out the split.
    """
    source = self.run.data.splits[split]
    predicted = self.predictions(state, source)
    records = [source.fields(row) for row in range(len(source))]
    kinds = [record["kind"] for record in records]
    if self._task == "vqa":
      answers = [record["answers"] for record in records]
      scores = evaluation.vqa_accuracy(predicted, answers, kinds)
    else:
      scores = evaluation.accuracy_by_kind(
        [p == record["label"] for p, record in zip(predicted, records)], kinds
      )
    name = self._name(split)
    return {f"{name}/{key}": value for key, value in scores.items()}

  def write_answers(self, state: state_lib.TrainState, split: str) -> None:
    """Writes `answers_{split}.json` into the workdir, as VQA's server takes it.

    That is a list of `{"question_id": 1, "answer": "yes"}`. A state that is not
    the run's last one has its step in the name too. Questions that could not be
    read (`skipped.jsonl`) are not in it.
    """
    run, step = self.run, int(state.step)
    source = run.data.splits[split]
    rows = [
      {"question_id": source.fields(row)["question_id"], "answer": answer}
      for row, answer in enumerate(self.predictions(state, source))
    ]
    of_step = "" if step == run.steps else f"_{step}"
    path = run.workdir / f"answers_{split}{of_step}.json"
    if jax.process_index() == 0:
      workdirs.write_json(path, rows)
      run.report(f"{len(rows):,} answers for the server of VQA are in {path}.")

  def _answer(self, params: Any, batch: Any) -> jax.Array:
    """Numbers of candidates [N], or token rows [N, A]."""
    objective = self.run.objective
    states, valid = objective.question_states(
      params, batch["image"], batch["tokens"]
    )
    return self.run.chosen.answering.answer(
      objective,
      params,
      states,
      valid,
      reader=self._reader,
      answers=self.run.data.answers,
    )

  def _classify(self, params: Any, batch: Any) -> jax.Array:
    """Numbers of classes [N]."""
    objective = self.run.objective
    applied = fusion_base.Applied(objective.model, params)
    plain = {**batch, "image": objective.plain(batch["image"])}
    return jnp.argmax(objective.logits(applied, plain), axis=1)

  def _said(self, value: np.ndarray) -> Any:
    if self._task != "vqa":
      return int(value)
    if value.ndim:
      return self._reader.tokenizer.decode(value.tolist())
    return self.run.data.answers[int(value)]

  def _name(self, split: str) -> str:
    return self._task if split == sources.TEST else f"{self._task}_{split}"


def text_only_accuracy(
  data: tasks.TaskData, split: str = sources.TEST
) -> dict[str, float]:
  """`evaluation.text_only_accuracy` of a task's split, scored as the task is.

  Raises:
    ValueError: the data lacks the split or that of training, or answers in one.
  """
  for name in (sources.TRAIN, split):
    if not len(data.splits.get(name, ())):
      raise ValueError(
        f"data must have records in the split {name!r}, got the splits"
        f" {', '.join(data.splits)}."
      )
  train, test = (
    [source.fields(row) for row in range(len(source))]
    for source in (data.splits[sources.TRAIN], data.splits[split])
  )
  train_texts, texts = (
    [record[tasks.TEXT_FIELDS[data.task]] for record in records]
    for records in (train, test)
  )
  kinds = [record["kind"] for record in test]
  if data.task != "vqa":
    train_labels, labels = (
      [record["label"] for record in records] for records in (train, test)
    )
    return evaluation.text_only_accuracy(
      train_texts, train_labels, texts, labels, kinds
    )
  return evaluation.vqa_text_only_accuracy(
    train_texts,
    [[(a.text, a.weight) for a in record["answers"]] for record in train],
    texts,
    [record["answers"] for record in test],
    kinds,
  )


def _unscorable(source: Any) -> str:
  """Why a split cannot be scored; "" if it can."""
  if not len(source):
    return "it is empty"
  fields = (source.fields(row) for row in range(len(source)))
  if not all(record.get("answers", True) for record in fields):
    return "it has questions without an answer"
  return ""
