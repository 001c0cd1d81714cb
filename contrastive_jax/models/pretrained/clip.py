"""Names of CLIP's weights, as OpenAI and open_clip publish them."""

from contrastive_jax.models.pretrained import encoders, forms, rules
from contrastive_jax.models.pretrained.rules import Rule
from contrastive_jax.models.resnet import ModifiedResNet
from contrastive_jax.models.text import TextTransformer
from contrastive_jax.models.vit import ViT

# Entries of the files beside weights.
IGNORED = (
  *encoders.BUFFERS,
  r"attn_mask",
  r"input_resolution",
  r"context_length",
  r"vocab_size",
)
_BLOCK = (
  *("ln_1", "attn.in_proj_", "attn.out_proj"),
  *("ln_2", "mlp.c_fc", "mlp.c_proj"),
)


def vit(model: ViT) -> list[Rule]:
  """The image tower, a ViT, with its projection."""
  tower = [
    Rule("patch_embedding/kernel", "conv1.weight", forms.CONV),
    Rule("class_token", "class_embedding", forms.VECTOR),
    Rule("position_embedding", "positional_embedding", forms.positions(1)),
    *rules.norm("embedding_norm", "ln_pre"),
    *encoders.transformer("transformer.resblocks", model.depth, _BLOCK),
    *rules.norm("norm", "ln_post"),
  ]
  return [
    *rules.within("image/", "visual.", tower),
    Rule("image_projection/head/out/kernel", "visual.proj"),
  ]


def resnet(model: ModifiedResNet) -> list[Rule]:
  """The image tower, a modified ResNet, which ends in the embedding."""
  out = []
  for i in range(3):
    out += rules.normed_conv(
      f"stem_conv_{i}", f"stem_norm_{i}", f"conv{i + 1}", f"bn{i + 1}"
    )
  out += encoders.residual_stages(model.stage_sizes, 3)
  pool = [
    Rule("position_embedding", "positional_embedding", forms.positions(1))
  ]
  for name in ("query", "key", "value"):
    pool += rules.layer(
      f"attention/{name}", f"{name[0]}_proj", bias=forms.HEADS_BIAS
    )
  pool += rules.layer("attention/out", "c_proj", forms.HEADS_OUT)
  out += rules.within("attention_pool/", "attnpool.", pool)
  return rules.within("image/", "visual.", out)


def text(model: TextTransformer) -> list[Rule]:
  """The text tower with its projection, and the scale of logits."""
  return [
    *text_tower(model),
    Rule("text_projection/head/out/kernel", "text_projection"),
    Rule("log_logit_scale", "logit_scale"),
    # Models for the sigmoid loss have it.
    Rule("logit_bias", "logit_bias", optional=True),
  ]


def text_tower(model: TextTransformer, theirs: str = "") -> list[Rule]:
  """The text tower alone; `theirs` is what their names begin with."""
  tower = [
    Rule("token_embedding/embedding", "token_embedding.weight"),
    Rule("position_embedding", "positional_embedding", forms.positions(None)),
    *encoders.transformer("transformer.resblocks", model.depth, _BLOCK),
    *rules.norm("norm", "ln_final"),
  ]
  return rules.within("text/", theirs, tower)
