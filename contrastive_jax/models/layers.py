"""Shared parts of the towers: activations, checks, patches, MLP, heads."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from contrastive_jax._types import Array, Dtype

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "gelu": functools.partial(jax.nn.gelu, approximate=False),
  "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
  # The first CLIP models were trained with this cheap approximation, and
  # their weights are only right with it.
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
  "relu": jax.nn.relu,
}


def activation(name: str) -> Callable[[Array], Array]:
  """The elementwise function of a name in `ACTIVATIONS`; ValueError of others.

  >>> float(activation("relu")(-1.0))
  0.0
  """
  check_choice("activation", name, ACTIVATIONS)
  return ACTIVATIONS[name]


def check_choice(argument: str, value: Any, choices: Collection[Any]) -> None:
  """Raises ValueError unless `value` is one of `choices`."""
  if value not in tuple(choices):
    known = ", ".join(map(str, choices))
    raise ValueError(f"{argument} must be one of {known}; got {value!r}.")


def check_heads(width: int, num_heads: int) -> None:
  """Raises ValueError unless the heads divide the width."""
  if width % num_heads:
    raise ValueError(
      f"width must be divisible by num_heads = {num_heads}; got {width}."
    )


def check_tokens(tokens: Array, context_length: int) -> None:
  """Raises ValueError unless `tokens` is integer [N, L] with L in the context."""
  if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise ValueError(
      "tokens must be integers of shape [N, L]; got"
      f" {tokens.dtype} {tuple(tokens.shape)}."
    )
  if not 0 < tokens.shape[1] <= context_length:
    raise ValueError(
      f"tokens must be 1 to context_length = {context_length} long;"
      f" got {tokens.shape[1]}."
    )


def check_images(images: Array, image_size: int | None = None) -> None:
  """Raises ValueError unless `images` is floating [N, H, W, 3], of the size."""
  if images.ndim != 4 or images.shape[-1] != 3:
    raise ValueError(
      f"images must have shape [N, H, W, 3]; got {tuple(images.shape)}."
    )
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f"images must be floating point and normalised; got {images.dtype}."
    )
  if image_size is not None and images.shape[1:3] != (image_size, image_size):
    raise ValueError(
      f"images must be {image_size} x {image_size}, the size that the tower"
      f" was built for; got {images.shape[1]} x {images.shape[2]}."
    )


def fields(module: nn.Module) -> dict[str, Any]:
  """A module's fields by name, but for those that all modules have."""
  return {
    field.name: getattr(module, field.name)
    for field in dataclasses.fields(module)
    if field.name not in ("parent", "name")
  }


def shared(
  module: nn.Module, kind: type[nn.Module], **others: Any
) -> dict[str, Any]:
  """The fields of a module that a `kind` of modules has as well, and `others`."""
  known = {field.name for field in dataclasses.fields(kind)}
  return {k: v for k, v in fields(module).items() if k in known} | others


