"""Runs that begin with the parameters of another one."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import models
from contrastive_jax.training import checkpoints, sharding, workdirs
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import state as state_lib


def workdir_of(config: config_lib.Config) -> pathlib.Path | None:
  """The earlier run's workdir, `config.initial.workdir`; None if there is none.

  Raises:
    ConfigError: if it holds no finished run of a fusion model.
  """
  if not config.initial.workdir:
    return None
  path = pathlib.Path(os.path.expanduser(config.initial.workdir))
  for name in ("config.json", "tokenizer.json", "checkpoints", "results.json"):
    if not (path / name).exists():
      raise config_lib.ConfigError(
        f"config.initial.workdir must be the workdir of a finished run; got"
        f" {path}, which has no {name}."
      )
  objective = workdirs.read_json(path / "config.json").get("objective")
  if objective not in config_lib.FUSION_OBJECTIVES:
    raise config_lib.ConfigError(
      "config.initial.workdir must be the workdir of a run of a fusion model,"
      f" config.objective={', '.join(config_lib.FUSION_OBJECTIVES)}; got"
      f" {path}, of {objective!r}."
    )
  return path


def take_tokenizer(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Copies the earlier run's vocabulary, unless the workdir has one.

  The parameters mean nothing under another one. A run that has begun has what it
  needs, wherever the earlier one is now.

  Args:
    config: of the run.
    workdir: of the run.

  Raises:
    ConfigError: if the earlier run is not there.
  """
  kept = workdir / "tokenizer.json"
  if kept.exists():
    return
  earlier = workdir_of(config)
  if earlier is not None:
    found = workdirs.read_tokenizer(earlier / "tokenizer.json")
    assert found is not None  # `workdir_of` has looked.
    found.save(kept)


def check(config: config_lib.Config, abstract: state_lib.TrainState) -> None:
  """Raises unless a run can begin with the earlier one's parameters.

  Only forms are read.

  Args:
    config: of the run.
    abstract: the form of its state.

  Raises:
    ConfigError: if the earlier run is not there, or of another form.
  """
  workdir = workdir_of(config)
  if workdir is None:
    return
  saved = checkpoints.Checkpoints(workdir, keep=None)
  try:
    source = saved.parameter_forms()
  finally:
    saved.close()
  try:
    jax.eval_shape(_transfer(config), source, abstract.params)
  except ValueError as error:
    raise config_lib.ConfigError(f"config.initial.workdir: {error}") from error


def _transfer(config: config_lib.Config) -> Callable[..., dict[str, Any]]:
  only = config.initial.part == "encoders"
  return functools.partial(models.transfer, encoders_only=only)


def begin(
  config: config_lib.Config,
  mesh: jax.sharding.Mesh,
  state: state_lib.TrainState,
) -> state_lib.TrainState:
  """The state before the first step, with an earlier run's parameters.

  A momentum model begins as they do.

  Args:
    config: of the run; `check` has passed.
    mesh: the devices.
    state: as it was initialised.

  Returns:
    The same state where `config.initial.workdir` is empty.

  Raises:
    CheckpointError: if the earlier run's checkpoint cannot be read.
  """
  workdir = workdir_of(config)
  if workdir is None:
    return state
  saved = checkpoints.Checkpoints(workdir, keep=None)
  try:
    source = saved.parameters(sharding.replicated(mesh))
  finally:
    saved.close()
  params = _transfer(config)(source, state.params)
  others = dict(state.objective_state)
  if "momentum" in others:
    others["momentum"] = params
  begun: dict[str, Any] = {
    "params": params,
    "objective_state": others,
    "ema_params": None,
  }
  if state.ema_params is not None:
    begun["ema_params"] = params
  # Copies: a step donates its state, and what begins as another part (a decoder
  # as the fusion layers) must not be one buffer with it.
  placed = {
    name: jax.tree.map(
      lambda x, old: jax.device_put(jnp.copy(x), old.sharding),
      value,
      getattr(state, name),
    )
    for name, value in begun.items()
  }
  return dataclasses.replace(state, **placed)
