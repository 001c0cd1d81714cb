"""Runs that begin with the parameters of another one, or published ones."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from contrastive_jax import models
from contrastive_jax.data.files import stores
from contrastive_jax.data.text import published_tokenizers
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from contrastive_jax.inference import description as description_lib
from contrastive_jax.inference import folder as folder_lib
from contrastive_jax.models import pretrained, warm_start
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.runs import initial_choices
from contrastive_jax.training.trainer import checkpoints
from contrastive_jax.training.trainer import state as state_lib
from contrastive_jax.training.types import Report


def workdir_of(initial: Any) -> pathlib.Path | None:
  """The workdir or model's folder that a run begins with; None if there is none.

  Args:
    initial: a variant of `INITIAL`, or None.

  Raises:
    ConfigError: if it holds neither a finished run nor a model.
  """
  if not isinstance(initial, initial_choices.Run):
    return None
  path = pathlib.Path(stores.local(initial.workdir)).expanduser()
  if (path / folder_lib.WEIGHTS).exists():
    return path
  for name in ("config.json", "tokenizer.json", "checkpoints", "results.json"):
    if not (path / name).exists():
      raise config_lib.ConfigError(
        "config.initial.workdir must be the workdir of a finished run, or a folder"
        f" with {folder_lib.WEIGHTS}; got {path}, which has no {name}."
      )
  return path


def take_tokenizer(initial: Any, name: str, workdir: pathlib.Path) -> None:
  """Puts the vocabulary of what the run begins with into an empty workdir.

  The parameters mean nothing under another one. A run that has begun has what it
  needs, wherever the earlier one is now.

  Args:
    initial: a variant of `INITIAL`, or None.
    name: of a published vocabulary, or a file of one; "" if there is none.
    workdir: of the run.

  Raises:
    ConfigError: if the earlier run or the vocabulary is not there.
  """
  kept = workdir / "tokenizer.json"
  if kept.exists():
    return
  earlier = workdir_of(initial)
  if earlier is not None:
    found = workdirs.read_tokenizer(earlier / "tokenizer.json")
    if found is not None:  # A model of images alone has none.
      found.save(kept)
  elif name:
    try:
      if name == "clip":
        found = published_tokenizers.clip()
      else:
        found = published_tokenizers.load(name)
    except ValueError as error:
      raise config_lib.ConfigError(f"config.tokenizer: {error}") from error
    except ImportError as error:
      raise config_lib.ConfigError(
        f"config.tokenizer={name}: {error}."
      ) from error
    found.save(kept)


def check_tokenizer(
  model: Any, tokenizer: tokenizer_lib.Tokenizer, preset: str
) -> None:
  """Raises if a model would take words for padding, or padding for words.

  Args:
    model: one without texts takes any.
    tokenizer: its vocabulary.
    preset: by which it was made.

  Raises:
    ConfigError: if they do not go together.
  """
  fuses = isinstance(model, models.FusionModel)
  if fuses and tokenizer.kind not in ("own", "bert"):
    raise config_lib.ConfigError(
      "config.tokenizer must be BERT's (or empty) for a fusion model, which"
      f" needs a start token and padding that is no word; got {tokenizer.kind}'s."
    )
  side = model if fuses else getattr(model, "text", None)
  expected = getattr(side, "pad_id", tokenizer.pad_id)
  if expected != tokenizer.pad_id:
    raise config_lib.ConfigError(
      f"The vocabulary pads texts with id {tokenizer.pad_id}, but the text tower of"
      f" config.model.preset={preset!r} takes id {expected} for"
      " padding: set config.tokenizer to the vocabulary of that model, or"
      ' config.model.overrides to {"text": {"pad_id": N}}.'
    )


def check(
  initial: Any, model: nn.Module, abstract: state_lib.TrainState
) -> None:
  """Raises unless a run can begin with what it is told to.

  Only the forms of an earlier run are read.

  Args:
    initial: a variant of `INITIAL`, or None.
    model: of the run.
    abstract: the form of its state.

  Raises:
    ConfigError: if the earlier run or the weights are not there, or of another form.
    CheckpointError: if the earlier run's checkpoint cannot be read.
  """
  workdir = workdir_of(initial)
  if workdir is not None:
    ours = variables(abstract.params, abstract.objective_state)
    try:
      jax.eval_shape(
        lambda theirs, ours: _begun(initial, model, theirs, ours)[0],
        _forms(workdir),
        ours,
      )
    except ValueError as error:
      raise config_lib.ConfigError(
        f"config.initial.workdir: {error}"
      ) from error
  elif isinstance(initial, initial_choices.Weights):
    found = variables(abstract.params, abstract.objective_state)
    published_variables(initial, model, found)


def published_variables(
  initial: initial_choices.Weights,
  model: Any,
  found: dict[str, Any],
  report: Report = lambda line: None,
) -> dict[str, Any]:
  """A model's variables, with published weights where the choice has them.

  Args:
    initial: names the weights.
    model: of the run.
    found: its variables, or their shapes: those are 0 where nothing is published.
    report: receives what was left out or resampled.

  Raises:
    ConfigError: if the weights are not there, or of another form.
  """

  def value(x: Any) -> Any:
    if not isinstance(x, jax.ShapeDtypeStruct):
      return x
    # One value for all of a shape takes no memory.
    return np.broadcast_to(np.zeros((), np.float32), x.shape)

  found = jax.tree.map(value, found)
  for field, load in {
    "weights": pretrained.load,
    "image_weights": pretrained.load_image,
    "text_weights": pretrained.load_text,
  }.items():
    if not getattr(initial, field):
      continue
    path = os.path.expanduser(stores.local(getattr(initial, field)))
    try:
      found, notes = load(model, path, found, allow=initial.allow)
    except (pretrained.PretrainedError, pretrained.WeightFileError) as error:
      raise config_lib.ConfigError(
        f"config.initial.{field}: {error}"
      ) from error
    for kind, names in dataclasses.asdict(notes).items():
      if names:
        report(f"{path}: {kind}: {', '.join(names)}.")
  return found


def variables(params: Any, objective_state: Any) -> dict[str, Any]:
  """A model's variables: its parameters, and its collections in a state."""
  return {"params": params, **objective_state.get("model", {})}


