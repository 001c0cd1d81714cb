"""What a run is made of, as frozen dataclasses; parsed once, then only read.

`default_config()` gives the same as a `ml_collections.ConfigDict`, which config
files change and flags override; `parse` turns that back and refuses what is
unknown, mistyped or out of range with one sentence.
"""

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from contrastive_jax import models
from contrastive_jax.data import benchmarks
from contrastive_jax.training.config import checks
from contrastive_jax.training.config.checks import FUSION_OBJECTIVES
from contrastive_jax.training.config.errors import ConfigError, UserError
from contrastive_jax.training.config.fields import (
  Augment,
  Config,
  Data,
  Evaluation,
  Fusion,
  Initial,
  Loss,
  Model,
  Optimizer,
  Ssl,
  Structure,
)

__all__ = [
  "FUSION_OBJECTIVES",
  "Augment",
  "Config",
  "ConfigError",
  "Data",
  "Evaluation",
  "Fusion",
  "Initial",
  "Loss",
  "Model",
  "Optimizer",
  "Ssl",
  "Structure",
  "UserError",
  "default_config",
  "fields",
  "first_difference",
  "nearest",
  "parse",
  "with_operation_of",
]


# Fields that change nothing of what is trained.
_OPERATION = (
  "log_every",
  "checkpoint_every",
  "keep_checkpoints",
  "keep_every",
  "keep_best",
)


def default_config() -> ml_collections.ConfigDict:
  """The default run, to be changed by a config file."""
  return ml_collections.ConfigDict(dataclasses.asdict(Config()))


def _with_moved(values: Mapping[str, Any]) -> Mapping[str, Any]:
  """Stored values of before a field was moved, where it is now."""
  fusion = values.get("fusion")
  if not isinstance(fusion, Mapping) or "initial" not in fusion:
    return values
  rest = {name: value for name, value in fusion.items() if name != "initial"}
  return {
    **values,
    "fusion": rest,
    "initial": {"workdir": fusion["initial"], **values.get("initial", {})},
  }


def parse(values: Mapping[str, Any]) -> Config:
  """Makes a `Config` of nested values; absent fields keep their default.

  Args:
    values: nested mapping of field names.

  Returns:
    The configuration, the sizes that a preset decides filled in.

  Raises:
    ConfigError: naming the field, what came and what was expected.
  """
  if isinstance(values, ml_collections.ConfigDict):
    values = values.to_dict()
  if not isinstance(values, Mapping):
    raise ConfigError(f"The configuration must be a mapping; got {values!r}.")
  config = _parse(Config, _with_moved(values), "")
  if config.batch_size % config.microbatches:
    raise ConfigError(
      f"config.microbatches must divide config.batch_size"
      f" ({config.batch_size}); got {config.microbatches}."
    )
  checks.check_loss(config)
  checks.check_structure(config)
  for name in config.evaluation.benchmark_names:
    if name not in benchmarks.BENCHMARKS:
      known = list(benchmarks.BENCHMARKS)
      best = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
      raise ConfigError(
        f"config.evaluation.benchmarks must be some of {', '.join(known)}; got"
        f" {name!r}. Did you mean {best[0]!r}?"
      )
  if config.data.name == "folder" and not config.data.path:
    raise ConfigError(
      "config.data=folder needs config.data.path, the folder that holds your"
      " images and captions.jsonl."
    )
  if config.data.name == "tfds" and not config.data.path:
    raise ConfigError(
      "config.data=tfds needs config.data.path, the name of a set in TFDS, such as"
      " cifar10."
    )
  if not any(
    (
      config.data.name_weight,
      config.data.keyword_weight,
      config.data.keywords_weight,
      config.data.prompt_weight,
      config.data.full_weight,
      config.data.listed_weight,
    )
  ):
    raise ConfigError("One of config.data.*_weight must be above 0.")
  presets: Mapping[str, Any] = models.PRESETS
  if config.objective in FUSION_OBJECTIVES:
    presets = models.FUSION_PRESETS
  config = dataclasses.replace(config, model=_resolve(config.model, presets))
  longest = config.fusion.answer_length - 1
  if config.objective == "vqa" and longest > config.model.context_length:
    raise ConfigError(
      "config.fusion.answer_length must be at most one more than"
      f" config.model.context_length ({config.model.context_length}); got"
      f" {config.fusion.answer_length}."
    )
  return config


def fields() -> Iterator[tuple[str, Any, str]]:
  """(dotted name, default, description) of every field."""
  for field in dataclasses.fields(Config):
    if dataclasses.is_dataclass(field.default):
      for inner in dataclasses.fields(field.default):
        yield f"{field.name}.{inner.name}", inner.default, _describe(inner)
    else:
      yield field.name, field.default, _describe(field)


def nearest(name: str) -> str:
  """The field name that is most like `name`."""
  names = [f for f, _, _ in fields()]
  # A right last part in a wrong or absent section is the usual slip.
  last = [n for n in names if n.split(".")[-1] == name.split(".")[-1]]
  # Then the same letters: two that are swapped are two edits to difflib.
  swapped = [n for n in names if sorted(n) == sorted(name)]
  found = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
  return (*last, *swapped, *found)[0]


