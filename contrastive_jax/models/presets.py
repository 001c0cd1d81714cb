"""Named two-tower models."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from contrastive_jax._types import Dtype
from contrastive_jax.models import layers
from contrastive_jax.models.bert_encoder import BertEncoder
from contrastive_jax.models.convnet import ConvNet
from contrastive_jax.models.efficientnet import EfficientNetLite
from contrastive_jax.models.resnet import ModifiedResNet, resnet
from contrastive_jax.models.text import TextTransformer
from contrastive_jax.models.two_tower import TwoTower
from contrastive_jax.models.vit import vit


@dataclasses.dataclass(frozen=True)
class TwoTowerConfig:
  """A two-tower model but for its vocabulary, size of input and precision.

  Attributes:
    image: the image tower; `create_model` fits it to the image size.
    text: the text tower; `create_model` fits it to vocabulary and context.
    image_size: height and width of the images.

  The other fields are those of `TwoTower`.
  """

  image: nn.Module
  text: TextTransformer | BertEncoder
  embed_dim: int
  image_size: int = 224
  image_head: str = "linear"
  text_head: str = "linear"
  independent_head: str | None = None
  init_logit_scale: float = 1 / 0.07
  init_logit_bias: float = -10.0
  image_dropout: float = 0.0
  text_dropout: float = 0.0

  @property
  def context_length(self) -> int:
    """The longest text, in tokens."""
    return self.text.context_length


def _text(width: int, **settings: Any) -> TextTransformer:
  """CLIP's text tower: 12 causal blocks, heads of width 64."""
  return TextTransformer(width=width, num_heads=width // 64, **settings)


def _clip_vit(variant: str, width: int, activation: str) -> TwoTowerConfig:
  """CLIP with a vision transformer, in every detail that shapes weights."""
  image = vit(
    variant,
    patch_bias=False,
    embedding_norm=True,
    layer_norm_eps=1e-5,
    activation=activation,
  )
  text = _text(width, activation=activation)
  return TwoTowerConfig(image, text, embed_dim=width)


def _siglip(variant: str, width: int, vocab_size: int) -> TwoTowerConfig:
  """SigLIP: both towers equally wide, attention pooling, texts padded to 64."""
  return TwoTowerConfig(
    vit(variant, pool="map", activation="gelu_tanh"),
    _text(
      width,
      vocab_size=vocab_size,
      context_length=64,
      causal=False,
      pool="last",
      pad_id=1,
      attend_padding=True,
      activation="gelu_tanh",
      layer_norm_eps=1e-6,
    ),
    embed_dim=width,
    image_head="none",
    text_head="affine",
    init_logit_scale=10.0,
  )


PRESETS: dict[str, TwoTowerConfig] = {
  # For one or two CPU cores: small images; texts as bags of tokens, which on
  # captions of a few words score as two attention layers do, at half the cost
  # of a whole step.
  "tiny": TwoTowerConfig(
    ConvNet(widths=(32, 64, 128), depths=(1, 1, 1)),
    TextTransformer(
      context_length=48,
      width=128,
      depth=0,
      num_heads=4,
      causal=False,
      pool="mean",
    ),
    embed_dim=256,
    image_size=32,
  ),
  # The published CLIP models (quick GELU, as their weights need).
  "rn50": TwoTowerConfig(
    ModifiedResNet(features=1024),
    _text(512, activation="quick_gelu"),
    embed_dim=1024,
    image_head="none",
  ),
  # The plain ResNet-50 with CLIP's text tower: beside "rn50" it shows what the
  # changes of the image tower are worth.
  "resnet50": TwoTowerConfig(
    resnet(50), _text(512, activation="quick_gelu"), embed_dim=1024
  ),
  "vit_b32": _clip_vit("B/32", 512, "quick_gelu"),
  "vit_b16": _clip_vit("B/16", 512, "quick_gelu"),
  "vit_l14": _clip_vit("L/14", 768, "quick_gelu"),
  # SigLIP and SigLIP 2, as big_vision trains them (GELU by tanh in both towers).
  "siglip_b16": _siglip("B/16", 768, 32_000),
  "siglip2_b16": _siglip("B/16", 768, 256_000),
  # Two encoders whose weights packages ship, each trained by itself, for maps into
  # one space on top of them: EfficientNet-Lite0 and all-MiniLM-L6-v2.
  "lite0_minilm": TwoTowerConfig(
    EfficientNetLite(),
    BertEncoder(
      context_length=64, width=384, depth=6, num_heads=12, pool="mean"
    ),
    embed_dim=256,
  ),
  # Smaller ones of CLIP's form, both towers equally wide (open_clip's).
  "vit_s16": _clip_vit("S/16", 384, "gelu"),
  "vit_ti16": _clip_vit("Ti/16", 192, "gelu"),
}


def create_model(
  preset: str,
  *,
  vocab_size: int,
  image_size: int | None = None,
  context_length: int | None = None,
  dtype: Dtype | None = None,
  remat: bool = False,
  activation_sharding: jax.sharding.Sharding | None = None,
  **overrides: Any,
) -> TwoTower:
  """Builds the two-tower model of a preset.

  Args:
    preset: a name in `PRESETS`.
    vocab_size: number of token ids.
    image_size: height and width of the images; None is the preset's.
    context_length: longest text; None is the preset's.
    dtype: compute type, e.g. "bfloat16"; None is float32. Parameters and
      embeddings are float32 whatever it is.
    remat: whether activations inside blocks are recomputed in the backward
      pass, which saves memory for about a third more computation.
    activation_sharding: how the activations of transformers lie on a mesh,
      rows first; None leaves it to the compiler.
    **overrides: fields of `TwoTowerConfig`. `image` and `text` are mappings
      of fields of the preset's towers (`text=dict(depth=4)`), or modules that
      replace them.

  Returns:
    The module; `init` and `apply` it with images and tokens.

  Raises:
    ValueError: if a name is unknown (the nearest is named) or a value has the
      wrong type.

  >>> model = create_model("tiny", vocab_size=100, text=dict(depth=1))
  >>> model.text.depth, model.text.vocab_size
  (1, 100)
  """
  config = vars(PRESETS[known("preset", preset, PRESETS)])
  settings = given(
    vocab_size=vocab_size, image_size=image_size, context_length=context_length
  )
  for name, value in settings.items():
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
      raise ValueError(f"{name} must be an integer > 0; got {value!r}.")
  fields = config | overridden("override", config, overrides)
  del fields["image_size"]
  # Settings that are not given stay as the tower has them: the preset's, or its
  # own where an override replaced it.
  settings |= given(
    dtype=compute_type(dtype),
    remat=remat or None,
    activation_sharding=activation_sharding,
  )
  for side in ("image", "text"):
    # Some settings are no fields of a tower: a ConvNet takes any image size.
    own = layers.fields(fields[side])
    fields[side] = fields[side].clone(
      **{name: value for name, value in settings.items() if name in own}
    )
  return TwoTower(dtype=settings.get("dtype"), **fields)


def given(**settings: Any) -> dict[str, Any]:
  """The settings that are not None."""
  return {name: x for name, x in settings.items() if x is not None}


def compute_type(dtype: Dtype | None) -> Any:
  """The floating type of this name, or None."""
  if dtype is None:
    return None
  found = jnp.dtype(dtype)
  if not jnp.issubdtype(found, jnp.floating):
    raise ValueError(f"dtype must be a floating type; got {dtype}.")
  return found


def known(what: str, name: Any, names: Mapping[str, Any]) -> str:
  """Returns `name` if it is known, and else names the nearest that is."""
  if isinstance(name, str) and name in names:
    return name
  nearest = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.0)
  raise ValueError(
    f"unknown {what} {name!r}; did you mean {nearest[0]!r}? Known:"
    f" {', '.join(names)}."
  )


