"""RandAugment with ALBEF's operations, jitted for a whole batch of images.

The operations and their strengths are those of ALBEF's pre-training: no colour
operation, so that a caption such as "a red car" stays true. Everything
is a function of arrays; draws come from one key an example.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

OPERATIONS = (
  "identity",
  "auto_contrast",
  "equalize",
  "brightness",
  "sharpness",
  "shear_x",
  "shear_y",
  "translate_x",
  "translate_y",
  "rotate",
)
_CODE = {name: code for code, name in enumerate(OPERATIONS)}
_WARPS = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")

MAX_MAGNITUDE = 10.0
# Strengths at magnitude 10. The published shift is 10 pixels of a
# 256-pixel image; as a share of the side it means the same at every size.
_SHEAR = 0.3
_TRANSLATE = 10.0 / 256.0
_ROTATE_DEGREES = 30.0
_GREY = 128.0 / 255.0  # Fill of a warp beyond the image's edge.


def _is(operations: jax.Array, name: str) -> jax.Array:
  """[N, 1, 1, 1] bool: the examples that are to receive this operation."""
  return (operations == _CODE[name])[:, None, None, None]


def _tone(
  images: jax.Array, operations: jax.Array, magnitude: float
) -> jax.Array:
  """AutoContrast and Brightness: both are a line through each channel."""
  low = jnp.min(images, axis=(1, 2), keepdims=True)  # [N, 1, 1, 3]
  high = jnp.max(images, axis=(1, 2), keepdims=True)
  stretch = _is(operations, "auto_contrast") & (high > low)
  scale = jnp.where(stretch, 1.0 / jnp.where(high > low, high - low, 1.0), 1.0)
  offset = jnp.where(stretch, -low * scale, 0.0)
  factor = 0.1 + 1.8 * magnitude / MAX_MAGNITUDE
  scale = jnp.where(_is(operations, "brightness"), factor, scale)
  return jnp.clip(images * scale + offset, 0.0, 1.0)


def _equalize_one(levels: jax.Array) -> jax.Array:
  """Pillow's equalisation of one image: [P, 3] int32 of 0..255 -> the same."""
  pixels, channels = levels.shape
  counts = jnp.zeros((256, channels), jnp.int32)
  counts = counts.at[levels, jnp.arange(channels)].add(
    1, mode="promise_in_bounds"
  )
  below = jnp.cumsum(counts, axis=0) - counts
  # The brightest level present is left out of the step, as Pillow does.
  brightest = jnp.max(levels, axis=0, keepdims=True)
  step = (pixels - jnp.take_along_axis(counts, brightest, axis=0)) // 255
  table = jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255)
  table = jnp.where(step > 0, table, jnp.arange(256)[:, None])
  # Kept apart, lest the compiler compute the table anew at every pixel.
  table = jax.lax.optimization_barrier(table)
  return jnp.take_along_axis(table, levels, axis=0, mode="promise_in_bounds")


def _equalize(images: jax.Array) -> jax.Array:
  levels = jnp.round(images * 255.0).astype(jnp.int32)
  levels = levels.reshape(images.shape[0], -1, images.shape[-1])
  return jax.vmap(_equalize_one)(levels).reshape(images.shape) / 255.0


def _sharpen(images: jax.Array, magnitude: float) -> jax.Array:
  """Moves the inner pixels away from their 3x3 smoothing; borders stay."""
  factor = 0.1 + 1.8 * magnitude / MAX_MAGNITUDE
  rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
  box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
  inner = images[:, 1:-1, 1:-1]
  smooth = (box + 4.0 * inner) / 13.0
  inner = jnp.clip(smooth + factor * (inner - smooth), 0.0, 1.0)
  return images.at[:, 1:-1, 1:-1].set(inner)


def _warp_coordinates(
  operations: jax.Array,
  signs: jax.Array,
  magnitude: float,
  height: int,
  width: int,
) -> tuple[jax.Array, jax.Array]:
  """Where each output pixel is read: (y, x), each [N, H, W] in pixels."""
  share = signs * (magnitude / MAX_MAGNITUDE)  # [N]

  def only(name: str, value: jax.Array) -> jax.Array:
    return jnp.where(operations == _CODE[name], value, 0.0)[:, None, None]

  # Pixel centres, the convention of Pillow's transforms.
  y = (jnp.arange(height, dtype=jnp.float32) + 0.5)[None, :, None]
  x = (jnp.arange(width, dtype=jnp.float32) + 0.5)[None, None, :]
  angle = only("rotate", share * jnp.deg2rad(_ROTATE_DEGREES))
  cosine, sine = jnp.cos(angle), jnp.sin(angle)
  dy, dx = y - height / 2, x - width / 2
  read_y = sine * dx + cosine * dy + height / 2
  read_x = cosine * dx - sine * dy + width / 2
  read_y -= only("shear_y", share * _SHEAR) * x
  read_x -= only("shear_x", share * _SHEAR) * y
  read_y += only("translate_y", share * _TRANSLATE * height)
  read_x += only("translate_x", share * _TRANSLATE * width)
  return read_y - 0.5, read_x - 0.5


