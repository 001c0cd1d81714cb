"""Runs that begin with the parameters of another one."""

import dataclasses
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax.training import checkpoints, sharding, workdirs
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import state as state_lib


def workdir_of(config: config_lib.Config) -> pathlib.Path | None:
  """The earlier run's workdir, `config.fusion.initial`; None if there is none.

  Raises:
    ConfigError: if it holds no run.
  """
  if not config.fusion.initial:
    return None
  path = pathlib.Path(os.path.expanduser(config.fusion.initial))
  for name in ("config.json", "tokenizer.json", "checkpoints"):
    if not (path / name).exists():
      raise config_lib.ConfigError(
        f"config.fusion.initial must be the workdir of a finished run; got"
        f" {path}, which has no {name}."
      )
  return path


def parameters(workdir: pathlib.Path, placement: jax.sharding.Sharding) -> Any:
  """The parameters that an earlier run is evaluated with.

  Args:
    workdir: of the run.
    placement: where they go.

  Returns:
    A pytree.

  Raises:
    CheckpointError: if its newest checkpoint cannot be read.
    WorkdirError: if there is none.
  """
  saved = checkpoints.Checkpoints(workdir, keep=None)
  try:
    return saved.parameters(placement)
  except FileNotFoundError as error:
    raise workdirs.WorkdirError(str(error)) from error
  finally:
    saved.close()


def begin(run: Any, state: state_lib.TrainState) -> state_lib.TrainState:
  """The state before the first step, with an earlier run's parameters.

  Args:
    run: an opened run, whose objective has `begin` if it can take them.
    state: as it was initialised.

  Returns:
    The same state where `config.fusion.initial` is empty.

  Raises:
    ConfigError: if the earlier run is not there or of another form.
  """
  workdir = workdir_of(run.config)
  if workdir is None:
    return state
  params, objective_state = run.objective.begin(
    parameters(workdir, sharding.replicated(run.mesh)), state.params
  )
  new = dataclasses.replace(
    state,
    params=params,
    objective_state=objective_state,
    ema_params=None if state.ema_params is None else params,
  )
  # Copies: a step donates its state, and what begins as another part (a decoder
  # as the fusion layers) must not be one buffer with it.
  return jax.tree.map(
    lambda x, old: jax.device_put(jnp.copy(x), old.sharding), new, state
  )
