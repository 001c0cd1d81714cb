"""Names of SigLIP's weights, as open_clip publishes them."""

from contrastive_jax.models.pretrained import clip, encoders, forms, rules
from contrastive_jax.models.pretrained.rules import Rule

IGNORED = encoders.BUFFERS


def image(depth: int) -> list[Rule]:
  """The image tower, a ViT of timm's names with attention pooling."""
  ours, theirs = "params/image", "visual.trunk."
  return [
    *encoders.timm_positions(0, ours, theirs),
    *encoders.timm_vit(depth, ours, theirs),
    *encoders.timm_map_pool(f"{ours}/map_pool", f"{theirs}attn_pool"),
  ]


def text(depth: int) -> list[Rule]:
  """The text tower with its projection, and scale and bias of the logits."""
  ours = "params/text"
  return [
    Rule(
      (f"{ours}/token_embedding/embedding",),
      ("text.token_embedding.weight",),
      forms.SAME,
    ),
    Rule(
      (f"{ours}/position_embedding",),
      ("text.positional_embedding",),
      forms.positions(None),
    ),
    *clip.blocks(ours, "text.transformer", depth),
    *rules.norm(f"{ours}/norm", "text.ln_final"),
    *rules.layer("params/text_projection/head/out", "text.text_projection"),
    Rule(("params/log_logit_scale",), ("logit_scale",), forms.SCALAR),
    Rule(("params/logit_bias",), ("logit_bias",), forms.SCALAR),
  ]
