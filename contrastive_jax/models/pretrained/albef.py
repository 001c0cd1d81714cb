"""Names of ALBEF's weights, as its authors publish them."""

from contrastive_jax.models.fusion_model import FusionModel
from contrastive_jax.models.pretrained import encoders, forms, rules
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
# Our models have an id of their own for a mask, after those of the vocabulary; BERT's
# uncased one, which ALBEF's is, has it in the middle.
MASK = 103
_HEADS = {"image_projection": "vision_proj", "text_projection": "text_proj"}


# What names of the text encoder begin with: BERT is within a language model in the
# pre-training, and by itself in tasks.
PRETRAINED, TASK = "text_encoder.bert.", "text_encoder."


def rules_of(model: FusionModel, mask: int | None = None) -> list[Rule]:
  """The names of a model's weights; those for two images are not known.

  Args:
    model: of any other task.
    mask: see `forms.vocabulary`.
  """
  words = forms.vocabulary(MASK, mask)
  text = PRETRAINED if model.task == "pretrain" else TASK
  out = [
    *encoders.timm_positions(1, "params/image", "visual_encoder."),
    *encoders.timm_vit(model.image.depth, "params/image", "visual_encoder."),
    *encoders.bert_embeddings("params/embeddings", f"{text}embeddings.", words),
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
      *_language_head(
        "params/language_head", "text_encoder.cls.predictions", words
      ),
      Rule(("params/temperature",), ("temp",), forms.SAME),
    ]
  elif model.task == "vqa":
    out += encoders.bert_embeddings(
      "params/decoder_embeddings", "text_decoder.bert.embeddings.", words
    )
    for i in range(model.decoder_depth):
      out += encoders.bert_layer(
        f"params/decoder_layers/layer_{model.text_depth + i}",
        f"text_decoder.bert.encoder.layer.{i}",
        True,
      )
    out += _language_head(
      "params/decoder_head", "text_decoder.cls.predictions", words
    )
  else:
    out += rules.layer("params/classifier_hidden", "cls_head.0")
    out += rules.layer("params/classifier", "cls_head.2")
  return out


def bert_rules(model: FusionModel) -> list[Rule]:
  """The names of a BERT from which a model's text and fusion layers begin.

  Cross-attention has none there. The head over words has, in files of the language
  model; without it stays as it is.
  """
  words = forms.vocabulary(MASK)
  out = encoders.bert_embeddings("params/embeddings", "embeddings.", words)
  for i in range(model.text_depth + model.fusion_depth):
    stack = "text_layers" if i < model.text_depth else "fusion_layers"
    out += encoders.bert_layer(
      f"params/{stack}/layer_{i}", f"encoder.layer.{i}"
    )
  return out


def head_rules(model: FusionModel) -> list[Rule]:
  """The names of a BERT's head over words, which files of encoders lack."""
  if model.task != "pretrain":
    return []
  words = forms.vocabulary(MASK)
  return _language_head("params/language_head", "cls.predictions", words)


def _language_head(ours: str, theirs: str, words: forms.Form) -> list[Rule]:
  return [
    *rules.layer(f"{ours}/dense", f"{theirs}.transform.dense"),
    *rules.norm(f"{ours}/norm", f"{theirs}.transform.LayerNorm"),
    Rule((f"{ours}/bias",), (f"{theirs}.bias",), words),
  ]
