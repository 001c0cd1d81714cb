"""Names of weights of single encoders: timm, torchvision, Hugging Face."""

from collections.abc import Sequence

from contrastive_jax.models.bert_encoder import BertEncoder
from contrastive_jax.models.efficientnet import EfficientNetLite
from contrastive_jax.models.pretrained import forms, rules
from contrastive_jax.models.pretrained.rules import Rule
from contrastive_jax.models.resnet import ResNet
from contrastive_jax.models.vit import ViT

# Buffers that are no weights.
BUFFERS = (r".*num_batches_tracked", r".*position_ids")
# Ignored names of each family, also classifiers and poolers, which encoders do
# not have.
VIT_IGNORED = (*BUFFERS, r"head\..*")
RESNET_IGNORED = (*BUFFERS, r"fc\..*")
EFFICIENTNET_IGNORED = (*BUFFERS, r"_fc\..*")
BERT_IGNORED = (*BUFFERS, r"pooler\..*", r"cls\..*")
# Prefixes that all names of a BERT may have, depending on its publisher.
BERT_PREFIXES = ("bert.", "0.auto_model.")
# The parts of our transformers' blocks, and their names in timm.
_BLOCK = (
  "ln_1",
  "attention/qkv",
  "attention/out",
  "ln_2",
  "mlp/fc",
  "mlp/proj",
)
_TIMM_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
# Attention pooling with a learned query, as SigLIP's image towers have.
_TIMM_MAP_POOL = (
  Rule("probe", "latent"),
  *rules.layer("attention/query", "q", bias=forms.HEADS_BIAS),
  Rule(
    "attention/key/kernel", "kv.weight", forms.DENSE, "attention/value/kernel"
  ),
  Rule(
    "attention/key/bias", "kv.bias", forms.HEADS_BIAS, "attention/value/bias"
  ),
  *rules.layer("attention/out", "proj", forms.HEADS_OUT),
  *rules.norm("norm", "norm"),
  *rules.layer("mlp/fc", "mlp.fc1"),
  *rules.layer("mlp/proj", "mlp.fc2"),
)


def transformer(theirs: str, depth: int, names: Sequence[str]) -> list[Rule]:
  """The blocks of a tower; `names` are theirs of a block's parts, in our order."""
  block = []
  for part, name in zip(_BLOCK, names, strict=True):
    block += (rules.norm if part.startswith("ln") else rules.layer)(part, name)
  out = []
  for i in range(depth):
    out += rules.within(f"transformer/block_{i}/", f"{theirs}.{i}.", block)
  return out


def vit(model: ViT) -> list[Rule]:
  """A `ViT` of timm's (and DeiT's) names."""
  positions = forms.positions(int(model.pool == "cls"), batched=True)
  out = [
    Rule("position_embedding", "pos_embed", positions),
    Rule("class_token", "cls_token", forms.TOKEN),
    *rules.layer("patch_embedding", "patch_embed.proj", forms.CONV),
    *rules.norm("norm", "norm"),
    *transformer("blocks", model.depth, _TIMM_BLOCK),
  ]
  if model.pool == "map":
    out += rules.within("map_pool/", "attn_pool.", _TIMM_MAP_POOL)
  return out


def residual_stages(
  stage_sizes: Sequence[int], convolutions: int
) -> list[Rule]:
  """The blocks of a ResNet, `convolutions` in each, of torchvision's names."""
  block = []
  for k in range(convolutions):
    block += rules.normed_conv(
      f"conv_{k}", f"norm_{k}", f"conv{k + 1}", f"bn{k + 1}"
    )
  # Blocks without it are passed over.
  block += rules.normed_conv(
    "shortcut_conv", "shortcut_norm", "downsample.0", "downsample.1"
  )
  out = []
  for i, size in enumerate(stage_sizes):
    for j in range(size):
      out += rules.within(f"stage_{i}_block_{j}/", f"layer{i + 1}.{j}.", block)
  return out


def torchvision_resnet(model: ResNet) -> list[Rule]:
  """A `ResNet` of torchvision's names."""
  convolutions = 3 if model.block == "bottleneck" else 2
  return [
    *rules.normed_conv("stem_conv", "stem_norm", "conv1", "bn1"),
    *residual_stages(model.stage_sizes, convolutions),
  ]


def efficientnet(model: EfficientNetLite) -> list[Rule]:
  """An `EfficientNetLite` of the names that its PyTorch weights have."""

  def layer(ours: str, conv: str, norm: str) -> list[Rule]:
    return rules.normed_conv(f"{ours}/conv", f"{ours}/norm", conv, norm)

  out = layer("stem", "_conv_stem", "_bn0")
  stages = [stage for stage in model.stages for _ in range(stage.repeats)]
  for i, stage in enumerate(stages):
    parts = ("depthwise", "project")
    if stage.expansion > 1:
      parts = ("expand", *parts)
    for k, part in enumerate(parts, start=3 - len(parts)):
      out += layer(
        f"block_{i}/{part}", f"_blocks.{i}._{part}_conv", f"_blocks.{i}._bn{k}"
      )
  return out + layer("last", "_conv_head", "_bn1")


def bert_embeddings(words: forms.Form = forms.SAME) -> list[Rule]:
  """BERT's embeddings; of its segments the first is taken."""
  positions = forms.positions(None)
  return [
    Rule("embedding", "word_embeddings.weight", words),
    Rule("positions", "position_embeddings.weight", positions),
    Rule("segment", "token_type_embeddings.weight", forms.FIRST_ROW),
    *rules.norm("norm", "LayerNorm"),
  ]


def bert_layer(cross: bool = False) -> list[Rule]:
  """A layer of BERT, with cross-attention as ALBEF and transformers name it."""

  def attention(
    key_value: str, ours: str, norm: str, theirs: str
  ) -> list[Rule]:
    return [
      *rules.layer(f"{key_value}/key", f"{theirs}.self.key"),
      *rules.layer(f"{key_value}/value", f"{theirs}.self.value"),
      *rules.layer(f"{ours}/query", f"{theirs}.self.query"),
      *rules.layer(f"{ours}/out", f"{theirs}.output.dense"),
      *rules.norm(norm, f"{theirs}.output.LayerNorm"),
    ]

  out = attention("key_value", "attention", "attention_norm", "attention")
  if cross:
    out += attention(
      "context_key_value", "cross_attention", "cross_norm", "crossattention"
    )
  return [
    *out,
    *rules.layer("fc", "intermediate.dense"),
    *rules.layer("proj", "output.dense"),
    *rules.norm("mlp_norm", "output.LayerNorm"),
  ]


def bert(model: BertEncoder) -> list[Rule]:
  """A `BertEncoder` of Hugging Face's names."""
  out = rules.within("embeddings/", "embeddings.", bert_embeddings())
  for i in range(model.depth):
    out += rules.within(
      f"layers/layer_{i}/", f"encoder.layer.{i}.", bert_layer()
    )
  return out
