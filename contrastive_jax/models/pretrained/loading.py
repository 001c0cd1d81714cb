"""Published weights into our models, and ours out again."""

import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from contrastive_jax.models import layers
from contrastive_jax.models.bert_encoder import BertEncoder
from contrastive_jax.models.efficientnet import EfficientNetLite
from contrastive_jax.models.fusion_model import FusionModel
from contrastive_jax.models.pretrained import (
  albef,
  clip,
  encoders,
  files,
  rules,
  siglip,
  transformers_names,
)
from contrastive_jax.models.resnet import ModifiedResNet, ResNet
from contrastive_jax.models.text import TextTransformer
from contrastive_jax.models.two_tower import TwoTower
from contrastive_jax.models.vit import ViT


def names(
  model: nn.Module, *, mask: int | None = None
) -> tuple[list[rules.Rule], Sequence[str]]:
  """How a model's parameters are called where its weights are published.

  Args:
    model: a two-tower model (OpenAI's and open_clip's names, SigLIP's if its image
      tower has attention pooling; files with transformers' names are read too), a fusion model (ALBEF's), a `ViT` (timm's), a
      `ResNet` (torchvision's), an `EfficientNetLite` or a `BertEncoder` (Hugging
      Face's).
    mask: of a fusion model's vocabulary, the id of a mask where it is saved; see
      `rules.vocabulary`.

  Returns:
    The rules, and patterns of names that are no weights.

  Raises:
    PretrainedError: if no names are known for such a model.
  """
  match model:
    case TwoTower(
      image=ViT(pool="map") as image, text=TextTransformer() as text
    ):
      found = siglip.image(image) + siglip.text(text)
      return found, siglip.IGNORED
    case TwoTower(
      image=ViT(pool="cls") as image, text=TextTransformer() as text
    ):
      found = clip.vit(image) + clip.text(text)
      return found, clip.IGNORED
    case TwoTower(
      image=ModifiedResNet() as image, text=TextTransformer() as text
    ):
      found = clip.resnet(image) + clip.text(text)
      return found, clip.IGNORED
    case FusionModel(task="pretrain" | "vqa" | "entailment"):
      return albef.rules_of(model, mask), albef.IGNORED
    case ViT(pool="cls" | "map"):
      return encoders.vit(model), encoders.VIT_IGNORED
    case ResNet(stem="imagenet", norm="batch"):
      return encoders.torchvision_resnet(model), encoders.RESNET_IGNORED
    case EfficientNetLite():
      return encoders.efficientnet(model), encoders.EFFICIENTNET_IGNORED
    case BertEncoder():
      return encoders.bert(model), encoders.BERT_IGNORED
  raise rules.PretrainedError(
    f"No published names are known for {type(model).__name__} with these settings."
  )


def load(
  model: nn.Module,
  path: str | pathlib.Path,
  variables: Any,
  *,
  allow: Iterable[str] = (),
) -> tuple[Any, rules.Report]:
  """Gives a model published weights.

  Args:
    model: see `names`.
    path: of a weight file or its folder, see `files.read_tensors`.
    variables: of the model, as initialised; or their shapes, if the file has all of
      them.
    allow: of `missing`, `unexpected` and `misshapen`, what is no error; such
      parameters stay as initialised.

  Returns:
    Variables with the weights, float32, and what did not fit.

  Raises:
    WeightFileError: if the file cannot be read or is refused.
    PretrainedError: if the weights do not fit.
  """
  tensors = files.read_tensors(path)
  found, ignored = names(model)
  tensors = _renamed(model, tensors)
  out, report = rules.load(
    found, tensors, variables, ignored=ignored, allow=allow
  )
  bare = [
    name
    for name, leaf in layers.by_path(out).items()
    if isinstance(leaf, jax.ShapeDtypeStruct)
  ]
  if bare:
    raise rules.PretrainedError(
      f"variables must be initialised where weights are missing; {bare[0]} is a"
      " shape alone."
    )
  return out, report


