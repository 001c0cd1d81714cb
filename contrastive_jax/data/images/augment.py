"""Image augmentation on the device: jitted, keyed, independent of batching.

`augment_batch` turns stored uint8 images into normalised training inputs;
`preprocess_batch` does the same for evaluation, with nothing random. Cropping,
zooming out, flipping, blurring and resizing are linear and separable: all five
are folded into two small matrices an example, `out = rows @ image @ columns^T`,
so an image is read once, with antialiasing, and no pixel beyond it is sampled.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import typing
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import field_values
from contrastive_jax.choices import field
from contrastive_jax.data.images import changes, randaugment

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Mean and deviation of levels (0..1) a channel, by name.
NORMALIZATIONS = {
  "clip": (CLIP_MEAN, CLIP_STD),
  "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
  "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

_CROP_TRIES = 10  # Boxes drawn before the crop falls back to the centre.
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, the grey of Pillow and JPEG.
_YIQ = np.array([_LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
# A quarter turn of hue: the rotation generator of the I-Q plane, in RGB.
_QUARTER_TURN = (
  np.linalg.inv(_YIQ) @ np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ _YIQ
)


class _Purpose(enum.IntEnum):
  """Purpose of a draw; switching one operation leaves other draws alone."""

  CROP = 0
  FLIP = 1
  BLUR = 2
  RANDAUGMENT = 3
  JITTER = 4
  GRAYSCALE = 5
  SOLARIZE = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig(changes.Changes):
  """Changes that `augment_batch` and `preprocess_batch` make to an image.

  The operations come in this order: crop, flip and blur (one resampling);
  RandAugment; brightness, contrast, saturation, hue (in this fixed order);
  grayscale; solarize; normalisation. An operation whose probability, strength
  or `randaugment_num_ops` is 0 costs nothing.

  The ratio of a crop's sides is drawn log-uniformly. A scale above 1 zooms out:
  the box may exceed the image, which then sits at a random place on a canvas of
  colour `fill`. Brightness b is a factor drawn from [max(0, 1 - b), 1 + b]; the
  same is contrast around the image's mean grey, and saturation around each
  pixel's. Hue h turns the YIQ chroma plane by up to h either way; solarize inverts
  levels at or above 1/2. ALBEF has two RandAugment steps of magnitude 7.

  `flip` is only for data whose captions do not tell left from right, and no text
  in the images; `hue` is 0 by default, as captions name colours.
  """

  image_size: int = field(
    dataclasses.MISSING, "S, the side of the output.", low=1
  )
  crop_ratio: tuple[float, float] = field(
    (3 / 4, 4 / 3), "Range of the crop's width / height."
  )
  fill: float = field(
    1.0, "Level of the canvas of a zoomed-out image.", low=0, high=1
  )
  blur_sigma: tuple[float, float] = field(
    (0.1, 2.0), "Range of the blur's deviation, in output pixels."
  )
  resize: str = field(
    "crop",
    "Evaluation keeps the central square, or the whole image, changing its"
    " aspect.",
    among=("crop", "squash"),
  )
  interpolation: str = field(
    "bicubic", "Antialiased when shrinking.", among=("bicubic", "bilinear")
  )
  mean: tuple[float, float, float] = field(
    CLIP_MEAN, "Subtracted per channel after scaling to 0..1."
  )
  std: tuple[float, float, float] = field(CLIP_STD, "Divided by per channel.")

  def __post_init__(self) -> None:
    types = typing.get_type_hints(type(self))
    for f in dataclasses.fields(self):
      value = getattr(self, f.name)
      try:
        # A list (from a config file) would make the config unhashable.
        value = field_values.checked(value, types[f.name], f.metadata)
        if f.name in ("crop_scale", "crop_ratio", "blur_sigma"):
          if not 0.0 < value[0] <= value[1]:
            raise ValueError(f"must be 0 < low <= high; got {value}.")
        if f.name == "std" and min(value) <= 0.0:
          raise ValueError(f"must be 3 positive numbers; got {value}.")
      except ValueError as error:
        raise ValueError(f"AugmentConfig.{f.name} {error}") from error
      object.__setattr__(self, f.name, value)


def _check_images(images: jax.Array, who: str) -> None:
  if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape[1:3]:
    raise ValueError(
      f"{who}: images must be [N, H, W, 3], got shape {images.shape}."
    )
  if images.dtype != jnp.uint8 and not jnp.issubdtype(
    images.dtype, jnp.floating
  ):
    raise ValueError(
      f"{who}: images must be uint8 (0..255) or floating (0..1), got "
      f"{images.dtype}."
    )


def _to_unit(images: jax.Array) -> jax.Array:
  """Levels as float32 in 0..1."""
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 255.0
  return images.astype(jnp.float32)


def _kernel(name: str, distance: jax.Array) -> jax.Array:
  if name == "bilinear":
    return jnp.maximum(0.0, 1.0 - distance)
  # Keys' cubic with a = -1/2, as in Pillow.
  near = ((1.5 * distance - 2.5) * distance) * distance + 1.0
  far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
  return jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0.0))


def _resampling_matrix(
  start: jax.Array | float,
  length: jax.Array | float,
  *,
  input_size: int,
  output_size: int,
  interpolation: str,
  margin: int = 0,
) -> jax.Array:
  """[S, H] weights that read [start, start + length) as S pixels.

  `margin` canvas pixels lie on either side of the image. They take part in
  the normalisation of the weights but have no column: a row sums to less than
  one where the canvas shows.
  """
  scale = length / output_size
  centre = start + (jnp.arange(output_size) + 0.5) * scale - 0.5
  pixels = jnp.arange(-margin, input_size + margin, dtype=jnp.float32)
  # Shrinking widens the kernel, so that it averages what it merges.
  distance = jnp.abs(centre[:, None] - pixels) / jnp.maximum(scale, 1.0)
  weights = _kernel(interpolation, distance)
  weights = weights / jnp.sum(weights, axis=1, keepdims=True)
  return weights[:, margin : margin + input_size]


def _blur_matrix(sigma: jax.Array, size: int) -> jax.Array:
  """[S, S] Gaussian smoothing; rows at an edge are normalised within it."""
  distance = jnp.arange(size, dtype=jnp.float32)
  distance = distance[:, None] - distance
  weights = jnp.exp(-0.5 * jnp.square(distance / sigma))
  return weights / jnp.sum(weights, axis=1, keepdims=True)


def _draw(
  keys: jax.Array, purpose: _Purpose, shape: tuple[int, ...]
) -> jax.Array:
  """[N, *shape] uniform draws, a function of each example's own key."""
  return jax.vmap(
    lambda key: jax.random.uniform(jax.random.fold_in(key, int(purpose)), shape)
  )(keys)


