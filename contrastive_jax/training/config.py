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
from contrastive_jax.training.fields import (
  Augment,
  Config,
  Data,
  Evaluation,
  Fusion,
  Loss,
  Model,
  Optimizer,
  Ssl,
  Structure,
)

__all__ = [
  "Augment",
  "Config",
  "ConfigError",
  "Data",
  "Evaluation",
  "Fusion",
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
]


class UserError(ValueError):
  """A mistake that the user can put right, told in one sentence.

  Programs print it without a stack trace; any other `ValueError` is a bug.
  """


class ConfigError(UserError):
  """A field of the configuration is unknown or has a wrong value."""


# Those of fusion models; the ones after the first take questions and statements.
FUSION_OBJECTIVES = ("albef", "vqa", "nlvr2", "text_assignment", "entailment")
# The losses of each objective; the first one is the usual one.
_LOSSES = {
  "clip": ("clip", "clip_four_term", "decoupled", "sigmoid", "augmented"),
  "simclr": ("nt_xent", "augmented"),
  "moco_v3": ("moco_v3", "decoupled", "augmented"),
  "albef": ("soft_target", "augmented"),
  "vqa": ("cross_entropy",),
  "nlvr2": ("cross_entropy",),
  "text_assignment": ("cross_entropy",),
  "entailment": ("cross_entropy",),
}


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
  _check_loss(config)
  _check_structure(config)
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
  if not any(
    (
      config.data.name_weight,
      config.data.keyword_weight,
      config.data.keywords_weight,
      config.data.prompt_weight,
      config.data.full_weight,
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
  found = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
  return last[0] if last else found[0]


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


def _check_loss(config: Config) -> None:
  """Raises on fields of the loss that do not go together."""
  loss, objective = config.loss, config.objective
  allowed = _LOSSES[objective]
  if loss.name not in allowed:
    raise ConfigError(
      f"config.objective={objective!r} takes config.loss.name="
      f"{', '.join(allowed)}; got {loss.name!r}: set config.loss={allowed[0]}."
    )
  if loss.init_logit_scale > loss.max_logit_scale:
    raise ConfigError(
      f"config.loss.init_logit_scale must be at most"
      f" config.loss.max_logit_scale ({loss.max_logit_scale}); got"
      f" {loss.init_logit_scale}."
    )
  if loss.label_smoothing and loss.name != "clip":
    raise ConfigError(
      "config.loss.label_smoothing needs config.loss.name='clip'; got"
      f" {loss.name!r}: set config.loss.label_smoothing=0."
    )
  images = config.data.images_per_concept
  if loss.image_image and images % 2:
    raise ConfigError(
      "config.loss.image_image needs an even config.data.images_per_concept;"
      f" got {images}."
    )
  if config.initial.workdir and objective not in FUSION_OBJECTIVES:
    raise ConfigError(
      "config.initial.workdir is for objectives of fusion models; got"
      f" config.objective={objective!r}: leave it empty."
    )
  _check_weights(config)
  _check_frozen(config)
  if config.initial.part != "all" and not config.initial.workdir:
    raise ConfigError(
      f"config.initial.part={config.initial.part!r} needs"
      " config.initial.workdir, the workdir of the run to take it from."
    )
  if loss.temperature in ("robust", "individual") and loss.name != "augmented":
    raise ConfigError(
      f"config.loss.temperature={loss.temperature!r} needs"
      f" config.loss.name='augmented'; got {loss.name!r}."
    )
  if objective == "clip":
    return
  if objective in FUSION_OBJECTIVES:
    _check_fusion(config)
    return
  if loss.temperature != "fixed":
    raise ConfigError(
      f"config.objective={objective!r} has a fixed temperature,"
      " 1 / config.loss.init_logit_scale: set config.loss.temperature=fixed;"
      f" got {loss.temperature!r}."
    )
  if images not in (1, 2):
    raise ConfigError(
      f"config.objective={objective!r} takes two views of an example:"
      " config.data.images_per_concept must be 1 (two augmentations) or 2 (two"
      f" images of a concept); got {images}."
    )
  if loss.name == "augmented" and loss.e_step == "amortized":
    raise ConfigError(
      "config.loss.e_step='amortized' needs config.objective='clip'; got"
      f" {objective!r}: set config.loss.e_step=conjugate."
    )


def _check_frozen(config: Config) -> None:
  """Raises on towers that cannot be frozen."""
  frozen, initial = config.model.frozen_towers, config.initial
  for side in frozen:
    if side not in ("image", "text"):
      raise ConfigError(
        f"config.model.frozen must be some of image, text; got {side!r}."
      )
    if not (initial.weights or getattr(initial, f"{side}_weights")):
      raise ConfigError(
        f"config.model.frozen={config.model.frozen!r} needs weights for the {side}"
        f" tower: config.initial.{side}_weights, or config.initial.weights."
      )
  if frozen and config.objective != "clip":
    raise ConfigError(
      "config.model.frozen is for config.objective='clip'; got"
      f" {config.objective!r}: leave it empty."
    )
  if not config.model.cache_features:
    return
  if set(frozen) != {"image", "text"}:
    raise ConfigError(
      "config.model.cache_features needs config.model.frozen=image,text; got"
      f" {config.model.frozen!r}."
    )
  if config.augmented_sides:
    raise ConfigError(
      "config.model.cache_features knows no other views of images and texts: set"
      " the terms of config.structure that take them to 0."
    )


def _check_weights(config: Config) -> None:
  """Raises on published weights where there can be none."""
  initial = config.initial
  towers = {
    "image_weights": initial.image_weights,
    "text_weights": initial.text_weights,
  }
  given = [name for name, value in towers.items() if value]
  if initial.weights:
    given.append("weights")
  if given and config.objective not in ("clip", *FUSION_OBJECTIVES):
    raise ConfigError(
      f"config.initial.{given[0]} is for two-tower and fusion models; got"
      f" config.objective={config.objective!r}: leave it empty."
    )
  others = [name for name in given if name != "weights"]
  if initial.weights and others:
    raise ConfigError(
      "config.initial.weights is of the whole model; leave"
      f" config.initial.{others[0]} empty."
    )
  if initial.workdir and (given or config.model.tokenizer):
    other = f"config.initial.{given[0]}" if given else "config.model.tokenizer"
    raise ConfigError(
      f"config.initial.workdir and {other} exclude each other: leave one empty."
    )
  if config.model.tokenizer and config.objective in ("simclr", "moco_v3"):
    raise ConfigError(
      "config.model.tokenizer is for models with texts; got config.objective="
      f"{config.objective!r}: leave it empty."
    )
  for kind in initial.allowed:
    if kind not in ("missing", "unexpected", "misshapen"):
      raise ConfigError(
        "config.initial.allow must be some of missing, unexpected, misshapen;"
        f" got {kind!r}."
      )
  if initial.allowed and not given:
    raise ConfigError(
      f"config.initial.allow={initial.allow!r} needs config.initial.weights,"
      " image_weights or text_weights."
    )


def _check_fusion(config: Config) -> None:
  """Raises on fields that objectives of fusion models do not know."""
  objective = config.objective
  if config.loss.temperature not in ("learned", "fixed"):
    raise ConfigError(
      f"config.objective={objective!r} takes config.loss.temperature=learned,"
      f" fixed; got {config.loss.temperature!r}."
    )
  if config.loss.name == "augmented" and config.loss.image_image:
    raise ConfigError(
      f"config.loss.image_image is for config.objective='clip'; got"
      f" {objective!r}: set it to 0."
    )
  for name, most in (("captions_per_example", 1), ("images_per_concept", 1)):
    if getattr(config.data, name) != most:
      raise ConfigError(
        f"config.objective={objective!r} takes config.data.{name}=1; got"
        f" {getattr(config.data, name)}."
      )
  block = config.fusion.negative_block
  if block and config.batch_size % block:
    raise ConfigError(
      "config.fusion.negative_block must divide config.batch_size"
      f" ({config.batch_size}); got {block}."
    )
  if config.evaluation.benchmarks and objective != "albef":
    raise ConfigError(
      f"config.evaluation.benchmarks is not for config.objective={objective!r},"
      " which embeds no images: leave it empty."
    )
  if objective == "albef" and not any(
    (config.fusion.contrast, config.fusion.matching, config.fusion.language)
  ):
    raise ConfigError(
      "One of config.fusion.contrast, matching and language must be above 0."
    )


def _check_structure(config: Config) -> None:
  """Raises on regularisers that do not go together with the rest."""
  structure = config.structure
  if structure.active and config.objective not in ("clip", "albef"):
    raise ConfigError(
      "config.structure is for config.objective='clip' and 'albef'; got"
      f" {config.objective!r}: set its weights to 0."
    )
  if (
    structure.active
    and config.objective == "albef"
    and structure.source != "momentum"
  ):
    raise ConfigError(
      "config.objective='albef' takes other views' features from its momentum"
      " model: set config.structure.source=momentum; got"
      f" {structure.source!r}."
    )
  if config.objective == "albef" and structure.independent_head != "linear":
    raise ConfigError(
      "config.objective='albef' has linear second heads: set"
      " config.structure.independent_head=linear; got"
      f" {structure.independent_head!r}."
    )
  low, high = structure.bridge_time
  inside = structure.bridge_weighted
  if not (0 < low <= high < 1 if inside else 0 <= low <= high <= 1):
    where = "inside of (0, 1) when bridge_weighted" if inside else "in [0, 1]"
    raise ConfigError(
      "config.structure.bridge_time must be two rising numbers"
      f" {where}; got ({low:g}, {high:g})."
    )
  if config.evaluation.concatenated and not structure.separation:
    raise ConfigError(
      "config.evaluation.concatenated needs config.structure.separation above"
      " 0, which gives the second head; got 0."
    )


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
