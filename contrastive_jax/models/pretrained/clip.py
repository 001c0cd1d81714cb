"""Names of CLIP's weights, as OpenAI and open_clip publish them."""

from collections.abc import Sequence

from contrastive_jax.models.pretrained import encoders, forms, rules
from contrastive_jax.models.pretrained.rules import Rule

# What is in the files beside weights.
IGNORED = (
  *encoders.BUFFERS,
  r"attn_mask",
  r"input_resolution",
  r"context_length",
  r"vocab_size",
)
_IMAGE, _TEXT = "params/image", "params/text"


def vit(depth: int) -> list[Rule]:
  """The image tower, a ViT, with its projection."""
  return [
    Rule(
      (f"{_IMAGE}/patch_embedding/kernel",),
      ("visual.conv1.weight",),
      forms.CONV,
    ),
    Rule((f"{_IMAGE}/class_token",), ("visual.class_embedding",), forms.VECTOR),
    Rule(
      (f"{_IMAGE}/position_embedding",),
      ("visual.positional_embedding",),
      forms.positions(1),
    ),
    *rules.norm(f"{_IMAGE}/embedding_norm", "visual.ln_pre"),
    *blocks(_IMAGE, "visual.transformer", depth),
    *rules.norm(f"{_IMAGE}/norm", "visual.ln_post"),
    Rule(
      ("params/image_projection/head/out/kernel",), ("visual.proj",), forms.SAME
    ),
  ]


def resnet(stage_sizes: Sequence[int]) -> list[Rule]:
  """The image tower, a modified ResNet, which ends in the embedding."""
  out = []
  for i in range(3):
    out += [
      Rule(
        (f"{_IMAGE}/stem_conv_{i}/kernel",),
        (f"visual.conv{i + 1}.weight",),
        forms.CONV,
      ),
      *rules.batch_norm(f"image/stem_norm_{i}", f"visual.bn{i + 1}"),
    ]
  for i, size in enumerate(stage_sizes):
    for j in range(size):
      a, b = f"image/stage_{i}_block_{j}", f"visual.layer{i + 1}.{j}"
      out += encoders.residual_block(a, b, 3)
      out += encoders.shortcut(a, f"{b}.downsample.0", f"{b}.downsample.1")
  pool = f"{_IMAGE}/attention_pool"
  out.append(
    Rule(
      (f"{pool}/position_embedding",),
      ("visual.attnpool.positional_embedding",),
      forms.positions(1),
    )
  )
  for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
    name = f"visual.attnpool.{theirs}_proj"
    kernel, bias = (f"{pool}/attention/{ours}/{x}" for x in ("kernel", "bias"))
    out += [
      Rule((kernel,), (f"{name}.weight",), forms.HEADS),
      Rule((bias,), (f"{name}.bias",), forms.HEADS_BIAS),
    ]
  last, name = f"{pool}/attention/out", "visual.attnpool.c_proj"
  return [
    *out,
    Rule((f"{last}/kernel",), (f"{name}.weight",), forms.HEADS_OUT),
    Rule((f"{last}/bias",), (f"{name}.bias",), forms.SAME),
  ]


def text(depth: int) -> list[Rule]:
  """The text tower with its projection, and the scale of logits."""
  return [
    Rule(
      (f"{_TEXT}/token_embedding/embedding",),
      ("token_embedding.weight",),
      forms.SAME,
    ),
    Rule(
      (f"{_TEXT}/position_embedding",),
      ("positional_embedding",),
      forms.positions(None),
    ),
    *blocks(_TEXT, "transformer", depth),
    *rules.norm(f"{_TEXT}/norm", "ln_final"),
    Rule(
      ("params/text_projection/head/out/kernel",),
      ("text_projection",),
      forms.SAME,
    ),
    Rule(("params/log_logit_scale",), ("logit_scale",), forms.SAME),
    # Models for the sigmoid loss have it.
    Rule(("params/logit_bias",), ("logit_bias",), forms.SAME, optional=True),
  ]


def blocks(ours: str, theirs: str, depth: int) -> list[Rule]:
  """The blocks of a transformer, of the tower's path and name."""
  out = []
  for i in range(depth):
    a, b = f"{ours}/transformer/block_{i}", f"{theirs}.resblocks.{i}"
    out += [
      *rules.norm(f"{a}/ln_1", f"{b}.ln_1"),
      Rule(
        (f"{a}/attention/qkv/kernel",),
        (f"{b}.attn.in_proj_weight",),
        forms.DENSE,
      ),
      Rule(
        (f"{a}/attention/qkv/bias",), (f"{b}.attn.in_proj_bias",), forms.SAME
      ),
      *rules.layer(f"{a}/attention/out", f"{b}.attn.out_proj"),
      *rules.norm(f"{a}/ln_2", f"{b}.ln_2"),
      *rules.layer(f"{a}/mlp/fc", f"{b}.mlp.c_fc"),
      *rules.layer(f"{a}/mlp/proj", f"{b}.mlp.c_proj"),
    ]
  return out
