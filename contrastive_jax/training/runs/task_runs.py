"""Runs on the tasks of fusion models: their data opened, their model built."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import grain
import jax

from contrastive_jax import evaluation
from contrastive_jax.data import sources, task_pipeline, tasks
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import objectives
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.evaluators import task_accuracy
from contrastive_jax.training.runs import (
  image_text,
  initial_weights,
  official_data,
  open_data,
)
from contrastive_jax.training.trainer import state as state_lib

Report = Callable[[str], None]

# Those with texts and labels of their own; text assignment has captions.
TASKS = ("vqa", "nlvr2", "entailment")
OBJECTIVES = (*TASKS, "text_assignment")


@dataclasses.dataclass
class TaskRun:
  """What a run on a task is made of, opened.

  Attributes:
    config: the configuration.
    workdir: where it keeps its files.
    data: the data set.
    mesh: the devices.
    objective: what is trained.
    encoder: makes arrays of records.
    scorer: predicts a split.
  """

  config: config_lib.Config
  workdir: pathlib.Path
  data: tasks.TaskData
  mesh: jax.sharding.Mesh
  objective: Any
  encoder: task_pipeline.Encoder
  scorer: task_accuracy.TaskScorer

  def batches(self, report: Report = print) -> grain.DatasetIterator:
    """The training batches (this host's parts), from the beginning."""
    del report
    fusion, is_vqa = self.config.fusion, self.data.task == "vqa"
    return task_pipeline.train_batches(
      self.data.splits[sources.TRAIN],
      self.encoder,
      batch_size=self.config.batch_size,
      seed=self.config.seed,
      texts_per_image=fusion.questions_per_image,
      answers_per_text=fusion.answers_per_question if is_vqa else 1,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      num_threads=self.config.data.num_threads,
    )

  @property
  def has_validation(self) -> bool:
    """Whether there is something to validate on."""
    split = self.data.splits.get(sources.VALIDATION)
    return split is not None and not _unscorable(split)

  def fingerprints(self) -> dict[str, str]:
    """What the training data are; a run that goes on must have the same."""
    return {
      "name": self.data.name,
      "task": self.data.task,
      "fingerprint": self.data.fingerprint,
    }

  def announce(self, report: Report) -> None:
    """Says what it trains on, and with what it begins."""
    count = len(self.data.splits[sources.TRAIN])
    report(
      f"{self.data.name}, {self.data.task}: {count:,} training records,"
      f" {self.encoder.tokenizer.vocab_size:,} tokens; {self.mesh.size}"
      f" {jax.devices()[0].platform} device(s)."
    )
    begins = self.config.initial
    if not begins.workdir and not begins.has_weights:
      report(
        "It begins at random: config.initial.workdir=DIR takes the parameters of"
        " an earlier run of objective=albef."
      )

  def evaluate(
    self, state: state_lib.TrainState, *, report: Report = print
  ) -> dict[str, float]:
    """The accuracy on all splits but that of training, and of texts alone.

    Of questions whose answers are kept back, as those of VQA v2's tests, the
    model's answers are written instead, see `write_answers`.
    """
    out = {}
    for split, source in self.data.splits.items():
      if split == sources.TRAIN:
        continue
      reason = _unscorable(source)
      if reason:
        report(f"Left out: the split {split}, because {reason}.")
        # Only official data have numbers by which a server knows the questions.
        if len(source) and "question_id" in source.fields(0):
          self.write_answers(state, split, report=report)
        continue
      name = self._name(split)
      out |= self.scorer.accuracy(state, source, name=name)
      alone = evaluation.task_text_only_accuracy(self.data, split)
      out[f"{name}/text_only_accuracy"] = alone["accuracy"]
    return out

  def write_answers(
    self, state: state_lib.TrainState, split: str, *, report: Report = print
  ) -> None:
    """Writes `answers_{split}.json` into the workdir, as VQA's server takes it.

    That is a list of `{"question_id": 1, "answer": "yes"}`. Of a state that is not
    the run's last one the name has its step too. Questions that could not be read
    (`skipped.jsonl`) are not in it.
    """
    source = self.data.splits[split]
    answers = self.scorer.predictions(state, source)
    rows = [
      {"question_id": source.fields(row)["question_id"], "answer": answer}
      for row, answer in enumerate(answers)
    ]
    step = int(state.step)
    of_step = "" if step == self.config.steps else f"_{step}"
    path = self.workdir / f"answers_{split}{of_step}.json"
    if jax.process_index() == 0:
      workdirs.write_json(path, rows)
      report(f"{len(rows):,} answers for the server of VQA are in {path}.")

  def validate(self, state: state_lib.TrainState) -> dict[str, float]:
    """The accuracy on the validation split."""
    return self.scorer.accuracy(
      state,
      self.data.splits[sources.VALIDATION],
      name=self._name(sources.VALIDATION),
    )

  def draw(
    self, state: state_lib.TrainState, folder: pathlib.Path | None = None
  ) -> None:
    """Draws the curves of training, by default into `workdir/plots`."""
    del state
    _draw_curves(self.workdir, folder)

  def _name(self, split: str) -> str:
    task = self.data.task
    return task if split == sources.TEST else f"{task}_{split}"


class AssignmentRun(image_text.Run):
  """NLVR2's further pre-training, on images and captions: nothing is scored."""

  has_validation = False

  def evaluate(
    self, state: state_lib.TrainState, *, report: Report = print
  ) -> dict[str, float]:
    """Nothing: the run is for one that begins with it."""
    del state, report
    return {}

  def draw(
    self, state: state_lib.TrainState, folder: pathlib.Path | None = None
  ) -> None:
    """Draws the curves of training, by default into `workdir/plots`."""
    del state
    _draw_curves(self.workdir, folder)


def open_run(
  config: config_lib.Config,
  workdir: pathlib.Path,
  *,
  report: Report = print,
) -> TaskRun | AssignmentRun:
  """Opens the data and builds the model of a configuration; see `runner`."""
  if config.objective == "text_assignment":
    run = image_text.open_run(config, workdir, report=report)
    return AssignmentRun(
      **{f.name: getattr(run, f.name) for f in dataclasses.fields(run)}
    )
  with sharding.main_process_first("data"):
    data, own_tokenizer = _open_data(config, workdir, report)
    tokenizer = _tokenizer(workdir, own_tokenizer, data, config.data.vocab_size)
  mesh = sharding.make_mesh()
  with workdirs.mistakes_of_config():
    objective: Any = objectives.create(
      config,
      vocab_size=tokenizer.vocab_size,
      num_examples=sources.index_bound(data.splits[sources.TRAIN]),
      mesh=mesh,
    )
  initial_weights.check_tokenizer(config, objective.model, tokenizer)
  encoder = task_pipeline.Encoder(
    data.task,
    tokenizer,
    config.model.context_length,
    config.fusion.answer_length,
  )
  scorer = task_accuracy.TaskScorer(objective, data, encoder, config, mesh)
  return TaskRun(config, workdir, data, mesh, objective, encoder, scorer)


def _open_data(
  config: config_lib.Config, workdir: pathlib.Path, report: Report
) -> tuple[tasks.TaskData, tokenizer_lib.Tokenizer | None]:
  """The data set, and the vocabulary that comes with it, if one does."""
  settings, task = config.data, config.objective
  if settings.name == "scenes":
    from contrastive_jax.data.sets import scenes

    options = open_data.scenes_settings(config)
    where = os.path.expanduser(settings.data_dir) or None
    data = scenes.load_task(task, where, settings=options, report=report)
    return data, scenes.load_tokenizer(where, settings=options, report=report)
  if settings.name == "easy_vqa" and task == "vqa":
    from contrastive_jax.data.sets import easy_vqa

    return easy_vqa.load(config.model.image_size, report=report), None
  if settings.name == "official":
    return official_data.load(config, task, workdir, report), None
  raise config_lib.ConfigError(
    f"config.objective={task!r} needs config.data=scenes"
    + (", easy_vqa" if task == "vqa" else "")
    + f" or official; got {settings.name!r}."
  )


def _unscorable(source: sources.Source) -> str:
  """Why a split cannot be scored; "" if it can."""
  if not len(source):
    return "it is empty"
  fields = (source.fields(row) for row in range(len(source)))
  if not all(record.get("answers", True) for record in fields):
    return "it has questions without an answer"
  return ""


def _draw_curves(workdir: pathlib.Path, folder: pathlib.Path | None) -> None:
  # Matplotlib is imported by who draws.
  from contrastive_jax.training.evaluators import plots
  from contrastive_jax.training.trainer import metric_log

  folder = folder or workdir / "plots"
  folder.mkdir(exist_ok=True)
  plots.curves(metric_log.read_metrics(workdir), folder / "curves.png")


def _tokenizer(
  workdir: pathlib.Path,
  own: tokenizer_lib.Tokenizer | None,
  data: tasks.TaskData,
  vocab_size: int,
) -> tokenizer_lib.Tokenizer:
  """The workdir's, the data's, or one learned on the task.

  A copy stays with the run: its parameters mean nothing under another one.
  """
  kept = workdir / "tokenizer.json"
  found = workdirs.read_tokenizer(kept)
  if found is not None:
    return found
  found = own
  if found is None:
    source = data.splits[sources.TRAIN]
    field = task_pipeline.TEXT_FIELDS[data.task]
    texts = [source.fields(row)[field] for row in range(len(source))]
    found = tokenizer_lib.Tokenizer.train(
      [*texts, *data.answers], vocab_size=vocab_size
    )
  found.save(kept)
  return found
