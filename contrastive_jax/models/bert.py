"""BERT with cross-attention: text layers, fusion layers and a causal decoder."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from contrastive_jax._types import Array, Dtype
from contrastive_jax.models import layers

# Weights begin as BERT's of its own width; of narrower layers larger ones, or
# products of queries and keys would be nearly 0 and no token be told from another.
_INIT_STD, _INIT_WIDTH = 0.02, 768


def _initial(width: int) -> nn.initializers.Initializer:
  return nn.initializers.normal(_INIT_STD * (_INIT_WIDTH / width) ** 0.5)


def _dense(
  features: int, width: int, dtype: Dtype | None, name: str | None = None
) -> nn.Dense:
  """A dense layer of a model of this width."""
  return nn.Dense(
    features,
    kernel_init=_initial(width),
    dtype=dtype,
    dot_general=layers.flat_dot_general,
    name=name,
  )


def padding_mask(valid: Array) -> Array:
  """Booleans [N, T] of tokens that count, as a mask of attention to them."""
  return valid[:, None, None, :]


class KeyValue(nn.Module):
  """Keys and values of a sequence, [N, T, heads, width / heads] each.

  Attributes:
    width: of all heads together.
    num_heads: attention heads.
    dtype: compute type.
  """

  width: int
  num_heads: int
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, Array]:
    """Maps x [N, T, d] to its keys and values."""
    layers.check_heads(self.width, self.num_heads)

    def heads(name: str) -> Array:
      flat = _dense(self.width, self.width, self.dtype, name)(x)
      return flat.reshape(*x.shape[:2], self.num_heads, -1)

    return heads("key"), heads("value")


class Attention(nn.Module):
  """Multi-head attention to given keys and values, with the output's dense layer.

  Sequences may share keys and values: of N sequences and M keys, N / M that follow
  each other attend to the same ones, which are neither computed nor held again.

  Attributes:
    num_heads: attention heads; divide the width.
    dtype: compute type.
  """

  num_heads: int
  dtype: Dtype | None = None

  @nn.compact
  def __call__(
    self, x: Array, key_value: tuple[Array, Array], mask: Array | None = None
  ) -> tuple[Array, Array]:
    """Attends.

    Args:
      x: [N, T, d], what asks.
      key_value: [M, S, heads, d / heads] each; M divides N.
      mask: booleans, broadcastable to [M, heads, N / M * T, S]; False is not
        attended.

    Returns:
      [N, T, d], and the weights [N, heads, T, S] float32.

    Raises:
      ValueError: if M does not divide N.
    """
    n, length, width = x.shape
    key, value = key_value
    m, sources = key.shape[:2]
    if n % m:
      raise ValueError(
        f"The {n} sequences must be a multiple of those that they attend to;"
        f" got {m} of these."
      )
    query = _dense(width, width, self.dtype, "query")(x)
    query = query.reshape(m, -1, self.num_heads, width // self.num_heads)
    # Weights are wanted by those who look at them, so no fused attention; the
    # softmax runs in float32 whatever the compute type.
    logits = jnp.einsum("nthd,nshd->nhts", query, key)
    logits = logits.astype(jnp.float32) / (width / self.num_heads) ** 0.5
    if mask is not None:
      logits = jnp.where(mask, logits, -1e9)
    weights = jax.nn.softmax(logits)
    out = jnp.einsum("nhts,nshd->nthd", weights.astype(value.dtype), value)
    out = out.reshape(n, length, width)
    weights = weights.reshape(m, self.num_heads, n // m, length, sources)
    weights = weights.swapaxes(1, 2).reshape(n, self.num_heads, length, sources)
    return _dense(width, width, self.dtype, "out")(out), weights


class BertLayer(nn.Module):
  """A layer: self-attention, cross-attention if asked, MLP.

  Attributes:
    num_heads: attention heads.
    mlp_ratio: hidden width of the MLP over the width.
    cross: whether there is cross-attention.
    own_context: whether it has keys and values of its own for the context; else
      they are given.
    activation: of the MLP.
    norm_first: whether a norm comes before each part instead of after the sum, as
      BERT has it; then what a stack returns has one more.
    layer_norm_eps: epsilon of the layer norms.
    dropout: rate after attention and MLP.
    dtype: compute type.
  """

  num_heads: int
  mlp_ratio: float = 4.0
  cross: bool = False
  own_context: bool = True
  activation: str = "gelu"
  norm_first: bool = False
  layer_norm_eps: float = 1e-12
  dropout: float = 0.0
  dtype: Dtype | None = None

  @nn.compact
  def __call__(
    self,
    x: Array,
    mask: Array | None,
    context: Any,
    context_mask: Array | None,
    train: bool,
  ) -> Array:
    """Maps x [N, T, d] to [N, T, d].

    Args:
      x: the tokens.
      mask: of self-attention, see `Attention`.
      context: [M, S, e], what cross-attention attends to, or its keys and values
        (`own_context=False`); see `Attention` for an M that is not N.
      context_mask: of cross-attention.
      train: whether dropout is active.

    Returns:
      The tokens. The weights of cross-attention are sown into the collection
      `intermediates` as `cross_attention_weights`.
    """
    width = x.shape[-1]

    def norm(x: Array, name: str) -> Array:
      return nn.LayerNorm(
        epsilon=self.layer_norm_eps, dtype=self.dtype, name=name
      )(x)

    def before(x: Array, name: str) -> Array:
      return norm(x, name) if self.norm_first else x

    def add(x: Array, branch: Array, name: str) -> Array:
      branch = nn.Dropout(self.dropout)(branch, deterministic=not train)
      return x + branch if self.norm_first else norm(x + branch, name)

    y = before(x, "attention_norm")
    own = KeyValue(width, self.num_heads, self.dtype, name="key_value")(y)
    branch, _ = Attention(self.num_heads, self.dtype, name="attention")(
      y, own, mask
    )
    x = add(x, branch, "attention_norm")
    if self.cross:
      if context is None:
        raise ValueError(
          "context must be given to a layer that has cross=True."
        )
      if self.own_context:
        context = KeyValue(
          width, self.num_heads, self.dtype, name="context_key_value"
        )(context)
      branch, weights = Attention(
        self.num_heads, self.dtype, name="cross_attention"
      )(before(x, "cross_norm"), context, context_mask)
      self.sow("intermediates", "cross_attention_weights", weights)
      x = add(x, branch, "cross_norm")
    y = before(x, "mlp_norm")
    branch = _dense(int(width * self.mlp_ratio), width, self.dtype, "fc")(y)
    branch = layers.activation(self.activation)(branch)
    branch = _dense(width, width, self.dtype, "proj")(branch)
    return add(x, branch, "mlp_norm")


class PairLayer(BertLayer):
  """A fusion layer twice: to the first image's tokens, then to the second's.

  The two have weights of their own but for the keys and values of the images,
  which they share. The fields are those of `BertLayer`.

  Reference: Li et al., Align before fuse, 2021, section 5 (NLVR2).
  """

  @nn.compact
  def __call__(
    self,
    x: Array,
    mask: Array | None,
    context: Any,
    context_mask: Array | None,
    train: bool,
  ) -> Array:
    """Maps x [N, T, d] to [N, T, d]; `context` is both images' tokens."""
    share = KeyValue(
      x.shape[-1], self.num_heads, self.dtype, name="context_key_value"
    )
    fields = layers.fields(self) | {"own_context": False}
    for name, tokens in zip(("first", "second"), context):
      layer = BertLayer(**fields, name=name)
      x = layer(x, mask, share(tokens), context_mask, train)
    return x