def _crop_boxes(
  keys: jax.Array, height: int, width: int, config: AugmentConfig
) -> jax.Array:
  """[N, 4] boxes (top, left, height, width) in input pixels."""
  draws = _draw(keys, _Purpose.CROP, (2 * _CROP_TRIES + 2,))
  low, high = config.crop_scale
  area = height * width * (low + (high - low) * draws[:, :_CROP_TRIES])
  ratio_low, ratio_high = map(math.log, config.crop_ratio)
  ratio = jnp.exp(
    ratio_low
    + (ratio_high - ratio_low) * draws[:, _CROP_TRIES : 2 * _CROP_TRIES]
  )
  zoom = max(1.0, math.sqrt(high))
  box_height, box_width = jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)
  slack = 1.0 + 1e-5  # A full-size box is not to be lost to rounding.
  fits = (box_height <= height * zoom * slack) & (
    box_width <= width * zoom * slack
  )
  first = jnp.argmax(fits, axis=1)[:, None]
  found = jnp.any(fits, axis=1)
  # Otherwise the largest central box of an allowed ratio, as torchvision.
  spare_height = min(height, width / config.crop_ratio[0])
  spare_width = min(width, height * config.crop_ratio[1])

  def place(boxes, spare, size, draw):
    taken = jnp.take_along_axis(boxes, first, axis=1)[:, 0]
    length = jnp.where(found, jnp.minimum(taken, size * zoom), spare)
    # Also right for a box beyond the image: the start is then negative.
    start = jnp.where(found, draw, 0.5) * (size - length)
    return start, length

  top, box_height = place(box_height, spare_height, height, draws[:, -2])
  left, box_width = place(box_width, spare_width, width, draws[:, -1])
  return jnp.stack([top, left, box_height, box_width], axis=1)


def _evaluation_box(
  height: int, width: int, config: AugmentConfig
) -> tuple[float, float, float, float]:
  """The box (top, left, height, width) that evaluation reads."""
  if config.resize == "squash":
    return 0.0, 0.0, float(height), float(width)
  side = min(height, width)
  return (height - side) / 2, (width - side) / 2, float(side), float(side)


