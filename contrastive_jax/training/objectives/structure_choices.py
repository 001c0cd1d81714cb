"""Regularisers of two modalities' features, as choices.

Each adds a weighted term to the loss of objective=clip and objective=albef.
"""

import dataclasses
from typing import Any

from contrastive_jax.choices import Kind, field, several

_HERE = "contrastive_jax.training.objectives.structure_choices"
TERMS = Kind(
  "structure term",
  {
    "separation": f"{_HERE}:Separation",
    "bridge": f"{_HERE}:Bridge",
    "consistency": f"{_HERE}:Consistency",
    "alignment": f"{_HERE}:Alignment",
    "cross_uniformity": f"{_HERE}:CrossUniformity",
    "centroid_uniformity": f"{_HERE}:CentroidUniformity",
  },
)
_BOTH = ("image", "text")


@dataclasses.dataclass(frozen=True)
class Separation:
  """Deep feature separation: a second head of each tower, for what is its own."""

  weight: float = field(1.0, "Weight of deep feature separation.", low=0)
  orthogonality: float = field(
    1.0, "Weight of the two heads' orthogonality in the term.", low=0
  )
  independent_contrast: float = field(
    1.0, "Weight of the second heads' contrast in the term.", low=0
  )
  uniformity: float = field(
    1.0, "Weight of the second heads' uniformity in the term.", low=0
  )
  independent_positive: str = field(
    "augmented",
    "Positive of the second heads' contrast: the augmented view, or the original"
    " one (the printed form, without another view).",
    among=("augmented", "original"),
  )
  independent_head: str = field(
    "linear", "Form of the second head.", among=("linear", "mlp")
  )

  @property
  def augmented_sides(self) -> tuple[str, ...]:
    """The modalities of which the term takes another view."""
    takes = self.independent_contrast
    return _BOTH if takes and self.independent_positive == "augmented" else ()


@dataclasses.dataclass(frozen=True)
class Bridge:
  """Brownian bridge: another view lies between the paired features."""

  weight: float = field(1.0, "Weight of the Brownian bridge.", low=0)
  side: str = field(
    "image",
    "Modality whose other view is bridged.",
    among=("image", "text", "both"),
  )
  time: tuple[float, float] = field(
    (0.25, 0.25),
    "Range of the bridge's time; it is drawn where the ends differ.",
    low=0,
    high=1,
  )
  weighted: bool = field(
    False, "Whether the term is divided by its variance t (1 - t)."
  )

  def check(self) -> None:
    """Raises on a range of times that falls, or ends where it may not."""
    low, high = self.time
    if not (0 < low <= high < 1 if self.weighted else low <= high):
      where = "inside of (0, 1) when weighted" if self.weighted else "in [0, 1]"
      raise ValueError(
        f"time must be two rising numbers {where}; got ({low:g}, {high:g})."
      )

  @property
  def augmented_sides(self) -> tuple[str, ...]:
    """The modalities of which the term takes another view."""
    return _BOTH if self.side == "both" else (self.side,)


@dataclasses.dataclass(frozen=True)
class Consistency:
  """Geometric consistency of distances within and across modalities (CyCLIP's)."""

  weight: float = field(
    0.25, "Weight of geometric consistency; CyCLIP's is 0.25.", low=0
  )
  intra: float = field(1.0, "Weight of the in-modal term.", low=0)
  inter: float = field(1.0, "Weight of the cross-modal term.", low=0)
  augmented: float = field(
    1.0,
    "Weight of the term between views; CyCLIP has none (0 reproduces it).",
    low=0,
  )
  paired: float = field(
    1.0,
    "Weight of pairs of augmented views; CyCLIP has no such term (0 reproduces"
    " it).",
    low=0,
  )

  @property
  def augmented_sides(self) -> tuple[str, ...]:
    """The modalities of which the term takes another view."""
    return _BOTH if self.augmented or self.paired else ()


@dataclasses.dataclass(frozen=True)
class Alignment:
  """The alignment loss that closes the modality gap, at the price of information."""

  weight: float = field(
    1.0, "Weight of the loss that closes the modality gap.", low=0
  )
  epsilon: float = field(
    1e-3,
    "Constant added to the cosine's square; 0 is the printed form, which may"
    " diverge.",
    low=0,
  )

  augmented_sides = ()


@dataclasses.dataclass(frozen=True)
class CrossUniformity:
  """Uniformity within and across modalities, and near pairs: CUA, for the gap."""

  weight: float = field(1.0, "Weight of the whole term (CUA's is 1).", low=0)
  within: float = field(
    1.0, "Weight of both modalities' mean uniformity in the term.", low=0
  )
  across: float = field(
    1.0, "Weight of the uniformity across modalities in the term.", low=0
  )
  distance: float = field(
    1.0, "Weight of the squared distance of pairs in the term.", low=0
  )

  augmented_sides = ()


@dataclasses.dataclass(frozen=True)
class CentroidUniformity:
  """Uniformity of the pairs' centroids, and near pairs: ModGap, for the gap."""

  weight: float = field(1.0, "Weight of the whole term (ModGap's is 1).", low=0)
  uniformity: float = field(
    1.0, "Weight of the centroids' uniformity in the term.", low=0
  )
  distance: float = field(
    1.0, "Weight of the squared distance of pairs in the term.", low=0
  )

  augmented_sides = ()


@dataclasses.dataclass(frozen=True)
class Structure:
  """Regularisers of the features' structure."""

  terms: dict[str, Any] = several(
    TERMS, (), "Terms that are added to the loss."
  )
  first_view: str = field(
    "augmented",
    "First view of an image: changed at random, or plain, as the paper's code has"
    " it. The other view is changed in either case.",
    among=("plain", "augmented"),
  )

  @property
  def augmented_sides(self) -> tuple[str, ...]:
    """The modalities of which the terms take another view."""
    sides = {s for term in self.terms.values() for s in term.augmented_sides}
    return tuple(side for side in _BOTH if side in sides)
