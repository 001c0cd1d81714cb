"""Whether a workdir's run is the one of a configuration and of its data."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.runs import results_file
from contrastive_jax.training.runs.run import Run


def is_fresh(workdir: pathlib.Path, config: config_lib.Config) -> bool:
  """False if the workdir holds a run of this configuration."""
  path = workdir / "config.json"
  if not path.exists():
    for name in ("results.json", "checkpoints"):
      if (workdir / name).exists():
        raise workdirs.WorkdirError(
          f"{workdir} holds {name} of a run, but no config.json: restore it,"
          " or choose another --workdir."
        )
    return True
  try:
    # Fields that are newer than the run have the default there.
    earlier = config_lib.parse(workdirs.read_json(path))
  except config_lib.ConfigError as error:
    raise workdirs.WorkdirError(
      f"{path} is not a configuration of this version ({error}): restore it,"
      " or choose another --workdir."
    ) from error
  earlier = config_lib.with_operation_of(config, earlier)
  results = results_file.read(workdir) or {}
  if results.get("train/steps") == earlier.steps < config.steps:
    # A finished run may go on.
    earlier = dataclasses.replace(earlier, steps=config.steps)
  difference = config_lib.first_difference(config.to_dict(), earlier.to_dict())
  if difference:
    name, new, old = difference
    raise workdirs.WorkdirError(
      f"{workdir} holds a run with config.{name}={old!r}, and now it is"
      f" {new!r}: choose another --workdir, or the same configuration."
    )
  return False


def changed(
  stored: Mapping[str, Any], changes: Mapping[str, Any]
) -> config_lib.Config:
  """A stored configuration, some fields changed."""
  config = config_lib.parse(stored)
  if not changes:
    return config
  draft = config_lib.draft_of(stored)
  draft.override(changes)
  new = config_lib.parse(draft)
  allowed = config_lib.with_operation_of(new, config)
  difference = config_lib.first_difference(new.to_dict(), allowed.to_dict())
  if difference:
    raise config_lib.ConfigError(
      f"config.{difference[0]} must be {difference[2]!r}, with which the run was"
      f" trained; got {difference[1]!r}."
    )
  return new


def check_data(run: Run, *, begins: bool = False) -> None:
  """Raises if the workdir's run began on other training data.

  Args:
    run: the run, opened.
    begins: whether this may be where it begins, and what data it has is
      written; a reader writes nothing.

  Raises:
    WorkdirError: if it has.
  """
  path, ours = run.workdir / "data.json", run.fingerprints()
  if not path.exists():
    if begins and jax.process_index() == 0:
      workdirs.write_json(path, ours)
  elif workdirs.read_json(path) != ours:
    raise workdirs.WorkdirError(
      f"The training data of {run.workdir} has changed since the run began, so"
      " it can neither go on nor be evaluated: restore the data, or choose"
      " another --workdir."
    )
