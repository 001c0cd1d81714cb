"""Folders of open_clip and of Hugging Face's transformers, opened as models."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from contrastive_jax.data.text import published_tokenizers
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from contrastive_jax.inference.description import (
  TWO_TOWERS,
  Description,
  ModelError,
  Pictures,
)
from contrastive_jax.models import pretrained

OPEN_CLIP = "open_clip_config.json"
_TRANSFORMERS = "config.json"
_PREPROCESSING = "preprocessor_config.json"
_FITS = {"shortest": "crop", "squash": "stretch", "longest": "pad"}
_HEAD_WIDTH = 64  # A head is so wide where a configuration does not say it.
_SIGLIP = "siglip"
_ACTIVATIONS = {
  "quick_gelu": "quick_gelu",
  "gelu": "gelu",
  "gelu_pytorch_tanh": "gelu_tanh",
}


def is_published(folder: pathlib.Path) -> bool:
  """Whether a folder is one of open_clip or of transformers."""
  if (folder / OPEN_CLIP).exists():
    return True
  path = folder / _TRANSFORMERS
  return path.exists() and "model_type" in _read(path)


def opened(
  folder: pathlib.Path,
) -> tuple[Description, Any, tokenizer_lib.Tokenizer]:
  """The model, the variables and the vocabulary of such a folder.

  CLIP's ViTs and ResNets and SigLIP's ViTs are known, with CLIP's vocabulary or the
  files of another one in the folder. Nothing in it is executed.

  Raises:
    ModelError: if the model is of another kind, or the folder is damaged.
  """
  try:
    tensors = pretrained.read_tensors(folder)
    describe = _of_transformers
    path = folder / _TRANSFORMERS
    if (folder / OPEN_CLIP).exists():
      describe, path = _of_open_clip, folder / OPEN_CLIP
    try:
      described = describe(_read(path), folder, tensors)
    except (KeyError, TypeError, AttributeError) as error:
      raise ModelError(
        f"{path} does not describe a CLIP or SigLIP: {error!r}."
      ) from error
    model = described.module()
    variables, _ = pretrained.load(model, folder, described.shapes())
  except (pretrained.WeightFileError, pretrained.PretrainedError) as error:
    raise ModelError(str(error)) from error
  return (
    described.with_scale(variables),
    variables,
    _tokenizer(folder, described),
  )


def _of_open_clip(
  found: Mapping[str, Any],
  folder: pathlib.Path,
  tensors: Mapping[str, Any],
) -> Description:
  del folder
  model, shown = found["model_cfg"], found.get("preprocess_cfg", {})
  vision, text = model["vision_cfg"], model["text_cfg"]
  size = vision["image_size"]
  pictures = _pictures(
    size,
    _FITS[shown.get("resize_mode", "shortest")],
    shown.get("interpolation", "bicubic"),
    shown,
  )
  activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
  overrides: dict[str, Any] = {"embed_dim": model["embed_dim"]}
  preset, layers = "vit_b32", vision.get("layers")
  if _SIGLIP in vision.get("timm_model_name", ""):
    preset = "siglip_b16"
    overrides["image"] = _trunk(tensors)
    activation = "gelu_tanh"
  elif isinstance(layers, int):
    overrides["image"] = {
      "width": vision["width"],
      "depth": layers,
      "num_heads": vision["width"] // vision.get("head_width", _HEAD_WIDTH),
      "patch_size": vision["patch_size"],
      "mlp_ratio": float(vision.get("mlp_ratio", 4.0)),
      "activation": activation,
    }
  elif isinstance(layers, list):
    preset = "rn50"
    overrides["image"] = {
      "stage_sizes": layers,
      "width": vision["width"],
      "features": model["embed_dim"],
    }
  else:
    raise ModelError(
      "open_clip's CLIP (ViT, ResNet) and SigLIP can be opened; got"
      f" {vision.get('timm_model_name', 'another image tower')!r}."
    )
  if "hf_model_name" in text:
    raise ModelError(
      f"A text tower of open_clip's own can be opened; got {text['hf_model_name']!r}."
    )
  overrides["text"] = {
    "width": text["width"],
    "depth": text["layers"],
    "num_heads": text["heads"],
    "mlp_ratio": float(text.get("mlp_ratio", 4.0)),
    "activation": activation,
  }
  return Description(
    kind=TWO_TOWERS,
    preset=preset,
    overrides=overrides,
    vocab_size=text.get("vocab_size", 49_408),
    image_size=size,
    context_length=text.get("context_length", 77),
    pictures=pictures,
    sigmoid="logit_bias" in tensors,
    templates=("a photo of a {}",),
  )


def _trunk(tensors: Mapping[str, Any]) -> dict[str, Any]:
  """The sizes of SigLIP's image tower, which a name of timm stands for."""
  trunk = "visual.trunk."
  width, _, patch_size, _ = tensors[f"{trunk}patch_embed.proj.weight"].shape
  blocks = {n.split(".")[3] for n in tensors if n.startswith(f"{trunk}blocks.")}
  hidden = len(tensors[f"{trunk}blocks.0.mlp.fc1.bias"])
  return {
    "width": width,
    "depth": len(blocks),
    "num_heads": width // _HEAD_WIDTH,
    "patch_size": patch_size,
    "mlp_ratio": hidden / width,
  }


