"""Checks of fields of several groups of a configuration."""

from typing import Any

from contrastive_jax.data.sets.choices import DATA_SETS
from contrastive_jax.training.config.errors import ConfigError
from contrastive_jax.training.objectives.choices import OBJECTIVES
from contrastive_jax.training.objectives.contrasts import (
  LOSSES,
  TEMPERATURE_MODES,
)
from contrastive_jax.training.objectives.views import OTHER_VIEWS
from contrastive_jax.training.runs.initial_choices import INITIAL


def check(config: Any) -> None:
  """Raises `ConfigError` on fields that do not go together."""
  name = OBJECTIVES.name_of(config.objective)
  objective = config.objective
  for group, kind, value, allowed in (
    ("loss", LOSSES, config.loss, objective.losses),
    (
      "loss.temperature_mode",
      TEMPERATURE_MODES,
      getattr(config.loss, "temperature_mode", None),
      objective.temperature_modes,
    ),
    ("other_view", OTHER_VIEWS, config.other_view, objective.other_views),
  ):
    chosen = value and kind.name_of(value)
    # A variant of the user's own goes with every objective.
    if chosen in kind.variants and chosen not in allowed:
      raise ConfigError(
        f"config.{group} must be one of {', '.join(allowed)} for"
        f" config.objective={name}; got {chosen!r}."
      )
  _check_data(config, name)
  _check_numbers(config)
  _check_beginning(config, name)
  _check_evaluators(config, name)
  try:
    objective.check_run(config)
  except ConfigError:
    raise
  except ValueError as error:
    raise ConfigError(str(error)) from error


def _check_data(config: Any, objective: str) -> None:
  task, data = config.objective.task, config.data
  if task not in data.tasks:
    fitting = [
      other
      for other in DATA_SETS.variants
      if task in DATA_SETS.find(other).tasks
    ]
    raise ConfigError(
      f"config.objective={objective} needs config.data={', '.join(fitting)}; got"
      f" {DATA_SETS.name_of(data)!r}."
    )


def _check_numbers(config: Any) -> None:
  parts = config.microbatches or 1
  if config.batch_size % parts:
    raise ConfigError(
      f"config.microbatches must divide config.batch_size ({config.batch_size});"
      f" got {parts}."
    )
  validates = any(
    getattr(evaluator, "every", 0)
    for evaluator in config.evaluation.evaluators.values()
  )
  if config.keep_best and not validates:
    raise ConfigError(
      "config.keep_best needs validations: set the steps between two of them,"
      " config.evaluation.NAME.every, above 0."
    )


def _check_beginning(config: Any, objective: str) -> None:
  beginning = config.initial and INITIAL.name_of(config.initial)
  if beginning != "run":
    return
  if config.initial.part != "all" and not config.objective.fuses:
    raise ConfigError(
      "config.initial.part is for objectives of fusion models; got"
      f" config.objective={objective!r}."
    )
  if config.tokenizer:
    raise ConfigError(
      "config.tokenizer must be empty with config.initial=run, which brings its"
      f" vocabulary; got {config.tokenizer!r}."
    )


def _check_evaluators(config: Any, objective: str) -> None:
  separated = config.structure and "separation" in config.structure.terms
  for evaluator, chosen in config.evaluation.evaluators.items():
    allowed = getattr(chosen, "objectives", OBJECTIVES.variants)
    if objective in OBJECTIVES.variants and objective not in allowed:
      raise ConfigError(
        f"config.evaluation={evaluator} is for config.objective="
        f"{', '.join(allowed)}; got {objective!r}."
      )
    if getattr(chosen, "concatenated", False) and not separated:
      raise ConfigError(
        f"config.evaluation.{evaluator}.concatenated needs"
        " config.structure=separation, which gives the second head."
      )
