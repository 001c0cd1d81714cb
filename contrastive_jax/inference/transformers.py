"""A CLIP or SigLIP model as Hugging Face's transformers opens it.

The folder `transformers/` of a model's folder has `config.json`, `model.safetensors`,
`preprocessor_config.json` and, of CLIP's and SigLIP's own vocabularies, the files of
their tokenizers.
"""

import base64
import json
import pathlib
from typing import Any

import jax

from contrastive_jax.data.text import sentencepiece_files
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from contrastive_jax.inference import folder as folder_lib
from contrastive_jax.inference.description import (
  TWO_TOWERS,
  Description,
  ModelError,
)
from contrastive_jax.models import pretrained
from contrastive_jax.models.text import TextTransformer
from contrastive_jax.models.two_tower import TwoTower
from contrastive_jax.models.vit import ViT

FOLDER = "transformers"
# Their names of activations.
ACTIVATIONS = {
  "quick_gelu": "quick_gelu",
  "gelu": "gelu",
  "gelu_tanh": "gelu_pytorch_tanh",
}
_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # PIL's numbers.
_START, _END = "<|startoftext|>", "<|endoftext|>"


def save(folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes the files of a model's folder into a folder in it.

  Returns:
    The files.

  Raises:
    ModelError: if transformers has no such model.
  """
  model = folder_lib.load(folder, devices=jax.local_devices()[:1])
  found = config(model.description, model.tokenizer)
  out = folder / FOLDER
  out.mkdir(exist_ok=True)
  try:
    pretrained.save(
      model.module,
      jax.device_get(model.variables),
      out / "model.safetensors",
      logit_bias=found["model_type"] == "siglip",
      renamed=True,
    )
  except (pretrained.PretrainedError, pretrained.WeightFileError) as error:
    raise ModelError(str(error)) from error
  written = {
    "config.json": _json(found),
    "preprocessor_config.json": _json(_preprocessing(model.description)),
    **_tokenizer(
      model.tokenizer,
      json.loads((folder / folder_lib.TOKENIZER).read_text(encoding="utf-8")),
      model.description.context_length,
    ),
  }
  for name, content in written.items():
    (out / name).write_bytes(content)
  return [out / name for name in (*written, "model.safetensors")]


def config(
  described: Description, tokenizer: tokenizer_lib.Tokenizer | None
) -> dict[str, Any]:
  """`config.json` of a model.

  Raises:
    ModelError: if transformers has no such model.
  """
  model = described.module()
  if described.kind != TWO_TOWERS or not isinstance(model, TwoTower):
    raise ModelError(
      "transformers' CLIP and SigLIP are two-tower models alone."
    )
  image, text = model.image, model.text
  plain = isinstance(image, ViT) and isinstance(text, TextTransformer)
  own = plain and (image.stem_width, image.num_registers, image.position)
  if not plain or own != (0, 0, "learned"):
    raise ModelError(
      "transformers' form needs a vision transformer and a text transformer as CLIP"
      f" and SigLIP have them; got {type(image).__name__} and {type(text).__name__}"
      " with other settings."
    )
  is_siglip = image.pool == "map" and text.pool == "last"
  if not is_siglip and not (image.pool == "cls" and text.causal):
    raise ModelError(
      "transformers' form needs CLIP's poolings, cls and a causal text, or SigLIP's,"
      f" map and last; got {image.pool} and {text.pool}."
    )
  if not is_siglip and described.sigmoid:
    raise ModelError(
      "transformers' CLIP has no bias of logits, which a model of the sigmoid loss"
      " needs: write --format=open_clip."
    )
  if not is_siglip and (tokenizer is None or tokenizer.kind != "clip"):
    raise ModelError(
      "transformers' CLIP reads texts by CLIP's vocabulary alone; train with"
      " --config.tokenizer=clip."
    )
  ids: dict[str, int] = {}
  if tokenizer is not None:
    ids = {"eos_token_id": tokenizer.end_id, "pad_token_id": tokenizer.pad_id}
    if tokenizer.start_id is not None:
      ids["bos_token_id"] = tokenizer.start_id
  found: dict[str, Any] = {
    "vision_config": {
      **_tower(image),
      "image_size": described.image_size,
      "patch_size": image.patch_size,
    },
    "text_config": {
      **_tower(text),
      **ids,
      "vocab_size": described.vocab_size,
      "max_position_embeddings": described.context_length,
    },
  }
  if is_siglip:
    found["text_config"]["projection_size"] = model.embed_dim
    return {"architectures": ["SiglipModel"], "model_type": "siglip", **found}
  for part in ("vision_config", "text_config"):
    found[part]["projection_dim"] = model.embed_dim
  return {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": model.embed_dim,
    **found,
  }


def _tower(tower: ViT | TextTransformer) -> dict[str, Any]:
  return {
    "hidden_size": tower.width,
    "intermediate_size": round(tower.width * tower.mlp_ratio),
    "num_hidden_layers": tower.depth,
    "num_attention_heads": tower.num_heads,
    "hidden_act": ACTIVATIONS[tower.activation],
    "layer_norm_eps": tower.layer_norm_eps,
  }


def _preprocessing(described: Description) -> dict[str, Any]:
  pictures, side = described.pictures, described.image_size
  square = {"height": side, "width": side}
  crops = pictures.fit == "crop"
  return {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    # It pads no picture: one that is not square is stretched.
    "size": {"shortest_edge": side} if crops else square,
    "resample": _RESAMPLE[pictures.interpolation],
    "do_center_crop": crops,
    "crop_size": square,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(pictures.mean),
    "image_std": list(pictures.std),
  }


def _tokenizer(
  tokenizer: tokenizer_lib.Tokenizer | None, saved: Any, length: int
) -> dict[str, bytes]:
  """Files of a tokenizer that transformers has too, by their names."""
  kind = tokenizer.kind if tokenizer is not None else ""
  pieces = saved.get(sentencepiece_files.FIELD)
  if kind == "siglip" and pieces is not None:
    about = {"tokenizer_class": "SiglipTokenizer", "model_max_length": length}
    return {
      "spiece.model": base64.b64decode(pieces),
      "tokenizer_config.json": _json(about),
    }
  if tokenizer is None or kind != "clip":
    return {}
  own = saved["model"]
  vocabulary = {
    piece: number
    for piece, number in own["vocab"].items()
    if number not in (tokenizer.start_id, tokenizer.end_id)
  }
  vocabulary |= {_START: tokenizer.start_id, _END: tokenizer.end_id}
  merges = [m if isinstance(m, str) else " ".join(m) for m in own["merges"]]
  about = {
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": length,
    "bos_token": _START,
    "eos_token": _END,
    "unk_token": _END,
    "pad_token": _END,
  }
  return {
    "vocab.json": json.dumps(vocabulary, ensure_ascii=False).encode(),
    "merges.txt": "\n".join(["#version: 0.2", *merges, ""]).encode(),
    "tokenizer_config.json": _json(about),
  }


def _json(value: Any) -> bytes:
  return (json.dumps(value, indent=2) + "\n").encode()