def load_text(
  model: nn.Module,
  path: str | pathlib.Path,
  variables: Any,
  *,
  allow: Iterable[str] = (),
) -> tuple[Any, rules.Report]:
  """Gives a model's text side published weights of a text encoder.

  Args:
    model: a `TwoTower`, whose text tower has names of its own (see `names`), or a
      `FusionModel`, whose text and fusion layers begin as the first layers of a BERT.
    path: as of `load`, like the others.
    variables: of the model, as initialised.
    allow: of what does not fit, what is no error.

  Returns:
    As of `load`, which raises the same errors.
  """
  if not isinstance(model, FusionModel):
    return _load_tower(model, "text", path, variables, allow)
  tensors = _of_bert(files.read_tensors(path))
  found, head = albef.bert_rules(model), albef.head_rules(model)
  # Encoders are published with it and without.
  if all(rule.theirs in tensors for rule in head):
    found += head
  return rules.load(
    found,
    tensors,
    variables,
    ignored=encoders.BERT_IGNORED,
    allow=allow,
    partial=True,
  )


def load_image(
  model: nn.Module,
  path: str | pathlib.Path,
  variables: Any,
  *,
  allow: Iterable[str] = (),
) -> tuple[Any, rules.Report]:
  """Gives a model's image tower published weights; arguments as of `load_text`."""
  # Models that embed images alone call it otherwise.
  side = "image" if hasattr(model, "image") else "tower"
  return _load_tower(model, side, path, variables, allow)


def _load_tower(
  model: Any,
  side: str,
  path: str | pathlib.Path,
  variables: Any,
  allow: Iterable[str],
) -> tuple[Any, rules.Report]:
  if not hasattr(model, side):
    raise rules.PretrainedError(
      f"{type(model).__name__} has no {side} tower that weights could be given to."
    )
  part = {k: tree[side] for k, tree in variables.items() if side in tree}
  part, report = load(getattr(model, side), path, part, allow=allow)
  whole = {
    k: {**tree, side: part[k]} if k in part else tree
    for k, tree in variables.items()
  }
  return whole, report


def save(
  model: nn.Module,
  variables: Any,
  path: str | pathlib.Path,
  *,
  logit_bias: bool = False,
  mask: int | None = None,
  renamed: bool = False,
) -> None:
  """Writes a model's weights under their published names, as safetensors.

  Args:
    model: see `names`.
    variables: of the model.
    path: of the file.
    logit_bias: whether a model of CLIP's names has its bias with it, which those
      that are trained by a softmax have not.
    mask: see `names`.
    renamed: whether CLIP and SigLIP have the names of Hugging Face's transformers
      instead of open_clip's.

  Raises:
    PretrainedError: if the model has parameters without a published name.
    WeightFileError: if the file cannot be written.
  """
  found, _ = names(model, mask=mask)
  tensors = rules.dump(found, variables, optional=logit_bias)
  if renamed:
    tensors = transformers_names.from_published(tensors)
  files.write_safetensors(path, tensors)


def _renamed(
  model: nn.Module, tensors: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Names as the rules have them, of those that a family's files may have."""
  if isinstance(model, BertEncoder):
    return _of_bert(tensors)
  if isinstance(model, TwoTower) and transformers_names.is_theirs(tensors):
    return transformers_names.to_published(tensors)
  if not isinstance(model, FusionModel):
    return tensors
  tensors = _of_norms(tensors)
  if model.task == "pretrain":
    return tensors
  # A task may begin with the pre-training's weights.
  return {
    name.replace(albef.PRETRAINED, albef.TASK, 1): value
    for name, value in tensors.items()
  }


def _of_norms(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """BERT's first files call scale and bias of layer norms gamma and beta."""
  new = {"gamma": "weight", "beta": "bias"}
  old = re.compile(r"(?<=LayerNorm\.)(gamma|beta)\Z")
  return {
    old.sub(lambda found: new[found[0]], name): value
    for name, value in tensors.items()
  }


def _of_bert(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A BERT's tensors without the prefix that all names may begin with."""
  tensors = _of_norms(tensors)
  for prefix in encoders.BERT_PREFIXES:
    if any(name.startswith(prefix) for name in tensors):
      return {k.removeprefix(prefix): x for k, x in tensors.items()}
  return tensors
