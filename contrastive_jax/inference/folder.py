"""A model as a folder that stands by itself: written, and opened.

  model.safetensors   weights by path, such as params/image/stem/kernel
  config.json         `description.Description`
  tokenizer.json      the vocabulary; models of images alone have none
  README.md           what it is, for people

Reading executes nothing, and needs neither the training data nor its libraries.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from contrastive_jax._types import Dtype
from contrastive_jax.data.files import stores
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from contrastive_jax.inference import description as description_lib
from contrastive_jax.inference import published
from contrastive_jax.inference.description import (
  FUSION,
  IMAGE_TOWER,
  Description,
  ModelError,
)
from contrastive_jax.inference.fusion import Fusion
from contrastive_jax.inference.model import Model
from contrastive_jax.models import layers, pretrained

WEIGHTS, CONFIG = "model.safetensors", "config.json"
TOKENIZER, CARD = "tokenizer.json", "README.md"
# The folder of a workdir that holds its model.
IN_WORKDIR = "model"


def save(
  folder: str | os.PathLike[str],
  description: Description,
  variables: Any,
  tokenizer: tokenizer_lib.Tokenizer | None = None,
  *,
  card: str = "",
) -> None:
  """Writes a model's folder; what is there of these files is replaced.

  Args:
    folder: is made if absent.
    description: what the model is; its scale of logits is that of the variables.
    variables: its parameters and collections, arrays on this host.
    tokenizer: its vocabulary, which a model of images alone does without.
    card: Markdown, `README.md`.

  Raises:
    ModelError: if variables are not those of the description, or it cannot be written.
  """
  folder = pathlib.Path(folder)
  tensors = {k: np.asarray(v) for k, v in layers.by_path(variables).items()}
  _check(description, tensors, str(folder))
  try:
    folder.mkdir(parents=True, exist_ok=True)
    pretrained.write_safetensors(folder / WEIGHTS, tensors)
    if description.kind != IMAGE_TOWER and tokenizer is not None:
      tokenizer.save(folder / TOKENIZER)
    (folder / CARD).write_text(card, encoding="utf-8")
    scaled = description.with_scale(variables)
    description_lib.write(scaled, folder / CONFIG)
  except (OSError, pretrained.WeightFileError) as error:
    raise ModelError(f"{folder} cannot be written: {error}") from error


def load(
  path: str | os.PathLike[str],
  *,
  dtype: Dtype | None = None,
  batch_size: int = 64,
  devices: Sequence[jax.Device] | None = None,
) -> Model:
  """Opens a trained model.

  Args:
    path: a model's folder, or the workdir of a finished run, which has one; or a
      folder of open_clip or of Hugging Face's transformers with a CLIP or a SigLIP,
      or the file of its weights there; or the address of one in an object store.
    dtype: compute type, such as "bfloat16"; None is float32.
    batch_size: pictures or texts that are embedded at once.
    devices: by default those of this process.

  Returns:
    The model.

  Raises:
    ModelError: if there is no model, or it is damaged.

  >>> import contrastive_jax
  >>> model = contrastive_jax.load("runs/clip_emoji")  # doctest: +SKIP
  >>> images = model.encode_image(["a.png", "b.png"])  # doctest: +SKIP
  >>> texts = model.encode_text("a red cup")  # doctest: +SKIP
  >>> model.similarity(images, texts)  # doctest: +SKIP
  """
  options: dict[str, Any] = {
    "dtype": dtype,
    "batch_size": batch_size,
    "devices": devices,
  }
  folder = pathlib.Path(stores.local(os.fspath(path))).expanduser()
  if folder.is_file():
    folder = folder.parent
  if not _is_own(folder) and published.is_published(folder):
    return Model(*published.opened(folder), **options)
  if not (folder / WEIGHTS).exists() and (folder / IN_WORKDIR).is_dir():
    folder /= IN_WORKDIR
  if not (folder / WEIGHTS).exists():
    hint = ""
    if (folder / "checkpoints").is_dir():
      hint = (
        ": its run is not finished; export a checkpoint of it with"
        f" python -m experiments.export --workdir={folder}"
      )
    raise ModelError(
      f"{folder} holds no model (no {WEIGHTS}, and no {IN_WORKDIR}/){hint}."
    )
  described, found = variables(folder)
  tokenizer = None
  if described.kind != IMAGE_TOWER:
    tokenizer = _tokenizer(folder / TOKENIZER, described)
  cls = Fusion if described.kind == FUSION else Model
  return cls(described, found, tokenizer, **options)


def _is_own(folder: pathlib.Path) -> bool:
  """Whether a folder has the form of this module, which others' may be beside."""
  path = folder / CONFIG
  try:
    return f'"{description_lib.FORMAT}"' in path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError):
    return False


def variables(folder: pathlib.Path) -> tuple[Description, dict[str, Any]]:
  """The description in a model's folder, and the variables.

  Raises:
    ModelError: if it is damaged.
  """
  described = description_lib.read(folder / CONFIG)
  try:
    tensors = pretrained.read_tensors(folder / WEIGHTS)
  except pretrained.WeightFileError as error:
    raise ModelError(str(error)) from error
  _check(described, tensors, str(folder / WEIGHTS))
  return described, tree(tensors)


def _check(
  description: Description, tensors: dict[str, np.ndarray], where: str
) -> None:
  """Raises ModelError unless tensors are the variables of the description."""
  expected = {
    name: (tuple(x.shape), str(x.dtype))
    for name, x in layers.by_path(description.shapes()).items()
  }
  given = {name: (x.shape, str(x.dtype)) for name, x in tensors.items()}
  for name in sorted({*expected} | {*given}):
    if expected.get(name) != given.get(name):
      raise ModelError(
        f"{where} must hold the weights that its {CONFIG} describes; {name} must be"
        f" {_shown(expected.get(name))}, and is {_shown(given.get(name))}."
      )


def _shown(form: tuple[tuple[int, ...], str] | None) -> str:
  return "absent" if form is None else f"{form[1]} {list(form[0])}"


def tree(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
  """Nested dicts of arrays by path."""
  out: dict[str, Any] = {}
  for path, value in tensors.items():
    *folders, name = path.split("/")
    inner = out
    for part in folders:
      inner = inner.setdefault(part, {})
    inner[name] = value
  return out


def _tokenizer(
  path: pathlib.Path, description: Description
) -> tokenizer_lib.Tokenizer:
  try:
    found = tokenizer_lib.Tokenizer.load(path)
  except (OSError, ValueError, ImportError) as error:
    raise ModelError(f"{path} cannot be read: {error}") from error
  if found.vocab_size > description.vocab_size:
    raise ModelError(
      f"{path} has {found.vocab_size:,} ids, and the model"
      f" {description.vocab_size:,}: it is of another model."
    )
  return found
