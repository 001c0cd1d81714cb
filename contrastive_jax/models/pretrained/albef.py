"""Names of ALBEF's weights, as its authors publish them."""

from contrastive_jax.models.fusion import FusionModel
from contrastive_jax.models.pretrained import encoders, rules
from contrastive_jax.models.pretrained.rules import Rule

# The momentum model, the queues, and BERT's position of the queue.
IGNORED = (
  *encoders.BUFFERS,
  r".*_m\..*",
  r"(image|text|idx)_queue",
  r"queue_ptr",
  # BERT's pooler, which ALBEF does not use, and the embeddings a second time.
  r".*\.pooler\..*",
  r".*predictions\.decoder\..*",
)
_HEADS = {"image_projection": "vision_proj", "text_projection": "text_proj"}


def rules_of(model: FusionModel, bert: str = "bert.") -> list[Rule]:
  """The names of a model's weights.

  Args:
    model: of any task.
    bert: what the names of BERT begin with after `text_encoder.`: `bert.` of the
      pre-training, nothing of tasks.
  """
  text = f"text_encoder.{bert}"
  out = [
    *encoders.timm_positions(1, "params/image", "visual_encoder."),
    *encoders.timm_vit(model.image.depth, "params/image", "visual_encoder."),
    *encoders.bert_embeddings("params/embeddings", f"{text}embeddings."),
  ]
  layers = model.text_depth + model.fusion_depth
  for i in range(layers):
    fused = i >= model.text_depth
    stack = "fusion_layers" if fused else "text_layers"
    out += encoders.bert_layer(
      f"params/{stack}/layer_{i}", f"{text}encoder.layer.{i}", fused
    )
  if model.task == "pretrain":
    for ours, theirs in _HEADS.items():
      out += rules.layer(f"params/{ours}", theirs)
    out += [
      *rules.layer("params/match_head", "itm_head"),
      *_language_head("params/language_head", "text_encoder.cls.predictions"),
      Rule(("params/temperature",), ("temp",), rules.SAME),
    ]
  elif model.task == "vqa":
    out += encoders.bert_embeddings(
      "params/decoder_embeddings", "text_decoder.bert.embeddings."
    )
    for i in range(model.decoder_depth):
      out += encoders.bert_layer(
        f"params/decoder_layers/layer_{model.text_depth + i}",
        f"text_decoder.bert.encoder.layer.{i}",
        True,
      )
    out += _language_head("params/decoder_head", "text_decoder.cls.predictions")
  else:
    out += rules.layer("params/classifier_hidden", "cls_head.0")
    out += rules.layer("params/classifier", "cls_head.2")
  return out


def _language_head(ours: str, theirs: str) -> list[Rule]:
  return [
    *rules.layer(f"{ours}/dense", f"{theirs}.transform.dense"),
    *rules.norm(f"{ours}/norm", f"{theirs}.transform.LayerNorm"),
    Rule((f"{ours}/bias",), (f"{theirs}.bias",), rules.SAME),
  ]
