"""Geometry of embeddings: alignment, uniformity, modality gap, histograms."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.evaluation import _blockwise, _inputs


def _pairs(
  first: Any, second: Any, normalize: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Two arrays of paired embeddings, checked to be of the same shape."""
  first, second = _inputs.same_width(
    {"first": first, "second": second}, normalize=normalize
  )
  if first.shape != second.shape:
    raise ValueError(
      f"second must be paired with first row by row ({len(first)} rows), got"
      f" {len(second)}."
    )
  return first, second


def _paired_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Distances `[N]` of paired rows, in float64."""
  squares = [
    np.sum((first[i : i + 4096] - second[i : i + 4096]) ** 2, axis=1)
    for i in range(0, len(first), 4096)
  ]
  return np.sqrt(np.concatenate(squares).astype(np.float64))


def alignment(
  first: Any, second: Any, *, alpha: float = 2.0, normalize: bool = True
) -> float:
  """Mean distance of positive pairs, to a power: lower is better aligned.

  `mean_i |x_i - y_i|^alpha`

  Args:
    first: floating `[N, d]`.
    second: floating `[N, d]`, row i the partner of row i.
    alpha: the power.
    normalize: divide each row by its norm first.

  Returns:
    The mean; from 0 to 4 for unit vectors and `alpha=2`.

  Raises:
    ValueError: wrong or different shapes, wrong types, or `alpha` not above 0.

  Reference:
    Wang and Isola, Understanding contrastive representation learning through
    alignment and uniformity on the hypersphere, ICML 2020.

  >>> round(alignment(np.eye(2), np.eye(2)[::-1]), 6)
  2.0
  """
  _inputs.positive("alpha", alpha)
  first, second = _pairs(first, second, normalize)
  return float(np.mean(_paired_distances(first, second) ** alpha))


@jax.jit
def _log_kernel_sum(
  rows: jax.Array,
  columns: jax.Array,
  row_start: int,
  column_start: int,
  count: int,
  t: float,
) -> jax.Array:
  """Log of the sum of the Gaussian kernel over pairs i < j of a tile."""
  squares = (
    jnp.sum(rows**2, axis=1)[:, None]
    + jnp.sum(columns**2, axis=1)[None, :]
    - 2 * _blockwise.scores(rows, columns)
  )
  i = row_start + jnp.arange(rows.shape[0])[:, None]
  j = column_start + jnp.arange(columns.shape[0])[None, :]
  inside = (i < j) & (j < count)
  logits = jnp.where(inside, -t * jnp.maximum(squares, 0), -jnp.inf)
  return jax.nn.logsumexp(logits)


def uniformity(
  x: Any,
  *,
  t: float = 2.0,
  normalize: bool = True,
  block_size: int = _blockwise.DEFAULT_BLOCK_SIZE,
) -> float:
  """Log of the mean Gaussian potential: lower is more uniform on the sphere.

  `log mean_{i < j} exp(-t |x_i - x_j|^2)`; 0 for collapsed embeddings.

  Args:
    x: floating `[N, d]`, N at least 2.
    t: inverse width of the kernel.
    normalize: divide each row by its norm first.
    block_size: rows and columns of a tile.

  Returns:
    The logarithm, from about `-4 t` to 0 for unit vectors.

  Raises:
    ValueError: wrong shape or type, fewer than two rows, or `t` not above 0.

  Reference:
    Wang and Isola, Understanding contrastive representation learning through
    alignment and uniformity on the hypersphere, ICML 2020.

  >>> round(uniformity(np.eye(3)), 4)
  -4.0
  """
  _inputs.positive("t", t)
  x = _inputs.embeddings("x", x, normalize=normalize, least=2)
  length = _blockwise.block_length(len(x), block_size)
  blocks = [*_blockwise.blocks(x, length)]
  parts = [
    _log_kernel_sum(blocks[a], blocks[b], a * length, b * length, len(x), t)
    for a in range(len(blocks))
    for b in range(a, len(blocks))
  ]
  logs = np.asarray(jax.device_get(parts), np.float64)
  pairs = len(x) * (len(x) - 1) / 2
  return float(np.logaddexp.reduce(logs) - np.log(pairs))


def center(x: Any, reference: Any = None) -> np.ndarray:
  """Embeddings without the mean of their modality, of unit norm again.

  `y_i = (x_i - m) / |x_i - m|` with the mean m of unit-norm embeddings. Done to both
  modalities it takes the distance of their centroids away, after training.

  Args:
    x: floating `[N, d]`, of one modality.
    reference: floating `[M, d]`, of the same modality, whose mean is taken; None is
      `x` itself.

  Returns:
    float32 `[N, d]`; a row that is the mean stays zero.

  Raises:
    ValueError: wrong shapes or types.

  Reference:
    Li et al., Closing the modality gap for mixed modality search, 2025 (GR-CLIP).

  >>> np.square(center(np.array([[1.0, 0.0], [0.0, 1.0]]))).round(1).tolist()
  [[0.5, 0.5], [0.5, 0.5]]
  """
  arrays = {"x": x, "reference": x if reference is None else reference}
  x, reference = _inputs.same_width(arrays, normalize=True)
  mean = reference.mean(axis=0, dtype=np.float64)
  return _inputs.l2_normalize((x - mean).astype(np.float32))


def modality_gap(
  first: Any, second: Any, *, normalize: bool = True
) -> dict[str, float]:
  """How far apart two modalities lie.

  `centroid_distance = |mean_i x_i - mean_i y_i|` and
  `mean_paired_distance = mean_i |x_i - y_i|`.

  Args:
    first: floating `[N, d]`, e.g. images.
    second: floating `[N, d]`, e.g. their texts, row i the partner of row i.
    normalize: divide each row by its norm first.

  Returns:
    `centroid_distance` (the gap of Liang et al.) and `mean_paired_distance`
    (the gap of Jiang et al.).

  Raises:
    ValueError: wrong or different shapes, or wrong types.

  Reference:
    Liang et al., Mind the gap, NeurIPS 2022; Jiang et al., Understanding and
    constructing latent modality structures, CVPR 2023.

  >>> modality_gap(np.eye(2), np.eye(2)[::-1])["centroid_distance"]
  0.0
  """
  first, second = _pairs(first, second, normalize)
  gap = first.mean(axis=0, dtype=np.float64) - second.mean(
    axis=0, dtype=np.float64
  )
  return {
    "centroid_distance": float(np.linalg.norm(gap)),
    "mean_paired_distance": float(np.mean(_paired_distances(first, second))),
  }


@functools.partial(jax.jit, static_argnames="bins")
def _count_bins(
  queries: jax.Array,
  gallery: jax.Array,
  relevance: Any,
  valid_rows: int,
  valid_columns: int,
  *,
  bins: int,
) -> jax.Array:
  """Counts `[2, bins]` of a tile: wrong pairs first, then right ones."""
  cosine = _blockwise.scores(queries, gallery)
  position = jnp.floor((cosine + 1) * (bins / 2)).astype(jnp.int32)
  position = jnp.clip(position, 0, bins - 1)
  position = position + bins * _blockwise.right(relevance)
  inside = (jnp.arange(cosine.shape[0]) < valid_rows)[:, None] & (
    jnp.arange(cosine.shape[1]) < valid_columns
  )
  position = jnp.where(inside, position, 2 * bins)
  counts = jnp.bincount(position.ravel(), length=2 * bins + 1)
  return counts[: 2 * bins].reshape(2, bins)


def similarity_histogram(
  queries: Any,
  gallery: Any,
  query_ids: Any = None,
  gallery_ids: Any = None,
  *,
  relevance: Sequence[Any] | None = None,
  bins: int = 100,
  block_size: int = _blockwise.DEFAULT_BLOCK_SIZE,
) -> dict[str, np.ndarray]:
  """Histogram of the cosines of positive and of negative pairs, on [-1, 1].

  Args:
    queries: floating `[N, d]`.
    gallery: floating `[M, d]`.
    query_ids: integers or strings `[N]`; a pair is positive if its identifiers
      are equal.
    gallery_ids: integers or strings `[M]`.
    relevance: instead of both identifiers, N arrays of gallery indices.
    bins: number of bins, all of the same width.
    block_size: rows and columns of a tile.

  Returns:
    `edges` float64 `[bins + 1]`, `positives` and `negatives` int64 `[bins]`:
    numbers of pairs, N·M in total.

  Raises:
    ValueError: wrong shapes or types.

  >>> x = np.eye(2)
  >>> histogram = similarity_histogram(x, x, [0, 1], [0, 1], bins=2)
  >>> histogram["positives"].tolist(), histogram["negatives"].tolist()
  ([0, 2], [0, 2])
  """
  _inputs.positive("bins", bins, integer=True)
  queries, gallery = _inputs.same_width(
    {"queries": queries, "gallery": gallery}, normalize=True
  )
  shape = (len(queries), len(gallery))
  right = _blockwise.Relevance(
    query_ids, gallery_ids, relevance, shape, block_size
  )
  columns = [*_blockwise.blocks(gallery, right.columns)]
  total = np.zeros((2, bins), np.int64)
  for i, rows in enumerate(_blockwise.blocks(queries, right.rows)):
    parts = [
      _count_bins(
        rows,
        column,
        right.tile(i, j),
        len(queries) - i * right.rows,
        len(gallery) - j * right.columns,
        bins=int(bins),
      )
      for j, column in enumerate(columns)
    ]
    # Counts of a tile fit int32, those of the whole matrix need not.
    total += np.sum(jax.device_get(parts), axis=0, dtype=np.int64)
  return {
    "edges": np.linspace(-1.0, 1.0, bins + 1),
    "positives": total[1],
    "negatives": total[0],
  }