def with_operation_of(ours: Config, theirs: Config) -> Config:
  """`theirs` with what may change while a run is stopped taken from `ours`.

  That is how often it logs and saves, what it keeps, how many threads read, and
  whether steps that are not finite are skipped.
  """
  optimizer, data = ours.optimizer, ours.data
  return dataclasses.replace(
    theirs,
    **{name: getattr(ours, name) for name in _OPERATION},
    optimizer=dataclasses.replace(
      theirs.optimizer, skip_nonfinite=optimizer.skip_nonfinite
    ),
    data=dataclasses.replace(theirs.data, num_threads=data.num_threads),
  )


def first_difference(
  ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = ""
) -> tuple[str, Any, Any] | None:
  """The first field in which two nested mappings differ, with both values."""
  for name in [*ours, *(n for n in theirs if n not in ours)]:
    a, b = ours.get(name), theirs.get(name)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
      found = first_difference(a, b, f"{prefix}{name}.")
      if found:
        return found
    elif a != b:
      return f"{prefix}{name}", a, b
  return None


def _resolve(model: Model, presets: Mapping[str, Any]) -> Model:
  """The model with its preset's sizes where the fields are 0."""
  if model.preset not in presets:
    names = list(presets)
    best = difflib.get_close_matches(model.preset, names, n=1, cutoff=0.0)
    raise ConfigError(
      f"config.model.preset must be one of {', '.join(names)}; got"
      f" {model.preset!r}; did you mean {best[0]!r}?"
    )
  if model.context_length == 1:
    raise ConfigError(
      "config.model.context_length must be 0 (the preset's own) or at least 2;"
      " got 1."
    )
  preset = presets[model.preset]
  # A fusion model has a size in its image tower alone.
  side = getattr(preset, "image_size", 0) or preset.image.image_size
  return dataclasses.replace(
    model,
    image_size=model.image_size or side,
    context_length=model.context_length or preset.context_length,
  )


def _describe(field: dataclasses.Field[Any]) -> str:
  choices = field.metadata.get("choices")
  doc = field.metadata["doc"]
  return f"{doc} One of: {', '.join(choices)}." if choices else doc


def _parse(cls: type, values: Any, prefix: str) -> Any:
  if not isinstance(values, Mapping):
    raise ConfigError(
      f"config.{prefix[:-1]} must be a group of fields; got {values!r}."
    )
  known = {f.name: f for f in dataclasses.fields(cls)}
  for name in values:
    if name not in known:
      # Of a group that is mistyped, what it holds tells most.
      inner = (
        next(iter(values[name]), "")
        if isinstance(values[name], Mapping)
        else ""
      )
      full = f"{prefix}{name}.{inner}" if inner else f"{prefix}{name}"
      raise ConfigError(
        f"config.{prefix}{name} is not a field; did you mean"
        f" config.{nearest(full)}?"
      )
  types = typing.get_type_hints(cls)
  parsed = {}
  for name, value in values.items():
    full = f"{prefix}{name}"
    if dataclasses.is_dataclass(types[name]):
      parsed[name] = _parse(types[name], value, f"{full}.")
    else:
      parsed[name] = _check(full, value, types[name], known[name].metadata)
  return cls(**parsed)


def _check(
  name: str, value: Any, wanted: Any, checks: Mapping[str, Any]
) -> Any:
  """`value` as the type of its field, within its bounds."""
  if typing.get_origin(wanted) is tuple:
    length = len(typing.get_args(wanted))
    right = isinstance(value, (tuple, list)) and len(value) == length
    if not right or not all(_is_number(v) for v in value):
      raise ConfigError(
        f"config.{name} must be {length} numbers; got {value!r}."
      )
    return tuple(float(v) for v in value)
  if wanted is float and isinstance(value, (int, float)):
    if not _is_number(value):
      raise ConfigError(f"config.{name} must be a finite number; got {value}.")
    value = float(value)
  if type(value) is not wanted:
    raise ConfigError(
      f"config.{name} must be of type {wanted.__name__}; got {value!r}."
    )
  low, high = checks.get("low", -math.inf), checks.get("high", math.inf)
  if wanted in (int, float) and not low <= value <= high:
    bound = f"at least {low}" if math.isinf(high) else f"in [{low}, {high}]"
    raise ConfigError(f"config.{name} must be {bound}; got {value!r}.")
  choices = checks.get("choices")
  if choices and value not in choices:
    best = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.0)
    raise ConfigError(
      f"config.{name} must be one of {', '.join(choices)}; got {value!r}."
      f" Did you mean {best[0]!r}?"
    )
  return value


def _is_number(value: Any) -> bool:
  return (
    isinstance(value, (int, float))
    and not isinstance(value, bool)
    and math.isfinite(value)
  )
