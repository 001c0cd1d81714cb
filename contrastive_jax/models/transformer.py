"""The transformer that the vision and the text tower share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from contrastive_jax._types import Array, Dtype
from contrastive_jax.models import layers


def sincos_position_embedding(
  grid: int, width: int, period: float = 10_000.0
) -> np.ndarray:
  r"""Fixed two-dimensional sine-cosine position embedding.

  .. math:: [\sin(x \omega), \cos(x \omega), \sin(y \omega), \cos(y \omega)],
            \quad \omega_k = p^{-k / (d/4 - 1)}

  Args:
    grid: number of patches in a row and in a column.
    width: d, divisible by four.
    period: p, the longest period over the shortest. Of a p far above the grid most
      values are the same at all places.

  Returns:
    float32 [grid * grid, d].

  Raises:
    ValueError: if `width` is not divisible by four, or `period` below 1.

  Reference: Beyer et al., Better plain ViT baselines for ImageNet-1k, 2022.

  >>> sincos_position_embedding(2, 8).shape
  (4, 8)
  """
  if width % 4:
    raise ValueError(f"width must be divisible by 4; got {width}.")
  if not period >= 1.0:
    raise ValueError(f"period must be at least 1; got {period}.")
  quarter = width // 4
  omega = float(period) ** -(np.arange(quarter) / max(quarter - 1, 1))
  y, x = np.mgrid[:grid, :grid].reshape(2, -1, 1) * omega  # [grid², d/4] each
  table = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=-1)
  return table.astype(np.float32)


class TransformerFields(nn.Module):
  """The fields of a transformer, which the towers around one have as well.

  Attributes:
    depth: number of blocks.
    num_heads: attention heads.
    mlp_ratio: hidden width of the MLPs over the width.
    activation: the MLPs', `gelu`, `gelu_tanh`, `quick_gelu` or `relu`.
    dropout: rate on residual branches, inside the MLPs, and on a tower's embeddings.
    stochastic_depth: rate of the last block; it grows linearly from 0.
    layer_norm_eps: epsilon of the layer norms.
    remat: whether a block's activations are recomputed in the backward pass.
    activation_sharding: how tokens lie on a mesh between blocks; None leaves it
      to the compiler, which with sharded parameters may choose badly.
    dtype: compute type; parameters are always float32.
  """

  depth: int = 12
  num_heads: int = 12
  mlp_ratio: float = 4.0
  activation: str = "gelu"
  dropout: float = 0.0
  stochastic_depth: float = 0.0
  layer_norm_eps: float = 1e-6
  remat: bool = False
  activation_sharding: jax.sharding.Sharding | None = None
  dtype: Dtype | None = None


class SelfAttention(nn.Module):
  """Multi-head self-attention with one fused query-key-value product.

  The softmax runs in float32 whatever the compute type.

  Attributes:
    num_heads: number of heads; divides the width.
    out_init_scale: the output kernel starts at this times width^-1/2.
    dtype: compute type.
  """

  num_heads: int
  out_init_scale: float = 1.0
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: Array, mask: Array | None = None) -> Array:
    """Maps x [N, T, d], whose width the heads divide, to [N, T, d].

    `mask` is boolean, broadcastable to [N, heads, T, T]; False is not attended.
    """
    n, length, width = x.shape
    layers.check_heads(width, self.num_heads)
    dense = functools.partial(nn.Dense, dtype=self.dtype)
    init = nn.initializers.normal(width**-0.5)
    qkv = dense(3 * width, kernel_init=init, name="qkv")(x)
    query, key, value = jnp.split(
      qkv.reshape(n, length, 3 * self.num_heads, -1), 3, axis=2
    )
    out = jax.nn.dot_product_attention(query, key, value, mask=mask)
    init = nn.initializers.normal(self.out_init_scale * width**-0.5)
    out = out.reshape(n, length, width)
    return dense(width, kernel_init=init, name="out")(out)


class TransformerBlock(nn.Module):
  """Pre-norm block: x + attention(norm(x)), then x + MLP(norm(x)).

  Attributes:
    out_init_scale: scale of what writes into the residual stream at the start.
    stochastic_depth: rate at which a branch is dropped.

  The other fields are as of `TransformerFields`.
  """

  num_heads: int
  mlp_ratio: float = 4.0
  activation: str = "gelu"
  out_init_scale: float = 1.0
  dropout: float = 0.0
  stochastic_depth: float = 0.0
  layer_norm_eps: float = 1e-6
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: Array, mask: Array | None, train: bool) -> Array:
    """Maps x [N, T, d] to [N, T, d]; `mask` is that of `SelfAttention`."""

    # `train` comes by position: `nn.remat` takes static arguments by number.
    def add_branch(x: Array, branch: Array) -> Array:
      branch = nn.Dropout(self.dropout)(branch, deterministic=not train)
      return x + layers.StochasticDepth(self.stochastic_depth)(
        branch, train=train
      )

    norm = functools.partial(
      nn.LayerNorm, epsilon=self.layer_norm_eps, dtype=self.dtype
    )
    y = SelfAttention(
      self.num_heads, self.out_init_scale, self.dtype, name="attention"
    )(norm(name="ln_1")(x), mask)
    x = add_branch(x, y)
    y = layers.Mlp(
      int(x.shape[-1] * self.mlp_ratio),
      self.activation,
      self.out_init_scale,
      self.dropout,
      self.dtype,
      name="mlp",
    )(norm(name="ln_2")(x), train=train)
    return add_branch(x, y)


class Transformer(TransformerFields):
  """A stack of pre-norm blocks, without a final norm.

  Output kernels start smaller in deeper stacks (by (2 depth)^-1/2), so that the
  residual stream keeps its variance.
  """

  @nn.compact
  def __call__(
    self, x: Array, mask: Array | None = None, *, train: bool = False
  ) -> Array:
    """Maps x [N, T, d] to [N, T, d]; `mask` is that of `SelfAttention`."""
    block = TransformerBlock
    if self.remat:
      block = nn.remat(TransformerBlock, static_argnums=(3,))
    for i in range(self.depth):
      if self.activation_sharding is not None:
        x = jax.lax.with_sharding_constraint(x, self.activation_sharding)
      # The name is given, so that remat does not change the parameters' paths.
      fields = layers.shared(
        self,
        TransformerBlock,
        out_init_scale=(2 * self.depth) ** -0.5,
        stochastic_depth=self.stochastic_depth * i / max(self.depth - 1, 1),
      )
      x = block(**fields, name=f"block_{i}")(x, mask, train)
    return x