def overridden(
  what: str,
  fields: Mapping[str, Any],
  overrides: Mapping[str, Any],
  prefix: str = "",
) -> dict[str, Any]:
  """The overrides of a module's fields as values: lists as tuples, towers made.

  Args:
    what: names a field in errors.
    fields: the values that are replaced, which tell the types.
    overrides: values by name; a module's may be a mapping of fields of its own.
    prefix: of the names in errors.
  """
  out = {}
  for name, value in overrides.items():
    default = fields[known(what, name, fields)]
    if isinstance(default, nn.Module):
      out[name] = _tower(name, default, value)
    else:
      out[name] = _checked(prefix + name, default, value)
  return out


def _tower(name: str, tower: nn.Module, value: Any) -> nn.Module:
  """A tower with some fields changed, or another tower."""
  if isinstance(value, nn.Module):
    return value
  if not hasattr(value, "items"):
    raise ValueError(
      f"{name} must be a mapping of fields or a module; got {value!r}."
    )
  fields = layers.fields(tower)
  return tower.clone(
    **overridden(f"{name} field", fields, value, prefix=f"{name}.")
  )


def _checked(name: str, default: Any, value: Any) -> Any:
  """Returns `value`, lists as tuples, if it is of the type of `default`."""
  if isinstance(value, list):
    value = tuple(value)
  if default is None or value is None:
    return value
  types = (int, float) if isinstance(default, float) else type(default)
  right = isinstance(value, types)
  if not right or isinstance(value, bool) != isinstance(default, bool):
    raise ValueError(
      f"{name} must be of type {type(default).__name__}; got {value!r}."
    )
  return value
