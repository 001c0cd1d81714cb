"""Scenes as images: each kind of thing is drawn once, four times too large."""

import functools
import itertools
import math

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from contrastive_jax.data.sets.scenes import graph

COLOURS: dict[str, tuple[int, int, int]] = {
  "red": (222, 35, 35),
  "orange": (246, 138, 16),
  "yellow": (250, 226, 40),
  "green": (40, 165, 60),
  "cyan": (50, 212, 222),
  "blue": (45, 80, 225),
  "purple": (140, 50, 185),
  "pink": (250, 135, 200),
}
_FINER = 4
# Stripes are dark bands of the thing's colour; dots are nearly white spots.
_DARKENED, _WHITENED = 0.3, 0.85
_BAND, _DOT, _SPACING, _RIM = 0.034, 0.022, 0.056, 0.008
# The greys of the cover's folds, which no background has.
_FOLDS = (85, 170)


def render(scene: graph.Scene, side: int) -> np.ndarray:
  """A scene as uint8 [side, side, 3]."""
  image = np.full((side, side, 3), scene.background, np.float32)
  for thing in scene.things:
    solid, marks = _sprite(
      thing.shape, thing.size, thing.texture, thing.rotation, side
    )
    size = len(solid)
    top, left = (
      min(max(round(place * side - size / 2), 0), side - size)
      for place in (thing.y, thing.x)
    )
    colour = np.array(COLOURS[thing.colour], np.float32)
    mark = (
      colour * _DARKENED
      if thing.texture == "striped"
      else colour + (255 - colour) * _WHITENED
    )
    patch = image[top : top + size, left : left + size]
    patch += solid * (colour + marks * (mark - colour) - patch)
  if scene.cover:
    _hang(image, scene.cover)
  return (image + 0.5).astype(np.uint8)


def _hang(image: np.ndarray, side: str) -> None:
  """Covers half of an image with a grey curtain."""
  length = len(image)
  half, everything = slice(None, length // 2), slice(None)
  if side in ("right", "bottom"):
    half = slice(length // 2, None)
  across = side in ("left", "right")
  rows, columns = (everything, half) if across else (half, everything)
  fold = max(length // 16, 1)
  greys = np.array(_FOLDS)[np.arange(length) // fold % 2]
  image[rows, columns] = greys[None, columns, None]


@functools.lru_cache(maxsize=1024)
def _sprite(
  shape: str, size: str, texture: str, rotation: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
  """Shares of each pixel that a thing fills, and that its marks do.

  Both are float32 [h, h, 1]; `side` is that of the whole image.
  """
  radius = graph.RADIUS[size] * side * _FINER
  # The length has the parity of the side, so that places are rounded in one
  # direction.
  length = 2 * math.ceil(radius * graph.EXTENT[shape] / _FINER) + side % 2
  large = length * _FINER
  solid = Image.new("L", (large, large))
  _draw(ImageDraw.Draw(solid), shape, radius, rotation, large / 2)
  marks = Image.new("L", (large, large))
  _mark(ImageDraw.Draw(marks), texture, side * _FINER, large)
  # A rim stays free, or dark stripes on a dark background would change the
  # shape, as white dots would on a light one.
  rim = ImageFilter.MinFilter(2 * round(_RIM * side * _FINER) + 1)
  marks = ImageChops.multiply(marks, solid.filter(rim))
  out = []
  for layer in (solid, marks):
    pixels = np.asarray(layer, np.float32) / 255
    blocks = pixels.reshape(length, _FINER, length, _FINER, 1)
    out.append(blocks.mean(axis=(1, 3)))
  return out[0], out[1]


def _draw(
  draw: ImageDraw.ImageDraw,
  shape: str,
  radius: float,
  rotation: int,
  centre: float,
) -> None:
  """Fills a shape."""
  if shape in ("circle", "ring"):
    _disc(draw, centre, centre, radius * graph.EXTENT[shape], 255)
    if shape == "ring":
      _disc(draw, centre, centre, radius * 0.42, 0)
    return
  turn = math.radians(rotation)
  cosine, sine = math.cos(turn), math.sin(turn)
  draw.polygon(
    [
      (
        centre + radius * (x * cosine - y * sine),
        centre + radius * (x * sine + y * cosine),
      )
      for x, y in _OUTLINES[shape]
    ],
    fill=255,
  )


def _disc(
  draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: int
) -> None:
  draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _mark(
  draw: ImageDraw.ImageDraw, texture: str, side: int, length: int
) -> None:
  """Draws stripes or dots, which leave the centre free."""
  centre = length / 2
  if texture == "striped":
    band = _BAND * side
    steps = math.ceil(length / band)
    for step in range(-steps, steps + 1):
      start = centre + (2 * step + 0.5) * band
      draw.rectangle((0, start, length, start + band), fill=255)
  elif texture == "dotted":
    # As on a chessboard: so they fall on the arms of crosses and stars.
    spacing = _SPACING * side
    steps = math.ceil(length / spacing)
    places = range(-steps, steps + 1)
    for row, column in itertools.product(places, places):
      if (row + column) % 2:
        x, y = centre + column * spacing, centre + row * spacing
        _disc(draw, x, y, _DOT * side, 255)


def _round(corners: int, *reach: float) -> list[tuple[float, float]]:
  """Corners at equal angles from the top on, each as far as `reach` in turn."""
  angles = [math.pi * (2 * i / corners - 0.5) for i in range(corners)]
  return [
    (far * math.cos(a), far * math.sin(a))
    for far, a in zip(itertools.cycle(reach), angles)
  ]


def _cross() -> list[tuple[float, float]]:
  long, short = 1.04, 0.36
  quarter = [(short, -long), (short, -short), (long, -short)]
  points = []
  for _ in range(4):
    points += quarter
    quarter = [(-y, x) for x, y in quarter]
  return points


def _heart() -> list[tuple[float, float]]:
  points = []
  for i in range(60):
    t = 2 * math.pi * i / 60
    x = 16 * math.sin(t) ** 3
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)
    y -= math.cos(4 * t)
    points.append((x / 15.7, -(y + 2.4) / 15.7))
  return points


_OUTLINES: dict[str, list[tuple[float, float]]] = {
  "square": [(-0.83, -0.83), (0.83, -0.83), (0.83, 0.83), (-0.83, 0.83)],
  "triangle": _round(3, graph.EXTENT["triangle"]),
  "star": _round(10, graph.EXTENT["star"], graph.EXTENT["star"] * 0.42),
  "cross": _cross(),
  "heart": _heart(),
  "diamond": [(0.0, -1.18), (0.77, 0.0), (0.0, 1.18), (-0.77, 0.0)],
}