def _margin(size: int, config: AugmentConfig) -> int:
  """Canvas pixels beside the image that a zoomed-out kernel can reach."""
  zoom = math.sqrt(config.crop_scale[1])
  if not config.random_resized_crop or zoom <= 1.0:
    return 0
  reach = 2.0 * max(1.0, zoom * size / config.image_size)
  return math.ceil((zoom - 1.0) * size + reach)


def _resample(
  images: jax.Array, rows: jax.Array, columns: jax.Array, fill: float
) -> jax.Array:
  """[N, H, W, 3], [N, S, H], [N, S, W] -> [N, S, S, 3] in 0..1."""
  # Relative to the fill, canvas pixels are zero and need no column. Full
  # precision: a TPU would otherwise round the levels to bfloat16.
  product = functools.partial(
    jnp.einsum, "hwc,sh,tw->stc", precision=jax.lax.Precision.HIGHEST
  )
  out = jax.vmap(product)(_to_unit(images) - fill, rows, columns) + fill
  return jnp.clip(out, 0.0, 1.0)  # A cubic kernel overshoots at edges.


def _geometry(
  keys: jax.Array | None, images: jax.Array, config: AugmentConfig
) -> jax.Array:
  """Crop, flip and blur in one resampling: -> [N, S, S, 3] in 0..1.

  `keys` may be None where the config draws nothing here.
  """
  n, height, width, _ = images.shape
  size = config.image_size
  if config.random_resized_crop:
    boxes = _crop_boxes(keys, height, width, config)  # pyrefly: ignore
  else:
    box = jnp.array(_evaluation_box(height, width, config), jnp.float32)
    boxes = jnp.broadcast_to(box, (n, 4))

  def matrices(start: jax.Array, length: jax.Array, extent: int) -> jax.Array:
    one = functools.partial(
      _resampling_matrix,
      input_size=extent,
      output_size=size,
      interpolation=config.interpolation,
      margin=_margin(extent, config),
    )
    return jax.vmap(one)(start, length)

  rows = matrices(boxes[:, 0], boxes[:, 2], height)
  columns = matrices(boxes[:, 1], boxes[:, 3], width)
  if config.flip > 0:
    draws = _draw(keys, _Purpose.FLIP, (1, 1))  # pyrefly: ignore
    columns = jnp.where(draws < config.flip, columns[:, ::-1], columns)
  if config.blur > 0:
    draws = _draw(keys, _Purpose.BLUR, (2,))  # pyrefly: ignore
    low, high = config.blur_sigma
    blur = jax.vmap(lambda u: _blur_matrix(low + (high - low) * u, size))(
      draws[:, 1]
    )
    chosen = (draws[:, 0] < config.blur)[:, None, None]
    blur = jnp.where(chosen, blur, jnp.eye(size))
    exact = jax.lax.Precision.HIGHEST
    rows = jnp.matmul(blur, rows, precision=exact)
    columns = jnp.matmul(blur, columns, precision=exact)
  return _resample(images, rows, columns, config.fill)


def _weighted(images: jax.Array, weights: Sequence[float]) -> jax.Array:
  """[..., 3] -> [...]: written out, as a product with a [3] is slow."""
  red, green, blue = map(float, weights)
  return red * images[..., 0] + green * images[..., 1] + blue * images[..., 2]


def _grey(images: jax.Array) -> jax.Array:
  """[..., 3] -> [..., 1]: the luma."""
  return _weighted(images, _LUMA)[..., None]


def _color_jitter(
  keys: jax.Array, images: jax.Array, config: AugmentConfig
) -> jax.Array:
  """Brightness, contrast, saturation and hue, in this order."""
  draws = _draw(keys, _Purpose.JITTER, (5, 1, 1, 1))
  chosen = draws[:, 0] < config.color_jitter

  def factor(which: int, strength: float) -> jax.Array:  # [N, 1, 1, 1]
    low = max(0.0, 1.0 - strength)
    drawn = low + (1.0 + strength - low) * draws[:, which]
    return jnp.where(chosen, drawn, 1.0)

  if config.brightness > 0:
    images = jnp.clip(images * factor(1, config.brightness), 0.0, 1.0)
  if config.contrast > 0:
    mean = jnp.mean(_grey(images), axis=(1, 2), keepdims=True)
    share = factor(2, config.contrast)
    images = jnp.clip(share * images + (1.0 - share) * mean, 0.0, 1.0)
  if config.saturation > 0:
    share = factor(3, config.saturation)
    images = jnp.clip(share * images + (1.0 - share) * _grey(images), 0.0, 1.0)
  if config.hue > 0:
    turns = config.hue * (2.0 * draws[:, 4] - 1.0)
    angle = jnp.where(chosen, 2.0 * jnp.pi * turns, 0.0)
    grey = _grey(images)
    quarter = jnp.stack(
      [_weighted(images, weights) for weights in _QUARTER_TURN], axis=-1
    )
    turned = grey + jnp.cos(angle) * (images - grey) + jnp.sin(angle) * quarter
    images = jnp.clip(turned, 0.0, 1.0)
  return images


