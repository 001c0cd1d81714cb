"""Objectives: what is trained, behind one interface that the loop knows.

An objective is made from a `Config` and offers

* `init(key, example_batch) -> (params, state)`,
* `loss(params, state, batch, key) -> (loss, (state, metrics))`,
* `constrain(params) -> params`, applied after every update,
* `encode_image(params, state, images)` and `encode_text(params, state,
  tokens)`, for evaluation.

The loop knows no objective by name; `create` does.
"""

import functools
import json
import math
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from contrastive_jax import losses, models
from contrastive_jax.data import augment
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import sharding

Params = Mapping[str, Any]
Batch = Mapping[str, jax.Array]

# What a key is for: draws of one purpose never depend on those of another.
_AUGMENT, _AUGMENT_AGAIN, _DROPOUT = range(3)


class Objective(Protocol):
  """What the loop asks of an objective; see the module's docstring."""

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

  def encode_text(
    self, params: Params, state: Params, tokens: jax.Array
  ) -> jax.Array:
    """Token rows -> unit-norm embeddings."""
    ...


class Clip:
  """Image-text contrast of a two-tower model."""

  def __init__(
    self,
    config: config_lib.Config,
    *,
    vocab_size: int,
    mesh: jax.sharding.Mesh,
  ):
    """Builds the model of `config.model` for a vocabulary and a mesh."""
    self.config = config
    self._mesh = mesh
    model = config.model
    self.model = models.create_model(
      model.preset,
      vocab_size=vocab_size,
      image_size=model.image_size,
      context_length=model.context_length,
      dtype=model.dtype,
      remat=model.remat,
      activation_sharding=(
        sharding.batch_sharding(mesh) if mesh.size > 1 else None
      ),
      **{
        "init_logit_scale": config.loss.init_logit_scale,
        **_overrides(model.overrides),
      },
    )
    fields = {
      name: getattr(config.augment, name)
      for name in config.augment.__dataclass_fields__
    }
    self._augment = augment.AugmentConfig(
      image_size=model.image_size, resize="squash", **fields
    )

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    """Parameters and batch statistics (if the model has any)."""
    side = self.config.model.image_size
    variables = self.model.init(
      key,
      jnp.zeros((2, side, side, 3), jnp.float32),
      jnp.asarray(batch["tokens"][:2, 0]),
    )
    params = variables["params"]
    state = {k: v for k, v in variables.items() if k != "params"}
    if state and self.config.microbatches > 1:
      raise ValueError(
        "config.microbatches > 1 would change the meaning of the batch"
        f" normalisation in preset {self.config.model.preset!r}: use 1, or"
        " a model without it."
      )
    return params, state

  def loss(
    self, params: Params, state: Params, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, tuple[Params, dict[str, jax.Array]]]:
    """The configured contrastive loss of a batch, averaged over captions."""
    images = batch["image"]
    inputs = {
      "image": self.augmented(jax.random.fold_in(key, _AUGMENT), images),
      "text": batch["tokens"],
    }
    if self.config.loss.name == "clip_four_term":
      inputs["image_augmented"] = self.augmented(
        jax.random.fold_in(key, _AUGMENT_AGAIN), images
      )
    features, state = self._encode(
      params, state, inputs, jax.random.fold_in(key, _DROPOUT)
    )
    scale = jnp.exp(params["log_logit_scale"])
    groups = batch["concept_id"] if self.config.loss.group_positives else None
    values = self.contrast(features, scale, params["logit_bias"], groups)
    metrics = {
      "logit_scale": scale,
      "image_embedding": jnp.sum(features["image"] ** 2),
      "text_embedding": jnp.sum(features["text"] ** 2),
    }
    return jnp.mean(values), (state, metrics)

  def constrain(self, params: Params) -> Params:
    """Clamps the logit scale."""
    maximum = math.log(self.config.loss.max_logit_scale)
    return {
      **params,
      "log_logit_scale": losses.clamp_logit_scale(
        params["log_logit_scale"], maximum=maximum
      ),
    }

  def encode_image(
    self, params: Params, state: Params, images: jax.Array
  ) -> jax.Array:
    """uint8 [N, H, W, 3] -> float32 [N, d] of unit norm."""
    # pyrefly: ignore[bad-return]
    return self.model.apply(
      {"params": params, **state},
      augment.preprocess_batch(images, self._augment),
      method="encode_image",
    )

  def encode_text(
    self, params: Params, state: Params, tokens: jax.Array
  ) -> jax.Array:
    """int32 [N, L] -> float32 [N, d] of unit norm."""
    # pyrefly: ignore[bad-return]
    return self.model.apply(
      {"params": params, **state}, tokens, method="encode_text"
    )

  def augmented(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """uint8 [N, H, W, 3] -> float32 [N, S, S, 3], changed at random."""
    positions = jnp.arange(images.shape[0], dtype=jnp.int32)
    return augment.augment_batch(key, images, positions, self._augment)

  def _encode(self, params, state, inputs, key):
    """Unit-norm features of all inputs, encoded in microbatches."""

    def encode(params, state, part, key):
      out, variables = {}, state
      for name, x in part.items():
        tower = name.removesuffix("_augmented")
        # All captions of the examples at once: [B, K, L] -> [B * K, L].
        rows = x.reshape(-1, x.shape[-1]) if tower == "text" else x
        features, updates = self.model.apply(
          {"params": params, **variables},
          rows,
          train=True,
          rngs={"dropout": jax.random.fold_in(key, len(out))},
          mutable=list(state),
          method=f"encode_{tower}",
        )
        out[name] = features.reshape(
          *x.shape[: x.ndim - (1 if tower == "text" else 3)], -1
        )
        variables = {**variables, **updates}
      return out, variables

    count = self.config.microbatches
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

  def contrast(
    self,
    features: Mapping[str, jax.Array],
    scale: jax.Array,
    bias: jax.Array,
    groups: jax.Array | None,
  ) -> jax.Array:
    """Per-example loss of the global batch, mapped over the mesh."""
    config = self.config.loss
    options: dict[str, Any] = {"block_size": config.block_size or "auto"}
    if self._mesh.size > 1:
      options["axes"] = sharding.DATA_AXES
    names = list(features)

    def image_text(scale, bias, groups, image, text):
      shared = {"group_ids": groups, **options}
      if config.name == "decoupled":
        decoupled = functools.partial(
          losses.decoupled, temperature=1.0 / scale, **shared
        )
        return 0.5 * (decoupled(image, text) + decoupled(text, image))
      if config.name == "sigmoid":
        return losses.sigmoid(
          image, text, logit_scale=scale, logit_bias=bias, **shared
        )
      return losses.clip(
        image,
        text,
        logit_scale=scale,
        label_smoothing=config.label_smoothing,
        **shared,
      )

    def per_example(scale, bias, groups, *arrays):
      named = dict(zip(names, arrays))
      image, texts = named["image"], jnp.unstack(named["text"], axis=1)
      if config.name == "clip_four_term":
        values = losses.clip_four_term(
          image,
          texts[0],
          named["image_augmented"],
          texts[1],
          logit_scale=scale,
          group_ids=groups,
          **options,
        )
      else:
        terms = [image_text(scale, bias, groups, image, text) for text in texts]
        values = sum(terms[1:], terms[0]) / len(terms)
      if config.image_image:
        # Neighbouring rows show one concept.
        within = losses.nt_xent(
          image[0::2],
          image[1::2],
          temperature=1.0 / scale,
          group_ids=None if groups is None else groups[0::2],
          **options,
        )
        values += config.image_image * within.reshape(2, -1).T.reshape(-1)
      return values

    args = (scale, bias, groups, *features.values())
    if self._mesh.size == 1:
      return per_example(*args)
    rows, whole = PartitionSpec(sharding.DATA_AXES), PartitionSpec()
    return jax.shard_map(
      per_example,
      mesh=self._mesh,
      in_specs=(
        whole,
        whole,
        None if groups is None else rows,
        *(rows for _ in names),
      ),
      out_specs=rows,
    )(*args)


def create(
  config: config_lib.Config, *, vocab_size: int, mesh: jax.sharding.Mesh
) -> Clip:
  """The objective of a configuration.

  Args:
    config: the run.
    vocab_size: of the data's tokenizer.
    mesh: the devices.

  Returns:
    The objective.
  """
  return Clip(config, vocab_size=vocab_size, mesh=mesh)


def _overrides(text: str) -> dict[str, Any]:
  if not text:
    return {}
  try:
    values = json.loads(text)
  except json.JSONDecodeError as error:
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
  if "vocab_size" in values:
    raise config_lib.ConfigError(
      "config.model.overrides must not hold 'vocab_size': the tokenizer of"
      " the data decides it."
    )
  return values
