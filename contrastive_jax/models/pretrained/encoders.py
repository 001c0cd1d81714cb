"""Names of weights of single encoders: timm, torchvision, Hugging Face."""

from collections.abc import Sequence

from contrastive_jax.models.bert_encoder import BertEncoder
from contrastive_jax.models.efficientnet import EfficientNetLite
from contrastive_jax.models.pretrained import forms, rules
from contrastive_jax.models.pretrained.rules import Rule
from contrastive_jax.models.vit import ViT

# Buffers that are no weights.
BUFFERS = (r".*num_batches_tracked", r".*position_ids")
# Of each family also the classifiers and poolers, which encoders do not have.
VIT_IGNORED = (*BUFFERS, r"head\..*")
RESNET_IGNORED = (*BUFFERS, r"fc\..*")
EFFICIENTNET_IGNORED = (*BUFFERS, r"_fc\..*")
BERT_IGNORED = (*BUFFERS, r"pooler\..*", r"cls\..*")
# What all names of a family may begin with, by who published them.
PREFIXES: dict[type, tuple[str, ...]] = {
  BertEncoder: ("bert.", "0.auto_model.")
}


def timm_vit(depth: int, ours: str = "params", theirs: str = "") -> list[Rule]:
  """A ViT of timm's (and DeiT's) names, with a class token or attention pooling.

  Args:
    depth: number of blocks.
    ours: path of the `ViT`.
    theirs: what their names begin with.
  """
  out = [
    Rule((f"{ours}/class_token",), (f"{theirs}cls_token",), forms.TOKEN),
    *rules.layer(
      f"{ours}/patch_embedding", f"{theirs}patch_embed.proj", forms.CONV
    ),
    *rules.norm(f"{ours}/norm", f"{theirs}norm"),
  ]
  for i in range(depth):
    a, b = f"{ours}/transformer/block_{i}", f"{theirs}blocks.{i}"
    out += [
      *rules.norm(f"{a}/ln_1", f"{b}.norm1"),
      *rules.layer(f"{a}/attention/qkv", f"{b}.attn.qkv"),
      *rules.layer(f"{a}/attention/out", f"{b}.attn.proj"),
      *rules.norm(f"{a}/ln_2", f"{b}.norm2"),
      *rules.layer(f"{a}/mlp/fc", f"{b}.mlp.fc1"),
      *rules.layer(f"{a}/mlp/proj", f"{b}.mlp.fc2"),
    ]
  return out


def timm_positions(
  extra: int, ours: str = "params", theirs: str = ""
) -> list[Rule]:
  """The positions of a ViT; `extra` tokens come before the patches."""
  return [
    Rule(
      (f"{ours}/position_embedding",),
      (f"{theirs}pos_embed",),
      forms.positions(extra, batched=True),
    )
  ]


def timm_map_pool(ours: str, theirs: str) -> list[Rule]:
  """Attention pooling with a learned query, as SigLIP's image towers have."""
  attention = f"{ours}/attention"
  keys = ("key", "value")
  return [
    Rule((f"{ours}/probe",), (f"{theirs}.latent",), forms.SAME),
    Rule((f"{attention}/query/kernel",), (f"{theirs}.q.weight",), forms.HEADS),
    Rule((f"{attention}/query/bias",), (f"{theirs}.q.bias",), forms.HEADS_BIAS),
    Rule(
      tuple(f"{attention}/{name}/kernel" for name in keys),
      (f"{theirs}.kv.weight",),
      forms.SPLIT_HEADS,
    ),
    Rule(
      tuple(f"{attention}/{name}/bias" for name in keys),
      (f"{theirs}.kv.bias",),
      forms.SPLIT_BIAS,
    ),
    Rule(
      (f"{attention}/out/kernel",), (f"{theirs}.proj.weight",), forms.HEADS_OUT
    ),
    Rule((f"{attention}/out/bias",), (f"{theirs}.proj.bias",), forms.SAME),
    *rules.norm(f"{ours}/norm", f"{theirs}.norm"),
    *rules.layer(f"{ours}/mlp/fc", f"{theirs}.mlp.fc1"),
    *rules.layer(f"{ours}/mlp/proj", f"{theirs}.mlp.fc2"),
  ]


def torchvision_resnet(
  stage_sizes: Sequence[int], bottleneck: bool = True
) -> list[Rule]:
  """A `ResNet` of torchvision's names."""
  out = [
    Rule(("params/stem_conv/kernel",), ("conv1.weight",), forms.CONV),
    *rules.batch_norm("stem_norm", "bn1"),
  ]
  for i, size in enumerate(stage_sizes):
    for j in range(size):
      a, b = f"stage_{i}_block_{j}", f"layer{i + 1}.{j}"
      out += residual_block(a, b, 3 if bottleneck else 2)
      out += shortcut(a, f"{b}.downsample.0", f"{b}.downsample.1")
  return out


