"""Shared parts of objectives: interface, views of images, microbatches."""

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from contrastive_jax.data.images import augment
from contrastive_jax.training.config import sections
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives.parts import Parts
from contrastive_jax.training.types import Batch, Metrics, Params

# (params, state, inputs, key) -> features by name, new state.
Encode = Callable[..., tuple[dict[str, jax.Array], Params]]

# Purposes of a key: draws of one never depend on those of another.
AUGMENT, AUGMENT_AGAIN, DROPOUT, AUXILIARY, BRIDGE, MOMENTUM = range(6)
QUEUE, MASKING, NEGATIVES = range(6, 9)


class Objective:
  """An objective as the trainer and the evaluators take it, with defaults.

  The loop knows no objective by name. A state's `tables` are tables of one entry
  an example: they lie split over the devices (`training.distributed.sharding`), and
  in checkpoints in the order of the examples.

  Attributes:
    has_text: whether it embeds texts; objectives that embed nothing lack it.
    model: the Flax module.
    frozen: names of towers that are not trained.
    heads: of `models.two_tower.HEADS` those that `encode_image` and `encode_text`
      can be asked for.
    image_method: of the model, embeds images.
  """

  has_text: bool
  model: Any
  frozen: tuple[str, ...] = ()
  heads: tuple[str, ...] = ("shared",)
  image_method: str = "encode_image"
  _parts: Parts
  _views: "Views"

  def example_batch(self) -> dict[str, np.ndarray]:
    """A batch of which `init` needs the shapes: two examples, a caption each."""
    return example_batch(self._parts, 1)

  def decays(self, path: Sequence[Any]) -> bool:
    """Whether weight decay may act on the parameter at a path."""
    del path
    return True

  def adapt(
    self, optimizer: optax.GradientTransformation
  ) -> optax.GradientTransformation:
    """The optimiser for the objective's parameters: some frozen, some slower."""
    return optimizer

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    """Parameters and state."""
    raise NotImplementedError

  def loss(
    self, params: Params, state: Params, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, tuple[Params, Metrics]]:
    """Scalar loss, and the new state with metrics."""
    raise NotImplementedError

  def constrain(self, params: Params) -> Params:
    """Parameters put back within their bounds; there are none."""
    return params

  def encode_image(
    self,
    params: Params,
    state: Params,
    images: jax.Array,
    *,
    head: str = "shared",
  ) -> jax.Array:
    """uint8 [N, H, W, 3] -> unit-norm float32 [N, d]; head `both`: [N, 2 d]."""
    return self.applied(
      params,
      state,
      self._views.plain(images),
      method=self.image_method,
      **self._of_head(head),
    )

  def encode_text(
    self,
    params: Params,
    state: Params,
    tokens: jax.Array,
    *,
    head: str = "shared",
  ) -> jax.Array:
    """int32 [N, L] -> the same; raises if there is no text side."""
    raise TypeError(f"{type(self).__name__} has no text encoder.")

  def _of_head(self, head: str) -> dict[str, str]:
    """What a model's method is told; models of one head know no name of it."""
    return {} if self.heads == ("shared",) else {"head": head}

  def applied(
    self,
    params: Params,
    state: Params,
    *inputs: jax.Array,
    method: str,
    **options: Any,
  ) -> Any:
    """Output of a method of the model in evaluation."""
    variables = {"params": params, **state["model"]}
    return self.model.apply(variables, *inputs, method=method, **options)


class Views:
  """Random and plain views of uint8 images, as the model takes them."""

  def __init__(
    self,
    settings: sections.Augment,
    image_size: int,
    *,
    plain_first: bool = False,
    second: Mapping[str, Any] = types.MappingProxyType({}),
  ):
    """Takes the changes of images, and the size of the model's.

    Args:
      settings: the changes.
      image_size: side of the model's images.
      plain_first: whether a step's first view is plain.
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
    self._plain_first = plain_first
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

  def first(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """A step's first view, as `random` or `plain`."""
    return self.plain(images) if self._plain_first else self.random(key, images)

  def random(
    self, key: jax.Array, images: jax.Array, *, second: bool = False
  ) -> jax.Array:
    """The same, each changed at random by its place in the global batch."""
    positions = jnp.arange(images.shape[0], dtype=jnp.int32)
    config = self._second if second else self._config
    return augment.augment_batch(key, images, positions, config)


def example_batch(parts: Parts, captions: int) -> dict[str, np.ndarray]:
  """Two examples of zeros: uint8 [2, S, S, 3] images and int32 tokens."""
  side, length = parts.model.image_size, parts.model.context_length
  return {
    "image": np.zeros((2, side, side, 3), np.uint8),
    "tokens": np.zeros((2, captions, length), np.int32),
  }


def create_model(
  create: Callable[..., Any], parts: Parts, **options: Any
) -> Any:
  """A model of the configured preset, sizes and types, by a function of `models`."""
  model, mesh = parts.model, parts.mesh
  options = {"vocab_size": parts.vocab_size, **options}
  return create(
    model.preset,
    image_size=model.image_size,
    context_length=model.context_length,
    dtype=model.dtype,
    remat=model.remat,
    activation_sharding=sharding.batch_sharding(mesh)
    if mesh.size > 1
    else None,
    **options,
    **model.overrides,
  )


def averaged(params: Params, average: Params, decay: float) -> Any:
  """A momentum encoder's parameters, moved towards those of a step."""
  params = jax.lax.stop_gradient(params)
  return optax.incremental_update(params, average, 1.0 - decay)


def under_patches(path: Sequence[Any]) -> bool:
  """Whether a parameter's path leads to a patch projection of a ViT."""
  names = "patch_embedding", "stem_patches"
  return any(getattr(part, "key", None) in names for part in path)


def parameters_and_state(
  parts: Parts, variables: Mapping[str, Any]
) -> tuple[Params, dict[str, Any]]:
  """A model's parameters, and its other collections as the state's `model`.

  Raises:
    ValueError: if microbatches would change what the model computes.
  """
  collections = {k: v for k, v in variables.items() if k != "params"}
  if collections and parts.microbatches > 1:
    raise ValueError(
      "config.microbatches > 1 would change the meaning of the batch"
      f" normalisation in preset {parts.model.preset!r}: use 1, or"
      " a model without it."
    )
  return variables["params"], {"model": collections}


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
    encode: see `Encode`.
    params: of the model.
    state: its collections; with more than one part they stay as they are.
    inputs: arrays [N, ...] by name.
    key: of dropout.
    count: parts; N is a multiple of it.
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
