"""BERT as a text tower."""

import jax
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
    """Encodes token ids, as `TextTransformer` does."""
    layers.check_choice("pool", self.pool, ("mean", "cls"))
    x = bert.BertEmbeddings(
      **layers.shared(self, bert.BertEmbeddings), name="embeddings"
    )(tokens, train=train)
    valid = tokens != self.pad_id
    x = bert.BertStack(
      **layers.shared(self, bert.BertStack),
      layer=layers.shared(self, bert.BertLayer),
      name="layers",
    )(x, bert.padding_mask(valid), train=train)
    feature = x[:, 0] if self.pool == "cls" else layers.mean_token(x, valid)
    return (feature, x) if return_tokens else feature
