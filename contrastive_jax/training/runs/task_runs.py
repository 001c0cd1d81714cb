"""Runs on the tasks of fusion models: their data opened, their model built."""

import dataclasses
import pathlib
from collections.abc import Callable

import grain
import jax

from contrastive_jax.data import sources, task_pipeline
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.runs import build, initial_choices
from contrastive_jax.training.runs.run import Run
from contrastive_jax.training.types import Report


@dataclasses.dataclass(kw_only=True)
class TaskRun(Run):
  """A run on texts and labels of images.

  Attributes:
    feed: `task_pipeline.train_batches`, but for its data and this host's part.
  """

  feed: Callable[..., grain.DatasetIterator]

  def batches(self) -> grain.DatasetIterator:
    """The training batches (this host's parts), from the beginning."""
    return self.feed(
      self.data.splits[sources.TRAIN],
      self.reader,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )

  def fingerprints(self) -> dict[str, str]:
    """Names and hashes of the training data, which must be the same on resuming."""
    return super().fingerprints() | {"task": self.data.task}

  def announce(self) -> None:
    """Reports what it trains on, and with what it begins."""
    count = len(self.data.splits[sources.TRAIN])
    self.report(
      f"{self.data.name}, {self.data.task}: {count:,} training records,"
      f" {self.reader.tokenizer.vocab_size:,} tokens; {self.mesh.size}"
      f" {jax.devices()[0].platform} device(s)."
    )
    if isinstance(self.initial, initial_choices.Random):
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
  fields = build.run_fields(config, workdir, report)
  reader = task_pipeline.Encoder(
    fields["data"].task,
    fields["data"].tokenizer,
    config.model.context_length,
    getattr(config.objective, "answer_length", 0),
  )
  return TaskRun(
    **fields,
    encoder=None,
    reader=reader,
    feed=build.task_batches(config),
  )
