"""Names of CLIP's and SigLIP's weights in Hugging Face's transformers.

They are those of open_clip (`clip`, `siglip`) in other words: query, key and value lie
apart, projections are transposed, and positions have no axis of their own.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from contrastive_jax.models.pretrained.rules import PretrainedError


@dataclasses.dataclass(frozen=True)
class _Pair:
  """Tensors that hold the same numbers, along the first axis one after the other.

  Attributes:
    ours: names of open_clip, and of how many parts of the axis each consists.
    theirs: names of transformers, likewise.
    form: `same`, `transposed` (a matrix), or `batched` (ours has a first axis of 1).
  """

  ours: tuple[tuple[str, int], ...]
  theirs: tuple[tuple[str, int], ...]
  form: str = "same"


_CLIP_BLOCK = {
  "ln_1": "layer_norm1",
  "attn.out_proj": "self_attn.out_proj",
  "ln_2": "layer_norm2",
  "mlp.c_fc": "mlp.fc1",
  "mlp.c_proj": "mlp.fc2",
}
_TIMM_BLOCK = {
  "norm1": "layer_norm1",
  "attn.proj": "self_attn.out_proj",
  "norm2": "layer_norm2",
  "mlp.fc1": "mlp.fc1",
  "mlp.fc2": "mlp.fc2",
}
_KINDS = ("weight", "bias")


def is_theirs(tensors: Mapping[str, np.ndarray]) -> bool:
  """Whether tensors have the names of transformers."""
  return any(name.startswith("text_model.") for name in tensors)


def to_published(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Tensors of transformers under open_clip's names.

  Raises:
    PretrainedError: if they are neither CLIP's nor SigLIP's.
  """
  return _renamed(tensors, "theirs", "ours")


