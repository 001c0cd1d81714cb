"""Pictures of a run: curves, retrieval sheet, embedding map, histogram."""

import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from contrastive_jax import evaluation

_RIGHT, _WRONG = "#1b7837", "#b2182b"


# A plot shows the first of these that a run has.
_THIRD = (
  ("Logit scale", "train/logit_scale"),
  ("Temperature", "train/temperature"),
  ("Accuracy on the batch", "train/accuracy"),
)


def curves(
  rows: Sequence[Mapping[str, float]],
  path: pathlib.Path,
  validation: Mapping[str, str],
) -> None:
  """Loss, scores on validation, logit scale and gradient norm over steps.

  A run without a logit scale shows its temperature or, of tasks, its accuracy on
  the batches.

  Args:
    rows: of `metrics.jsonl`.
    path: the PNG to write.
    validation: names of the scores that are shown, by label.
  """
  names = set().union(*rows)
  third, name = next((p for p in _THIRD if p[1] in names), _THIRD[0])
  panels = (
    ("Training loss", {"loss": "train/loss"}),
    ("Validation", validation),
    (third, {third: name}),
    ("Gradient norm", {"gradient norm": "train/gradient_norm"}),
  )
  figure = Figure(figsize=(10, 6.5), layout="constrained")
  axes = figure.subplots(2, 2)
  for axis, (title, lines) in zip(axes.flat, panels):
    for label, name in lines.items():
      points = [(r["step"], r[name]) for r in rows if name in r]
      if points:
        axis.plot(*zip(*points), label=label, marker="o", markersize=2.5)
    axis.set(title=title, xlabel="step")
    axis.grid(alpha=0.3)
  scores = axes[0, 1]
  if scores.lines:
    scores.legend(fontsize=8)
  # Shares are seen against all of them; other scores have a range of their own.
  if all(
    0 <= r.get(name, 0) <= 1 for r in rows for name in validation.values()
  ):
    scores.set_ylim(0, 1)
  _save(figure, path)


def histogram(
  images: np.ndarray,
  texts: np.ndarray,
  image_ids: np.ndarray,
  text_ids: np.ndarray,
  path: pathlib.Path,
) -> None:
  """Cosine similarity of positive against negative pairs.

  Args:
    images: [N, d] embeddings.
    texts: [M, d] embeddings.
    image_ids: [N] what the images show.
    text_ids: [M] what the texts name.
    path: the PNG to write.
  """
  counts = evaluation.similarity_histogram(images, texts, image_ids, text_ids)
  edges = counts["edges"]
  figure = Figure(figsize=(7, 4), layout="constrained")
  axis = figure.subplots()
  for name, colour in (("negatives", _WRONG), ("positives", _RIGHT)):
    total = counts[name].sum()
    density = counts[name] / (max(total, 1) * np.diff(edges))
    axis.stairs(
      density,
      edges,
      fill=True,
      alpha=0.55,
      color=colour,
      label=f"{name} ({int(total):,})",
    )
  used = np.flatnonzero(counts["positives"] + counts["negatives"])
  axis.set_xlim(edges[used[0]], edges[used[-1] + 1])
  axis.set(
    title="Similarity of images and names",
    xlabel="cosine similarity",
    ylabel="density",
  )
  axis.legend()
  _save(figure, path)


def embedding_map(
  images: np.ndarray,
  texts: np.ndarray,
  image_labels: Sequence[str],
  path: pathlib.Path,
) -> None:
  """Both modalities on their two main axes, in common and each on its own.

  The left panel is a common principal component analysis, so that a gap
  between the modalities shows; the right one takes each modality's mean out
  and colours images by label.

  Args:
    images: [N, d] embeddings.
    texts: [M, d] embeddings; M may be 0.
    image_labels: N labels; the most frequent are coloured.
    path: the PNG to write.
  """
  figure = Figure(figsize=(11, 5), layout="constrained")
  axes = figure.subplots(1, 2)
  together = np.concatenate([images, texts]).astype(np.float64)
  points = principal(together - together.mean(0))
  axes[0].scatter(*points[: len(images)].T, s=8, alpha=0.6, label="images")
  if len(texts):
    axes[0].scatter(
      *points[len(images) :].T, s=14, alpha=0.8, marker="x", label="names"
    )
  axes[0].set_title("Images and names (common axes)")
  axes[0].legend(fontsize=8)
  own = [part - part.mean(0) for part in (images, texts) if len(part)]
  centred = np.concatenate(own)
  points = principal(centred.astype(np.float64))[: len(images)]
  labels = np.array(image_labels)
  names, counts = np.unique(labels[labels != ""], return_counts=True)
  common = names[np.argsort(-counts, kind="stable")][:9]
  rest = ~np.isin(labels, common)
  if rest.any():
    axes[1].scatter(*points[rest].T, s=6, color="0.85", label="others")
  for name in common:
    shown = name.replace("$", r"\$").removeprefix("_")
    axes[1].scatter(*points[labels == name].T, s=14, label=shown)
  axes[1].set_title("Images by label (each modality centred)")
  axes[1].legend(fontsize=7, ncols=2)
  for axis in axes:
    axis.set(xticks=[], yticks=[])
  _save(figure, path)


