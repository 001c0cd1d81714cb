"""What a run is made of, as frozen dataclasses; parsed once, then only read.

`default_config()` gives the same as a `ml_collections.ConfigDict`, which config
files change and flags override; `parse` turns that back and refuses what is
unknown, mistyped or out of range with one sentence.
"""

import dataclasses
import difflib
import json
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from contrastive_jax import models


class UserError(ValueError):
  """A mistake that the user can put right, told in one sentence.

  Programs print it without a stack trace; any other `ValueError` is a bug.
  """


class ConfigError(UserError):
  """A field of the configuration is unknown or has a wrong value."""


def _field(default: Any, doc: str, **checks: Any) -> Any:
  return dataclasses.field(default=default, metadata={"doc": doc, **checks})


@dataclasses.dataclass(frozen=True)
class Data:
  """The data set."""

  name: str = _field("emoji", "Data set.", choices=("emoji", "folder"))
  path: str = _field("", "With name=folder: the folder with captions.jsonl.")
  data_dir: str = _field("", "Where prepared data is kept; empty: user cache.")
  languages: str = _field(
    "en,de,es,fr,ja,zh", "Languages of the captions, comma-separated."
  )
  main_language_share: float = _field(
    0.5, "Share of captions in the first language.", low=0.0, high=1.0
  )
  name_weight: float = _field(0.3, "Weight of names as captions.", low=0.0)
  keyword_weight: float = _field(0.2, "Weight of one keyword.", low=0.0)
  keywords_weight: float = _field(0.0, "Weight of several keywords.", low=0.0)
  full_weight: float = _field(
    0.4, "Weight of names with keywords as captions.", low=0.0
  )
  prompt_weight: float = _field(0.1, "Weight of names in a prompt.", low=0.0)
  captions_per_example: int = _field(
    1,
    "Captions of an image in a step; the first is in the first language.",
    low=1,
  )
  images_per_concept: int = _field(
    1, "Rows of a batch that show one concept.", low=1
  )
  max_bad_share: float = _field(
    0.05, "Folder: share of bad rows that stops.", low=0.0, high=1.0
  )
  vocab_size: int = _field(
    8192, "Folder: size of the vocabulary that is learned.", low=259
  )
  num_threads: int = _field(2, "Threads that read ahead.", low=1)


@dataclasses.dataclass(frozen=True)
class Augment:
  """Random changes of training images, on the device."""

  random_resized_crop: bool = _field(True, "Crop a random box.")
  crop_scale: tuple[float, float] = _field(
    (0.5, 1.0), "Range of the box's share of the area."
  )
  crop_ratio: tuple[float, float] = _field(
    (0.75, 1.3333333), "Range of the box's width / height."
  )
  flip: float = _field(0.0, "Probability of a left-right flip.", low=0, high=1)
  color_jitter: float = _field(
    0.8, "Probability of the colour jitter.", low=0, high=1
  )
  brightness: float = _field(0.3, "Strength.", low=0)
  contrast: float = _field(0.3, "Strength.", low=0)
  saturation: float = _field(0.3, "Strength.", low=0)
  hue: float = _field(0.0, "Strength, in turns.", low=0, high=0.5)
  grayscale: float = _field(0.0, "Probability.", low=0, high=1)
  blur: float = _field(0.0, "Probability.", low=0, high=1)
  randaugment_num_ops: int = _field(0, "RandAugment steps; 0 is off.", low=0)
  randaugment_magnitude: float = _field(7.0, "Out of 10.", low=0, high=10)


@dataclasses.dataclass(frozen=True)
class Model:
  """The two-tower model."""

  preset: str = _field("tiny", "Name in contrastive_jax.models.PRESETS.")
  image_size: int = _field(
    0, "Side of the images, pixels; 0 is the preset's own.", low=0
  )
  context_length: int = _field(
    0, "Tokens of a caption; 0 is the preset's own.", low=0
  )
  dtype: str = _field(
    "float32", "Compute type.", choices=("float32", "bfloat16")
  )
  remat: bool = _field(False, "Recompute activations backwards.")
  overrides: str = _field(
    "", 'Fields of the preset as JSON, e.g. {"image": {"widths": [32, 64]}}.'
  )


