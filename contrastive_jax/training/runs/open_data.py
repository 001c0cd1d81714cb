"""Opens the data set of a configuration, or does without."""

import dataclasses
import pathlib
from typing import Any

from contrastive_jax.data import sources, tasks
from contrastive_jax.data.sets.choices import PAIRS, Request
from contrastive_jax.data.sets.folder.folder_rows import DataError
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.types import Report


def open_data(
  config: config_lib.Config, workdir: pathlib.Path, report: Report
) -> Any:
  """Opens the data set with the vocabulary that the workdir keeps.

  Args:
    config: the configuration.
    workdir: where it keeps its vocabulary, and lists what cannot be used.
    report: receives lines for the user.

  Returns:
    `sources.PairData`, or `tasks.TaskData` for the tasks that have texts and
    labels of their own.

  Raises:
    UserError: if fields are wrong together.
    DataError: if the data cannot be used.
  """
  kept = workdir / "tokenizer.json"
  known = workdirs.read_tokenizer(kept)
  request = Request(
    task=config.objective.task,
    image_size=config.model.image_size,
    workdir=workdir,
    tokenizer=known,
    trains=config.steps > 0,
    random_crops=config.augment.random_resized_crop,
    report=report,
  )
  try:
    data: Any = config.data.open(request)
  except DataError:
    raise
  except ValueError as error:
    name = str(error).split(" ")[0].rstrip(":")
    if name == "image_size":  # A request's own, which the model decides.
      raise config_lib.ConfigError(f"config.model.{error}") from error
    if name in {f.name for f in dataclasses.fields(config.data)}:
      raise config_lib.ConfigError(f"config.data.{error}") from error
    raise  # It names no field, so that it is a bug.
  # A copy stays with the run: its parameters mean nothing under another
  # vocabulary, which a newer version of the package may ship.
  if known is None:
    data.tokenizer.save(kept)
  return data


def absent(config: config_lib.Config, workdir: pathlib.Path) -> Any:
  """What is known of a run's data without them: its splits are empty.

  Args:
    config: the configuration.
    workdir: of a run that has begun.

  Returns:
    As of `open_data`.

  Raises:
    WorkdirError: if the run has not begun.
  """
  path = workdir / "data.json"
  tokenizer = workdirs.read_tokenizer(workdir / "tokenizer.json")
  if tokenizer is None or not path.exists():
    raise workdirs.WorkdirError(
      f"{workdir} holds no run that has begun (no data.json, or no tokenizer.json)."
    )
  known = workdirs.read_json(path)
  nothing = sources.Absent(0)
  splits = {
    sources.TRAIN: sources.Absent(int(known["index_bound"])),
    sources.VALIDATION: nothing,
    sources.TEST: nothing,
  }
  task, name = config.objective.task, known["name"]
  if task in PAIRS:
    return sources.PairData(name, splits, (sources.ANY_LANGUAGE,), tokenizer)
  return tasks.TaskData(name, task, splits, tokenizer=tokenizer)
