"""Runs on the tasks of fusion models: their data opened, their model built."""

import pathlib
from typing import Any

import grain
import jax

from contrastive_jax.data import sources, task_pipeline
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.runs import (
  build,
  initial_choices,
  initial_weights,
  open_data,
)
from contrastive_jax.training.runs.run import Run
from contrastive_jax.training.types import Report


class TaskRun(Run):
  """A run on texts and labels of images."""

  def batches(self) -> grain.DatasetIterator:
    """The training batches (this host's parts), from the beginning."""
    return task_pipeline.train_batches(
      self.data.splits[sources.TRAIN],
      self.reader,
      batch_size=self.config.batch_size,
      seed=self.seed,
      texts_per_image=self.chosen.texts_per_image,
      answers_per_text=getattr(self.chosen, "answers_per_question", 1),
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      num_threads=self.config.num_threads,
    )

  def fingerprints(self) -> dict[str, str]:
    """What the training data are; a run that goes on must have the same."""
    return {
      "name": self.data.name,
      "task": self.data.task,
      "fingerprint": self.data.fingerprint,
    }

  def announce(self) -> None:
    """Reports what it trains on, and with what it begins."""
    count = len(self.data.splits[sources.TRAIN])
    self.report(
      f"{self.data.name}, {self.data.task}: {count:,} training records,"
      f" {self.reader.tokenizer.vocab_size:,} tokens; {self.mesh.size}"
      f" {jax.devices()[0].platform} device(s)."
    )
    if isinstance(self.config.initial, initial_choices.Random):
      self.report(
        "It begins at random: config.initial=run with"
        " config.initial.workdir=DIR takes the parameters of an earlier run of"
        " objective=albef."
      )


def open_run(
  config: config_lib.Config,
  workdir: pathlib.Path,
  report: Report,
) -> TaskRun:
  """Opens the data and builds the model; see `runner.open_run`."""
  with sharding.main_process_first("data"):
    data: Any = open_data.open_data(config, workdir, report)
  mesh = sharding.make_mesh()
  with workdirs.mistakes_of_config():
    objective = build.build_objective(
      config,
      vocab_size=data.tokenizer.vocab_size,
      num_examples=data.splits[sources.TRAIN].index_bound,
      mesh=mesh,
    )
  initial_weights.check_tokenizer(
    objective.model, data.tokenizer, config.model.preset
  )
  reader = task_pipeline.Encoder(
    data.task,
    data.tokenizer,
    config.model.context_length,
    getattr(config.objective, "answer_length", 0),
  )
  return TaskRun(
    **build.run_fields(config, workdir, report),
    data=data,
    mesh=mesh,
    objective=objective,
    encoder=None,
    reader=reader,
  )
