"""Runs that begin with the parameters of another one, or published ones."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from contrastive_jax import models
from contrastive_jax.data import published_tokenizers
from contrastive_jax.data import tokenizer as tokenizer_lib
from contrastive_jax.models import pretrained
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
  """Puts the vocabulary of what the run begins with into an empty workdir.

  The parameters mean nothing under another one. A run that has begun has what it
  needs, wherever the earlier one is now.

  Args:
    config: of the run.
    workdir: of the run.

  Raises:
    ConfigError: if the earlier run or the vocabulary is not there.
  """
  kept = workdir / "tokenizer.json"
  if kept.exists():
    return
  earlier = workdir_of(config)
  if earlier is not None:
    found = workdirs.read_tokenizer(earlier / "tokenizer.json")
    assert found is not None  # `workdir_of` has looked.
    found.save(kept)
  elif config.model.tokenizer:
    _published_tokenizer(config.model.tokenizer).save(kept)


def _published_tokenizer(name: str) -> tokenizer_lib.Tokenizer:
  try:
    if name == "clip":
      return published_tokenizers.clip()
    return published_tokenizers.load(name)
  except ValueError as error:
    raise config_lib.ConfigError(f"config.model.tokenizer: {error}") from error
  except ImportError as error:
    raise config_lib.ConfigError(
      f"config.model.tokenizer={name}: {error}."
    ) from error


def check_tokenizer(
  config: config_lib.Config, model: Any, tokenizer: tokenizer_lib.Tokenizer
) -> None:
  """Raises if a model would take words for padding, or padding for words.

  Args:
    config: of the run.
    model: its model; one without texts takes any.
    tokenizer: its vocabulary.

  Raises:
    ConfigError: if they do not go together.
  """
  fuses = isinstance(model, models.FusionModel)
  if fuses and tokenizer.kind not in ("own", "bert"):
    raise config_lib.ConfigError(
      "config.model.tokenizer must be BERT's (or empty) for a fusion model, which"
      f" needs a start token and padding that is no word; got {tokenizer.kind}'s."
    )
  side = model if fuses else getattr(model, "text", None)
  expected = getattr(side, "pad_id", tokenizer.pad_id)
  if expected != tokenizer.pad_id:
    raise config_lib.ConfigError(
      f"The vocabulary pads texts with id {tokenizer.pad_id}, but the text tower of"
      f" config.model.preset={config.model.preset!r} takes id {expected} for"
      " padding: set config.model.tokenizer to the vocabulary of that model, or"
      ' config.model.overrides to {"text": {"pad_id": N}}.'
    )


def check(
  config: config_lib.Config, model: nn.Module, abstract: state_lib.TrainState
) -> None:
  """Raises unless a run can begin with what it is told to.

  Of an earlier run only forms are read.

  Args:
    config: of the run.
    model: its model.
    abstract: the form of its state.

  Raises:
    ConfigError: if the earlier run or the weights are not there, or of another form.
    CheckpointError: if the earlier run's checkpoint cannot be read.
  """
  workdir = workdir_of(config)
  if workdir is not None:
    saved = checkpoints.Checkpoints(workdir, keep=None)
    try:
      source = saved.parameter_forms()
    finally:
      saved.close()
    try:
      jax.eval_shape(_transfer(config), source, abstract.params)
    except ValueError as error:
      raise config_lib.ConfigError(
        f"config.initial.workdir: {error}"
      ) from error
  elif config.initial.has_weights:
    published_variables(config, model, abstract)


def published_variables(
  config: config_lib.Config, model: nn.Module, abstract: state_lib.TrainState
) -> dict[str, Any]:
  """A model's variables with published weights, and 0 where there are none.

  Args:
    config: of a run with `config.initial` of published weights.
    model: its model.
    abstract: the form of its state.

  Returns:
    Variables, in this process's memory.

  Raises:
    ConfigError: if the weights are not there, or of another form.
  """
  # One value for all of a shape takes no memory.
  empty = jax.tree.map(
    lambda x: np.broadcast_to(np.zeros((), np.float32), x.shape),
    _variables(abstract),
  )
  return _published(config, model, empty)


def _transfer(config: config_lib.Config) -> Callable[..., dict[str, Any]]:
  only = config.initial.part == "encoders"
  return functools.partial(models.transfer, encoders_only=only)


def _variables(state: state_lib.TrainState) -> dict[str, Any]:
  """The model's variables: parameters, and what else it has."""
  return {"params": state.params, **state.objective_state.get("model", {})}


def _published(
  config: config_lib.Config,
  model: Any,
  variables: dict[str, Any],
  report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
  """The variables with published weights where the configuration has them."""
  initial = config.initial

  for field, load in {
    "weights": pretrained.load,
    "image_weights": pretrained.load_image,
    "text_weights": pretrained.load_text,
  }.items():
    if not getattr(initial, field):
      continue
    path = os.path.expanduser(getattr(initial, field))
    try:
      variables, found = load(model, path, variables, allow=initial.allowed)
    except (pretrained.PretrainedError, pretrained.WeightFileError) as error:
      raise config_lib.ConfigError(
        f"config.initial.{field}: {error}"
      ) from error
    for kind, names in dataclasses.asdict(found).items():
      if names and report is not None:
        report(f"{path}: {kind}: {', '.join(names)}.")
  return variables


def begin(
  config: config_lib.Config,
  mesh: jax.sharding.Mesh,
  model: nn.Module,
  state: state_lib.TrainState,
  report: Callable[[str], None] = print,
) -> state_lib.TrainState:
  """The state before the first step, with an earlier run's or published parameters.

  A momentum model begins as they do.

  Args:
    config: of the run; `check` has passed.
    mesh: the devices.
    model: that the state is of.
    state: as it was initialised.
    report: receives what of published weights was left out or resampled.

  Returns:
    The same state where `config.initial` names nothing.

  Raises:
    ConfigError: if the earlier run or the weights are gone since `check`.
    CheckpointError: if the earlier run's checkpoint cannot be read.
  """
  workdir, initial = workdir_of(config), config.initial
  if workdir is not None:
    saved = checkpoints.Checkpoints(workdir, keep=None)
    try:
      source = saved.parameters(sharding.replicated(mesh))
    finally:
      saved.close()
    variables = {
      **_variables(state),
      "params": _transfer(config)(source, state.params),
    }
  elif initial.has_weights:
    variables = _published(config, model, _variables(state), report)
  else:
    return state
  params = variables.pop("params")
  others = dict(state.objective_state)
  if "model" in others:
    others["model"] = variables
  if "momentum" in others:
    others["momentum"] = (
      {"params": params, "model": variables} if "model" in others else params
    )
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
