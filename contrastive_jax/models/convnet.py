"""A small convolutional tower for images of 32 to 64 pixels."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from contrastive_jax._types import Array, Dtype
from contrastive_jax.models import layers


class DepthwiseConv(nn.Module):
  """Depthwise convolution of stride 1 as `layers.shifted_sum`.

  The separable form is a column of k weights and then a row of k, 2k terms instead
  of k².

  Attributes:
    kernel_size: k, odd.
    separable: whether the kernel is a product of a column and a row.
    dtype: compute type.
  """

  kernel_size: int = 5
  separable: bool = True
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [N, H, W, C] to an array of the same shape."""
    k = self.kernel_size
    if k % 2 == 0:
      raise ValueError(f"kernel_size must be odd; got {k}.")
    shapes = [(k, 1), (1, k)] if self.separable else [(k, k)]
    bias = self.param(
      "bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32
    )
    for i, shape in enumerate(shapes):
      kernel = self.param(
        f"kernel_{i}",
        nn.initializers.normal(math.prod(shape) ** -0.5),
        (*shape, x.shape[-1]),
        jnp.float32,
      )
      x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
      padding = [(n // 2, n // 2) for n in shape]
      x = layers.shifted_sum(x, kernel, padding)
    return x + bias.astype(x.dtype)


class ConvFields(nn.Module):
  """The fields that a `ConvNet` and its blocks have.

  Attributes:
    block: `basic`: norm, activation, 3x3, norm, activation, 3x3; `convnext`:
      depthwise, norm, MLP over channels.
    norm: `layer` (over channels) or `group` (over the map and groups of 16
      channels).
    activation: name of the activation.
    mlp_ratio: hidden width of the MLP over the width (`convnext`).
    kernel_size: of the depthwise convolution (`convnext`).
    separable: form of the depthwise convolution (`convnext`).
    dropout: rate on the residual branches.
    stochastic_depth: rate at which a block's branch is dropped; a network's is
      that of its last block, to which it grows linearly from 0.
    dtype: compute type; parameters are always float32.
  """

  block: str = "basic"
  norm: str = "group"
  activation: str = "relu"
  mlp_ratio: float = 4.0
  kernel_size: int = 5
  separable: bool = True
  dropout: float = 0.0
  stochastic_depth: float = 0.0
  dtype: Dtype | None = None


class ConvBlock(ConvFields):
  """A residual block that keeps the shape of its map."""

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [N, H, W, C] to an array of the same shape."""
    width = x.shape[-1]
    if self.block == "basic":
      y = x
      for i in range(2):
        y = _norm(self.norm, y, self.dtype, f"norm_{i}")
        y = nn.Conv(
          width,
          (3, 3),
          use_bias=False,
          kernel_init=nn.initializers.he_normal(),
          dtype=self.dtype,
          name=f"conv_{i}",
        )(layers.activation(self.activation)(y))
    else:
      y = DepthwiseConv(
        self.kernel_size, self.separable, self.dtype, name="depthwise"
      )(x)
      y = layers.Mlp(
        int(width * self.mlp_ratio),
        self.activation,
        dtype=self.dtype,
        name="mlp",
      )(_norm(self.norm, y, self.dtype, "norm"), train=train)
    y = nn.Dropout(self.dropout)(y, deterministic=not train)
    return x + layers.StochasticDepth(self.stochastic_depth)(y, train=train)


def _norm(kind: str, x: Array, dtype: Dtype | None, name: str) -> Array:
  """Normalises within each example, never over the batch."""
  if kind == "layer":
    return nn.LayerNorm(dtype=dtype, name=name)(x)
  groups = math.gcd(x.shape[-1], max(x.shape[-1] // 16, 1))
  return nn.GroupNorm(num_groups=groups, dtype=dtype, name=name)(x)


class ConvNet(ConvFields):
  """Patches, stages of residual blocks, global average pooling.

  Between stages the map is halved by 2x2 patches, as one matrix product. All
  norms act within an example: a feature never depends on the batch it is in.

  Attributes:
    widths: width of each stage; the last one is the feature's.
    depths: blocks a stage.
    patch_size: side of the patches that the stem takes; 1 is a 3x3
      convolution over pixels.
    remat: whether a block's activations are recomputed in the backward pass.

  The other fields are those of `ConvFields`.

  >>> import jax, jax.numpy as jnp
  >>> net = ConvNet(widths=(8, 16), depths=(1, 1))
  >>> images = jnp.zeros((2, 8, 8, 3))
  >>> key = jax.random.key(0)
  >>> feature, _ = jax.eval_shape(net.init_with_output, key, images)
  >>> feature.shape
  (2, 16)
  """

  widths: Sequence[int] = (64, 128, 256)
  depths: Sequence[int] = (1, 1, 1)
  patch_size: int = 2
  remat: bool = False

  @nn.compact
  def __call__(
    self, images: Array, *, train: bool = False, return_tokens: bool = False
  ) -> Array | tuple[Array, Array]:
    """Encodes images.

    Args:
      images: floating [N, H, W, 3], normalised; H and W divisible by
        `patch_size` times 2 for each stage after the first.
      train: whether dropout and stochastic depth are active (needs the
        `dropout` key).
      return_tokens: whether the last map is returned beside the feature.

    Returns:
      The feature [N, C]; with `return_tokens` (feature, [N, H' W', C]).

    Raises:
      ValueError: if the images or the settings do not fit.
    """
    self._check(images)
    if self.patch_size == 1:
      x = nn.Conv(self.widths[0], (3, 3), dtype=self.dtype, name="stem")(images)
    else:
      x = layers.PatchEmbed(
        self.widths[0], self.patch_size, dtype=self.dtype, name="stem"
      )(images)
    block = ConvBlock
    if self.remat:
      block = nn.remat(ConvBlock, static_argnums=(2,))
    total, index = sum(self.depths), 0
    for i, (width, depth) in enumerate(zip(self.widths, self.depths)):
      if i:
        x = _norm(self.norm, x, self.dtype, f"down_norm_{i}")
        x = layers.PatchEmbed(width, 2, dtype=self.dtype, name=f"down_{i}")(x)
      for j in range(depth):
        rate = self.stochastic_depth * index / max(total - 1, 1)
        fields = layers.shared(self, ConvBlock, stochastic_depth=rate)
        x = block(**fields, name=f"stage_{i}_block_{j}")(x, train)
        index += 1
    x = _norm(self.norm, x, self.dtype, "norm")
    if self.block == "basic":
      # The last block ends in a sum: without this the pooled feature would be
      # linear in its branch.
      x = layers.activation(self.activation)(x)
    return layers.pooled(x, return_tokens)

  def _check(self, images: Array) -> None:
    layers.check_images(images)
    layers.check_choice("block", self.block, ("basic", "convnext"))
    layers.check_choice("norm", self.norm, ("layer", "group"))
    if not self.widths or len(self.widths) != len(self.depths):
      raise ValueError(
        "widths and depths must have one entry a stage; got"
        f" {tuple(self.widths)} and {tuple(self.depths)}."
      )
    stride = self.patch_size * 2 ** (len(self.widths) - 1)
    if images.shape[1] % stride or images.shape[2] % stride:
      raise ValueError(
        f"images must have sides divisible by {stride} (patch_size and the"
        f" stages); got {images.shape[1]} x {images.shape[2]}."
      )
