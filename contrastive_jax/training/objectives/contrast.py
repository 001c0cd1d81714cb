"""A loss of images against their captions, over the mesh."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import contrasts


class Contrast:
  """A loss of `contrasts`, averaged over captions and both directions."""

  def __init__(
    self,
    loss: contrasts.Loss,
    mesh: jax.sharding.Mesh,
    *,
    image_image: float = 0.0,
  ):
    """Takes the loss, the devices, and the weight of `add_images`."""
    self._loss = loss
    self._function = loss.build()
    self._mesh = mesh
    self._image_image = image_image

  def __call__(
    self,
    features: Mapping[str, jax.Array],
    scale: jax.Array,
    bias: jax.Array,
    groups: jax.Array | None,
  ) -> jax.Array:
    """The loss of every example of the global batch.

    Args:
      features: unit-norm `image` [N, d] and `text` [N, K, d], K captions of each,
        and `image_augmented`, `text_augmented` [N, d] where the loss takes them.
      scale: 1 / temperature.
      bias: learned, for losses that take one.
      groups: [N] ids; equal ones are positives of each other, or None.

    Returns:
      [N] float32.
    """

    def image_text(scale, bias, groups, features, text):
      more: dict[str, Any] = {}
      if getattr(self._loss, "takes_bias", False):
        more["bias"] = bias
      if getattr(self._loss, "takes_views", False):
        more["first_augmented"] = features["image_augmented"]
        more["second_augmented"] = features["text_augmented"]
      function = functools.partial(
        self._function,
        temperature=1.0 / scale,
        group_ids=groups,
        axes=sharding.data_axes(self._mesh),
        block_size=self._loss.block_size or "auto",
        **more,
      )
      image = features["image"]
      if getattr(self._loss, "directional", False):
        return 0.5 * (function(image, text) + function(text, image))
      return function(image, text)

    def per_example(whole, features, groups):
      scale, bias = whole
      terms = [
        image_text(scale, bias, groups, features, text)
        for text in jnp.unstack(features["text"], axis=1)
      ]
      values = sum(terms[1:], terms[0]) / len(terms)
      return _with_images(
        values,
        features["image"],
        scale,
        groups,
        self._image_image,
        self._loss.block_size,
        self._mesh,
      )

    return sharding.map_rows(per_example, self._mesh)(
      (scale, bias), dict(features), groups
    )


def add_images(
  values: jax.Array,
  image: jax.Array,
  scale: jax.Array,
  groups: jax.Array | None,
  *,
  weight: float,
  block_size: int,
  mesh: jax.sharding.Mesh,
) -> jax.Array:
  """Adds NT-Xent between the images of a concept to losses of the global batch.

  Args:
    values: [N] losses.
    image: [N, d] unit-norm features; neighbouring rows show one concept.
    scale: 1 / temperature.
    groups: [N] ids; equal ones are positives of each other, or None.
    weight: of NT-Xent; 0 adds nothing.
    block_size: rows formed at once; 0 decides by size.
    mesh: the devices.

  Returns:
    [N] float32.
  """
  if not weight:
    return values
  return sharding.map_rows(
    lambda scale, values, image, groups: _with_images(
      values, image, scale, groups, weight, block_size, mesh
    ),
    mesh,
  )(scale, values, image, groups)


def _with_images(values, image, scale, groups, weight, block_size, mesh):
  if not weight:
    return values
  within = losses.nt_xent(
    image[0::2],
    image[1::2],
    temperature=1.0 / scale,
    group_ids=None if groups is None else groups[0::2],
    axes=sharding.data_axes(mesh),
    block_size=block_size or "auto",
  )
  return values + weight * within.reshape(2, -1).T.reshape(-1)
