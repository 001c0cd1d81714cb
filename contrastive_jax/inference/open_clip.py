"""A CLIP model's folder as open_clip opens it (`local-dir:FOLDER`).

open_clip_config.json        architecture and preprocessing
open_clip_model.safetensors  weights under open_clip's names
"""

import json
import pathlib
from typing import Any

import jax
from flax import linen as nn

from contrastive_jax.inference import folder as folder_lib
from contrastive_jax.inference.description import (
  TWO_TOWERS,
  Description,
  ModelError,
)
from contrastive_jax.models import pretrained
from contrastive_jax.models.resnet import ModifiedResNet
from contrastive_jax.models.text import TextTransformer
from contrastive_jax.models.two_tower import TwoTower
from contrastive_jax.models.vit import ViT

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# How pictures become squares, in its words.
_RESIZE = {"crop": "shortest", "stretch": "squash", "pad": "longest"}


def save(folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes open_clip's files of a model's folder beside ours.

  Returns:
    The files.

  Raises:
    ModelError: if open_clip has no such model.
  """
  model = folder_lib.load(folder, devices=jax.local_devices()[:1])
  described, tokenizer = model.description, model.tokenizer
  if tokenizer is None or tokenizer.kind != "clip":
    raise ModelError(
      "open_clip reads texts by CLIP's vocabulary alone; got"
      f" {'none' if tokenizer is None else tokenizer.kind + chr(39) + 's'}: train"
      " with --config.tokenizer=clip."
    )
  found = config(described)
  try:
    pretrained.save(
      model.module,
      jax.device_get(model.variables),
      folder / WEIGHTS,
      logit_bias=described.sigmoid,
    )
  except (pretrained.PretrainedError, pretrained.WeightFileError) as error:
    raise ModelError(str(error)) from error
  text = json.dumps(found, indent=2) + "\n"
  (folder / CONFIG).write_text(text, encoding="utf-8")
  return [folder / CONFIG, folder / WEIGHTS]


def config(described: Description) -> dict[str, Any]:
  """`open_clip_config.json` of a model.

  Raises:
    ModelError: if open_clip has no such model.
  """
  model = described.module()
  if described.kind != TWO_TOWERS or not isinstance(model, TwoTower):
    raise ModelError("open_clip has two-tower models alone.")
  image, text = model.image, model.text
  if not isinstance(text, TextTransformer) or not text.causal:
    raise _none("a causal text transformer", text)
  if isinstance(image, ViT) and image.pool == "cls":
    vision = _vit(image)
  elif isinstance(image, ModifiedResNet):
    vision = {
      "layers": list(image.stage_sizes),
      "width": image.width,
      "patch_size": None,
    }
  else:
    raise _none("CLIP's vision transformer or ResNet", image)
  activations = {getattr(image, "activation", text.activation), text.activation}
  if len(activations) > 1 or not activations <= {"gelu", "quick_gelu"}:
    raise ModelError(
      "open_clip has gelu or quick_gelu in both towers; got"
      f" {', '.join(sorted(activations))}."
    )
  architecture: dict[str, Any] = {
    "embed_dim": model.embed_dim,
    "quick_gelu": activations == {"quick_gelu"},
    "vision_cfg": {"image_size": described.image_size, **vision},
    "text_cfg": {
      "context_length": described.context_length,
      "vocab_size": described.vocab_size,
      "width": text.width,
      "heads": text.num_heads,
      "layers": text.depth,
      "mlp_ratio": text.mlp_ratio,
    },
  }
  if described.sigmoid:
    architecture["init_logit_bias"] = described.logit_bias
  pictures = described.pictures
  return {
    "model_cfg": architecture,
    "preprocess_cfg": {
      "mean": list(pictures.mean),
      "std": list(pictures.std),
      "interpolation": pictures.interpolation,
      "resize_mode": _RESIZE[pictures.fit],
      "fill_color": 255,
    },
  }


def _vit(image: ViT) -> dict[str, Any]:
  own = (image.stem_width, image.num_registers, image.position)
  clips = image.embedding_norm and not image.patch_bias
  if own != (0, 0, "learned") or not clips or image.layer_norm_eps != 1e-5:
    raise _none("a vision transformer in CLIP's form", image)
  return {
    "layers": image.depth,
    "width": image.width,
    "head_width": image.width // image.num_heads,
    "patch_size": image.patch_size,
    "mlp_ratio": image.mlp_ratio,
  }


def _none(wanted: str, module: nn.Module) -> ModelError:
  return ModelError(
    f"open_clip's form needs {wanted}; got {type(module).__name__} with other"
    " settings."
  )