def retrieval_sheet(
  picture_of: Callable[[int], np.ndarray],
  images: np.ndarray,
  image_ids: np.ndarray,
  texts: Sequence[str],
  text_embeddings: np.ndarray,
  text_ids: np.ndarray,
  path: pathlib.Path,
  *,
  rows: int = 10,
  seed: int = 0,
) -> None:
  """Queries with their top five answers, both ways; right ones are green.

  Args:
    picture_of: gives uint8 [S, S, 3] of an image's number.
    images: [N, d] their embeddings.
    image_ids: [N] what they show.
    texts: M names.
    text_embeddings: [M, d].
    text_ids: [M] what they name.
    path: the PNG to write.
    rows: queries each way.
    seed: which queries.
  """
  rng = np.random.default_rng(seed)
  rows = min(rows, len(images), len(texts))
  asked = np.sort(rng.choice(len(images), rows, replace=False))
  shown = np.flatnonzero(np.isin(text_ids, image_ids))
  rows = min(rows, len(shown))
  worded = np.sort(rng.choice(shown, rows, replace=False))
  figure = Figure(figsize=(13, 1.05 * len(asked) + 0.8))
  # pyrefly: ignore[not-iterable]
  left, right = figure.subfigures(1, 2, width_ratios=(1, 1.05))

  k = min(5, len(texts))
  best, _ = evaluation.top_k(images[asked], text_embeddings, k)
  left.suptitle("Image, and its five nearest names")
  axes = left.subplots(len(asked), 2, width_ratios=(1, 5), squeeze=False)
  for (picture, words), query, answers in zip(axes, asked, best):
    picture.imshow(picture_of(query))
    for place, answer in enumerate(answers):
      good = text_ids[answer] == image_ids[query]
      words.text(
        0.0,
        0.9 - 0.2 * place,
        f"{place + 1}. {_short(texts[answer], 48)}",
        color=_RIGHT if good else _WRONG,
        weight="bold" if good else "normal",
        va="center",
        fontsize=8,
        parse_math=False,  # A dollar in a caption is a dollar.
      )
  _bare(axes)

  k = min(5, len(images))
  best = []  # No name of what the pictures show.
  if len(worded):
    best, _ = evaluation.top_k(text_embeddings[worded], images, k)
  right.suptitle("Name, and its five nearest images")
  axes = right.subplots(
    max(1, len(worded)), 6, width_ratios=(2.6, *[1] * 5), squeeze=False
  )
  for line, query, answers in zip(axes, worded, best):
    line[0].text(
      1.0,
      0.5,
      _short(texts[query], 26),
      ha="right",
      va="center",
      fontsize=8,
      parse_math=False,
    )
    for axis, answer in zip(line[1:], answers):
      axis.imshow(picture_of(answer))
      good = text_ids[query] == image_ids[answer]
      axis.patch.set_edgecolor(_RIGHT if good else _WRONG)
      axis.patch.set_linewidth(4)
  _bare(axes)
  _save(figure, path)


def principal(points: np.ndarray) -> np.ndarray:
  """Coordinates on the two main axes: [N, 2]."""
  _, _, axes = np.linalg.svd(points, full_matrices=False)
  return points @ axes[:2].T


def _short(text: str, length: int) -> str:
  return text if len(text) <= length else text[: length - 1] + "…"


def _bare(axes: np.ndarray) -> None:
  for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _save(figure: Figure, path: pathlib.Path) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  with warnings.catch_warnings():
    # A caption in a script that the font lacks shows as boxes; so be it.
    warnings.filterwarnings("ignore", message="Glyph .* missing from")
    figure.savefig(path, dpi=110)
