"""EfficientNet-Lite: an image encoder for small devices."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from contrastive_jax._types import Array, Dtype
from contrastive_jax.models import layers


class Stage(NamedTuple):
  """Blocks of one form.

  Attributes:
    repeats: number of blocks.
    kernel: of the depthwise convolution.
    stride: of the first block.
    expansion: width inside a block over the width before it.
    features: width after a block.
  """

  repeats: int
  kernel: int
  stride: int
  expansion: int
  features: int


LITE0 = (
  Stage(1, 3, 1, 1, 16),
  Stage(2, 3, 2, 6, 24),
  Stage(2, 5, 2, 6, 40),
  Stage(3, 3, 2, 6, 80),
  Stage(3, 5, 1, 6, 112),
  Stage(4, 5, 2, 6, 192),
  Stage(1, 3, 1, 6, 320),
)


def _depthwise(
  x: Array,
  kernel: Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **others: Any,
) -> Array:
  """`lax.conv_general_dilated` of one channel at a time; on CPUs a sum."""

  def grouped(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **others)

  def shifted(x: Array, kernel: Array) -> Array:
    pads: Any = padding
    if isinstance(padding, str):
      pads = jax.lax.padtype_to_pads(
        x.shape[1:3], kernel.shape[:2], strides, padding
      )
    return layers.shifted_sum(x, kernel, pads, strides)

  return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)


class _Layer(nn.Module):
  """Convolution, batch norm and, but for projections, ReLU6."""

  features: int
  kernel: int = 1
  stride: int = 1
  depthwise: bool = False
  activated: bool = True
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    x = nn.Conv(
      self.features,
      (self.kernel, self.kernel),
      self.stride,
      padding="SAME",
      feature_group_count=x.shape[-1] if self.depthwise else 1,
      use_bias=False,
      conv_general_dilated=_depthwise if self.depthwise else None,
      kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
      dtype=self.dtype,
      name="conv",
    )(x)
    x = nn.BatchNorm(
      use_running_average=not train,
      momentum=0.99,
      epsilon=1e-3,
      dtype=self.dtype,
      name="norm",
    )(x)
    return jax.nn.relu6(x) if self.activated else x


class _Block(nn.Module):
  """Inverted residual block: expand, convolve each channel, project."""

  stage: Stage
  stride: int
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    stage, width = self.stage, x.shape[-1]
    layer = functools.partial(_Layer, dtype=self.dtype)
    y, inner = x, width * stage.expansion
    if stage.expansion > 1:
      y = layer(inner, name="expand")(y, train)
    y = layer(
      inner, stage.kernel, self.stride, depthwise=True, name="depthwise"
    )(y, train)
    y = layer(stage.features, activated=False, name="project")(y, train)
    return x + y if self.stride == 1 and width == stage.features else y


class EfficientNetLite(nn.Module):
  """EfficientNet-Lite without its classifier: the mean of the last map.

  It has no squeeze-and-excitation and ReLU6 for an activation. The module has a
  `batch_stats` collection. The published weights expect images as (x - 127) / 128 of
  bytes, which [-1, 1] is but for one part in 128.

  Attributes:
    stages: of the blocks; Lite0's by default.
    stem: width of the first convolution, which has stride 2.
    features: width of the output.
    remat: whether a block's activations are recomputed in the backward pass.
    dtype: compute type; parameters are always float32.

  References: Tan and Le, EfficientNet: rethinking model scaling for convolutional
  neural networks, 2019; Liu, Higher accuracy on vision models with
  EfficientNet-Lite, 2020.
  """

  stages: tuple[Stage, ...] = LITE0
  stem: int = 32
  features: int = 1280
  remat: bool = False
  dtype: Dtype | None = None

  @nn.compact
  def __call__(
    self, images: Array, *, train: bool = False, return_tokens: bool = False
  ) -> Array | tuple[Array, Array]:
    """Encodes images, as `ResNet` does."""
    layers.check_images(images)
    x = _Layer(self.stem, 3, 2, dtype=self.dtype, name="stem")(images, train)
    block: Any = _Block
    if self.remat:
      block = nn.remat(_Block, static_argnums=(2,))
    strides = [
      (stage, 1 if i else stage.stride)
      for stage in self.stages
      for i in range(stage.repeats)
    ]
    for i, (stage, stride) in enumerate(strides):
      x = block(stage, stride, self.dtype, name=f"block_{i}")(x, train)
    x = _Layer(self.features, dtype=self.dtype, name="last")(x, train)
    return layers.pooled(x, return_tokens)
