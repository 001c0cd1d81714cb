"""ResNet v1.5, and CLIP's modified ResNet with attention pooling."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from contrastive_jax._types import Array, Dtype
from contrastive_jax.models import layers

# depth -> (block, blocks a stage)
RESNET_SIZES: dict[int, tuple[str, tuple[int, ...]]] = {
  18: ("basic", (2, 2, 2, 2)),
  26: ("bottleneck", (2, 2, 2, 2)),
  34: ("basic", (3, 4, 6, 3)),
  50: ("bottleneck", (3, 4, 6, 3)),
  101: ("bottleneck", (3, 4, 23, 3)),
}


def _conv(
  features: int, kernel: int, stride: int, dtype: Dtype | None, name: str
) -> nn.Conv:
  """A convolution without bias, padded alike on both sides at any stride."""
  # "SAME" pads one side more when the stride is 2, which shifts the features
  # against those of published weights.
  return nn.Conv(
    features,
    (kernel, kernel),
    (stride, stride),
    padding=kernel // 2,
    use_bias=False,
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    dtype=dtype,
    name=name,
  )


def _norm(kind: str, train: bool, dtype: Dtype | None) -> Callable[..., Any]:
  """The constructor of a norm: statistics of the batch, or of 32 groups."""
  layers.check_choice("norm", kind, ("batch", "group"))
  if kind == "group":
    return functools.partial(nn.GroupNorm, num_groups=32, dtype=dtype)
  return functools.partial(
    nn.BatchNorm,
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    dtype=dtype,
  )


class ResNetBlock(nn.Module):
  """Residual block: bottleneck (1x1, 3x3, 1x1) or basic (3x3, 3x3).

  The stride is on the 3x3 convolution (v1.5), or an average pool after it, against
  aliasing. The last norm starts at scale zero, so that the block starts as the
  identity.

  Attributes:
    features: width inside; a bottleneck returns four times this.
    stride: of the block.
    bottleneck: which of the two forms.
    pooled: whether strides are average pools.
    norm: `batch` or `group`.
    dtype: compute type.
  """

  features: int
  stride: int = 1
  bottleneck: bool = True
  pooled: bool = False
  norm: str = "batch"
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [N, H, W, C] to [N, H / stride, W / stride, C']."""
    conv = functools.partial(_conv, dtype=self.dtype)
    norm = _norm(self.norm, train, self.dtype)
    stride = 1 if self.pooled else self.stride
    pools = self.pooled and self.stride > 1
    window = (self.stride // stride,) * 2
    out = self.features * (4 if self.bottleneck else 1)
    plan = [(self.features, 3, stride), (out, 3, 1)]
    if self.bottleneck:
      plan = [(self.features, 1, 1), (self.features, 3, stride), (out, 1, 1)]
    y, last = x, len(plan) - 1
    for i, (width, kernel, step) in enumerate(plan):
      if i == last and pools:
        y = nn.avg_pool(y, window, window)
      y = conv(width, kernel, step, name=f"conv_{i}")(y)
      if i < last:
        y = jax.nn.relu(norm(name=f"norm_{i}")(y))
    y = norm(scale_init=nn.initializers.zeros, name=f"norm_{last}")(y)
    if self.stride > 1 or x.shape[-1] != out:
      if pools:
        x = nn.avg_pool(x, window, window)
      x = conv(out, 1, stride, name="shortcut_conv")(x)
      x = norm(name="shortcut_norm")(x)
    return jax.nn.relu(x + y)


def _stages(
  tower: "ResNet | ModifiedResNet", x: Array, train: bool, **fields: Any
) -> Array:
  """The map [N, H, W, C] after a tower's blocks, which have these fields."""
  block: Any = ResNetBlock
  if tower.remat:
    block = nn.remat(ResNetBlock, static_argnums=(2,))
  for i, size in enumerate(tower.stage_sizes):
    for j in range(size):
      x = block(
        tower.width * 2**i,
        2 if i and not j else 1,
        norm=tower.norm,
        dtype=tower.dtype,
        name=f"stage_{i}_block_{j}",
        **fields,
      )(x, train)
  return x


class ResNet(nn.Module):
  """Residual network v1.5 with global average pooling and no classifier.

  With `norm="batch"` the module has a `batch_stats` collection, which
  `apply(..., train=True, mutable=["batch_stats"])` updates.

  Attributes:
    stage_sizes: blocks a stage; each stage but the first halves the map.
    block: `bottleneck` or `basic`.
    width: width of the first stage; doubles at each further one.
    norm: `batch` or `group` (32 groups; independent of the batch).
    stem: `imagenet` (7x7 of stride 2 and a max pool) or `cifar` (3x3), the
      usual one for images of 32 to 64 pixels.
    remat: whether a block's activations are recomputed in the backward pass.
    dtype: compute type; parameters are always float32.

  References: He et al., Deep residual learning for image recognition, 2016;
  Chen et al., A simple framework for contrastive learning of visual
  representations, 2020 (the `cifar` stem).
  """

  stage_sizes: Sequence[int] = (3, 4, 6, 3)
  block: str = "bottleneck"
  width: int = 64
  norm: str = "batch"
  stem: str = "imagenet"
  remat: bool = False
  dtype: Dtype | None = None

  @nn.compact
  def __call__(
    self, images: Array, *, train: bool = False, return_tokens: bool = False
  ) -> Array | tuple[Array, Array]:
    """Encodes images.

    Args:
      images: floating [N, H, W, 3], normalised.
      train: whether batch statistics are those of this batch.
      return_tokens: whether the last map is returned beside the feature.

    Returns:
      The feature [N, C]; with `return_tokens` (feature, [N, H' W', C]).

    Raises:
      ValueError: if the images or the settings do not fit.
    """
    layers.check_images(images)
    layers.check_choice("block", self.block, ("bottleneck", "basic"))
    layers.check_choice("stem", self.stem, ("imagenet", "cifar"))
    norm = _norm(self.norm, train, self.dtype)
    kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
    x = _conv(self.width, kernel, stride, self.dtype, "stem_conv")(images)
    x = jax.nn.relu(norm(name="stem_norm")(x))
    if self.stem == "imagenet":
      x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    x = _stages(self, x, train, bottleneck=self.block == "bottleneck")
    return layers.pooled(x, return_tokens)


def resnet(depth: int = 50, **settings: Any) -> ResNet:
  """A standard depth (18, 26, 34, 50 or 101), e.g. `resnet(18, stem="cifar")`.

  `settings` are further fields of `ResNet`; other depths raise ValueError.

  >>> resnet(101).stage_sizes
  (3, 4, 23, 3)
  """
  layers.check_choice("depth", depth, RESNET_SIZES)
  block, stage_sizes = RESNET_SIZES[depth]
  fields: dict[str, Any] = dict(stage_sizes=stage_sizes, block=block)
  return ResNet(**(fields | settings))


class AttentionPool(nn.Module):
  """Attention pooling: the mean of the map asks, the map and it answer.

  Attributes:
    features: width of the output.
    num_heads: attention heads.
    dtype: compute type.
  """

  features: int
  num_heads: int
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [N, H, W, C] to [N, features]."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height * width, channels)
    x = jnp.concatenate([jnp.mean(x, axis=1, keepdims=True), x], axis=1)
    x = x + self.param(
      "position_embedding",
      nn.initializers.normal(channels**-0.5),
      (height * width + 1, channels),
      jnp.float32,
    ).astype(x.dtype)
    # pyrefly: ignore[unsupported-operation]
    return nn.MultiHeadDotProductAttention(
      self.num_heads,
      out_features=self.features,
      kernel_init=nn.initializers.normal(channels**-0.5),
      dtype=self.dtype,
      deterministic=True,
      name="attention",
    )(x[:, :1], x)[:, 0]


class ModifiedResNet(nn.Module):
  """CLIP's ResNet: deep stem, anti-aliased strides, attention pooling.

  Attention pooling already maps to the embedding width, so a two-tower model
  puts no further projection on it.

  Attributes:
    image_size: height and width of the images; divisible by 32.
    features: width of the output.
    stage_sizes: blocks a stage.
    width: width of the first stage; doubles at each further one.
    num_heads: heads of the attention pool; None is one per 64 channels, and
      at least one.
    norm: `batch` (with a `batch_stats` collection) or `group`.
    remat: whether a block's activations are recomputed in the backward pass.
    dtype: compute type; parameters are always float32.

  Reference: Radford et al., Learning transferable visual models from natural
  language supervision, 2021.
  """

  image_size: int = 224
  features: int = 1024
  stage_sizes: Sequence[int] = (3, 4, 6, 3)
  width: int = 64
  num_heads: int | None = None
  norm: str = "batch"
  remat: bool = False
  dtype: Dtype | None = None

  @nn.compact
  def __call__(
    self, images: Array, *, train: bool = False, return_tokens: bool = False
  ) -> Array | tuple[Array, Array]:
    """Encodes images of `image_size`, as `ResNet` does."""
    stride = 4 * 2 ** (len(self.stage_sizes) - 1)
    if self.image_size % stride:
      raise ValueError(
        f"image_size must be divisible by {stride}; got {self.image_size}."
      )
    layers.check_images(images, self.image_size)
    norm = _norm(self.norm, train, self.dtype)
    x = images
    stem = [(self.width // 2, 2), (self.width // 2, 1), (self.width, 1)]
    for i, (width, stride) in enumerate(stem):
      x = _conv(width, 3, stride, self.dtype, f"stem_conv_{i}")(x)
      x = jax.nn.relu(norm(name=f"stem_norm_{i}")(x))
    x = nn.avg_pool(x, (2, 2), (2, 2))
    x = _stages(self, x, train, pooled=True)
    channels = x.shape[-1]
    default = max(1, channels // 64)
    heads = default if self.num_heads is None else self.num_heads
    if heads < 1 or channels % heads:
      raise ValueError(
        f"num_heads must divide the {channels} channels of the last map; got"
        f" {heads}."
      )
    feature = AttentionPool(
      self.features, heads, self.dtype, name="attention_pool"
    )(x)
    if return_tokens:
      return feature, x.reshape(x.shape[0], -1, channels)
    return feature
