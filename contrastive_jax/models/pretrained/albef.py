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
# Prefixes of the text encoder's names: BERT is within a language model in the
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
    *rules.within("image/", "visual_encoder.", encoders.vit(model.image)),
    *_text(model, text, words),
  ]
  if model.task == "pretrain":
    return [
      *out,
      *rules.layer("image_projection", "vision_proj"),
      *rules.layer("text_projection", "text_proj"),
      *rules.layer("match_head", "itm_head"),
      *_language_head("language_head", "text_encoder.cls.predictions", words),
      Rule("temperature", "temp"),
    ]
  if model.task == "vqa":
    decoder = "text_decoder.bert."
    out += _embeddings("decoder_embeddings", decoder, words)
    for i in range(model.decoder_depth):
      out += rules.within(
        f"decoder_layers/layer_{model.text_depth + i}/",
        f"{decoder}encoder.layer.{i}.",
        encoders.bert_layer(cross=True),
      )
    head = _language_head("decoder_head", "text_decoder.cls.predictions", words)
    return out + head
  return [
    *out,
    *rules.layer("classifier_hidden", "cls_head.0"),
    *rules.layer("classifier", "cls_head.2"),
  ]


def bert_rules(model: FusionModel) -> list[Rule]:
  """The names of a BERT from which a model's text and fusion layers begin.

  Cross-attention has none there. The head over words has, in files of the language
  model; without it stays as it is.
  """
  return _text(model, "", forms.vocabulary(MASK), cross=False)


def head_rules(model: FusionModel) -> list[Rule]:
  """The names of a BERT's head over words, which files of encoders lack."""
  if model.task != "pretrain":
    return []
  return _language_head(
    "language_head", "cls.predictions", forms.vocabulary(MASK)
  )


def _text(
  model: FusionModel, theirs: str, words: forms.Form, cross: bool = True
) -> list[Rule]:
  """Embeddings, text and fusion layers, these with cross-attention if asked."""
  out = _embeddings("embeddings", theirs, words)
  for i in range(model.text_depth + model.fusion_depth):
    fused = i >= model.text_depth
    out += rules.within(
      f"{'fusion' if fused else 'text'}_layers/layer_{i}/",
      f"{theirs}encoder.layer.{i}.",
      encoders.bert_layer(fused and cross),
    )
  return out


def _embeddings(ours: str, theirs: str, words: forms.Form) -> list[Rule]:
  embeddings = encoders.bert_embeddings(words)
  return rules.within(f"{ours}/", f"{theirs}embeddings.", embeddings)


def _language_head(ours: str, theirs: str, words: forms.Form) -> list[Rule]:
  return [
    *rules.layer(f"{ours}/dense", f"{theirs}.transform.dense"),
    *rules.norm(f"{ours}/norm", f"{theirs}.transform.LayerNorm"),
    Rule(f"{ours}/bias", f"{theirs}.bias", words),
  ]