def _normalize(images: jax.Array, config: AugmentConfig) -> jax.Array:
  return (images - jnp.array(config.mean)) / jnp.array(config.std)


@functools.partial(jax.jit, static_argnames=("config",))
def augment_batch(
  key: jax.Array,
  images: jax.Array,
  example_positions: jax.Array,
  config: AugmentConfig,
) -> jax.Array:
  """Randomly augmented, normalised images.

  The draws of an example depend on `fold_in(key, position)` and nothing
  else: neither on the devices nor on how the batch was split.

  Args:
    key: the key of this step and purpose.
    images: [N, H, W, 3] uint8 in 0..255 or floating in 0..1.
    example_positions: [N] integers, each example's position in the global
      batch.
    config: what to do; static, a new one compiles anew.

  Returns:
    [N, S, S, 3] float32, (level - mean) / std per channel.

  Raises:
    ValueError: wrong shape or dtype of `images` or `example_positions`.

  Reference:
    Boxes as in Szegedy et al. (2015), colours as in Chen et al., SimCLR
    (2020), solarize as in Grill et al., BYOL (2020).

  >>> images = jnp.zeros((2, 64, 48, 3), jnp.uint8)
  >>> config = AugmentConfig(image_size=32)
  >>> augment_batch(jax.random.key(0), images, jnp.arange(2), config).shape
  (2, 32, 32, 3)
  """
  _check_images(images, "augment_batch")
  if example_positions.shape != images.shape[:1] or not jnp.issubdtype(
    example_positions.dtype, jnp.integer
  ):
    raise ValueError(
      "augment_batch: example_positions must be integers of shape "
      f"{images.shape[:1]}, got {example_positions.dtype} of shape "
      f"{example_positions.shape}."
    )
  keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(
    example_positions
  )
  out = _geometry(keys, images, config)
  if config.randaugment_num_ops > 0:
    out = randaugment.rand_augment(
      jax.vmap(lambda k: jax.random.fold_in(k, int(_Purpose.RANDAUGMENT)))(
        keys
      ),
      out,
      num_ops=config.randaugment_num_ops,
      magnitude=config.randaugment_magnitude,
    )
  if config.color_jitter > 0:
    out = _color_jitter(keys, out, config)
  if config.grayscale > 0:
    chosen = _draw(keys, _Purpose.GRAYSCALE, (1, 1, 1)) < config.grayscale
    out = jnp.where(chosen, _grey(out), out)
  if config.solarize > 0:
    chosen = _draw(keys, _Purpose.SOLARIZE, (1, 1, 1)) < config.solarize
    out = jnp.where(chosen & (out >= 0.5), 1.0 - out, out)
  return _normalize(out, config)


@functools.partial(jax.jit, static_argnames=("config",))
def preprocess_batch(images: jax.Array, config: AugmentConfig) -> jax.Array:
  """Images as evaluation sees them: resized, cropped or squashed, normalised.

  Args:
    images: [N, H, W, 3] uint8 in 0..255 or floating in 0..1.
    config: `image_size`, `resize`, `interpolation`, `mean` and `std` count.

  Returns:
    [N, S, S, 3] float32.

  Raises:
    ValueError: wrong shape or dtype of `images`.

  >>> images = jnp.full((1, 8, 8, 3), 255, jnp.uint8)
  >>> plain = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
  >>> config = AugmentConfig(image_size=4, **plain)
  >>> float(preprocess_batch(images, config).min())
  1.0
  """
  _check_images(images, "preprocess_batch")
  deterministic = dataclasses.replace(
    config, random_resized_crop=False, flip=0.0, blur=0.0
  )
  return _normalize(_geometry(None, images, deterministic), config)