def _begun(
  initial: initial_choices.Run, model: nn.Module, theirs: Any, ours: Any
) -> tuple[dict[str, Any], warm_start.Fit | None]:
  """A model's variables, begun with those of another one; raises ValueError."""
  if not isinstance(model, models.FusionModel):
    return warm_start.begin(theirs, ours)
  params = models.transfer(
    theirs["params"],
    ours["params"],
    encoders_only=initial.part == "encoders",
  )
  return {**ours, "params": params}, None


def _forms(workdir: pathlib.Path) -> Any:
  """The shapes and types of the variables in a workdir or a model's folder."""
  if (workdir / "checkpoints").is_dir():
    saved = checkpoints.Checkpoints(workdir, keep=None)
    with contextlib.closing(saved):
      return saved.variable_forms()
  return _of_folder(workdir)


def _stored(workdir: pathlib.Path, mesh: jax.sharding.Mesh) -> Any:
  """The variables in a workdir or a model's folder."""
  if (workdir / "checkpoints").is_dir():
    saved = checkpoints.Checkpoints(workdir, keep=None)
    with contextlib.closing(saved):
      return saved.variables(sharding.replicated(mesh))[1]
  return _of_folder(workdir)


def _of_folder(folder: pathlib.Path) -> Any:
  try:
    described, found = folder_lib.variables(folder)
  except folder_lib.ModelError as error:
    raise config_lib.ConfigError(f"config.initial.workdir: {error}") from error
  if described.kind == description_lib.IMAGE_TOWER:
    return {name: {"tower": part} for name, part in found.items()}
  return found


def _like(form: Any, source: Any) -> Any:
  """The parts of a tree that another one, which has fewer, has."""
  if isinstance(form, Mapping):
    return {name: _like(inner, source[name]) for name, inner in form.items()}
  return source


def begin(
  initial: Any,
  mesh: jax.sharding.Mesh,
  model: nn.Module,
  state: state_lib.TrainState,
  report: Report = print,
) -> state_lib.TrainState:
  """The state before the first step, with an earlier run's or published parameters.

  A momentum model begins as they do.

  Args:
    initial: a variant of `INITIAL`, or None; `check` has passed.
    mesh: the devices.
    model: that the state is of.
    state: as it was initialised.
    report: receives what of published weights was left out or resampled.

  Returns:
    The same state where a run begins at random.

  Raises:
    ConfigError: if the earlier run or the weights are gone since `check`.
    CheckpointError: if the earlier run's checkpoint cannot be read.
  """
  workdir = workdir_of(initial)
  begun = variables(state.params, state.objective_state)
  if workdir is not None:
    assert isinstance(initial, initial_choices.Run)
    begun, fit = _begun(initial, model, _stored(workdir, mesh), begun)
    if fit is not None:
      _tell(fit, workdir, report)
  elif isinstance(initial, initial_choices.Weights):
    begun = published_variables(initial, model, begun, report)
  else:
    return state
  params = begun.pop("params")
  others = dict(state.objective_state)
  if "model" in others:
    others["model"] = begun
  if "momentum" in others:
    # That of MoCo v3 has no predictor.
    others["momentum"] = _like(
      others["momentum"],
      {"params": params, "model": begun} if "model" in others else params,
    )
  changed: dict[str, Any] = {
    "params": params,
    "objective_state": others,
    "ema_params": None if state.ema_params is None else params,
  }
  # Copies: a step donates its state, and what begins as another part (a decoder
  # as the fusion layers) must not be one buffer with it.
  placed = {
    name: jax.tree.map(
      lambda x, old: jax.device_put(jnp.copy(x), old.sharding),
      value,
      getattr(state, name),
    )
    for name, value in changed.items()
  }
  return dataclasses.replace(state, **placed)


def _tell(fit: warm_start.Fit, workdir: pathlib.Path, report: Report) -> None:
  """Reports what of another model was taken, and what not."""
  report(f"{len(fit.taken):,} arrays are those of {workdir}.")
  for text, names in (
    ("resized to this image size", fit.resized),
    ("as initialised, as it has none of their name and shape", fit.initial),
    ("not used", fit.unused),
  ):
    if names:
      more = f" and {len(names) - 8:,} more" if len(names) > 8 else ""
      report(f"{text}: {', '.join(names[:8])}{more}.")
