"""What objectives share: their interface, views of images, microbatches."""

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from contrastive_jax.data.images import augment
from contrastive_jax.training.config import sections
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives.parts import Parts
from contrastive_jax.training.types import Batch, Params

# (params, state, inputs, key) -> features by name, new state.
Encode = Callable[..., tuple[dict[str, jax.Array], Params]]

# What a key is for: draws of one purpose never depend on those of another.
AUGMENT, AUGMENT_AGAIN, DROPOUT, AUXILIARY, BRIDGE, MOMENTUM = range(6)
QUEUE, MASKING, NEGATIVES = range(6, 9)


class Objective(Protocol):
  """An objective as the trainer and the evaluators take it.

  The loop knows no objective by name. A state's `tables` are tables of one entry
  an example: they lie split over the devices (`training.distributed.sharding`), and
  in checkpoints in the order of the examples.

  Attributes:
    has_text: whether it embeds texts.
    model: the Flax module.
    frozen: names of towers that are not trained.
  """

  has_text: bool
  model: Any
  frozen: tuple[str, ...]

  def example_batch(self) -> dict[str, np.ndarray]:
    """A batch of which `init` needs the shapes."""
    ...

  def decays(self, path: Sequence[Any]) -> bool:
    """Whether weight decay may act on the parameter at a path."""
    ...

  def adapt(
    self, optimizer: optax.GradientTransformation
  ) -> optax.GradientTransformation:
    """The optimiser for the objective's parameters: some frozen, some slower."""
    ...

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


class Trained:
  """Default answers of an objective about its optimiser."""

  frozen: tuple[str, ...] = ()

  def decays(self, path: Sequence[Any]) -> bool:
    """Whether weight decay may act on the parameter at a path."""
    del path
    return True

  def adapt(
    self, optimizer: optax.GradientTransformation
  ) -> optax.GradientTransformation:
    """The optimiser for the objective's parameters."""
    return optimizer


class Views:
  """Random and plain views of uint8 images, as the model takes them."""

  def __init__(
    self,
    settings: sections.Augment,
    image_size: int,
    *,
    second: Mapping[str, Any] = types.MappingProxyType({}),
  ):
    """Takes the changes of images, and the size of the model's.

    Args:
      settings: the changes.
      image_size: side of the model's images.
      second: probabilities in which second views differ from first ones, by the
        names of the fields; negative ones do not differ.
    """
    fields = {
      f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)
    }
    mean, std = augment.NORMALIZATIONS[fields.pop("normalization")]
    self._config = augment.AugmentConfig(
      image_size=image_size, resize="squash", mean=mean, std=std, **fields
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


def example_batch(
  parts: Parts, captions: int, *, images: tuple[int, ...] = ()
) -> dict[str, np.ndarray]:
  """Two examples of zeros: uint8 [2, ..., S, S, 3] images and int32 tokens.

  Args:
    parts: of the objective.
    captions: token rows of an image.
    images: further axes of the images, such as the two of a pair.
  """
  side, length = parts.model.image_size, parts.model.context_length
  return {
    "image": np.zeros((2, *images, side, side, 3), np.uint8),
    "tokens": np.zeros((2, captions, length), np.int32),
  }


def activation_sharding(mesh: jax.sharding.Mesh) -> Any:
  """How a model's activations lie on the mesh; None on one device."""
  return sharding.batch_sharding(mesh) if mesh.size > 1 else None


def under_patches(path: Sequence[Any]) -> bool:
  """Whether a parameter's path leads to a patch projection of a ViT."""
  names = "patch_embedding", "stem_patches"
  return any(getattr(part, "key", None) in names for part in path)


def check_microbatches(parts: Parts, collections: Params) -> None:
  """Raises if microbatches would change what the model computes.

  Args:
    parts: of the objective.
    collections: of the model, beside its parameters.

  Raises:
    ValueError: naming the field and the model.
  """
  if collections and parts.microbatches > 1:
    raise ValueError(
      "config.microbatches > 1 would change the meaning of the batch"
      f" normalisation in preset {parts.model.preset!r}: use 1, or"
      " a model without it."
    )


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
