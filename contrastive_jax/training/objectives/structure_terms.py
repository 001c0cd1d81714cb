"""Regularisers of two modalities' features, as weighted terms beside a loss."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import base

Features = Mapping[str, jax.Array]


class Structure:
  """The terms that `config.structure` asks for.

  What they take, by name: unit-norm [N, d] `image`, `text`, and as needed
  `image_augmented`, `text_augmented` (another view's features) and each of the
  four with `_independent` (the second head's).
  """

  def __init__(self, config: config_lib.Config, mesh: jax.sharding.Mesh):
    """Takes the terms of a run."""
    self._config = config.structure
    self._block_size = config.loss.block_size or "auto"
    self._mesh = mesh
    self._axes = sharding.data_axes(mesh)

  def terms(
    self,
    features: Features,
    scale: jax.Array,
    groups: jax.Array | None,
    key: jax.Array,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum of all terms, averaged over the batch.

    Args:
      features: see the class.
      scale: 1 / temperature of the independent features' contrast.
      groups: [N] ids; equal ones are positives of each other, or None.
      key: of the bridge's times.

    Returns:
      A scalar, and the mean of each term, unweighted, by name.
    """
    config = self._config
    low, high = config.bridge_time
    times: Any = None
    if config.bridge and low < high:
      positions = jnp.arange(features["image"].shape[0], dtype=jnp.int32)
      key = jax.random.fold_in(key, base.BRIDGE)
      times = losses.draw_bridge_time(key, positions, low=low, high=high)

    def rows(scale, features, groups, times):
      found = {}
      if config.separation:
        found |= self._separation(features, scale, groups)
      if config.bridge:
        found["brownian_bridge"] = self._bridge(
          features, low if times is None else times
        )
      if config.consistency:
        found["geometric_consistency"] = losses.geometric_consistency(
          features["image"],
          features["text"],
          features.get("image_augmented"),
          features.get("text_augmented"),
          intra=config.consistency_intra,
          inter=config.consistency_inter,
          augmented=config.consistency_augmented,
          paired=config.consistency_paired,
          axes=self._axes,
        )
      if config.alignment:
        found["alignment"] = losses.alignment(
          features["image"],
          features["text"],
          epsilon=config.alignment_epsilon,
        )
      return found

    weights = {
      "orthogonality": config.separation * config.orthogonality,
      "independent_contrast": config.separation * config.independent_contrast,
      "uniformity": config.separation * config.uniformity,
      "brownian_bridge": config.bridge,
      "geometric_consistency": config.consistency,
      "alignment": config.alignment,
    }
    values = sharding.map_rows(rows, self._mesh)(
      scale, dict(features), groups, times
    )
    means = {name: jnp.mean(value) for name, value in values.items()}
    total = jnp.float32(0)
    for name, mean in means.items():
      total += weights[name] * mean
    return total, means

  def _separation(self, features, scale, groups):
    config = self._config
    shared = {"axes": self._axes, "block_size": self._block_size}
    image, text = (features[f"{m}_independent"] for m in ("image", "text"))
    found = {}
    if config.orthogonality:
      found["orthogonality"] = losses.orthogonality(
        features["image"], image
      ) + losses.orthogonality(features["text"], text)
    if config.independent_contrast:
      found["independent_contrast"] = losses.independent_contrast(
        image,
        text,
        features.get("image_augmented_independent"),
        features.get("text_augmented_independent"),
        # It is the temperature of another contrast, not to be learned here.
        temperature=1.0 / jax.lax.stop_gradient(scale),
        # pyrefly: ignore[bad-argument-type]
        positive=config.independent_positive,
        group_ids=groups,
        **shared,
      )
    if config.uniformity:
      # A number of the whole batch, said by every row.
      found["uniformity"] = jnp.broadcast_to(
        losses.uniformity(image, text, **shared), image.shape[:1]
      )
    return found

  def _bridge(self, features, time):
    config = self._config
    sides = {
      "image": ("image", "text"),
      "text": ("text", "image"),
    }
    chosen = sides if config.bridge_side == "both" else (config.bridge_side,)
    found = [
      losses.brownian_bridge(
        features[sides[side][0]],
        features[sides[side][1]],
        features[f"{side}_augmented"],
        t=time,
        weighted=config.bridge_weighted,
      )
      for side in chosen
    ]
    return sum(found[1:], found[0]) / len(found)
