"""Image-text contrast of a two-tower model."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from contrastive_jax import losses, models, ops
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import base
from contrastive_jax.training.objectives.augmented_pairs import (
  AugmentedPairs,
)
from contrastive_jax.training.objectives.structure_terms import Structure

Params = base.Params
Batch = base.Batch
Features = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


class Clip:
  """Image-text contrast of a two-tower model.

  Its state holds the model's collections beside the parameters (`model`), with
  the augmented loss what the E-step knows (`auxiliary`), and a momentum encoder
  where the regularisers of `config.structure` take its features (`momentum`).
  """

  has_text = True

  def __init__(
    self,
    config: config_lib.Config,
    *,
    vocab_size: int,
    num_examples: int,
    mesh: jax.sharding.Mesh,
  ):
    """Builds the model of `config.model`; arguments as of `create`."""
    self.config = config
    self._mesh = mesh
    self._axes = sharding.data_axes(mesh)
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
        "independent_head": (
          config.structure.independent_head
          if config.structure.separation
          else None
        ),
        **base.model_overrides(model.overrides),
      },
    ).clone(frozen=model.frozen_towers)
    self._has_second_heads = config.structure.separation > 0
    self._views = base.Views(config)
    self._structure = Structure(config, mesh)
    self._has_momentum = bool(
      config.structure.source == "momentum" and config.structure.augmented_sides
    )
    self.augmented_pairs = None
    if config.loss.name == "augmented":
      self.augmented_pairs = AugmentedPairs(
        config, num_examples=num_examples, mesh=mesh
      )

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    """Parameters and the state."""
    side = self.config.model.image_size
    variables = self.model.init(
      key,
      jnp.zeros((2, side, side, 3), jnp.float32),
      jnp.asarray(batch["tokens"][:2, 0]),
    )
    params = variables["params"]
    collections = {k: v for k, v in variables.items() if k != "params"}
    base.check_microbatches(self.config, collections)
    state: dict[str, Any] = {"model": collections}
    if self._has_momentum:
      state["momentum"] = jax.tree.map(
        jnp.copy, {"params": params, "model": collections}
      )
    if self.augmented_pairs is not None:
      state["auxiliary"] = self.augmented_pairs.init(
        jax.random.fold_in(key, base.AUXILIARY), self.model.embed_dim
      )
    return params, state

  def loss(
    self, params: Params, state: Params, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, tuple[Params, Metrics]]:
    """The configured loss of a batch, averaged over captions, and its terms."""
    images = batch["image"]
    inputs = {
      "image": self.augmented(jax.random.fold_in(key, base.AUGMENT), images),
      "text": batch["tokens"],
    }
    if "image" in self.config.augmented_sides:
      inputs["image_augmented"] = self.augmented(
        jax.random.fold_in(key, base.AUGMENT_AGAIN), images
      )
    features, collections = self._encode(
      params, state["model"], inputs, jax.random.fold_in(key, base.DROPOUT)
    )
    state = {**state, "model": collections}
    views = self._views_of(features)
    # Regularisers alone take the momentum encoder's features.
    regularized = views
    if self._has_momentum:
      state["momentum"], others = self._momentum_views(
        params, state["momentum"], inputs, key
      )
      regularized = views | others
    scale = jnp.exp(params["log_logit_scale"])
    if self.config.loss.temperature in ("fixed", "individual"):
      scale = jax.lax.stop_gradient(scale)
    metrics = {
      "logit_scale": scale,
      "image_embedding": jnp.sum(features["image"] ** 2),
      "text_embedding": jnp.sum(features["text"] ** 2),
    }
    groups = batch["concept_id"] if self.config.loss.group_positives else None
    captions = features["text"][:, : self.config.data.captions_per_example]
    features = {**views, "text": captions}
    if self.augmented_pairs is None:
      values = self.contrast(features, scale, params["logit_bias"], groups)
    else:
      values, state["auxiliary"], more = self.augmented_pairs.loss(
        features,
        scale,
        groups,
        state["auxiliary"],
        batch["index"],
        jax.random.fold_in(key, base.AUXILIARY),
      )
      metrics |= more
      if self.config.loss.image_image:
        values = self._add_images(values, features["image"], scale, groups)
    loss = jnp.mean(values)
    if self.config.structure.active:
      regularizers, terms = self._structure.terms(
        regularized, scale, groups, key
      )
      metrics |= {"contrastive_loss": loss} | terms
      loss += regularizers
    return loss, (state, metrics)

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
      {"params": params, **state["model"]},
      self._views.plain(images),
      method="encode_image",
    )

  def probe_features(
    self, params: Params, state: Params, images: jax.Array
  ) -> jax.Array:
    """uint8 [N, H, W, 3] -> float32 [N, 2 d] of unit norm: [z, z'] / sqrt 2.

    Without a second head as `encode_image`.
    """
    if not self._has_second_heads:
      return self.encode_image(params, state, images)
    both: Any = self.model.apply(
      {"params": params, **state["model"]},
      self._views.plain(images),
      method="encode_image_twice",
    )
    return ops.l2_normalize(jnp.concatenate(both, axis=1))

  def encode_text(
    self, params: Params, state: Params, tokens: jax.Array
  ) -> jax.Array:
    """int32 [N, L] -> float32 [N, d] of unit norm."""
    # pyrefly: ignore[bad-return]
    return self.model.apply(
      {"params": params, **state["model"]}, tokens, method="encode_text"
    )

  def augmented(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """uint8 [N, H, W, 3] -> float32 [N, S, S, 3], changed at random.

    Features of a frozen tower, [N, 1, 1, width], stay as they are.
    """
    if self.config.model.cache_features:
      return images
    return self._views.random(key, images)

  def _encode(self, params, state, inputs, key):
    """Unit-norm features of all inputs, encoded in microbatches.

    With a second head, its features are there under the name with
    `_independent` at its end.
    """
    twice = self._has_second_heads

    def encode(params, state, part, key):
      out, variables = {}, state
      for number, (name, x) in enumerate(part.items()):
        tower = name.removesuffix("_augmented")
        # All captions of the examples at once: [B, K, L] -> [B * K, L].
        rows = x.reshape(-1, x.shape[-1]) if tower == "text" else x
        features, updates = self.model.apply(
          {"params": params, **variables},
          rows,
          train=True,
          rngs={"dropout": jax.random.fold_in(key, number)},
          mutable=list(state),
          method=f"encode_{tower}_twice" if twice else f"encode_{tower}",
        )
        heads = ("", "_independent") if twice else ("",)
        for head, feature in zip(heads, features if twice else (features,)):
          out[f"{name}{head}"] = feature.reshape(
            *x.shape[: x.ndim - (1 if tower == "text" else 3)], -1
          )
        variables = {**variables, **updates}
      return out, variables

    return base.encode_in_parts(
      encode, params, state, inputs, key, self.config.microbatches
    )

  def _views_of(self, features: Features) -> dict[str, jax.Array]:
    """One feature [B, d] an example and name, as `Structure` takes them."""
    views = {k: x for k, x in features.items() if not k.startswith("text")}
    views["text"] = features["text"][:, 0]
    independent = features.get("text_independent")
    if independent is not None:
      views["text_independent"] = independent[:, 0]
    if "text" in self.config.augmented_sides:
      # After the captions comes the view of the first.
      views["text_augmented"] = features["text"][:, -1]
      if independent is not None:
        views["text_augmented_independent"] = independent[:, -1]
    return views

  def _momentum_views(self, params, momentum, inputs, key):
    """The momentum encoder after this step's update, and its features."""
    updated: Any = optax.incremental_update(
      jax.lax.stop_gradient(params),
      momentum["params"],
      1.0 - self.config.structure.momentum,
    )
    shown = {"image": inputs["image"], "text": inputs["text"][:, :1]}
    features, collections = self._encode(
      updated,
      momentum["model"],
      {side: shown[side] for side in self.config.structure.augmented_sides},
      jax.random.fold_in(key, base.MOMENTUM),
    )
    views = {}
    for name, x in jax.lax.stop_gradient(features).items():
      side, *head = name.split("_")
      views["_".join([side, "augmented", *head])] = (
        x[:, 0] if side == "text" else x
      )
    return {"params": updated, "model": collections}, views

  def contrast(
    self,
    features: Features,
    scale: jax.Array,
    bias: jax.Array,
    groups: jax.Array | None,
  ) -> jax.Array:
    """Per-example loss of the global batch, mapped over the mesh."""
    config, options = self.config.loss, self._options()

    def image_text(scale, bias, groups, features, text):
      image = features["image"]
      shared = {"group_ids": groups, **options}
      if config.name == "clip_four_term":
        return losses.clip_four_term(
          image,
          text,
          features["image_augmented"],
          features["text_augmented"],
          logit_scale=scale,
          **shared,
        )
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

    def per_example(whole, features, groups):
      scale, bias = whole
      terms = [
        image_text(scale, bias, groups, features, text)
        for text in jnp.unstack(features["text"], axis=1)
      ]
      values = sum(terms[1:], terms[0]) / len(terms)
      return self._with_images(values, features["image"], scale, groups)

    return sharding.map_rows(per_example, self._mesh)(
      (scale, bias), dict(features), groups
    )

  def _add_images(self, values, image, scale, groups) -> jax.Array:
    """`_with_images` of the global batch, mapped over the mesh."""
    return sharding.map_rows(
      lambda scale, values, image, groups: self._with_images(
        values, image, scale, groups
      ),
      self._mesh,
    )(scale, values, image, groups)

  def _with_images(self, values, image, scale, groups) -> jax.Array:
    """Adds NT-Xent between the images of a concept, if that is wanted."""
    weight = self.config.loss.image_image
    if not weight:
      return values
    # Neighbouring rows show one concept.
    within = losses.nt_xent(
      image[0::2],
      image[1::2],
      temperature=1.0 / scale,
      group_ids=None if groups is None else groups[0::2],
      **self._options(),
    )
    return values + weight * within.reshape(2, -1).T.reshape(-1)

  def _options(self) -> dict[str, Any]:
    options: dict[str, Any] = {
      "block_size": self.config.loss.block_size or "auto"
    }
    return options | ({} if self._axes is None else {"axes": self._axes})
