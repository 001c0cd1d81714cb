"""What objectives share: their interface, views of images, microbatches."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from contrastive_jax._types import Batch, Params
from contrastive_jax.data import augment
from contrastive_jax.training import config as config_lib

# (params, state, inputs, key) -> features by name, new state.
Encode = Callable[..., tuple[dict[str, jax.Array], Params]]

# What a key is for: draws of one purpose never depend on those of another.
AUGMENT, AUGMENT_AGAIN, DROPOUT, AUXILIARY, BRIDGE, MOMENTUM = range(6)
QUEUE, MASKING, NEGATIVES = range(6, 9)


class Objective(Protocol):
  """What the loop asks of an objective; see the package's docstring."""

  has_text: bool
  model: Any

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    """Parameters and state."""
    ...

  def loss(
    self, params: Params, state: Params, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, tuple[Params, dict[str, jax.Array]]]:
    """Scalar loss, and the new state with metrics."""
    ...

  def constrain(self, params: Params) -> Params:
    """Parameters put back within their bounds."""
    ...

  def encode_image(
    self, params: Params, state: Params, images: jax.Array
  ) -> jax.Array:
    """uint8 images -> unit-norm embeddings."""
    ...

  def probe_features(
    self, params: Params, state: Params, images: jax.Array
  ) -> jax.Array:
    """uint8 images -> unit-norm features of all heads, side by side."""
    ...

  def encode_text(
    self, params: Params, state: Params, tokens: jax.Array
  ) -> jax.Array:
    """Token rows -> unit-norm embeddings; raises if there is no text side."""
    ...


class Views:
  """Random and plain views of uint8 images, as the model takes them."""

  def __init__(self, config: config_lib.Config):
    """Reads `config.augment` and the size of the images."""
    fields = {
      name: getattr(config.augment, name)
      for name in config.augment.__dataclass_fields__
    }
    second = {k: fields.pop(f"second_{k}") for k in ("blur", "solarize")}
    mean, std = augment.NORMALIZATIONS[fields.pop("normalization")]
    self._config = augment.AugmentConfig(
      image_size=config.model.image_size,
      resize="squash",
      mean=mean,
      std=std,
      **fields,
    )
    self._second = dataclasses.replace(
      self._config, **{k: v for k, v in second.items() if v >= 0}
    )

  def plain(self, images: jax.Array) -> jax.Array:
    """uint8 [N, H, W, 3] -> float32 [N, S, S, 3]."""
    return augment.preprocess_batch(images, self._config)

  @property
  def differ(self) -> bool:
    """Whether second views are made otherwise than first ones."""
    return self._second != self._config

  def random(
    self, key: jax.Array, images: jax.Array, *, second: bool = False
  ) -> jax.Array:
    """The same, each changed at random by its place in the global batch."""
    positions = jnp.arange(images.shape[0], dtype=jnp.int32)
    config = self._second if second else self._config
    return augment.augment_batch(key, images, positions, config)


def under_patches(path: Sequence[Any]) -> bool:
  """Whether a parameter's path leads to a patch projection of a ViT."""
  names = "patch_embedding", "stem_patches"
  return any(getattr(part, "key", None) in names for part in path)


def check_microbatches(config: config_lib.Config, collections: Params) -> None:
  """Raises if microbatches would change what the model computes.

  Args:
    config: the run.
    collections: of the model, beside its parameters.

  Raises:
    ValueError: naming the field and the model.
  """
  if collections and config.microbatches > 1:
    raise ValueError(
      "config.microbatches > 1 would change the meaning of the batch"
      f" normalisation in preset {config.model.preset!r}: use 1, or"
      " a model without it."
    )


def model_overrides(text: str) -> dict[str, Any]:
  """`config.model.overrides`, parsed.

  Args:
    text: JSON, or nothing.

  Returns:
    Fields of the preset.

  Raises:
    ConfigError: if it is no JSON object, or names what other fields decide.
  """
  if not text:
    return {}
  try:
    values = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise config_lib.ConfigError(
      f"config.model.overrides must be JSON; got {text!r} ({error})."
    ) from error
  if not isinstance(values, dict):
    raise config_lib.ConfigError(
      f"config.model.overrides must be a JSON object; got {text!r}."
    )
  for name in ("image_size", "context_length", "dtype", "remat", "preset"):
    if name in values:
      raise config_lib.ConfigError(
        f"config.model.overrides must not hold {name!r}: set"
        f" config.model.{name} instead."
      )
  for name in ("task", "pad_id", "activation_sharding", "init_temperature"):
    if name in values:
      raise config_lib.ConfigError(
        f"config.model.overrides must not hold {name!r}: the run decides it."
      )
  if "independent_head" in values:
    raise config_lib.ConfigError(
      "config.model.overrides must not hold 'independent_head': set"
      " config.structure.separation and config.structure.independent_head"
      " instead."
    )
  if "vocab_size" in values:
    raise config_lib.ConfigError(
      "config.model.overrides must not hold 'vocab_size': the tokenizer of"
      " the data decides it."
    )
  return values


def widths(name: str, text: str) -> tuple[int, ...]:
  """Comma-separated widths of layers: "128,64".

  Raises:
    ConfigError: naming the field.
  """
  parts = [part.strip() for part in text.split(",") if part.strip()]
  if not all(part.isdigit() and int(part) > 0 for part in parts):
    raise config_lib.ConfigError(
      f"config.{name} must be integers > 0, separated by commas; got {text!r}."
    )
  return tuple(map(int, parts))


def encode_in_parts(
  encode: Encode,
  params: Params,
  state: Params,
  inputs: Mapping[str, jax.Array],
  key: jax.Array,
  count: int,
) -> tuple[dict[str, jax.Array], Params]:
  """Features of a whole batch, whose encoders see `count` parts one by one.

  Args:
    encode: (params, state, inputs, key) -> features, state.
    params: of the model.
    state: its collections; with more than one part they stay as they are.
    inputs: arrays [N, ...] by name.
    key: of dropout.
    count: parts; N is a multiple of it.

  Returns:
    Arrays [N, ...] by name, and the new state.
  """
  if count == 1:
    return encode(params, state, inputs, key)
  # Row i goes to part i % count, so that every part has rows of every device.
  parts = jax.tree.map(
    lambda x: jnp.moveaxis(
      x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0
    ),
    inputs,
  )
  recomputed = jax.checkpoint(encode)

  def step(number, part):
    out, _ = recomputed(params, state, part, jax.random.fold_in(key, number))
    return number + 1, out

  _, out = jax.lax.scan(step, jnp.int32(0), parts)
  return jax.tree.map(
    lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), out
  ), state
