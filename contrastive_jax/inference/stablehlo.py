"""A model's encoders as StableHLO programs, which run without this package.

  encode_image.stablehlo   (weights, uint8 [n, S, S, 3]) -> float32 [n, d]
  encode_text.stablehlo    (weights, int32 [n, L]) -> float32 [n, d]

`jax.export.deserialize` reads one; weights are the arrays of `model.safetensors` by
name, n is any number, and the program runs on CPUs, CUDA GPUs and TPUs.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from contrastive_jax.inference import folder as folder_lib
from contrastive_jax.inference.description import IMAGE_TOWER, ModelError
from contrastive_jax.inference.model import Model
from contrastive_jax.models import layers

PLATFORMS = ("cpu", "cuda", "tpu")
SUFFIX = ".stablehlo"


def save(folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes the encoders of a model's folder beside its weights.

  A model with second heads has programs of these too, `encode_image_independent`.

  Returns:
    The files.

  Raises:
    ModelError: if the model embeds nothing.
    ImportError: if `flatbuffers` is not installed.
  """
  model = folder_lib.load(folder, devices=jax.local_devices()[:1])
  if not model.heads:
    raise ModelError(
      f"A model of task {model.description.task!r} has no encoder to export."
    )
  sides = ["image"]
  if model.description.kind != IMAGE_TOWER:
    sides.append("text")
  out = []
  for side in sides:
    for head in model.heads[:2]:
      name = f"encode_{side}" + ("" if head == "shared" else f"_{head}")
      path = folder / f"{name}{SUFFIX}"
      path.write_bytes(program(model, side, head).serialize())
      out.append(path)
  return out


def program(model: Model, side: str, head: str = "shared") -> export.Exported:
  """An encoder of a model as a program, for any number of rows."""
  described = model.description
  (count,) = export.symbolic_shape("n")
  square = described.pictures.stored_size
  rows = jax.ShapeDtypeStruct((count, described.context_length), jnp.int32)
  if side == "image":
    rows = jax.ShapeDtypeStruct((count, square, square, 3), jnp.uint8)

  def encode(weights: dict[str, Any], rows: jax.Array) -> jax.Array:
    return model.embed(folder_lib.tree(weights), side, head, rows)

  weights = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype)
    for name, x in layers.by_path(model.variables).items()
  }
  return export.export(jax.jit(encode), platforms=PLATFORMS)(weights, rows)
