"""Named fusion models, and how one task's begins with another's parameters."""

from collections.abc import Mapping
from typing import Any

import jax

from contrastive_jax._types import Dtype
from contrastive_jax.models import layers, presets
from contrastive_jax.models.fusion_model import FusionModel
from contrastive_jax.models.vit import ViT, vit

FUSION_PRESETS: dict[str, FusionModel] = {
  # For one or two CPU cores, where an exact GELU takes a tenth of the time.
  "albef_tiny": FusionModel(
    image=ViT(
      image_size=64,
      patch_size=8,
      width=128,
      depth=2,
      num_heads=4,
      stem_width=64,
      position="sincos",
      # Places that differ between 64 patches, and that fusion can see.
      position_period=10.0,
      position_output=True,
      activation="relu",
    ),
    context_length=32,
    activation="relu",
    norm_first=True,
    width=128,
    text_depth=1,
    fusion_depth=2,
    num_heads=4,
    embed_dim=64,
    decoder_depth=1,
    dropout=0.0,
  ),
  # The published model: ViT-B/16 at 256 pixels, BERT-base cut in the middle.
  "albef": FusionModel(image=vit("B/16", image_size=256)),
}


def create_fusion_model(
  preset: str,
  *,
  vocab_size: int,
  task: str = "pretrain",
  image_size: int | None = None,
  context_length: int | None = None,
  independent_head: bool = False,
  dtype: Dtype | None = None,
  remat: bool = False,
  activation_sharding: jax.sharding.Sharding | None = None,
  **overrides: Any,
) -> FusionModel:
  """Builds the fusion model of a preset.

  Args:
    preset: a name in `FUSION_PRESETS`.
    vocab_size: number of token ids.
    task: what it is for, see `FusionModel`.
    image_size: as of `presets.create_model`, like the others.
    context_length: longest text; None is the preset's.
    independent_head: see `FusionModel`.
    dtype: compute type; None is float32.
    remat: whether activations of layers are recomputed in the backward pass.
    activation_sharding: how activations lie on a mesh between layers.
    **overrides: fields of `FusionModel`; `image` is a mapping of fields of its
      image tower.

  Raises:
    ValueError: as of `presets.create_model`.

  >>> create_fusion_model("albef", vocab_size=100, text_depth=2).text_depth
  2
  """
  model = FUSION_PRESETS[presets.known("preset", preset, FUSION_PRESETS)]
  fields = presets.overridden("override", layers.fields(model), overrides)
  image = fields.pop("image", model.image)
  common: dict[str, Any] = dict(
    remat=remat,
    activation_sharding=activation_sharding,
    **presets.given(dtype=presets.compute_type(dtype)),
  )
  return model.clone(
    image=image.clone(**common, **presets.given(image_size=image_size)),
    vocab_size=vocab_size,
    task=task,
    independent_head=independent_head,
    **common,
    **presets.given(context_length=context_length),
    **fields,
  )


_ENCODERS = ("image", "embeddings", "text_layers")


def transfer(
  source: Mapping[str, Any],
  target: Mapping[str, Any],
  *,
  encoders_only: bool = False,
) -> dict[str, Any]:
  """Parameters of a task's model, begun with those of another task's.

  What both have by name and form is taken. A decoder begins as the fusion layers
  with the language model's embeddings and head; of a fusion layer for two images
  both halves begin as the one. Learned positions of patches are resized to another
  size of image, bicubically. Arrays may be shared between parts.

  Args:
    source: parameters of a `FusionModel`.
    target: those of another, as initialised; they stay where the source has none.
    encoders_only: takes the two encoders, and leaves fusion layers, projections
      and heads as they are.

  Returns:
    Parameters of the target's form.

  Raises:
    ValueError: if the encoders do not have the same forms.
  """
  needed = _ENCODERS if encoders_only else (*_ENCODERS, "fusion_layers")
  for name in needed:
    if name not in source:
      raise ValueError(f"The parameters to begin with have no {name!r}.")
  source = {
    name: part
    for name, part in source.items()
    if name in _ENCODERS or not encoders_only
  }
  source["image"] = _resized(source["image"], target["image"])
  if not encoders_only:
    _begin_others(source, target)
  for name in needed:
    ours, theirs = (
      {path: x.shape for path, x in layers.by_path(tree[name]).items()}
      for tree in (target, source)
    )
    for place in [*ours, *theirs]:
      if ours.get(place) != theirs.get(place):
        raise ValueError(
          f"The two models must have the same encoders, but {name}/{place} is"
          f" {theirs.get(place, 'absent')} in the one to begin with and"
          f" {ours.get(place, 'absent')} here."
        )
  return _matching(target, source)


def _begin_others(source: dict[str, Any], target: Mapping[str, Any]) -> None:
  """Gives the source what the target has and begins with a like part."""
  for new, old in (
    ("decoder_layers", "fusion_layers"),
    ("decoder_embeddings", "embeddings"),
    ("decoder_head", "language_head"),
  ):
    if new in target and new not in source and old in source:
      source[new] = source[old]
  if any("first" in v for v in target["fusion_layers"].values()):
    source["fusion_layers"] = {
      name: _pair(layer) if "attention" in layer else layer
      for name, layer in source["fusion_layers"].items()
    }


def _pair(layer: Mapping[str, Any]) -> dict[str, Any]:
  """A fusion layer's parameters as those of a `PairLayer`."""
  own = {k: v for k, v in layer.items() if k != "context_key_value"}
  return {
    "first": own,
    "second": own,
    "context_key_value": layer["context_key_value"],
  }


def _resized(
  source: Mapping[str, Any], target: Mapping[str, Any]
) -> Mapping[str, Any]:
  """An image tower's parameters with positions for another number of patches."""
  name = "position_embedding"
  old, new = source.get(name), target.get(name)
  if old is None or new is None or old.shape == new.shape:
    return source
  try:
    # The class token first, then a square of patches.
    resized = layers.resize_positions(old, len(new), 1)
  except ValueError:
    return source  # As it is, it is of another form.
  return {**source, name: resized}


def _matching(target: Any, source: Any) -> Any:
  """Leaves of the source where there are some of the same shape."""
  if isinstance(target, Mapping):
    inner = source if isinstance(source, Mapping) else {}
    return {k: _matching(v, inner.get(k)) for k, v in target.items()}
  if source is None or source.shape != target.shape:
    return target
  return source
