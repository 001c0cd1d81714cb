"""Shared parts of the objectives of fusion models: the model, soft targets."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import models
from contrastive_jax.training.objectives import base
from contrastive_jax.training.objectives.parts import Parts
from contrastive_jax.training.types import Params


def create_model(parts: Parts, task: str) -> models.FusionModel:
  """The fusion model for a task; the mask has the id after the tokenizer's."""
  structure = parts.structure
  return base.create_model(
    models.create_fusion_model,
    parts,
    vocab_size=parts.vocab_size + 1,
    task=task,
    independent_head=bool(structure and "separation" in structure.terms),
    init_temperature=parts.loss.temperature if parts.loss else 0.07,
  )


def ramped_alpha(settings: Any, steps: int, count: jax.Array) -> jax.Array:
  """The soft targets' share after `count` of a run's steps.

  It grows from 0 in the share `alpha_ramp` of the steps, then it is `alpha`.
  """
  ramp = max(1.0, settings.alpha_ramp * steps)
  return settings.alpha * jnp.minimum(1.0, count / ramp)


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