def _take(table: jax.Array, places: jax.Array) -> jax.Array:
  """table[places] for places known to exist: no bounds check in the loop."""
  return table.at[places].get(mode="promise_in_bounds")


def _warp(images: jax.Array, read_y: jax.Array, read_x: jax.Array) -> jax.Array:
  """Bilinear reading at (y, x); beyond the edge there is grey."""
  n, height, width, channels = images.shape
  # Relative to grey, a pixel outside is zero: its weight is simply dropped.
  flat = images.reshape(n, height * width, channels) - _GREY
  top, left = jnp.floor(read_y), jnp.floor(read_x)
  down, right = read_y - top, read_x - left
  out = jnp.zeros_like(flat)
  for dy, weight_y in ((0, 1.0 - down), (1, down)):
    for dx, weight_x in ((0, 1.0 - right), (1, right)):
      row = top.astype(jnp.int32) + dy
      column = left.astype(jnp.int32) + dx
      inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
      weight = jnp.where(inside, weight_y * weight_x, 0.0)
      place = jnp.clip(row, 0, height - 1) * width
      place = place + jnp.clip(column, 0, width - 1)
      taken = jax.vmap(_take)(flat, place.reshape(n, -1))
      out += weight.reshape(n, -1, 1) * taken
  return (out + _GREY).reshape(images.shape)


@functools.partial(jax.jit, static_argnames=("magnitude",))
def apply_operations(
  images: jax.Array,
  operations: jax.Array,
  signs: jax.Array,
  *,
  magnitude: float,
) -> jax.Array:
  """Applies one operation of `OPERATIONS` to each image.

  A `lax.switch` under `vmap` computes every branch and selects, so the batch
  pays for all of them in any case. Here the ten share four passes: one line
  per channel (auto_contrast, brightness), one equalisation, one sharpening
  and one warp (shears, shifts, rotation); an image that a pass does not
  concern keeps its bits.

  Args:
    images: [N, H, W, 3] float32 in 0..1, H and W at least 3.
    operations: [N] int32, positions in `OPERATIONS`.
    signs: [N] float32, +1 or -1: the direction of a warp.
    magnitude: strength out of 10.

  Returns:
    [N, H, W, 3] float32 in 0..1.
  """
  height, width = images.shape[1:3]
  warped = _warp(
    images,
    *_warp_coordinates(operations, signs, magnitude, height, width),
  )
  is_warp = sum(_is(operations, name).astype(jnp.int32) for name in _WARPS)
  out = _tone(images, operations, magnitude)
  out = jnp.where(_is(operations, "equalize"), _equalize(images), out)
  out = jnp.where(
    _is(operations, "sharpness"), _sharpen(images, magnitude), out
  )
  return jnp.where(is_warp > 0, warped, out)


@functools.partial(jax.jit, static_argnames=("num_ops", "magnitude"))
def rand_augment(
  keys: jax.Array, images: jax.Array, *, num_ops: int, magnitude: float
) -> jax.Array:
  """RandAugment: `num_ops` random operations in turn, each with chance 1/2.

  Every step draws, for each example, an operation of `OPERATIONS` uniformly
  with replacement, whether it is applied (probability 1/2) and its direction;
  the magnitude is fixed.

  Args:
    keys: [N] random keys, one an example.
    images: [N, H, W, 3] float32 in 0..1, H and W at least 3.
    num_ops: number of steps; 0 returns the images.
    magnitude: strength out of 10.

  Returns:
    [N, H, W, 3] float32 in 0..1.

  Raises:
    ValueError: `images` is not [N, H, W, 3] with both sides at least 3, or
      `magnitude` is not within 0..10.

  Reference:
    Cubuk et al., "RandAugment" (2020); operations and strengths of Li et al.,
    "Align before fuse" (ALBEF, 2021).
  """
  if images.ndim != 4 or images.shape[-1] != 3 or min(images.shape[1:3]) < 3:
    raise ValueError(
      "rand_augment: images must be [N, H, W, 3] with H and W at least 3, "
      f"got shape {images.shape}."
    )
  if not 0.0 <= magnitude <= MAX_MAGNITUDE:
    raise ValueError(
      f"rand_augment: magnitude must be within 0..10, got {magnitude!r}."
    )
  for step in range(num_ops):
    draws = jax.vmap(
      lambda key: jax.random.uniform(jax.random.fold_in(key, step), (3,))
    )(keys)
    chosen = jnp.floor(draws[:, 0] * len(OPERATIONS)).astype(jnp.int32)
    chosen = jnp.where(draws[:, 1] < 0.5, chosen, _CODE["identity"])
    signs = jnp.where(draws[:, 2] < 0.5, -1.0, 1.0)
    images = apply_operations(images, chosen, signs, magnitude=magnitude)
  return images