def from_published(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Tensors of open_clip's names under those of transformers.

  Raises:
    PretrainedError: if they are neither those of CLIP's ViTs nor SigLIP's.
  """
  return _renamed(tensors, "ours", "theirs")


def _renamed(
  tensors: Mapping[str, np.ndarray], given: str, wanted: str
) -> dict[str, np.ndarray]:
  left = {k: v for k, v in tensors.items() if not k.endswith("position_ids")}
  is_siglip = any(
    name.startswith(("visual.trunk.", "vision_model.head.")) for name in left
  )
  out: dict[str, np.ndarray] = {}
  for pair in _siglip(left) if is_siglip else _clip(left):
    names = [name for name, _ in getattr(pair, given)]
    if names == ["logit_bias"] and "logit_bias" not in left:
      continue  # Models for the sigmoid loss have it.
    absent = [name for name in names if name not in left]
    if absent:
      raise PretrainedError(
        f"{'SigLIP' if is_siglip else 'A CLIP of two transformers'} must have the"
        f" weights {absent[0]}; got none of this name."
      )
    value = np.concatenate([np.atleast_1d(left.pop(name)) for name in names])
    if pair.form == "transposed":
      value = value.T
    elif pair.form == "batched":
      value = value[None] if wanted == "ours" else value[0]
    parts = getattr(pair, wanted)
    unit = len(value) // sum(count for _, count in parts)
    ends = np.cumsum([count * unit for _, count in parts])[:-1]
    for (name, _), part in zip(parts, np.split(value, ends)):
      out[name] = np.ascontiguousarray(part)
  if left:
    raise PretrainedError(
      f"The weights {next(iter(left))} have no name elsewhere: the model is neither"
      " CLIP's of two transformers nor SigLIP's."
    )
  if not is_siglip:  # Theirs is a number, not a list of one.
    out["logit_scale"] = out["logit_scale"].reshape(())
  return out


def _clip(tensors: Mapping[str, np.ndarray]) -> Iterator[_Pair]:
  vision = "vision_model."
  yield _one("visual.class_embedding", f"{vision}embeddings.class_embedding")
  yield _one(
    "visual.conv1.weight", f"{vision}embeddings.patch_embedding.weight"
  )
  yield _one(
    "visual.positional_embedding",
    f"{vision}embeddings.position_embedding.weight",
  )
  # The misspelling is theirs.
  yield from _both("visual.ln_pre", f"{vision}pre_layrnorm")
  yield from _blocks(
    tensors, "visual.transformer.resblocks", vision, _CLIP_BLOCK, "in_proj_"
  )
  yield from _both("visual.ln_post", f"{vision}post_layernorm")
  yield _one("visual.proj", "visual_projection.weight", "transposed")
  yield from _text(tensors, "")
  yield _one("text_projection", "text_projection.weight", "transposed")
  yield _one("logit_scale", "logit_scale")
  yield _one("logit_bias", "logit_bias")


def _siglip(tensors: Mapping[str, np.ndarray]) -> Iterator[_Pair]:
  vision, trunk = "vision_model.", "visual.trunk."
  yield from _both(
    f"{trunk}patch_embed.proj", f"{vision}embeddings.patch_embedding"
  )
  yield _one(
    f"{trunk}pos_embed",
    f"{vision}embeddings.position_embedding.weight",
    "batched",
  )
  yield from _blocks(tensors, f"{trunk}blocks", vision, _TIMM_BLOCK, "qkv.")
  yield from _both(f"{trunk}norm", f"{vision}post_layernorm")
  pool, head = f"{trunk}attn_pool.", f"{vision}head."
  yield _one(f"{pool}latent", f"{head}probe")
  for kind in _KINDS:
    yield _Pair(
      ((f"{pool}q.{kind}", 1), (f"{pool}kv.{kind}", 2)),
      ((f"{head}attention.in_proj_{kind}", 3),),
    )
  yield from _both(f"{pool}proj", f"{head}attention.out_proj")
  yield from _both(f"{pool}norm", f"{head}layernorm")
  for name in ("fc1", "fc2"):
    yield from _both(f"{pool}mlp.{name}", f"{head}mlp.{name}")
  yield from _text(tensors, "text.")
  yield from _both("text.text_projection", "text_model.head")
  yield _one("logit_scale", "logit_scale")
  yield _one("logit_bias", "logit_bias")


def _text(tensors: Mapping[str, np.ndarray], prefix: str) -> Iterator[_Pair]:
  theirs = "text_model."
  yield _one(
    f"{prefix}token_embedding.weight",
    f"{theirs}embeddings.token_embedding.weight",
  )
  yield _one(
    f"{prefix}positional_embedding",
    f"{theirs}embeddings.position_embedding.weight",
  )
  blocks = f"{prefix}transformer.resblocks"
  yield from _blocks(tensors, blocks, theirs, _CLIP_BLOCK, "in_proj_")
  yield from _both(f"{prefix}ln_final", f"{theirs}final_layer_norm")


def _blocks(
  tensors: Mapping[str, np.ndarray],
  ours: str,
  theirs: str,
  parts: Mapping[str, str],
  joined: str,
) -> Iterator[_Pair]:
  """The blocks of a tower; `joined` is what ours calls query, key and value."""
  theirs += "encoder.layers"
  depth = 0
  while any(
    name.startswith((f"{ours}.{depth}.", f"{theirs}.{depth}."))
    for name in tensors
  ):
    a, b = f"{ours}.{depth}.", f"{theirs}.{depth}."
    for kind in _KINDS:
      yield _Pair(
        ((f"{a}attn.{joined}{kind}", 3),),
        tuple((f"{b}self_attn.{x}_proj.{kind}", 1) for x in "qkv"),
      )
    for name, other in parts.items():
      yield from _both(a + name, b + other)
    depth += 1


def _both(ours: str, theirs: str) -> Iterator[_Pair]:
  for kind in _KINDS:
    yield _one(f"{ours}.{kind}", f"{theirs}.{kind}")


def _one(ours: str, theirs: str, form: str = "same") -> _Pair:
  return _Pair(((ours, 1),), ((theirs, 1),), form)
