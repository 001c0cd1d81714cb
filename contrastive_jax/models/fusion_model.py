"""ALBEF: two unimodal encoders and a multimodal one on top of them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from contrastive_jax import ops
from contrastive_jax._types import Array, Dtype
from contrastive_jax.models import bert, layers
from contrastive_jax.models.vit import ViT

TASKS = ("pretrain", "vqa", "nlvr2", "entailment")
NUM_CLASSES = {"nlvr2": 2, "entailment": 3}


class FusionModel(nn.Module):
  """An image encoder, a text encoder, and fusion layers that attend to images.

  The text encoder is the first `text_depth` layers of a BERT, the fusion encoder
  the `fusion_depth` layers after them, which have cross-attention to the image's
  tokens. What else there is depends on the task: projections, matching head and
  language model (pretrain), an answer decoder (vqa), fusion layers for two images
  (nlvr2), a classifier (nlvr2, entailment).

  Attributes:
    image: the image encoder.
    vocab_size: number of token ids.
    context_length: longest text.
    width: of the text's tokens.
    text_depth: layers before fusion.
    fusion_depth: layers with cross-attention.
    num_heads: attention heads of the text's layers.
    embed_dim: width of the embeddings that are contrasted.
    task: one of `TASKS`.
    decoder_depth: of the answer decoder.
    independent_head: whether there is a second projection on each side, for deep
      feature separation.
    pad_id: id of padding.
    activation: of the text's layers.
    norm_first: whether the text's layers have their norms before their parts
      instead of after, as BERT has them.
    layer_norm_eps: epsilon of the text's layer norms.
    dropout: rate of the text's layers.
    init_temperature: of the contrast.
    remat: whether activations of layers are recomputed in the backward pass.
    activation_sharding: how tokens lie on a mesh between layers.
    dtype: compute type; parameters, embeddings and logits are float32.

  Reference: Li et al., Align before fuse: vision and language representation
  learning with momentum distillation, 2021.
  """

  image: ViT
  vocab_size: int = 30_522
  context_length: int = 25
  width: int = 768
  text_depth: int = 6
  fusion_depth: int = 6
  num_heads: int = 12
  embed_dim: int = 256
  task: str = "pretrain"
  decoder_depth: int = 6
  independent_head: bool = False
  pad_id: int = 0
  activation: str = "gelu"
  norm_first: bool = False
  layer_norm_eps: float = 1e-12
  dropout: float = 0.1
  init_temperature: float = 0.07
  remat: bool = False
  activation_sharding: jax.sharding.Sharding | None = None
  dtype: Dtype | None = None

  def setup(self):
    """Makes the parts."""
    layers.check_choice("task", self.task, TASKS)
    if self.image.pool != "cls":
      raise ValueError(f"image must have pool='cls'; got {self.image.pool!r}.")
    layer = layers.shared(self, bert.BertLayer)
    common = layers.shared(self, bert.BertStack)
    embeddings = layers.shared(self, bert.BertEmbeddings)
    head = layers.shared(self, bert.LanguageModelHead)
    self.embeddings = bert.BertEmbeddings(**embeddings)
    self.text_layers = bert.BertStack(self.text_depth, layer, **common)
    self.fusion_layers = bert.BertStack(
      self.fusion_depth,
      {**layer, "cross": True},
      first=self.text_depth,
      pair=self.task == "nlvr2",
      **common,
    )
    if self.task == "pretrain":
      self.image_projection = self._projection()
      self.text_projection = self._projection()
      if self.independent_head:
        self.image_independent = self._projection()
        self.text_independent = self._projection()
      self.match_head = nn.Dense(2, dtype=jnp.float32)
      self.language_head = bert.LanguageModelHead(**head)
      self.temperature = self.param(
        "temperature",
        nn.initializers.constant(self.init_temperature),
        (),
        jnp.float32,
      )
    elif self.task == "vqa":
      self.decoder_embeddings = bert.BertEmbeddings(**embeddings)
      self.decoder_layers = bert.BertStack(
        self.decoder_depth,
        {**layer, "cross": True},
        first=self.text_depth,
        **common,
      )
      self.decoder_head = bert.LanguageModelHead(**head)
    else:
      self.classifier_hidden = nn.Dense(self.width, dtype=jnp.float32)
      self.classifier = nn.Dense(NUM_CLASSES[self.task], dtype=jnp.float32)
      if self.task == "nlvr2":
        # Text assignment: the text belongs to the first, the second, neither.
        self.assignment_head = nn.Dense(3, dtype=jnp.float32)

  def _projection(self) -> nn.Dense:
    return nn.Dense(self.embed_dim, dtype=jnp.float32)

  def __call__(self, images: Array, tokens: Array) -> dict[str, Array]:
    """Everything once, to initialise the parameters.

    Args:
      images: floating [N, S, S, 3]; with nlvr2 [2, N, S, S, 3].
      tokens: integers [N, T], of texts; with vqa of the answers as well.

    Returns:
      Outputs by name.
    """
    if self.task == "nlvr2":
      image = tuple(self.encode_image(part)["tokens"] for part in images)
    else:
      image = self.encode_image(images)["tokens"]
    text = self.encode_text(tokens)
    states = self.fuse(text["tokens"], text["valid"], image)
    if self.task == "pretrain":
      return {
        "match": self.match(states),
        "words": self.predict_tokens(states),
      }
    if self.task == "vqa":
      return {"words": self.decode(tokens, states, text["valid"])}
    out = {"classes": self.classify(states)}
    if self.task == "nlvr2":
      out["assignment"] = self.assign(states)
    return out

  def encode_image(
    self, images: Array, *, train: bool = False
  ) -> dict[str, Array]:
    """Images [N, S, S, 3] -> `tokens` [N, P, e] and, unit norm, `feature`.

    `feature` and, with an independent head, `independent` are [N, embed_dim]
    float32 and there with task="pretrain" alone.
    """
    cls, tokens = self.image(images, train=train, return_tokens=True)
    return {"tokens": tokens, **self._features("image", cls)}

  def encode_text(
    self, tokens: Array, valid: Array | None = None, *, train: bool = False
  ) -> dict[str, Array]:
    """Token ids [N, T] -> `tokens` [N, T, d], `valid` [N, T] and `feature`.

    The feature is the first token's, as in `encode_image`.

    Args:
      tokens: integers [N, T].
      valid: [N, T], those that are not padding; None looks for `pad_id`.
      train: whether dropout is active.

    Returns:
      Arrays by name.
    """
    if valid is None:
      valid = tokens != self.pad_id
    states = self.text_layers(
      self.embeddings(tokens, train=train),
      bert.padding_mask(valid),
      train=train,
    )
    features = self._features("text", states[:, 0])
    return {"tokens": states, "valid": valid, **features}

  def _features(self, side: str, cls: Array) -> dict[str, Array]:
    """Features for the contrast, from a side's first token [N, d]."""
    kinds = {}
    if self.task == "pretrain":
      kinds["feature"] = "projection"
      if self.independent_head:
        kinds["independent"] = "independent"
    return {
      name: ops.l2_normalize(
        getattr(self, f"{side}_{kind}")(cls.astype(jnp.float32))
      )
      for name, kind in kinds.items()
    }

  def fuse(
    self, text: Array, valid: Array, image: Any, *, train: bool = False
  ) -> Array:
    """Text states [N, T, d] that attended to the image's tokens.

    Args:
      text: [N, T, d], by `encode_text`.
      valid: [N, T], its tokens that are not padding.
      image: [M, P, e], tokens of the images; with nlvr2 of both, a tuple. M
        divides N: of more texts than images, N / M after each other have the
        same image.
      train: whether dropout is active.

    Returns:
      [N, T, d].
    """
    return self.fusion_layers(
      text, bert.padding_mask(valid), image, None, train=train
    )

  def match(self, states: Array) -> Array:
    """Logits [N, 2] of whether image and text belong together."""
    return self.match_head(states[:, 0].astype(jnp.float32))

  def predict_tokens(self, states: Array) -> Array:
    """Logits [..., vocab_size] of the tokens."""
    return self.language_head(states, self.embeddings)

  def classify(self, states: Array) -> Array:
    """Logits [N, classes]."""
    hidden = self.classifier_hidden(states[:, 0].astype(jnp.float32))
    return self.classifier(nn.relu(hidden))

  def assign(self, states: Array) -> Array:
    """Logits [N, 3]: the text belongs to the first image, the second, neither."""
    return self.assignment_head(states[:, 0].astype(jnp.float32))

  def decode(
    self, answers: Array, states: Array, valid: Array, *, train: bool = False
  ) -> Array:
    """Logits [N, A, vocab_size] of the token after each of the answer's.

    Args:
      answers: integers [N, A], from the start token on.
      states: [M, T, d], of the fused questions; M divides N, as in `fuse`.
      valid: [M, T], their tokens that are not padding.
      train: whether dropout is active.

    Returns:
      float32 logits.
    """
    length = answers.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
    # Padding comes last, so no answer's token sees it.
    out = self.decoder_layers(
      self.decoder_embeddings(answers, train=train),
      causal,
      states,
      bert.padding_mask(valid),
      train=train,
    )
    return self.decoder_head(out, self.decoder_embeddings)
