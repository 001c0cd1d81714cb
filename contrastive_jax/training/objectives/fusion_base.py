"""What the objectives of fusion models share."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import models
from contrastive_jax.training.objectives import base
from contrastive_jax.training.objectives.parts import Parts
from contrastive_jax.training.types import Params


def create_model(
  parts: Parts, vocab_size: int, task: str, *, temperature: float = 0.07
) -> models.FusionModel:
  """The fusion model for a task.

  Args:
    parts: of the objective.
    vocab_size: ids, the mask's included.
    task: of the model.
    temperature: at which the contrast begins.
  """
  model, structure = parts.model, parts.structure
  return models.create_fusion_model(
    model.preset,
    vocab_size=vocab_size,
    task=task,
    image_size=model.image_size,
    context_length=model.context_length,
    independent_head=bool(structure and "separation" in structure.terms),
    dtype=model.dtype,
    remat=model.remat,
    activation_sharding=base.activation_sharding(parts.mesh),
    init_temperature=temperature,
    **model.overrides,
  )


def ramped_alpha(
  alpha: float, ramp: float, steps: int, count: jax.Array
) -> jax.Array:
  """The soft targets' share at a step: linear from 0, then constant.

  Args:
    alpha: the share after the ramp.
    ramp: share of the steps in which it grows.
    steps: of the run.
    count: steps made.
  """
  return alpha * jnp.minimum(1.0, count / max(1.0, ramp * steps))


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
