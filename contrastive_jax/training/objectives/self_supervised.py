"""Shared parts of the objectives of one modality: two views of an example."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import losses, models
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import base, choices, contrasts
from contrastive_jax.training.objectives.e_step import Auxiliary
from contrastive_jax.training.objectives.parts import Parts
from contrastive_jax.training.types import Batch, Metrics, Params

Sides = Sequence[jax.Array]


class SelfSupervised(base.Objective):
  """An image tower with a projector, seen in two views of each example.

  The views are two augmentations of an image or, with `images_per_concept=2`, two
  images of a concept, augmented. Evaluation sees the tower's features, not the
  projector's.

  Attributes:
    em: the augmented loss of the sides, one of `losses.em_*`.
  """

  has_text = False
  image_method = "features"
  em: Callable[..., losses.EMStep]

  def __init__(
    self,
    settings: choices.SimCLR | choices.MoCoV3,
    parts: Parts,
    **heads: Any,
  ):
    """Builds the model; see `Parts`. `heads` are those of another one's model."""
    assert parts.loss is not None
    self._settings = settings
    self._parts = parts
    self._loss = parts.loss
    self._mesh = parts.mesh
    self._axes = sharding.data_axes(parts.mesh)
    self._temperature = parts.loss.temperature
    towers = base.create_model(models.create_model, parts)
    self.model = models.SelfSupervised(
      tower=towers.image.clone(parent=None),
      embed_dim=settings.embed_dim,
      projector=settings.projector,
      dtype=towers.dtype,
      **heads,
    )
    self._views = base.Views(
      parts.augment,
      parts.model.image_size,
      second={
        "blur": settings.second_blur,
        "solarize": settings.second_solarize,
      },
    )
    self.auxiliary = None
    self._function = None
    if isinstance(parts.loss, contrasts.Augmented):
      self.auxiliary = Auxiliary(parts.loss, parts, sides=("image",))
    else:
      self._function = self.function_of(parts.loss)

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    """Parameters and the state."""
    del batch
    side = self._parts.model.image_size
    variables = self.model.init(key, jnp.zeros((2, side, side, 3), jnp.float32))
    params, state = base.parameters_and_state(self._parts, variables)
    if self.auxiliary is not None:
      state["auxiliary"] = self.auxiliary.init(
        jax.random.fold_in(key, base.AUXILIARY), self._settings.embed_dim
      )
    return params, state

  def loss(
    self, params: Params, state: Params, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, tuple[Params, Metrics]]:
    """The configured loss, averaged over the batch."""
    first, second, index, groups = self.views(batch, key)
    sides, state, metrics = self.sides(
      params,
      state,
      # At once, so that batch normalisation sees both views together.
      jnp.concatenate([first, second]),
      jax.random.fold_in(key, base.DROPOUT),
    )
    auxiliary = self.auxiliary
    if auxiliary is None:
      values = sharding.map_rows(
        lambda _, sides, groups: self.plain(sides, groups), self._mesh
      )(None, sides, groups)
      return jnp.mean(values), (state, metrics)
    step, kept, more = auxiliary.step(
      self.em,
      sides,
      state["auxiliary"],
      index=index,
      key=jax.random.fold_in(key, base.AUXILIARY),
      groups=groups,
      temperature=self._temperature,
    )
    loss = jnp.mean(step.loss)
    metrics |= more | auxiliary.diagnose(
      step.state.count,
      sides[0],
      sides[-1],
      groups,
      step.details["log_auxiliary"][:, 0, 0],
      self._temperature,
    )
    metrics["weight_sum"] = self.weight_sum(loss)
    return loss, ({**state, "auxiliary": kept}, metrics)

  def sides(
    self, params: Params, state: Params, images: jax.Array, key: jax.Array
  ) -> tuple[Sides, Params, Metrics]:
    """Returns the sides that the loss contrasts, the new state, and metrics.

    First and second views are `images` [2N, S, S, 3]; `key` is of dropout. The sides
    are [N, d] each; the first of them are anchors, the last their keys.
    """
    raise NotImplementedError

  def function_of(self, loss: contrasts.Loss) -> Callable[..., jax.Array]:
    """A loss as a function of the sides."""
    return loss.build()

  def plain(self, sides: Sides, groups: jax.Array | None) -> jax.Array:
    """The configured loss of two sides [N, d] on the rows of a device: [N]."""
    assert self._function is not None
    return self._function(
      *sides,
      temperature=self._temperature,
      group_ids=groups,
      axes=self._axes,
      block_size=self._loss.block_size or "auto",
    )

  def weight_sum(self, loss: jax.Array) -> jax.Array:
    """The mean sum of an anchor's weights: it is the augmented loss."""
    return loss

  def train(
    self,
    params: Params,
    collections: Params,
    images: jax.Array,
    key: jax.Array,
    **options: Any,
  ) -> tuple[Any, Params]:
    """Outputs of the model in training, and its new collections."""
    return self.model.apply(
      {"params": params, **collections},
      images,
      train=True,
      rngs={"dropout": key},
      mutable=list(collections),
      **options,
    )

  def views(
    self, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Two views [N, S, S, 3], the examples [N] or [N, 2], groups [N]."""
    images, index = batch["image"], batch["index"]
    groups = batch["concept_id"] if self._loss.group_positives else None
    key_of_first = jax.random.fold_in(key, base.AUGMENT)
    first = self._views.random(key_of_first, images)
    if self._settings.images_per_concept == 2:
      second = first
      if self._views.differ:
        second = self._views.random(key_of_first, images, second=True)
      return (
        first[0::2],
        second[1::2],
        index.reshape(-1, 2),
        None if groups is None else groups[0::2],
      )
    again = jax.random.fold_in(key, base.AUGMENT_AGAIN)
    second = self._views.random(again, images, second=True)
    return first, second, index, groups
