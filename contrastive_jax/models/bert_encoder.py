"""BERT as a text tower."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from contrastive_jax._types import Array, Dtype
from contrastive_jax.models import bert, layers


class BertEncoder(nn.Module):
  """A BERT without heads, whose feature is the mean of its states or the first.

  Attributes:
    vocab_size: number of token ids.
    context_length: longest text.
    width: of the tokens and of the feature.
    depth: number of layers.
    num_heads: attention heads.
    pool: `mean` (over tokens that are not padding, as sentence transformers have it)
      or `cls`.
    pad_id: id of padding.
    activation: `gelu`, `gelu_tanh`, `quick_gelu` or `relu`.
    layer_norm_eps: epsilon of the layer norms.
    dropout: rate after attention and MLPs.
    remat: whether a layer's activations are recomputed in the backward pass.
    activation_sharding: see `bert.BertStack`.
    dtype: compute type; parameters are always float32.

  Reference: Devlin et al., BERT: pre-training of deep bidirectional transformers for
  language understanding, 2019.
  """

  vocab_size: int = 30_522
  context_length: int = 512
  width: int = 768
  depth: int = 12
  num_heads: int = 12
  pool: str = "cls"
  pad_id: int = 0
  activation: str = "gelu"
  layer_norm_eps: float = 1e-12
  dropout: float = 0.0
  remat: bool = False
  activation_sharding: jax.sharding.Sharding | None = None
  dtype: Dtype | None = None

  @nn.compact
  def __call__(
    self, tokens: Array, *, train: bool = False, return_tokens: bool = False
  ) -> Array | tuple[Array, Array]:
    """Encodes token ids.

    Args:
      tokens: integer [N, L], L at most `context_length`, padded at the end.
      train: whether dropout is active (needs the `dropout` key).
      return_tokens: whether the tokens are returned beside the feature.

    Returns:
      The feature [N, width]; with `return_tokens` (feature, tokens [N, L, width]).

    Raises:
      ValueError: if the tokens or the settings do not fit.
    """
    layers.check_choice("pool", self.pool, ("mean", "cls"))
    if self.width % self.num_heads:
      raise ValueError(
        f"width must be divisible by num_heads = {self.num_heads}; got"
        f" {self.width}."
      )
    common = dict(layer_norm_eps=self.layer_norm_eps, dropout=self.dropout)
    x = bert.BertEmbeddings(
      self.vocab_size,
      self.context_length,
      self.width,
      dtype=self.dtype,
      name="embeddings",
      **common,
    )(tokens, train=train)
    valid = tokens != self.pad_id
    x = bert.BertStack(
      self.depth,
      dict(
        num_heads=self.num_heads,
        activation=self.activation,
        dtype=self.dtype,
        **common,
      ),
      remat=self.remat,
      activation_sharding=self.activation_sharding,
      name="layers",
    )(x, bert.padding_mask(valid), train=train)
    if self.pool == "cls":
      feature = x[:, 0]
    else:
      weight = valid[..., None].astype(jnp.float32)
      total = jnp.sum(x.astype(jnp.float32) * weight, axis=1)
      mean = total / jnp.maximum(jnp.sum(weight, axis=1), 1.0)
      feature = mean.astype(x.dtype)
    return (feature, x) if return_tokens else feature
