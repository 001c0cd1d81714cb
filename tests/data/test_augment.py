"""Augmentation against Pillow and NumPy, and its keys against batching."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from contrastive_jax.data.images import augment, randaugment

PLAIN = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
KEY = jax.random.key(0)
EVERYTHING = augment.AugmentConfig(
  image_size=16,
  crop_scale=(0.3, 1.0),
  flip=0.5,
  hue=0.1,
  grayscale=0.3,
  blur=0.5,
  solarize=0.3,
  randaugment_num_ops=2,
)


def smooth_images(n, height, width, seed=0):
  """Blurry random photographs: [n, height, width, 3] uint8."""
  rng = np.random.default_rng(seed)
  # Short of black and white: Pillow clips a cubic's overshoot twice.
  small = rng.integers(40, 216, (n, 6, 6, 3), dtype=np.uint8)
  return np.stack(
    [
      np.asarray(Image.fromarray(s).resize((width, height), Image.BICUBIC))
      for s in small
    ]
  )


def config_of(**changes):
  """Levels in 0..1 and no operation but those named."""
  base = dict(image_size=16, random_resized_crop=False, color_jitter=0.0)
  return augment.AugmentConfig(**(base | PLAIN | changes))


def run(images, config, key=KEY):
  return np.asarray(
    augment.augment_batch(key, images, jnp.arange(len(images)), config)
  )


CROP = config_of(random_resized_crop=True)


def test_shape_dtype_and_range():
  images = smooth_images(8, 24, 24)
  out = run(images, EVERYTHING)
  assert out.shape == (8, 16, 16, 3) and out.dtype == np.float32
  levels = out * np.array(augment.CLIP_STD) + np.array(augment.CLIP_MEAN)
  assert levels.min() >= -1e-6 and levels.max() <= 1.0 + 1e-6
  assert levels.std() > 0.05


def test_same_key_same_bits_and_other_keys_other_images():
  images = smooth_images(8, 24, 24)
  first = run(images, EVERYTHING)
  np.testing.assert_array_equal(first, run(images, EVERYTHING))
  other = run(images, EVERYTHING, jax.random.key(1))
  assert np.abs(first - other).mean() > 0.05


def test_equal_images_at_different_positions_differ():
  images = np.repeat(smooth_images(1, 24, 24), 8, axis=0)
  out = run(images, CROP)
  for i in range(7):
    assert np.abs(out[i] - out[i + 1]).max() > 0.01


def test_halves_equal_the_whole():
  images = smooth_images(8, 24, 24)
  positions = jnp.arange(8) + 1000
  config = dataclasses.replace(CROP, flip=0.5)
  whole = augment.augment_batch(KEY, images, positions, config)
  halves = [
    augment.augment_batch(KEY, images[s], positions[s], config)
    for s in (slice(0, 4), slice(4, 8))
  ]
  np.testing.assert_allclose(whole, np.concatenate(halves), atol=1e-6)


@pytest.mark.usefixtures("all_passes")
def test_devices_do_not_change_the_result():
  images = smooth_images(8, 24, 24)
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
  spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  one = run(images, EVERYTHING)
  batch = jax.device_put(images, spread), jax.device_put(jnp.arange(8), spread)
  compiled = augment.augment_batch.lower(KEY, *batch, EVERYTHING).compile()
  for collective in ("all-gather", "all-reduce", "all-to-all", "permute"):
    assert collective not in compiled.as_text()
  many = compiled(KEY, *batch)
  assert many.sharding.is_equivalent_to(spread, many.ndim)
  np.testing.assert_allclose(one, many, atol=1e-6)


def test_legacy_keys_are_accepted():
  images = smooth_images(8, 24, 24)
  legacy = run(images, CROP, jax.random.PRNGKey(0))
  np.testing.assert_array_equal(legacy, run(images, CROP))


def test_switching_one_operation_leaves_other_draws_alone():
  images = smooth_images(8, 24, 24)
  flipped = dataclasses.replace(CROP, flip=0.5)
  plain, some = run(images, CROP), run(images, flipped)
  same = np.abs(plain - some).max(axis=(1, 2, 3)) < 1e-6
  mirrored = np.abs(plain[:, :, ::-1] - some).max(axis=(1, 2, 3)) < 1e-6
  assert (same ^ mirrored).all() and same.any() and mirrored.any()


def test_float_images_give_what_uint8_images_give():
  images = smooth_images(8, 24, 24)
  as_float = run(images.astype(np.float32) / 255.0, CROP)
  np.testing.assert_allclose(as_float, run(images, CROP), atol=1e-5)


def test_levels_are_normalised_per_channel():
  images = smooth_images(2, 24, 24)
  config = augment.AugmentConfig(image_size=16)
  plain = augment.preprocess_batch(images, config_of())
  want = (plain - np.array(augment.CLIP_MEAN)) / np.array(augment.CLIP_STD)
  got = augment.preprocess_batch(images, config)
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [8, 16, 40])
def test_resize_matches_pillow(interpolation, size):
  images = smooth_images(3, 32, 32)
  config = config_of(image_size=size, interpolation=interpolation)
  out = np.asarray(augment.preprocess_batch(images, config)) * 255.0
  method = getattr(Image, interpolation.upper())
  for image, got in zip(images, out):
    want = np.asarray(Image.fromarray(image).resize((size, size), method))
    # Pillow rounds to 8 bits after each of its two passes.
    np.testing.assert_allclose(got, want, atol=1.6)


def test_centre_crop_and_squash_match_pillow():
  image = smooth_images(1, 24, 40)
  for mode, box in (("crop", (8, 0, 32, 24)), ("squash", None)):
    got = augment.preprocess_batch(image, config_of(resize=mode))[0] * 255.0
    want = Image.fromarray(image[0]).resize((16, 16), Image.BICUBIC, box=box)
    np.testing.assert_allclose(got, np.asarray(want), atol=1.6)


def test_identity_settings_give_the_preprocessed_image():
  images = smooth_images(3, 24, 40)
  config = config_of()
  want = augment.preprocess_batch(images, config)
  np.testing.assert_array_equal(run(images, config), want)
  square = images[:, :, :24]
  whole = config_of(
    random_resized_crop=True, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0)
  )
  want = augment.preprocess_batch(square, config)
  np.testing.assert_allclose(run(square, whole), want, atol=1e-5)
  unscaled = run(square, config_of(image_size=24))
  np.testing.assert_allclose(unscaled, square / 255.0, atol=1e-6)


def test_crops_match_pillow_box_by_box():
  images = smooth_images(12, 40, 30)
  config = config_of(random_resized_crop=True, crop_scale=(0.2, 1.0))
  keys = jax.vmap(functools.partial(jax.random.fold_in, KEY))(jnp.arange(12))
  boxes = np.asarray(augment._crop_boxes(keys, 40, 30, config))
  top, left, height, width = boxes.T
  assert (top >= 0).all() and (left >= 0).all()
  assert (top + height <= 40.001).all() and (left + width <= 30.001).all()
  share = height * width / 1200
  assert (share > 0.199).all() and (share < 1.0).all() and share.std() > 0.1
  assert (width / height > 0.749).all() and (width / height < 1.334).all()
  for image, got, (y, x, h, w) in zip(images, run(images, config), boxes):
    box = (max(x, 0), max(y, 0), min(x + w, 30), min(y + h, 40))
    want = Image.fromarray(image).resize((16, 16), Image.BICUBIC, box=box)
    np.testing.assert_allclose(got * 255.0, np.asarray(want), atol=1.6)


def test_impossible_crop_falls_back_to_the_allowed_centre():
  config = config_of(
    random_resized_crop=True, crop_scale=(0.9, 1.0), crop_ratio=(1.0, 1.0)
  )
  images = smooth_images(3, 16, 64)
  want = augment.preprocess_batch(images, config)
  np.testing.assert_allclose(run(images, config), want, atol=1e-5)


def test_crop_of_a_constant_image_is_constant():
  images = np.full((8, 24, 24, 3), 77, np.uint8)
  np.testing.assert_allclose(run(images, CROP), 77 / 255, atol=1e-6)
  blur = config_of(blur=0.5)
  np.testing.assert_allclose(run(images, blur), 77 / 255, atol=1e-6)


def test_zooming_out_shows_the_whole_image_on_the_canvas():
  images = np.zeros((32, 24, 24, 3), np.uint8)
  config = config_of(
    image_size=24,
    random_resized_crop=True,
    crop_scale=(2.0, 2.0),
    crop_ratio=(1.0, 1.0),
    interpolation="bilinear",
  )
  out = run(images, config)
  # Black on white: half the canvas is covered, wherever the image sits.
  np.testing.assert_allclose((1.0 - out).mean(axis=(1, 2, 3)), 0.5, atol=2e-2)
  np.testing.assert_array_equal(out.max(axis=(1, 2, 3)), 1.0)
  left_edges = (out[:, :, :, 0].min(axis=1) < 0.5).argmax(axis=1)
  assert len(np.unique(left_edges)) > 3
  grey = run(images, dataclasses.replace(config, fill=0.25))
  np.testing.assert_allclose(grey.max(axis=(1, 2, 3)), 0.25, atol=1e-6)


def test_blur_is_the_gaussian_it_says():
  image = np.zeros((1, 15, 15, 3), np.uint8)
  image[0, 7, 7] = 255
  config = config_of(image_size=15, blur=1.0, blur_sigma=(1.5, 1.5))
  got = run(image, config)[0, :, :, 0]
  line = np.exp(-0.5 * ((np.arange(15) - 7) / 1.5) ** 2)
  # Rows of the matrix are normalised where they are, hence the sum per row.
  rows = np.exp(-0.5 * (np.subtract.outer(range(15), range(15)) / 1.5) ** 2)
  line = line / rows.sum(axis=1)
  np.testing.assert_allclose(got, np.outer(line, line), atol=1e-5)


def test_grayscale_matches_pillow():
  images = smooth_images(2, 16, 16)
  out = run(images, config_of(grayscale=1.0)) * 255.0
  for image, got in zip(images, out):
    want = np.asarray(Image.fromarray(image).convert("L"))
    np.testing.assert_allclose(got[..., 0], want, atol=1.0)
    np.testing.assert_array_equal(got[..., 0], got[..., 1])
    np.testing.assert_array_equal(got[..., 0], got[..., 2])


def test_solarize_matches_pillow():
  images = smooth_images(2, 16, 16)
  out = run(images, config_of(solarize=1.0)) * 255.0
  for image, got in zip(images, out):
    want = np.asarray(ImageOps.solarize(Image.fromarray(image), 128))
    np.testing.assert_allclose(got, want, atol=1e-3)


@pytest.mark.parametrize(
  ("field", "enhancer"),
  [
    ("brightness", ImageEnhance.Brightness),
    ("contrast", ImageEnhance.Contrast),
    ("saturation", ImageEnhance.Color),
  ],
)
def test_jitter_matches_pillow_at_the_drawn_factor(field, enhancer):
  images = smooth_images(8, 16, 16)
  off = dict(brightness=0.0, contrast=0.0, saturation=0.0)
  out = run(images, config_of(color_jitter=1.0, **(off | {field: 0.5})))
  found = []
  for image, got in zip(images, out * 255.0):
    picture = enhancer(Image.fromarray(image))
    errors = {
      factor: np.abs(np.asarray(picture.enhance(factor)) - got).max()
      for factor in np.linspace(0.5, 1.5, 201)
    }
    factor = min(errors, key=errors.get)
    found.append(factor)
    assert errors[factor] < 2.5
  assert min(found) < 0.85 and max(found) > 1.15


def test_jitter_probability_leaves_the_others_as_they_are():
  images = smooth_images(40, 16, 16)
  out = run(images, config_of(color_jitter=0.5, hue=0.1))
  changed = np.abs(out - images / 255.0).max(axis=(1, 2, 3)) > 1e-5
  assert 8 <= changed.sum() <= 32


def test_hue_keeps_luma_and_turns_chroma():
  images = (smooth_images(6, 16, 16) // 4 + 96).astype(np.uint8)
  off = dict(brightness=0.0, contrast=0.0, saturation=0.0)
  out = run(images, config_of(color_jitter=1.0, hue=0.5, **off))
  before = images / 255.0 @ augment._YIQ.T
  after = out @ augment._YIQ.T
  np.testing.assert_allclose(after[..., 0], before[..., 0], atol=1e-5)
  chroma = before[..., 1] + 1j * before[..., 2]
  turned = after[..., 1] + 1j * after[..., 2]
  turns = (turned * chroma.conj()).sum(axis=(1, 2))
  turns /= np.abs(turns)
  np.testing.assert_allclose(turned, chroma * turns[:, None, None], atol=1e-5)
  assert np.ptp(np.angle(turns)) > 1.0


# RandAugment, operation by operation.


def operate(images, name, sign=1.0, magnitude=7.0):
  """One operation on uint8 images -> levels as float in 0..255."""
  n = len(images)
  return 255.0 * np.asarray(
    randaugment.apply_operations(
      images.astype(np.float32) / 255.0,
      jnp.full((n,), randaugment.OPERATIONS.index(name)),
      jnp.full((n,), sign),
      magnitude=magnitude,
    )
  )


@pytest.mark.parametrize("low", [0, 60])
def test_auto_contrast_and_equalize_match_pillow(low):
  images = (low + smooth_images(3, 40, 32) * 0.6).astype(np.uint8)
  for name, reference, tolerance in (
    ("auto_contrast", ImageOps.autocontrast, 1.0),
    ("equalize", ImageOps.equalize, 1e-3),
  ):
    for image, got in zip(images, operate(images, name)):
      want = np.asarray(reference(Image.fromarray(image)))
      assert np.abs(want.astype(int) - image).max() > 5
      np.testing.assert_allclose(got, want, atol=tolerance + 1e-3)


def test_flat_and_tiny_images_survive():
  flat = np.full((1, 12, 12, 3), 90, np.uint8)
  for name in ("auto_contrast", "equalize", "sharpness"):
    np.testing.assert_allclose(operate(flat, name), 90, atol=1e-3)
  tiny = smooth_images(1, 3, 3)
  want = ImageOps.equalize(Image.fromarray(tiny[0]))
  np.testing.assert_allclose(operate(tiny, "equalize")[0], want, atol=1e-3)


@pytest.mark.parametrize("magnitude", [0.0, 7.0])
def test_brightness_and_sharpness_match_pillow(magnitude):
  images = smooth_images(2, 24, 20)
  factor = 0.1 + 0.18 * magnitude
  for name, enhancer in (
    ("brightness", ImageEnhance.Brightness),
    ("sharpness", ImageEnhance.Sharpness),
  ):
    out = operate(images, name, magnitude=magnitude)
    for image, got in zip(images, out):
      want = np.asarray(enhancer(Image.fromarray(image)).enhance(factor))
      np.testing.assert_allclose(got, want, atol=2.0)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_warps_match_pillow(sign):
  image = smooth_images(1, 48, 64)
  amount = sign * 0.7
  shift_x, shift_y = amount * 10 / 256 * 64, amount * 10 / 256 * 48
  picture = Image.fromarray(image[0])
  affine = functools.partial(
    picture.transform,
    (64, 48),
    Image.AFFINE,
    resample=Image.BILINEAR,
    fillcolor=(128,) * 3,
  )
  wanted = {
    "shear_x": affine((1, -amount * 0.3, 0, 0, 1, 0)),
    "shear_y": affine((1, 0, 0, -amount * 0.3, 1, 0)),
    "translate_x": affine((1, 0, shift_x, 0, 1, 0)),
    "translate_y": affine((1, 0, 0, 0, 1, shift_y)),
    "rotate": picture.rotate(amount * 30, Image.BILINEAR, fillcolor=(128,) * 3),
  }
  for name, want in wanted.items():
    want = np.asarray(want).astype(int)
    error = np.abs(operate(image, name, sign)[0] - want).max(axis=-1)
    # At the rim the two blend with the fill differently, one pixel wide.
    assert (error > 2.0).mean() < 0.05, name
    assert np.abs(want - image[0]).mean() > 3.0


def test_identity_keeps_the_bits_and_examples_are_independent():
  images = smooth_images(len(randaugment.OPERATIONS), 24, 24) / np.float32(255)
  codes = jnp.arange(len(randaugment.OPERATIONS))
  apply = functools.partial(randaugment.apply_operations, magnitude=5.0)
  mixed = apply(images, codes, jnp.ones(len(codes)))
  np.testing.assert_array_equal(mixed[0], images[0])
  for code in range(len(codes)):
    alone = apply(images[code][None], codes[code][None], jnp.ones(1))
    np.testing.assert_allclose(mixed[code], alone[0], atol=1e-6)


def test_rand_augment_draws_every_operation_half_the_time():
  n = 400
  images = np.repeat(smooth_images(1, 20, 20), n, axis=0) / np.float32(255)
  keys = jax.random.split(KEY, n)
  out = randaugment.rand_augment(keys, images, num_ops=1, magnitude=9.0)
  changed = np.abs(out - images).max(axis=(1, 2, 3)) > 1e-4
  # Nine of ten operations change the image, each with chance 1/2.
  assert abs(changed.mean() - 0.45) < 0.1
  kinds = {x.tobytes() for x in np.round(np.asarray(out), 4) + 0.0}
  # Identity, four without a direction, five with two.
  assert len(kinds) == 15
  none = randaugment.rand_augment(keys, images, num_ops=0, magnitude=9.0)
  np.testing.assert_array_equal(none, images)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("image_size", 0),
    ("image_size", 32.0),
    ("random_resized_crop", "yes"),
    ("crop_scale", (0.0, 1.0)),
    ("crop_scale", (0.9, 0.5)),
    ("crop_ratio", (1.0,)),
    ("crop_ratio", (float("nan"), 1.0)),
    ("flip", 1.5),
    ("flip", True),
    ("fill", -0.1),
    ("hue", 0.6),
    ("contrast", -1.0),
    ("blur_sigma", (0.0, 1.0)),
    ("randaugment_num_ops", -1),
    ("randaugment_magnitude", 11),
    ("resize", "stretch"),
    ("interpolation", "nearest"),
    ("mean", (0.5, 0.5)),
    ("std", (0.0, 1.0, 1.0)),
  ],
)
def test_bad_config_is_refused_by_field(field, value):
  with pytest.raises(ValueError, match=rf"^AugmentConfig\.{field} "):
    augment.AugmentConfig(**({"image_size": 8} | {field: value}))


def test_lists_from_a_config_file_are_accepted():
  config = augment.AugmentConfig(image_size=8, crop_scale=[0.4, 1])
  assert config.crop_scale == (0.4, 1.0)
  assert hash(config) == hash(dataclasses.replace(config))


def test_bad_arrays_are_refused_by_name():
  config = config_of()
  images = np.zeros((2, 8, 8, 3), np.uint8)
  for bad in (images[0], images[..., :1], images.astype(np.int32)):
    with pytest.raises(ValueError, match="images "):
      augment.preprocess_batch(bad, config)
  for positions in (jnp.arange(3), jnp.zeros(2)):
    with pytest.raises(ValueError, match="example_positions "):
      augment.augment_batch(KEY, images, positions, config)
  with pytest.raises(ValueError, match="images "):
    randaugment.rand_augment(
      jax.random.split(KEY, 2), images[:, :2] / 1.0, num_ops=1, magnitude=1.0
    )
  with pytest.raises(ValueError, match="magnitude "):
    randaugment.rand_augment(
      jax.random.split(KEY, 2), images / 1.0, num_ops=1, magnitude=11.0
    )
