"""What the objectives of one modality share: two views of an example."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import losses, models
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

  def augmented(
    self,
    function: Callable[..., losses.EMStep],
    arrays: Sequence[jax.Array],
    groups: jax.Array | None,
    index: jax.Array,
    state: Params,
    key: jax.Array,
  ) -> tuple[jax.Array, Params, dict[str, jax.Array]]:
    """The augmented loss of two views.

    Args:
      function: `losses.em_nt_xent` or `em_moco_v3`.
      arrays: the features that it takes, [N, d] each; first of them an anchor's.
      groups: [N] ids, or None.
      index: [N] or [N, 2], the examples.
      state: of the E-step.
      key: of the draws.

    Returns:
      [N] values, the new state, metrics.
    """
    assert self.auxiliary is not None
    step, state, metrics = self.auxiliary.step(
      function,
      arrays,
      state,
      index=index,
      key=key,
      groups=groups,
      temperature=self._temperature,
    )
    metrics |= self.auxiliary.diagnose(
      step.state.count,
      arrays[0],
      arrays[-1],
      groups,
      step.details["log_auxiliary"][:, 0, 0],
      self._temperature,
    )
    return step.loss, state, metrics
