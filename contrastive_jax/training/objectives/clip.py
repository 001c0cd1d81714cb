"""Image-text contrast of a two-tower model."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from contrastive_jax import losses, models
from contrastive_jax.models import two_tower
from contrastive_jax.training.objectives import base, choices, contrasts
from contrastive_jax.training.objectives import views as views_lib
from contrastive_jax.training.objectives.augmented_pairs import (
  AugmentedPairs,
)
from contrastive_jax.training.objectives.contrast import Contrast, add_images
from contrastive_jax.training.objectives.parts import Parts
from contrastive_jax.training.objectives.structure_terms import StructureTerms
from contrastive_jax.training.types import Batch, Features, Metrics, Params

# Parameters that published weights bring.
_TOWERS = ("image", "text")


class Clip(base.Objective):
  """Image-text contrast of a two-tower model.

  Its state holds the model's collections beside the parameters (`model`), with
  the augmented loss the E-step's state (`auxiliary`), and a momentum encoder
  where the structure terms take its features (`momentum`).
  """

  has_text = True

  def __init__(self, settings: choices.Clip, parts: Parts):
    """Builds the model; see `Parts`."""
    self._settings = settings
    self._parts = parts
    self._mesh = parts.mesh
    self.frozen = settings.frozen
    assert parts.loss is not None and parts.structure is not None
    self._loss = parts.loss
    self._structured_sides = parts.structure.augmented_sides
    self._terms = parts.structure.terms
    separation = self._terms.get("separation")
    if separation is not None:
      self.heads = two_tower.HEADS
    self.model = base.create_model(
      models.create_model,
      parts,
      init_logit_scale=1.0 / parts.loss.temperature,
      independent_head=separation and separation.independent_head,
    ).clone(frozen=settings.frozen)
    self._views = base.Views(
      parts.augment,
      parts.model.image_size,
      plain_first=parts.structure.first_view == "plain",
    )
    self._structure = StructureTerms(
      parts.structure, parts.loss.block_size, parts.mesh
    )
    momentum = isinstance(parts.other_view, views_lib.Momentum)
    # The encoder of the other views' features, if it is another one.
    self._momentum: Any = parts.other_view if momentum else None
    self.augmented_pairs = None
    self._contrast: Any = None
    if isinstance(parts.loss, contrasts.Augmented):
      self.augmented_pairs = AugmentedPairs(parts.loss, parts)
    else:
      self._contrast = Contrast(
        parts.loss, parts.mesh, image_image=settings.image_image
      )

  def example_batch(self) -> dict[str, np.ndarray]:
    """See `base.Objective`."""
    view = "text" in self._parts.augmented_sides
    return base.example_batch(
      self._parts, self._settings.captions_per_example + int(view)
    )

  def adapt(
    self, optimizer: optax.GradientTransformation
  ) -> optax.GradientTransformation:
    """Scales the rate of the towers, decay included, and stops frozen ones."""
    if self._settings.tower_rate != 1.0:
      scaled = optax.masked(
        optax.scale(self._settings.tower_rate),
        lambda params: jax.tree_util.tree_map_with_path(
          lambda path, _: path[0].key in _TOWERS, params
        ),
      )
      optimizer = optax.chain(optimizer, scaled)
    if not self.frozen:
      return optimizer

    def kinds(params: Params) -> Any:
      return {
        name: jax.tree.map(
          lambda _, kind="frozen" if name in self.frozen else "own": kind, tree
        )
        for name, tree in params.items()
      }

    return optax.multi_transform(
      {"own": optimizer, "frozen": optax.set_to_zero()}, kinds
    )

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    """Parameters and the state."""
    side = self._parts.model.image_size
    variables = self.model.init(
      key,
      jnp.zeros((2, side, side, 3), jnp.float32),
      jnp.asarray(batch["tokens"][:2, 0]),
    )
    params, state = base.parameters_and_state(self._parts, variables)
    if self._momentum is not None:
      state["momentum"] = jax.tree.map(jnp.copy, {"params": params, **state})
    if self.augmented_pairs is not None:
      state["auxiliary"] = self.augmented_pairs.init(
        jax.random.fold_in(key, base.AUXILIARY), self.model.embed_dim
      )
    return params, state

  def loss(
    self, params: Params, state: Params, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, tuple[Params, Metrics]]:
    """The configured loss of a batch, averaged over captions, and its terms."""
    inputs = self._inputs(batch, key)
    features, collections = self._encode(
      params, state["model"], inputs, jax.random.fold_in(key, base.DROPOUT)
    )
    state = {**state, "model": collections}
    views = self._views_of(features)
    # Regularisers alone take the momentum encoder's features.
    regularized = views
    if self._momentum is not None:
      state["momentum"], others = self._momentum_views(
        params, state["momentum"], inputs, key
      )
      regularized = views | others
    scale = jnp.exp(params["log_logit_scale"])
    mode = self._loss.temperature_mode
    if isinstance(mode, (contrasts.Fixed, contrasts.Individual)):
      scale = jax.lax.stop_gradient(scale)
    metrics = {
      "logit_scale": scale,
      "image_embedding": jnp.sum(features["image"] ** 2),
      "text_embedding": jnp.sum(features["text"] ** 2),
    }
    groups = batch["concept_id"] if self._loss.group_positives else None
    captions = features["text"][:, : self._settings.captions_per_example]
    features = {**views, "text": captions}
    if self.augmented_pairs is None:
      values = self._contrast(features, scale, params["logit_bias"], groups)
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
      values = add_images(
        values,
        features["image"],
        scale,
        groups,
        weight=self._settings.image_image,
        block_size=self._loss.block_size,
        mesh=self._mesh,
      )
    loss = jnp.mean(values)
    if self._terms:
      regularizers, terms = self._structure.terms(
        regularized, scale, groups, key
      )
      metrics |= {"contrastive_loss": loss} | terms
      loss += regularizers
    return loss, (state, metrics)

  def constrain(self, params: Params) -> Params:
    """Clamps the logit scale."""
    mode = self._loss.temperature_mode
    if isinstance(mode, contrasts.Fixed):
      return params
    maximum = -math.log(mode.min_temperature)
    return {
      **params,
      "log_logit_scale": losses.clamp_logit_scale(
        params["log_logit_scale"], maximum=maximum
      ),
    }

  def encode_text(
    self,
    params: Params,
    state: Params,
    tokens: jax.Array,
    *,
    head: str = "shared",
  ) -> jax.Array:
    """int32 [N, L] -> float32 [N, d] of unit norm; head `both`: [N, 2 d]."""
    return self.applied(
      params, state, tokens, method="encode_text", **self._of_head(head)
    )

  def augmented(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """uint8 [N, H, W, 3] -> float32 [N, S, S, 3], changed at random."""
    return self._views.random(key, images)

  def _inputs(self, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    """A batch's inputs of the towers by name, or their cached features."""
    if self._settings.cache_features:
      return {side: batch[f"{side}_features"] for side in ("image", "text")}
    images = batch["image"]
    inputs = {
      "image": self._views.first(jax.random.fold_in(key, base.AUGMENT), images),
      "text": batch["tokens"],
    }
    if "image" in self._parts.augmented_sides:
      again = jax.random.fold_in(key, base.AUGMENT_AGAIN)
      inputs["image_augmented"] = self.augmented(again, images)
    return inputs

  def _encode(self, params, state, inputs, key):
    """Unit-norm features of all inputs, encoded in microbatches.

    With a second head, its features are there under the name with
    `_independent` at its end.
    """
    twice, cached = len(self.heads) > 1, self._settings.cache_features

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
          are_features=cached,
          rngs={"dropout": jax.random.fold_in(key, number)},
          mutable=list(state),
          method=f"encode_{tower}_twice" if twice else f"encode_{tower}",
        )
        heads = ("", "_independent") if twice else ("",)
        for head, feature in zip(heads, features if twice else (features,)):
          out[f"{name}{head}"] = feature.reshape(
            *x.shape[: x.ndim - (1 if tower == "text" or cached else 3)], -1
          )
        variables = {**variables, **updates}
      return out, variables

    return base.encode_in_parts(
      encode, params, state, inputs, key, self._parts.microbatches
    )

  def _views_of(self, features: Features) -> dict[str, jax.Array]:
    """One feature [B, d] an example and name, as `StructureTerms` takes them."""
    views = {}
    for name, x in features.items():
      is_text = name.startswith("text")
      views[name] = x[:, 0] if is_text else x
      if is_text and "text" in self._parts.augmented_sides:
        # After the captions comes the view of the first.
        views[name.replace("text", "text_augmented")] = x[:, -1]
    return views

  def _momentum_views(self, params, momentum, inputs, key):
    """The momentum encoder after this step's update, and its features."""
    updated = base.averaged(params, momentum["params"], self._momentum.momentum)
    shown = {"image": inputs["image"], "text": inputs["text"][:, :1]}
    features, collections = self._encode(
      updated,
      momentum["model"],
      {side: shown[side] for side in self._structured_sides},
      jax.random.fold_in(key, base.MOMENTUM),
    )
    views = {}
    for name, x in jax.lax.stop_gradient(features).items():
      side = name.partition("_")[0]
      view = name.replace(side, f"{side}_augmented")
      views[view] = x[:, 0] if side == "text" else x
    return {"params": updated, "model": collections}, views