class BertStack(nn.Module):
  """Layers one after the other.

  Attributes:
    depth: number of layers.
    layer: their fields by name, see `BertLayer`.
    first: the number of the first layer, which names it; a stack that is part of
      a larger one keeps the numbers.
    pair: whether a layer is a `PairLayer`.
    remat: whether a layer's activations are recomputed in the backward pass.
    activation_sharding: how tokens lie on a mesh between layers; None leaves it
      to the compiler.
  """

  depth: int
  layer: Mapping[str, Any]
  first: int = 0
  pair: bool = False
  remat: bool = False
  activation_sharding: jax.sharding.Sharding | None = None

  @nn.compact
  def __call__(
    self,
    x: Array,
    mask: Array | None = None,
    context: Any = None,
    context_mask: Array | None = None,
    *,
    train: bool = False,
  ) -> Array:
    """Maps x [N, T, d] to [N, T, d]; see `BertLayer`."""
    kind: Any = PairLayer if self.pair else BertLayer
    if self.remat:
      kind = nn.remat(kind, static_argnums=(5,))
    for i in range(self.first, self.first + self.depth):
      if self.activation_sharding is not None:
        x = jax.lax.with_sharding_constraint(x, self.activation_sharding)
      # The name is given, so that remat does not change the parameters' paths.
      layer = kind(**self.layer, name=f"layer_{i}")
      x = layer(x, mask, context, context_mask, train)
    if self.layer.get("norm_first"):
      x = nn.LayerNorm(
        epsilon=self.layer.get("layer_norm_eps", BertLayer.layer_norm_eps),
        dtype=self.layer.get("dtype"),
        name="norm",
      )(x)
    return x