def residual_block(ours: str, theirs: str, convolutions: int) -> list[Rule]:
  """The convolutions and norms of a block; `ours` has no collection."""
  out = []
  for k in range(convolutions):
    out += [
      Rule(
        (f"params/{ours}/conv_{k}/kernel",),
        (f"{theirs}.conv{k + 1}.weight",),
        forms.CONV,
      ),
      *rules.batch_norm(f"{ours}/norm_{k}", f"{theirs}.bn{k + 1}"),
    ]
  return out


def shortcut(ours: str, conv: str, norm: str) -> list[Rule]:
  """A block's convolution beside the others; blocks without it are passed over."""
  return [
    Rule(
      (f"params/{ours}/shortcut_conv/kernel",), (f"{conv}.weight",), forms.CONV
    ),
    *rules.batch_norm(f"{ours}/shortcut_norm", norm),
  ]


def bert_embeddings(
  ours: str, theirs: str, words: forms.Form = forms.SAME
) -> list[Rule]:
  """BERT's embeddings; of its segments the first is taken."""
  return [
    Rule((f"{ours}/embedding",), (f"{theirs}word_embeddings.weight",), words),
    Rule(
      (f"{ours}/positions",),
      (f"{theirs}position_embeddings.weight",),
      forms.positions(None),
    ),
    Rule(
      (f"{ours}/segment",),
      (f"{theirs}token_type_embeddings.weight",),
      forms.FIRST_ROW,
    ),
    *rules.norm(f"{ours}/norm", f"{theirs}LayerNorm"),
  ]


def bert_layer(ours: str, theirs: str, cross: bool = False) -> list[Rule]:
  """A layer of BERT, with cross-attention as ALBEF and transformers name it."""
  out = _attention(
    f"{ours}/key_value", f"{ours}/attention", f"{theirs}.attention"
  )
  out += rules.norm(
    f"{ours}/attention_norm", f"{theirs}.attention.output.LayerNorm"
  )
  if cross:
    other = f"{theirs}.crossattention"
    out += _attention(
      f"{ours}/context_key_value", f"{ours}/cross_attention", other
    )
    out += rules.norm(f"{ours}/cross_norm", f"{other}.output.LayerNorm")
  return [
    *out,
    *rules.layer(f"{ours}/fc", f"{theirs}.intermediate.dense"),
    *rules.layer(f"{ours}/proj", f"{theirs}.output.dense"),
    *rules.norm(f"{ours}/mlp_norm", f"{theirs}.output.LayerNorm"),
  ]


def _attention(key_value: str, attention: str, theirs: str) -> list[Rule]:
  return [
    *rules.layer(f"{key_value}/key", f"{theirs}.self.key"),
    *rules.layer(f"{key_value}/value", f"{theirs}.self.value"),
    *rules.layer(f"{attention}/query", f"{theirs}.self.query"),
    *rules.layer(f"{attention}/out", f"{theirs}.output.dense"),
  ]


def bert(depth: int) -> list[Rule]:
  """A `BertEncoder` of Hugging Face's names."""
  out = bert_embeddings("params/embeddings", "embeddings.")
  for i in range(depth):
    out += bert_layer(f"params/layers/layer_{i}", f"encoder.layer.{i}")
  return out


def vit(model: ViT) -> list[Rule]:
  """A `ViT` of timm's names."""
  out = timm_positions(int(model.pool == "cls"))
  out += timm_vit(model.depth)
  if model.pool == "map":
    out += timm_map_pool("params/map_pool", "attn_pool")
  return out


def efficientnet(model: EfficientNetLite) -> list[Rule]:
  """An `EfficientNetLite` of the names that its PyTorch weights have."""
  out = _layer("stem", "_conv_stem", "_bn0")
  number = 0
  for stage in model.stages:
    for _ in range(stage.repeats):
      ours, theirs = f"block_{number}", f"_blocks.{number}."
      parts = ("depthwise", "project")
      if stage.expansion > 1:
        parts = ("expand", *parts)
      for norm, part in enumerate(parts, start=3 - len(parts)):
        out += _layer(
          f"{ours}/{part}", f"{theirs}_{part}_conv", f"{theirs}_bn{norm}"
        )
      number += 1
  return out + _layer("last", "_conv_head", "_bn1")


def _layer(ours: str, conv: str, norm: str) -> list[Rule]:
  return [
    Rule((f"params/{ours}/conv/kernel",), (f"{conv}.weight",), forms.CONV),
    *rules.batch_norm(f"{ours}/norm", norm),
  ]
