"""The groups of fields that are no choices: captions, image changes, the model."""

import dataclasses
from typing import Any

from contrastive_jax.choices import field
from contrastive_jax.data.images import changes


@dataclasses.dataclass(frozen=True)
class Captions:
  """How a training caption is drawn from an example's names and keywords."""

  main_language_share: float = field(
    0.5, "Share of captions in the first language.", low=0.0, high=1.0
  )
  name: float = field(0.3, "Weight of a name as the caption.", low=0.0)
  keyword: float = field(0.2, "Weight of one keyword as the caption.", low=0.0)
  keywords: float = field(
    0.0, "Weight of several keywords as the caption.", low=0.0
  )
  full: float = field(
    0.4, "Weight of a name with some of its keywords as the caption.", low=0.0
  )
  listed: float = field(
    0.0,
    "Weight of a name with all keywords in their own order; few different texts,"
    " for objective.cache_features.",
    low=0.0,
  )
  prompt: float = field(
    0.1, "Weight of a name in a prompt as the caption.", low=0.0
  )

  def check(self) -> None:
    """Raises if nothing could be drawn."""
    kinds = ("name", "keyword", "keywords", "full", "listed", "prompt")
    if not any(getattr(self, kind) for kind in kinds):
      raise ValueError(
        "name: one of the weights name, keyword, keywords, full, listed and"
        " prompt must be above 0; all are 0."
      )


@dataclasses.dataclass(frozen=True)
class Augment(changes.Changes):
  """Random changes of training images, on the device."""

  normalization: str = field(
    "clip",
    "Mean and deviation that pixels are normalised by: CLIP's, ImageNet's, or"
    " symmetric (-1 to 1). Published weights need their own.",
    among=("clip", "imagenet", "symmetric"),
  )


# Decided elsewhere in the configuration, or by the run.
_NOT_IN_OVERRIDES = {
  **{
    name: f"set config.model.{name} instead"
    for name in ("image_size", "context_length", "dtype", "remat", "preset")
  },
  **{
    name: "the run decides it"
    for name in ("task", "pad_id", "activation_sharding")
  },
  "init_temperature": "set config.loss.temperature instead",
  "init_logit_scale": "set config.loss.temperature instead",
  "vocab_size": "the tokenizer of the data decides it",
  "independent_head": (
    "set config.structure.separation.independent_head instead"
  ),
}


@dataclasses.dataclass(frozen=True)
class Model:
  """The model: two towers, or a fusion model."""

  preset: str = field(
    "tiny",
    "Name in contrastive_jax.models.PRESETS, for fusion objectives in"
    " FUSION_PRESETS.",
  )
  image_size: int = field(
    0, "Side of the images in pixels; 0 is the preset's own.", low=0
  )
  context_length: int = field(
    0, "Tokens of a caption; 0 is the preset's own.", low=0
  )
  dtype: str = field(
    "float32", "Type of the computation.", among=("float32", "bfloat16")
  )
  remat: bool = field(
    False, "Whether the backward pass recomputes activations, to save memory."
  )
  overrides: dict[str, Any] = dataclasses.field(
    default_factory=dict,
    metadata={
      "doc": 'Fields of the preset, such as {"image": {"widths": (32, 64)}}.'
    },
  )

  def check(self) -> None:
    """Raises on sizes and overrides that no model has."""
    if self.context_length == 1:
      raise ValueError(
        "context_length must be 0 (the preset's own) or at least 2; got 1."
      )
    for name in self.overrides:
      if name in _NOT_IN_OVERRIDES:
        raise ValueError(
          f"overrides must not hold {name!r}: {_NOT_IN_OVERRIDES[name]}."
        )
