"""Names of SigLIP's weights, as open_clip publishes them."""

from contrastive_jax.models.pretrained import clip, encoders, forms, rules
from contrastive_jax.models.pretrained.rules import Rule
from contrastive_jax.models.text import TextTransformer
from contrastive_jax.models.vit import ViT

IGNORED = encoders.BUFFERS


def image(model: ViT) -> list[Rule]:
  """The image tower, a ViT of timm's names with attention pooling."""
  return rules.within("image/", "visual.trunk.", encoders.vit(model))


def text(model: TextTransformer) -> list[Rule]:
  """The text tower with its projection, and scale and bias of the logits."""
  return [
    *clip.text_tower(model, "text."),
    *rules.layer("text_projection/head/out", "text.text_projection"),
    Rule("log_logit_scale", "logit_scale", forms.VECTOR),
    Rule("logit_bias", "logit_bias", forms.VECTOR),
  ]