def _of_transformers(
  found: Mapping[str, Any],
  folder: pathlib.Path,
  tensors: Mapping[str, Any],
) -> Description:
  family = found["model_type"]
  if family not in ("clip", _SIGLIP):
    raise ModelError(
      "transformers' models of the types clip and siglip can be opened; got"
      f" {family!r}."
    )
  is_siglip = family == _SIGLIP
  # Fields that have the type's own value are not in its files.
  usual: dict[str, Any] = {
    "num_hidden_layers": 12,
    "hidden_act": "gelu_pytorch_tanh" if is_siglip else "quick_gelu",
    "layer_norm_eps": 1e-6 if is_siglip else 1e-5,
  }
  vision: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3_072,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16 if is_siglip else 32,
    **usual,
    **found.get("vision_config", {}),
  }
  text: dict[str, Any] = {
    "hidden_size": 768 if is_siglip else 512,
    "intermediate_size": 3_072 if is_siglip else 2_048,
    "num_attention_heads": 12 if is_siglip else 8,
    "max_position_embeddings": 64 if is_siglip else 77,
    "vocab_size": 32_000 if is_siglip else 49_408,
    **usual,
    **found.get("text_config", {}),
  }
  width = text.get("projection_size", text["hidden_size"])
  path = folder / _PREPROCESSING
  shown = _read(path) if path.exists() else {}
  half = [0.5] * 3
  default = {"image_mean": half, "image_std": half} if is_siglip else {}
  shown = {**default, **shown}
  crops = shown.get("do_center_crop", not is_siglip)
  return Description(
    kind=TWO_TOWERS,
    preset="siglip_b16" if is_siglip else "vit_b32",
    overrides={
      "embed_dim": width if is_siglip else found.get("projection_dim", 512),
      "image": {**_sizes(vision), "patch_size": vision["patch_size"]},
      "text": _sizes(text),
    },
    vocab_size=text["vocab_size"],
    image_size=vision["image_size"],
    context_length=text["max_position_embeddings"],
    pictures=_pictures(
      vision["image_size"],
      "crop" if crops else "stretch",
      "bilinear" if shown.get("resample") == 2 else "bicubic",
      {k.removeprefix("image_"): v for k, v in shown.items()},
    ),
    sigmoid=is_siglip,
    templates=("a photo of a {}",),
  )


def _sizes(tower: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of a tower, of what transformers calls them."""
  return {
    "width": tower["hidden_size"],
    "depth": tower["num_hidden_layers"],
    "num_heads": tower["num_attention_heads"],
    "mlp_ratio": tower["intermediate_size"] / tower["hidden_size"],
    "activation": _ACTIVATIONS[tower["hidden_act"]],
    "layer_norm_eps": tower["layer_norm_eps"],
  }


def _pictures(
  size: int, fit: str, interpolation: str, found: Mapping[str, Any]
) -> Pictures:
  """The preparation of a picture: the square has the model's size at once."""
  usual = Pictures()
  return Pictures(
    stored_size=size,
    fit=fit,
    interpolation=interpolation,
    mean=tuple(found.get("mean", usual.mean)),
    std=tuple(found.get("std", usual.std)),
  )


def _tokenizer(
  folder: pathlib.Path, described: Description
) -> tokenizer_lib.Tokenizer:
  """The vocabulary of a folder; CLIP's own is in the package."""
  try:
    if described.vocab_size == published_tokenizers.CLIP_IDS:
      return published_tokenizers.clip()
    return published_tokenizers.load(folder)
  except (ValueError, ImportError) as error:
    raise ModelError(f"{folder}: {error}") from error


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise ModelError(f"{path} cannot be read: {error}") from error
  if not isinstance(found, dict):
    raise ModelError(f"{path} must hold a JSON object.")
  return found
