"""Tests of contrastive_jax.training.evaluators.plots."""

import warnings

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.training.evaluators import plots


@pytest.fixture(autouse=True)
def no_warnings():
  """Nothing for the user to read between the lines of a run."""
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    yield


def embeddings(count, seed=0, width=6):
  x = np.random.default_rng(seed).normal(size=(count, width))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def check(path, *, colours=()):
  """A PNG of a size that one can look at, with something on it."""
  with Image.open(path) as image:
    image.load()
    assert image.format == "PNG"
    width, height = image.size
    assert 300 <= width <= 3000 and 150 <= height <= 3000
    pixels = np.asarray(image.convert("RGB"))
  assert len(np.unique(pixels.astype(np.int32) @ [1, 256, 65536])) > 10
  assert path.stat().st_size < 2_000_000
  for colour in colours:
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    assert np.any(np.all(pixels == rgb, axis=-1)), colour


RETRIEVAL = {
  "R@1": "retrieval_validation/image_to_text/recall_at_1",
  "R@10": "retrieval_validation/image_to_text/recall_at_10",
}
ROWS = [
  {"step": 2, "train/loss": 3.0, "train/logit_scale": 14.0},
  {"step": 4, "retrieval_validation/image_to_text/recall_at_1": 0.25},
  {"step": 4, "train/loss": 2.0, "train/gradient_norm": 1.0},
]


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS])
def test_curves(tmp_path, rows):
  path = tmp_path / "made" / "curves.png"
  plots.curves(rows, path, RETRIEVAL)
  check(path)


@pytest.mark.parametrize(
  "names, shown",
  [
    (
      ("train/logit_scale", RETRIEVAL["R@10"]),
      {"Logit scale", "Validation"},
    ),
    (
      ("train/accuracy", "vqa_validation/accuracy"),
      {"Accuracy on the batch", "Validation"},
    ),
    (("train/temperature",), {"Temperature"}),
  ],
)
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_curves_show_what_a_run_has(tmp_path, monkeypatch, names, shown, scale):
  figures = []
  monkeypatch.setattr(
    plots, "_save", lambda figure, path: figures.append(figure)
  )
  rows = [
    {"step": s, "train/loss": 1.0, **dict.fromkeys(names, scale * s / 2)}
    for s in range(3)
  ]
  validation = {**RETRIEVAL, "vqa": "vqa_validation/accuracy"}
  plots.curves(rows, tmp_path / "curves.png", validation)
  axes = {a.get_title(): a for a in figures[0].axes}
  assert {name for name, a in axes.items() if a.lines} == {
    "Training loss",
    *shown,
  }
  # Shares are seen against all of them, other scores whole.
  top = axes["Validation"].get_ylim()[1]
  assert top == 1 if scale == 1 or "Validation" not in shown else top > 5


@pytest.mark.parametrize("images, texts", [(1, 1), (3, 1), (1, 4), (20, 9)])
def test_histogram(tmp_path, images, texts):
  plots.histogram(
    embeddings(images),
    embeddings(texts, 1),
    np.arange(images) % 3,
    np.arange(texts) % 3,
    tmp_path / "histogram.png",
  )
  check(tmp_path / "histogram.png")


@pytest.mark.parametrize(
  "labels", [[], ["", ""], ["a", "", "$x$", "_hidden", "100 $ ^"]]
)
@pytest.mark.parametrize("texts", [1, 5])
def test_embedding_map(tmp_path, labels, texts):
  labels = labels or [""]
  plots.embedding_map(
    embeddings(len(labels)),
    embeddings(texts, 1),
    labels,
    tmp_path / "map.png",
  )
  check(tmp_path / "map.png")


def test_embedding_map_of_what_has_collapsed(tmp_path):
  same = np.tile(embeddings(1), (5, 1))
  plots.embedding_map(same, same, ["a"] * 5, tmp_path / "map.png")
  check(tmp_path / "map.png")


@pytest.mark.parametrize("images, texts", [(1, 1), (2, 1), (1, 3), (30, 25)])
def test_retrieval_sheet(tmp_path, images, texts):
  ids = np.arange(max(images, texts))
  # Every image is nearest to its own name, if that is there.
  common = embeddings(max(images, texts))
  pictures = np.zeros((images, 8, 8, 3), np.uint8) + 90
  plots.retrieval_sheet(
    pictures.__getitem__,
    common[:images],
    ids[:images],
    [f"name {i}" for i in range(texts)],
    common[:texts],
    ids[:texts],
    tmp_path / "sheet.png",
  )
  colours = [plots._RIGHT] + [plots._WRONG] * (texts > 1)
  check(tmp_path / "sheet.png", colours=colours)


def test_a_sheet_where_no_name_fits(tmp_path):
  plots.retrieval_sheet(
    np.zeros((2, 8, 8, 3), np.uint8).__getitem__,
    embeddings(2),
    np.array([0, 1]),
    ["a", "b"],
    embeddings(2, 1),
    np.array([5, 6]),
    tmp_path / "sheet.png",
  )
  check(tmp_path / "sheet.png")


def test_captions_are_taken_as_they_are(tmp_path):
  """Dollars are no formulas; a script that the font lacks does no harm."""
  texts = ["$^$", "a $5 and a $10 bill", "笑顔", "x" * 300, "_", "\\frac{", ""]
  count = len(texts)
  plots.retrieval_sheet(
    np.zeros((count, 4, 4, 3), np.uint8).__getitem__,
    embeddings(count),
    np.arange(count),
    texts,
    embeddings(count, 1),
    np.arange(count),
    tmp_path / "sheet.png",
  )
  check(tmp_path / "sheet.png")


def test_pictures_are_read_only_when_shown(tmp_path):
  read = []

  def picture(index):
    read.append(int(index))
    return np.zeros((4, 4, 3), np.uint8)

  plots.retrieval_sheet(
    picture,
    embeddings(500),
    np.arange(500),
    [str(i) for i in range(500)],
    embeddings(500, 1),
    np.arange(500),
    tmp_path / "sheet.png",
    rows=2,
  )
  assert 2 <= len(read) <= 12