class BertEmbeddings(nn.Module):
  """Token, position and (one) segment embedding, normalised.

  Attributes:
    vocab_size: number of token ids.
    context_length: longest sequence.
    width: of the tokens.
    layer_norm_eps: epsilon of the layer norm.
    dropout: rate.
    dtype: compute type.
  """

  vocab_size: int
  context_length: int
  width: int
  layer_norm_eps: float = 1e-12
  dropout: float = 0.0
  dtype: Dtype | None = None

  def setup(self):
    """Makes the tables."""
    init = _initial(self.width)
    self.embedding = self.param(
      "embedding", init, (self.vocab_size, self.width), jnp.float32
    )
    self.positions = self.param(
      "positions", init, (self.context_length, self.width), jnp.float32
    )
    self.segment = self.param("segment", init, (self.width,), jnp.float32)
    self.norm = nn.LayerNorm(epsilon=self.layer_norm_eps, dtype=self.dtype)
    self.drop = nn.Dropout(self.dropout)

  def __call__(self, tokens: Array, *, train: bool = False) -> Array:
    """Maps token ids [N, T] to [N, T, width].

    Raises:
      ValueError: if the tokens are no integers or too many.
    """
    layers.check_tokens(tokens, self.context_length)
    x = (
      self.embedding[tokens] + self.positions[: tokens.shape[1]] + self.segment
    )
    if self.dtype is not None:
      x = x.astype(self.dtype)
    return self.drop(self.norm(x), deterministic=not train)

  def logits(self, x: Array) -> Array:
    """Products [N, T, vocab_size] of states with the token embeddings."""
    return jnp.matmul(
      x, self.embedding.T.astype(x.dtype), preferred_element_type=jnp.float32
    )


class LanguageModelHead(nn.Module):
  """BERT's head over a vocabulary: dense, activation, norm, tied products.

  Attributes:
    vocab_size: number of token ids.
    activation: of the dense layer.
    layer_norm_eps: epsilon of the layer norm.
    dtype: compute type.
  """

  vocab_size: int
  activation: str = "gelu"
  layer_norm_eps: float = 1e-12
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: Array, embeddings: BertEmbeddings) -> Array:
    """Maps states [..., d] to float32 logits [..., vocab_size]."""
    x = _dense(x.shape[-1], x.shape[-1], self.dtype, "dense")(x)
    x = layers.activation(self.activation)(x)
    x = nn.LayerNorm(
      epsilon=self.layer_norm_eps, dtype=self.dtype, name="norm"
    )(x)
    bias = self.param(
      "bias", nn.initializers.zeros, (self.vocab_size,), jnp.float32
    )
    return embeddings.logits(x) + bias
