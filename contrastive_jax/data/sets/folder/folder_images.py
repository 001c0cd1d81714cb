"""The images of a user's folder: found safely, decoded whatever their mode."""

from __future__ import annotations

import io
import os
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from contrastive_jax.data.sets.folder.folder_rows import RowError

# Named one by one: Pillow would otherwise hand an EPS file to Ghostscript.
_FORMATS = (
  *("AVIF", "BMP", "DDS", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "MPO"),
  *("PCX", "PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP"),
)
# The suffixes of picture files.
SUFFIXES = (
  *(".avif", ".bmp", ".gif", ".ico", ".jp2", ".jpeg", ".jpg", ".png"),
  *(".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
# How an image becomes a square; see `decode`.
FITS = ("pad", "crop", "stretch")
MAX_PIXELS = 89_478_485  # Pillow's own: a quarter of a gigabyte of RGB.


def files_in(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
  """The picture files of a folder and the folders in it, sorted by path.

  They are known by their suffixes; hidden ones are left out.
  """
  root = pathlib.Path(folder).expanduser()
  return sorted(
    path
    for path in root.rglob("*")
    if path.suffix.lower() in SUFFIXES
    and not any(part.startswith(".") for part in path.relative_to(root).parts)
    and path.is_file()
  )


def locate(
  root: pathlib.Path, image: str, *, follow_links: bool = False
) -> pathlib.Path:
  """The file that a row names.

  Raises:
    RowError: unless it is below `root`; with `follow_links` it may be anywhere.
  """
  if not follow_links and (
    pathlib.PurePosixPath(image).is_absolute()
    or pathlib.PureWindowsPath(image).anchor
  ):
    raise RowError("unsafe path", "the path must be relative to the folder")
  try:
    path = (root / image).resolve()
    if not follow_links and not path.is_relative_to(root):
      raise RowError("unsafe path", "the file is outside the folder")
    if not path.exists():
      raise RowError("missing file", "there is no such file")
    if not path.is_file():  # A pipe would block the reader for ever.
      raise RowError("missing file", "it is no regular file")
  except (OSError, RuntimeError, ValueError) as error:  # Loop, NUL, too long.
    raise RowError("missing file", str(error)) from error
  return path


def _to_rgb(image: Image.Image) -> Image.Image:
  """Any mode as RGB: transparency over white, 16-bit levels scaled down."""
  if image.mode.startswith("I") or image.mode == "F":
    levels = np.asarray(image).astype(np.float32)
    top = float(levels.max(initial=0.0))
    if image.mode.startswith("I;16") or top > 255.0:
      levels = levels / 257.0
    elif image.mode == "F" and top <= 1.0:
      levels = levels * 255.0
    levels = np.clip(np.round(np.nan_to_num(levels)), 0, 255)
    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
  if "A" in image.getbands() or "transparency" in image.info:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")
  return image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
  """An image in RGB, turned as its metadata say."""
  try:
    image = ImageOps.exif_transpose(image)
  except Exception:  # Broken metadata, sound pixels.
    pass
  return _to_rgb(image)


def load(
  file: str | IO[bytes], size: int, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, tuple[int, int]]:
  """Decodes an image file that is to be made `size` pixels large.

  Returns:
    Its first frame in RGB, of which a JPEG may come at a fraction of its size,
    and the width and height of the file's image.

  Raises:
    RowError: if it cannot be decoded, or has more than `max_pixels`.
  """
  try:
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    with Image.open(file, formats=formats) as image:
      width, height = image.size
      if width * height > max_pixels:
        raise RowError(
          "undecodable image", f"{width} x {height} pixels are too many"
        )
      # JPEG decodes at a reduced scale, as far as quality allows.
      image.draft("RGB", (2 * size, 2 * size))
      image.load()
      return upright(image), (width, height)
  except RowError:
    raise
  # Decoders raise whatever comes to hand: OSError, SyntaxError, struct.error.
  except Exception as error:
    raise RowError(
      "undecodable image", f"{type(error).__name__}: {error}"
    ) from error


def _scaled(image: Image.Image, scale: float) -> Image.Image:
  width, height = (max(1, round(side * scale)) for side in image.size)
  return image.resize(
    (width, height), Image.Resampling.BICUBIC, reducing_gap=3.0
  )


def encode(image: Image.Image, shorter_side: int) -> bytes:
  """A JPEG file of an image, scaled so that its shorter side is as long."""
  file = io.BytesIO()
  scaled = _scaled(image, shorter_side / min(image.size))
  scaled.save(file, format="JPEG", quality=95)
  return file.getvalue()


def decode(
  file: str | IO[bytes],
  size: int,
  max_pixels: int = MAX_PIXELS,
  fit: str = "pad",
) -> np.ndarray:
  """An image file's first frame as a square.

  Args:
    file: a path, or the encoded bytes.
    size: side of the square, pixels.
    max_pixels: larger images are refused.
    fit: how it becomes a square, one of `FITS`: `pad` scales the longer side and
      fills up with white, `crop` takes the largest square in the middle (as CLIP is
      evaluated), `stretch` scales both sides (as SigLIP is).

  Returns:
    uint8 [size, size, 3].

  Raises:
    RowError: if it cannot be decoded.
  """
  rgb, _ = load(file, size, max_pixels)
  return square(rgb, size, fit)


def square(rgb: Image.Image, size: int, fit: str = "pad") -> np.ndarray:
  """An image in RGB as uint8 [size, size, 3]; see `decode`."""
  if fit in ("crop", "stretch"):
    box = None
    if fit == "crop":
      # Cut before it is scaled: a line of pixels would become a huge picture.
      side = min(rgb.size)
      left, top = ((length - side) / 2 for length in rgb.size)
      box = (left, top, left + side, top + side)
    rgb = rgb.resize(
      (size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0
    )
    return np.array(rgb)  # A copy: the view of an image is read-only.
  rgb = _scaled(rgb, size / max(rgb.size))
  canvas = Image.new("RGB", (size, size), (255, 255, 255))
  width, height = rgb.size
  canvas.paste(rgb, ((size - width) // 2, (size - height) // 2))
  return np.array(canvas)


def decode_each(
  paths: Sequence[str],
  size: int,
  max_pixels: int = MAX_PIXELS,
  fit: str = "pad",
  *,
  into: np.ndarray | None = None,
  num_threads: int | None = None,
) -> Iterator[RowError | None]:
  """Decodes image files in threads, as `decode` does.

  Args:
    paths: the files.
    size: side of the squares, pixels.
    max_pixels: larger images are refused.
    fit: how images become squares.
    into: receives the squares, unless None.
    num_threads: by default the number of processors, at most 16.

  Yields:
    The reason why each file, in order, cannot be decoded, or None.
  """

  def check(row: int) -> RowError | None:
    try:
      decoded = decode(paths[row], size, max_pixels, fit)
    except RowError as error:
      return error
    if into is not None:
      into[row] = decoded
    return None

  pool = futures.ThreadPoolExecutor(num_threads or min(16, os.cpu_count() or 1))
  with warnings.catch_warnings():
    # Pillow's remarks on odd metadata are not a user's concern.
    warnings.simplefilter("ignore")
    try:
      yield from pool.map(check, range(len(paths)))
    finally:
      pool.shutdown(cancel_futures=True)