@dataclasses.dataclass(frozen=True)
class Loss:
  """The training loss."""

  name: str = _field(
    "clip",
    "Loss.",
    choices=("clip", "clip_four_term", "decoupled", "sigmoid"),
  )
  group_positives: bool = _field(
    True, "Rows of one concept are positives of each other."
  )
  label_smoothing: float = _field(
    0.0, "Share of the uniform target; name=clip only.", low=0.0, high=0.999
  )
  image_image: float = _field(
    0.0,
    "Weight of NT-Xent between a concept's images; needs"
    " data.images_per_concept=2.",
    low=0.0,
  )
  init_logit_scale: float = _field(14.2857, "Initial 1/temperature.", low=1)
  max_logit_scale: float = _field(100.0, "Bound of 1/temperature.", low=1)
  block_size: int = _field(0, "Rows formed at once; 0 decides by size.", low=0)


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """AdamW with warm-up and cosine decay."""

  learning_rate: float = _field(1e-3, "Peak.", low=0)
  warmup_share: float = _field(0.1, "Share of the steps.", low=0, high=1)
  final_share: float = _field(0.0, "Last rate over peak.", low=0, high=1)
  weight_decay: float = _field(0.1, "On matrices only.", low=0)
  # With 1 nothing new would ever count, and the bias correction divide by 0.
  beta1: float = _field(0.9, "First moment.", low=0, high=0.999999)
  beta2: float = _field(0.98, "Second moment.", low=0, high=0.999999)
  clip_norm: float = _field(1.0, "Gradient norm bound; 0 is off.", low=0)
  ema_decay: float = _field(
    0.0, "Average of the parameters for evaluation; 0 is off.", low=0, high=1
  )


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Evaluators; a cadence of 0 means at the end only."""

  batch_size: int = _field(512, "Images at once.", low=1)
  retrieval_every: int = _field(200, "Steps between validations.", low=0)
  final: bool = _field(True, "Evaluate everything at the end.")
  plots: bool = _field(True, "Draw plots at the end.")


@dataclasses.dataclass(frozen=True)
class Config:
  """A training run."""

  seed: int = _field(0, "Of everything random.", low=0, high=2**31 - 2)
  steps: int = _field(1000, "Training steps.", low=1)
  batch_size: int = _field(256, "Examples a step, over all devices.", low=1)
  fsdp: bool = _field(
    False, "Split large parameters and moments over all devices."
  )
  microbatches: int = _field(
    1, "Parts that encoders take one by one; the loss is exact.", low=1
  )
  log_every: int = _field(20, "Steps between log lines.", low=1)
  checkpoint_every: int = _field(200, "Steps between checkpoints.", low=1)
  keep_checkpoints: int = _field(2, "Newest checkpoints kept.", low=1)
  data: Data = Data()
  augment: Augment = Augment()
  model: Model = Model()
  loss: Loss = Loss()
  optimizer: Optimizer = Optimizer()
  evaluation: Evaluation = Evaluation()

  @property
  def captions_per_example(self) -> int:
    """Captions of an image in a step: the four-term loss takes two."""
    least = 2 if self.loss.name == "clip_four_term" else 1
    return max(least, self.data.captions_per_example)

  def to_dict(self) -> dict[str, Any]:
    """Nested plain values, as they are written to `config.json`."""
    return json.loads(json.dumps(dataclasses.asdict(self)))


def default_config() -> ml_collections.ConfigDict:
  """The default run, to be changed by a config file."""
  return ml_collections.ConfigDict(dataclasses.asdict(Config()))


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
  config = _parse(Config, values, "")
  if config.batch_size % config.microbatches:
    raise ConfigError(
      f"config.microbatches must divide config.batch_size"
      f" ({config.batch_size}); got {config.microbatches}."
    )
  if config.loss.init_logit_scale > config.loss.max_logit_scale:
    raise ConfigError(
      f"config.loss.init_logit_scale must be at most"
      f" config.loss.max_logit_scale ({config.loss.max_logit_scale}); got"
      f" {config.loss.init_logit_scale}."
    )
  if config.loss.label_smoothing and config.loss.name != "clip":
    raise ConfigError(
      "config.loss.label_smoothing needs config.loss.name='clip'; got"
      f" {config.loss.name!r}: set config.loss.label_smoothing=0."
    )
  images = config.data.images_per_concept
  if config.loss.image_image and images % 2:
    raise ConfigError(
      "config.loss.image_image needs an even config.data.images_per_concept;"
      f" got {images}."
    )
  if config.loss.name == "clip_four_term" and (
    config.data.captions_per_example > 2
  ):
    raise ConfigError(
      "config.loss.name='clip_four_term' takes two captions; got"
      " config.data.captions_per_example="
      f"{config.data.captions_per_example}: set"
      " config.data.captions_per_example=2."
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
  return dataclasses.replace(config, model=_resolve(config.model))


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


def _resolve(model: Model) -> Model:
  """The model with its preset's sizes where the fields are 0."""
  if model.preset not in models.PRESETS:
    names = list(models.PRESETS)
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
  preset = models.PRESETS[model.preset]
  return dataclasses.replace(
    model,
    image_size=model.image_size or preset.image_size,
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
      raise ConfigError(
        f"config.{prefix}{name} is not a field; did you mean"
        f" config.{nearest(f'{prefix}{name}')}?"
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
