"""What the objectives of one modality share: two views of an example."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import models
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import base, choices, contrasts
from contrastive_jax.training.objectives.e_step import Auxiliary
from contrastive_jax.training.objectives.parts import Parts
from contrastive_jax.training.types import Batch, Params


class SelfSupervised(base.Trained):
  """An image tower with a projector, seen in two views of each example.

  The views are two augmentations of an image or, with `images_per_concept=2`, two
  images of a concept, augmented. Evaluation sees the tower's features, not the
  projector's.
  """

  has_text = False

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
    model = parts.model
    towers = models.create_model(
      model.preset,
      vocab_size=parts.vocab_size,
      image_size=model.image_size,
      dtype=model.dtype,
      remat=model.remat,
      activation_sharding=base.activation_sharding(parts.mesh),
      **model.overrides,
    )
    self.model = models.SelfSupervised(
      tower=towers.image.clone(parent=None),
      embed_dim=settings.embed_dim,
      projector=settings.projector,
      dtype=towers.dtype,
      **heads,
    )
    self._views = base.Views(
      parts.augment,
      model.image_size,
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
      self._function = parts.loss.build()

  def example_batch(self) -> dict[str, np.ndarray]:
    """See `base.Objective`."""
    return base.example_batch(self._parts, 1)

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    """Parameters and the state."""
    del batch
    side = self._parts.model.image_size
    variables = self.model.init(key, jnp.zeros((2, side, side, 3), jnp.float32))
    params = variables["params"]
    collections = {k: v for k, v in variables.items() if k != "params"}
    base.check_microbatches(self._parts, collections)
    state: dict[str, Any] = {"model": collections}
    if self.auxiliary is not None:
      state["auxiliary"] = self.auxiliary.init(
        jax.random.fold_in(key, base.AUXILIARY), self._settings.embed_dim
      )
    return params, state

  def constrain(self, params: Params) -> Params:
    """Nothing is bounded."""
    return params

  def encode_image(
    self, params: Params, state: Params, images: jax.Array
  ) -> jax.Array:
    """uint8 [N, H, W, 3] -> float32 [N, width] of unit norm: the tower's."""
    # pyrefly: ignore[bad-return]
    return self.model.apply(
      {"params": params, **state["model"]},
      self._views.plain(images),
      method="features",
    )

  def probe_features(
    self, params: Params, state: Params, images: jax.Array
  ) -> jax.Array:
    """There is no second head: as `encode_image`."""
    return self.encode_image(params, state, images)

  def encode_text(
    self, params: Params, state: Params, tokens: jax.Array
  ) -> jax.Array:
    """There is no text side."""
    raise TypeError(f"{type(self).__name__} has no text encoder.")

  def views(
    self, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Two views [N, S, S, 3], the index of their rows [2N], groups [N]."""
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
        jnp.concatenate([index[0::2], index[1::2]]),
        None if groups is None else groups[0::2],
      )
    again = jax.random.fold_in(key, base.AUGMENT_AGAIN)
    second = self._views.random(again, images, second=True)
    return first, second, jnp.tile(index, 2), groups

  def plain(
    self, first: jax.Array, second: jax.Array, groups: jax.Array | None
  ) -> jax.Array:
    """The configured loss of two sides [N, d] on the rows of a device: [N]."""
    assert self._function is not None
    return self._function(
      first,
      second,
      temperature=self._temperature,
      group_ids=groups,
      axes=self._axes,
      block_size=self._loss.block_size or "auto",
    )

  def weighted(
    self,
    estimate: Any,
    loss: Any,
    pairs: tuple[jax.Array, ...],
    groups: jax.Array | None,
    index: jax.Array,
    state: Params,
    key: jax.Array,
  ) -> tuple[jax.Array, Params, dict[str, jax.Array]]:
    """The augmented loss of two views: E-step, draw, M-step.

    Args:
      estimate: (arrays, groups, options) -> log Z-hat of both views, [N] each.
      loss: (arrays, log_u first, log_u second, groups, options) -> [N].
      pairs: what both take, [N, d] each; first of them anchors and their keys.
      groups: [N] ids, or None.
      index: [2N] the examples of both views' rows.
      state: of the E-step.
      key: of the draw.

    Returns:
      [N] values, the new state, metrics.
    """
    auxiliary = self.auxiliary
    assert auxiliary is not None
    options = auxiliary.options | {"temperature": self._temperature}
    first, second = sharding.map_rows(
      lambda _, arrays, groups: estimate(arrays, groups, options), self._mesh
    )(None, jax.lax.stop_gradient(pairs), groups)
    estimates = jnp.concatenate([first, second])
    weights, state, metrics = auxiliary.weigh(
      state,
      index,
      jnp.arange(index.shape[0], dtype=jnp.int32),
      estimates[None, None],
      key,
    )
    log_u = jnp.split(weights.log_auxiliary[0], 2)
    options["log_weight_cap"] = auxiliary.log_weight_cap
    values = sharding.map_rows(
      lambda _, arrays, a, b, groups: loss(arrays, a, b, groups, options),
      self._mesh,
    )(None, pairs, *log_u, groups)
    metrics |= auxiliary.diagnose(
      state["count"], pairs[0], pairs[1], groups, log_u[0], self._temperature
    )
    return values, state, metrics
