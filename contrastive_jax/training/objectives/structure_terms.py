"""Regularisers of two modalities' features, as weighted terms beside a loss."""

from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import base
from contrastive_jax.training.objectives.structure_choices import Structure
from contrastive_jax.training.types import Features

# Names of the values of terms that have but one.
_VALUES = {
  "bridge": "brownian_bridge",
  "consistency": "geometric_consistency",
  "alignment": "alignment",
  "cross_uniformity": "cross_uniformity",
  "centroid_uniformity": "centroid_uniformity",
}


class StructureTerms:
  """The terms that a run's structure asks for.

  They take, by name: unit-norm [N, d] `image`, `text`, and as needed
  `image_augmented`, `text_augmented` (another view's features) and each of the
  four with `_independent` (the second head's).
  """

  def __init__(
    self, structure: Structure, block_size: int, mesh: jax.sharding.Mesh
  ):
    """Takes the terms, rows formed at once (0 decides by size), the devices."""
    self._terms = structure.terms
    self._block_size = block_size or "auto"
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
    separation: Any = self._terms.get("separation")
    bridge: Any = self._terms.get("bridge")
    consistency: Any = self._terms.get("consistency")
    alignment: Any = self._terms.get("alignment")
    cross: Any = self._terms.get("cross_uniformity")
    centroids: Any = self._terms.get("centroid_uniformity")
    times: Any = None
    if bridge is not None and bridge.time[0] < bridge.time[1]:
      positions = jnp.arange(features["image"].shape[0], dtype=jnp.int32)
      key = jax.random.fold_in(key, base.BRIDGE)
      times = losses.draw_bridge_time(
        key, positions, low=bridge.time[0], high=bridge.time[1]
      )

    def rows(scale, features, groups, times):
      found = {}
      if separation is not None:
        found |= self._separation(separation, features, scale, groups)
      if bridge is not None:
        found["brownian_bridge"] = _bridge(
          bridge, features, bridge.time[0] if times is None else times
        )
      if consistency is not None:
        found["geometric_consistency"] = losses.geometric_consistency(
          features["image"],
          features["text"],
          features.get("image_augmented"),
          features.get("text_augmented"),
          intra=consistency.intra,
          inter=consistency.inter,
          augmented=consistency.augmented,
          paired=consistency.paired,
          axes=self._axes,
        )
      if alignment is not None:
        found["alignment"] = losses.alignment(
          features["image"], features["text"], epsilon=alignment.epsilon
        )
      if cross is not None:
        found["cross_uniformity"] = self._cross(cross, features)
      if centroids is not None:
        found["centroid_uniformity"] = self._centroids(centroids, features)
      return found

    weights = self._weights()
    values = sharding.map_rows(rows, self._mesh)(
      scale, dict(features), groups, times
    )
    means = {name: jnp.mean(value) for name, value in values.items()}
    total = jnp.float32(0)
    for name, mean in means.items():
      total += weights[name] * mean
    return total, means

  def _weights(self) -> dict[str, float]:
    """The weight of each named value."""
    weights = {}
    for name, term in self._terms.items():
      if name == "separation":
        for part in ("orthogonality", "independent_contrast", "uniformity"):
          weights[part] = term.weight * getattr(term, part)
      else:
        weights[_VALUES[name]] = term.weight
    return weights

  def _separation(self, term, features, scale, groups):
    shared = {"axes": self._axes, "block_size": self._block_size}
    image, text = (features[f"{m}_independent"] for m in ("image", "text"))
    found = {}
    if term.orthogonality:
      found["orthogonality"] = losses.orthogonality(
        features["image"], image
      ) + losses.orthogonality(features["text"], text)
    if term.independent_contrast:
      found["independent_contrast"] = losses.independent_contrast(
        image,
        text,
        features.get("image_augmented_independent"),
        features.get("text_augmented_independent"),
        # It is the temperature of another contrast, not to be learned here.
        temperature=1.0 / jax.lax.stop_gradient(scale),
        positive=term.independent_positive,
        group_ids=groups,
        **shared,
      )
    if term.uniformity:
      # A number of the whole batch, said by every row.
      found["uniformity"] = jnp.broadcast_to(
        losses.uniformity(image, text, **shared), image.shape[:1]
      )
    return found

  def _cross(self, term, features):
    image, text = features["image"], features["text"]
    shared = {"axes": self._axes, "block_size": self._block_size}
    # Numbers of the whole batch, said by every row.
    found = term.distance * losses.paired_distance(image, text)
    if term.within:
      for side in (image, text):
        found += 0.5 * term.within * losses.uniformity(side, **shared)
    if term.across:
      found += term.across * losses.cross_uniformity(image, text, **shared)
    return found

  def _centroids(self, term, features):
    image, text = features["image"], features["text"]
    found = term.distance * losses.paired_distance(image, text)
    if term.uniformity:
      found += term.uniformity * losses.centroid_uniformity(
        image, text, axes=self._axes, block_size=self._block_size
      )
    return found


def _bridge(term, features, time):
  pairs = ("image", "text"), ("text", "image")
  found = [
    losses.brownian_bridge(
      features[side],
      features[other],
      features[f"{side}_augmented"],
      t=time,
      weighted=term.weighted,
    )
    for side, other in pairs
    if term.side in (side, "both")
  ]
  return sum(found[1:], found[0]) / len(found)