def by_path(tree: Any) -> dict[str, Any]:
  """A tree's leaves by path, names joined by slashes."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def mean_token(x: Array, counts: Array) -> Array:
  """Mean [N, d] of x [N, L, d] over the tokens that count, taken in float32."""
  weight = counts[..., None].astype(jnp.float32)
  total = jnp.sum(x * weight, axis=1)
  mean = total / jnp.maximum(jnp.sum(weight, axis=1), 1.0)
  return mean.astype(x.dtype)


def pooled(x: Array, return_tokens: bool) -> Array | tuple[Array, Array]:
  """Mean [N, C] of a map [N, H, W, C], and with `return_tokens` [N, H W, C]."""
  # The mean of many bfloat16 values is taken in float32.
  feature = jnp.mean(x, axis=(1, 2), dtype=jnp.float32).astype(x.dtype)
  if return_tokens:
    return feature, x.reshape(x.shape[0], -1, x.shape[-1])
  return feature


def flat_dot_general(
  x: Array, kernel: Array, dimension_numbers: Any, **options: Any
) -> Array:
  """`lax.dot_general` of an `nn.Dense`, all axes of `x` but the last made one.

  The same product; of one with several leading axes XLA computes the kernel's
  gradient more slowly on CPUs.

  Args:
    x: [..., d].
    kernel: [d, e].
    dimension_numbers: those that `nn.Dense` gives: the last axis of `x` against
      the first of the kernel, none shared.
    **options: of `lax.dot_general`.

  Returns:
    [..., e].
  """
  flat = x.reshape(-1, x.shape[-1])
  (contracted, over), shared = dimension_numbers
  if tuple(contracted) != (x.ndim - 1,) or shared != ((), ()):
    raise ValueError(
      "dimension_numbers must contract the last axis of x and share none; got"
      f" {dimension_numbers}."
    )
  out = jax.lax.dot_general(flat, kernel, (((1,), over), shared), **options)
  return out.reshape(*x.shape[:-1], out.shape[-1])


def resize_positions(table: Array, length: int, extra: int) -> Array:
  """Positions of a square grid for another one, bicubically.

  Args:
    table: [extra + n * n, d].
    length: extra + m * m.
    extra: positions that come before the grid's, and stay.

  Returns:
    [length, d].

  Raises:
    ValueError: if either has no square grid.

  >>> import jax.numpy as jnp
  >>> resize_positions(jnp.ones((5, 3)), 10, 1).shape
  (10, 3)
  """
  sides = [math.isqrt(max(n - extra, 0)) for n in (len(table), length)]
  if any(s * s + extra != n for s, n in zip(sides, (len(table), length))):
    raise ValueError(
      f"positions must be {extra} and a square; got {len(table)} and {length}."
    )
  grid = table[extra:].reshape(sides[0], sides[0], -1)
  grid = jax.image.resize(grid, (sides[1], sides[1], grid.shape[-1]), "bicubic")
  return jnp.concatenate([table[:extra], grid.reshape(sides[1] ** 2, -1)])


def shifted_sum(
  x: Array,
  kernel: Array,
  padding: Sequence[tuple[int, int]],
  strides: Sequence[int] = (1, 1),
) -> Array:
  """A convolution of each channel by itself, as shifted, scaled copies.

  Grouped convolutions are slow on CPUs, forward and, more so, backward; this sum
  fuses into one loop over the map.

  Args:
    x: [N, H, W, C].
    kernel: [rows, columns, C] or [rows, columns, 1, C].
    padding: before and after, of height and width.
    strides: of height and width.
  """
  rows, columns = kernel.shape[:2]
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
  # pyrefly: ignore[bad-return]
  return sum(
    x[:, i : i + height : strides[0], j : j + width : strides[1]] * kernel[i, j]
    for i in range(rows)
    for j in range(columns)
  )


class PatchEmbed(nn.Module):
  """A convolution whose stride is its kernel size, as one matrix product.

  The parameter has the shape of a convolution kernel, [p, p, C, features], so
  that it reads like one; the product is several times faster than a strided
  convolution on CPUs and the same on accelerators.

  Attributes:
    features: width of the output.
    patch_size: p.
    use_bias: whether a bias is added.
    dtype: compute type; None is the type of the input and the parameters.
  """

  features: int
  patch_size: int
  use_bias: bool = True
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [N, H, W, C] to [N, H / p, W / p, features]."""
    n, height, width, channels = x.shape
    p = self.patch_size
    if height % p or width % p:
      raise ValueError(
        f"the feature map must be divisible by the patch size {p}; got"
        f" {height} x {width}."
      )
    kernel = self.param(
      "kernel",
      nn.initializers.lecun_normal(in_axis=(0, 1, 2)),
      (p, p, channels, self.features),
      jnp.float32,
    )
    bias = (
      self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
      if self.use_bias
      else None
    )
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    x = x.reshape(n, height // p, p, width // p, p, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(n, height // p, width // p, p * p * channels)
    x = x @ kernel.reshape(-1, self.features)
    return x if bias is None else x + bias


class StochasticDepth(nn.Module):
  """Drops the whole residual branch of an example with probability `rate`.

  What is kept is scaled by 1 / (1 - rate), so its mean does not change. Draws
  from the `dropout` key.

  Attributes:
    rate: probability of dropping, in [0, 1).

  Reference: Huang et al., Deep networks with stochastic depth, 2016.
  """

  rate: float

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Array:
    """Maps x [N, ...] to an array of the same shape."""
    if not 0 <= self.rate < 1:
      raise ValueError(f"rate must be in [0, 1); got {self.rate}.")
    if not train or not self.rate:
      return x
    keep = jax.random.bernoulli(
      self.make_rng("dropout"),
      1 - self.rate,
      (x.shape[0],) + (1,) * (x.ndim - 1),
    )
    return jnp.where(keep, x / (1 - self.rate), 0)


class Mlp(nn.Module):
  """Two dense layers with an activation between them.

  Attributes:
    hidden: width between the layers.
    activation: name of the activation.
    out_init_scale: the output kernel starts at this times width^-1/2.
    dropout: rate after the activation.
    dtype: compute type.
  """

  hidden: int
  activation: str = "gelu"
  out_init_scale: float = 1.0
  dropout: float = 0.0
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Array:
    """Maps [..., d] to [..., d]."""
    width = x.shape[-1]
    dense = functools.partial(nn.Dense, dtype=self.dtype)
    init = nn.initializers.normal((2 * width) ** -0.5)
    x = dense(self.hidden, kernel_init=init, name="fc")(x)
    x = activation(self.activation)(x)
    x = nn.Dropout(self.dropout)(x, deterministic=not train)
    init = nn.initializers.normal(self.out_init_scale * width**-0.5)
    return dense(width, kernel_init=init, name="proj")(x)


class ProjectionHead(nn.Module):
  """A linear map, or an MLP, from a tower's feature to the embedding.

  `hidden=()` is CLIP's linear head; `hidden=(2048,), norm="batch"` is
  SimCLR's, `hidden=(4096, 4096), norm="batch", final_norm=True` MoCo v3's.

  Attributes:
    features: width of the output.
    hidden: widths of the hidden layers.
    norm: `none`, `layer` or `batch`, after each hidden layer.
    final_norm: whether `norm` (without scale and bias) follows the last layer.
    activation: name of the activation after each hidden layer.
    use_bias: whether the last layer has a bias.
    dtype: compute type.

  >>> import jax, jax.numpy as jnp
  >>> head = ProjectionHead(features=4, hidden=(16,))
  >>> out, _ = jax.eval_shape(
  ...   head.init_with_output, jax.random.key(0), jnp.ones((2, 8))
  ... )
  >>> out.shape
  (2, 4)
  """

  features: int
  hidden: Sequence[int] = ()
  norm: str = "none"
  final_norm: bool = False
  activation: str = "gelu"
  use_bias: bool = False
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: Array, *, train: bool = False) -> Array:
    """Maps [N, d] to [N, features]."""
    check_choice("norm", self.norm, ("none", "layer", "batch"))

    def norm(x: Array, name: str, affine: bool = True) -> Array:
      options = dict(
        use_scale=affine, use_bias=affine, dtype=self.dtype, name=name
      )
      if self.norm == "layer":
        return nn.LayerNorm(**options)(x)
      if self.norm == "batch":
        return nn.BatchNorm(
          use_running_average=not train, momentum=0.9, **options
        )(x)
      return x

    dense = functools.partial(nn.Dense, dtype=self.dtype)
    no_norm = self.norm == "none"
    for i, width in enumerate(self.hidden):
      x = dense(width, use_bias=no_norm, name=f"hidden_{i}")(x)
      x = activation(self.activation)(norm(x, f"norm_{i}"))
    x = dense(self.features, use_bias=self.use_bias, name="out")(x)
    return norm(x, "final_norm", affine=False) if self.final_norm else x
