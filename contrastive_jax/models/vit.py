"""Vision transformer."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from contrastive_jax._types import Array, Dtype
from contrastive_jax.models import convnet, layers, transformer

# name -> (width, depth, heads); the head width is 64 in all of them.
VIT_SIZES: dict[str, tuple[int, int, int]] = {
  "Ti": (192, 12, 3),
  "S": (384, 12, 6),
  "B": (768, 12, 12),
  "L": (1024, 24, 16),
}


class MapPool(nn.Module):
  """Attention pooling: one learned query over the tokens, and an MLP.

  The fields are as of `transformer.TransformerFields`.

  Reference: Zhai et al., Scaling vision transformers, 2022.
  """

  num_heads: int
  mlp_ratio: float = 4.0
  activation: str = "gelu"
  layer_norm_eps: float = 1e-6
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, tokens: Array, *, train: bool = False) -> Array:
    """Maps tokens [N, T, d] to [N, d]."""
    n, _, width = tokens.shape
    probe = self.param(
      "probe", nn.initializers.xavier_uniform(), (1, 1, width), jnp.float32
    )
    x = nn.MultiHeadDotProductAttention(
      self.num_heads, dtype=self.dtype, deterministic=True, name="attention"
    )(jnp.broadcast_to(probe, (n, 1, width)), tokens)
    y = nn.LayerNorm(
      epsilon=self.layer_norm_eps, dtype=self.dtype, name="norm"
    )(x)
    y = layers.Mlp(
      int(width * self.mlp_ratio),
      self.activation,
      dtype=self.dtype,
      name="mlp",
    )(y, train=train)
    # pyrefly: ignore[unsupported-operation]
    return (x + y)[:, 0]


class ViT(transformer.TransformerFields):
  """Vision transformer with pre-norm blocks.

  The tokens are, in this order, the class token (with `pool="cls"`), the
  registers, and the patches row by row. Registers take part in attention and
  in nothing else.

  Attributes:
    image_size: height and width of the images; divisible by `patch_size`.
    patch_size: height and width of a patch.
    width: width of the tokens and of the feature.
    pool: `cls` (class token), `gap` (mean over patches) or `map` (attention).
    stem_width: channels of a convolutional stem: patches of half the size, a
      residual block of two 3x3 convolutions over them, and 2x2 of its places a
      token; 0 is none, patches alone.
    num_registers: number of register tokens.
    position: `learned` or `sincos`; registers have no position.
    position_period: of `sincos`, the longest period over the shortest.
    position_output: whether the positions are added to the tokens that are
      returned as well, for those who attend to them; features have none.
    patch_bias: whether the patch embedding has a bias (CLIP's has none).
    embedding_norm: whether a layer norm precedes the blocks (as CLIP's does).

  The other fields are those of `transformer.TransformerFields`.

  References: Dosovitskiy et al., An image is worth 16x16 words, 2021; Xiao et
  al., Early convolutions help transformers see better, 2021; Darcet et al.,
  Vision transformers need registers, 2024.

  >>> import jax, jax.numpy as jnp
  >>> vit = ViT(image_size=8, patch_size=4, width=16, depth=1, num_heads=2)
  >>> images = jnp.zeros((2, 8, 8, 3))
  >>> key = jax.random.key(0)
  >>> feature, _ = jax.eval_shape(vit.init_with_output, key, images)
  >>> feature.shape
  (2, 16)
  """

  image_size: int = 224
  patch_size: int = 16
  width: int = 768
  pool: str = "cls"
  stem_width: int = 0
  num_registers: int = 0
  position: str = "learned"
  position_period: float = 10_000.0
  position_output: bool = False
  patch_bias: bool = True
  embedding_norm: bool = False

  @nn.compact
  def __call__(
    self, images: Array, *, train: bool = False, return_tokens: bool = False
  ) -> Array | tuple[Array, Array]:
    """Encodes images.

    Args:
      images: floating [N, image_size, image_size, 3], normalised.
      train: whether dropout and stochastic depth are active (needs the
        `dropout` key).
      return_tokens: whether the tokens are returned beside the feature.

    Returns:
      The feature [N, width]; with `return_tokens` (feature, tokens
      [N, T, width] after the final norm).

    Raises:
      ValueError: if the images or the settings do not fit.
    """
    layers.check_choice("pool", self.pool, ("cls", "gap", "map"))
    layers.check_choice("position", self.position, ("learned", "sincos"))
    if self.image_size % self.patch_size:
      raise ValueError(
        f"image_size must be divisible by patch_size = {self.patch_size};"
        f" got {self.image_size}."
      )
    if self.stem_width and self.patch_size % 2:
      raise ValueError(
        f"patch_size must be even with a stem; got {self.patch_size}."
      )
    layers.check_images(images, self.image_size)
    n = images.shape[0]
    grid = self.image_size // self.patch_size
    num_class = int(self.pool == "cls")

    x, patch_size = images, self.patch_size
    if self.stem_width:
      x = layers.PatchEmbed(
        self.stem_width, patch_size // 2, dtype=self.dtype, name="stem_patches"
      )(x)
      x = convnet.ConvBlock(
        activation=self.activation, dtype=self.dtype, name="stem_block"
      )(x, train)
      patch_size = 2
    x = layers.PatchEmbed(
      self.width,
      patch_size,
      use_bias=self.patch_bias,
      dtype=self.dtype,
      name="patch_embedding",
    )(x).reshape(n, grid * grid, self.width)

    def table(name: str, rows: int) -> Array:
      init = nn.initializers.normal(0.02)
      return self.param(name, init, (rows, self.width), jnp.float32)

    def token(name: str, count: int) -> Array:
      value = table(name, count).astype(x.dtype)
      return jnp.broadcast_to(value, (n, count, self.width))

    if num_class:
      x = jnp.concatenate([token("class_token", 1), x], axis=1)
    if self.position == "learned":
      position = table("position_embedding", num_class + grid * grid)
    else:
      fixed = transformer.sincos_position_embedding(
        grid, self.width, self.position_period
      )
      position = jnp.pad(fixed, ((num_class, 0), (0, 0)))
    x = x + position.astype(x.dtype)
    if self.num_registers:
      registers = token("registers", self.num_registers)
      x = jnp.concatenate(
        [x[:, :num_class], registers, x[:, num_class:]], axis=1
      )
    norm = functools.partial(
      nn.LayerNorm, epsilon=self.layer_norm_eps, dtype=self.dtype
    )
    if self.embedding_norm:
      x = norm(name="embedding_norm")(x)
    x = nn.Dropout(self.dropout)(x, deterministic=not train)
    x = transformer.Transformer(
      **layers.shared(self, transformer.Transformer), name="transformer"
    )(x, train=train)
    x = norm(name="norm")(x)
    first = num_class + self.num_registers
    patches = x[:, first:]
    if self.pool == "cls":
      feature = x[:, 0]
    elif self.pool == "gap":
      # The mean of many bfloat16 values is taken in float32.
      feature = jnp.mean(patches, axis=1, dtype=jnp.float32).astype(x.dtype)
    else:
      feature = MapPool(**layers.shared(self, MapPool), name="map_pool")(
        patches, train=train
      )
    if not return_tokens:
      return feature
    if self.position_output:
      patches = patches + position[num_class:].astype(x.dtype)
      x = jnp.concatenate([x[:, :first], patches], axis=1)
    return feature, x


def vit(variant: str, **settings: Any) -> ViT:
  """A standard size with further fields, e.g. `vit("B/16", image_size=224)`.

  Args:
    variant: size and patch size: one of Ti, S, B, L, a slash, the patch size.
    **settings: further fields of `ViT`.

  Raises:
    ValueError: if the variant is not of this form.

  >>> vit("S/16").width
  384
  """
  size, _, patch = variant.partition("/")
  if size not in VIT_SIZES or not patch.isdigit() or int(patch) < 1:
    raise ValueError(
      f"variant must be one of {', '.join(VIT_SIZES)}, a slash and a patch"
      f" size, e.g. 'B/16'; got {variant!r}."
    )
  width, depth, num_heads = VIT_SIZES[size]
  fields: dict[str, Any] = dict(
    patch_size=int(patch), width=width, depth=depth, num_heads=num_heads
  )
  return ViT(**(fields | settings))
