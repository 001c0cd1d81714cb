"""What the objectives of fusion models share."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import models
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import base

Params = base.Params


def create_model(
  config: config_lib.Config,
  vocab_size: int,
  task: str,
  mesh: jax.sharding.Mesh,
) -> models.FusionModel:
  """The fusion model of `config.model` for a task.

  Raises:
    ConfigError: if microbatches are asked for, which it does not know.
  """
  if config.microbatches > 1:
    raise config_lib.ConfigError(
      f"config.objective={config.objective!r} does not know microbatches: set"
      f" config.microbatches=1; got {config.microbatches}."
    )
  model = config.model
  return models.create_fusion_model(
    model.preset,
    vocab_size=vocab_size,
    task=task,
    image_size=model.image_size,
    context_length=model.context_length,
    independent_head=config.structure.separation > 0,
    dtype=model.dtype,
    remat=model.remat,
    activation_sharding=(
      sharding.batch_sharding(mesh) if mesh.size > 1 else None
    ),
    **{
      "init_temperature": 1.0 / config.loss.init_logit_scale,
      **base.model_overrides(model.overrides),
    },
  )


def ramped_alpha(config: config_lib.Config, count: jax.Array) -> jax.Array:
  """The soft targets' share at a step: linear from 0, then constant."""
  fusion = config.fusion
  steps = max(1.0, fusion.alpha_ramp * config.steps)
  return fusion.alpha * jnp.minimum(1.0, count / steps)


class Applied:
  """A fusion model with its parameters; trains if it has a key."""

  def __init__(
    self,
    model: models.FusionModel,
    params: Params,
    key: jax.Array | None = None,
  ):
    """Takes the key of this step's dropout, or None."""
    self._model = model
    self._params = params
    self._key = None if key is None else jax.random.fold_in(key, base.DROPOUT)
    self._calls = 0

  @property
  def trains(self) -> bool:
    """Whether dropout is active."""
    return self._key is not None

  def apply(self, *args: Any, method: str, **options: Any) -> Any:
    """Calls a method of the model; each call has a dropout key of its own."""
    rngs = None
    if self._key is not None:
      rngs = {"dropout": jax.random.fold_in(self._key, self._calls)}
      self._calls += 1
    return self._model.apply(
      {"params": self._params}, *args, method=method, rngs=rngs, **options
    )

  def image(self, images: jax.Array) -> dict[str, jax.Array]:
    """See `FusionModel.encode_image`."""
    return self._run(images, method="encode_image")

  def text(
    self, tokens: jax.Array, valid: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """See `FusionModel.encode_text`."""
    return self._run(tokens, valid, method="encode_text")

  def fuse(
    self, texts: Sequence[tuple[jax.Array, jax.Array]], image: Any
  ) -> jax.Array:
    """Fuses K texts (states, valid) of each of N images: [N * K, T, d].

    Row i of all of them comes before row i + 1 of any, so that rows stay on the
    devices that have them.
    """
    states, valid = (
      jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])
      for parts in zip(*texts)
    )
    return self._run(states, valid, image, method="fuse")

  def _run(self, *args: Any, method: str) -> Any:
    return self.apply(*args, method=method, train=self.trains)
