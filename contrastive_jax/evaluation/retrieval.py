"""Retrieval with ragged ground truth: ranks, recall at k and nearest items.

Ties count against the model: a wrong item that scores as high as the best
right one is ranked before it, so that a collapsed model, for which everything
ties, gets the worst rank and not recall 1.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.evaluation import _blockwise, _inputs


@jax.jit
def _best_right(
  best: jax.Array, queries: jax.Array, gallery: jax.Array, relevance: Any
) -> jax.Array:
  """Running maximum `[rows]` of the scores of right items."""
  scores = _blockwise.scores(queries, gallery)
  right = jnp.where(_blockwise.right(relevance), scores, -jnp.inf)
  return jnp.maximum(best, jnp.max(right, axis=1))


@jax.jit
def _count_wrong(
  count: jax.Array,
  threshold: jax.Array,
  queries: jax.Array,
  gallery: jax.Array,
  relevance: Any,
  valid: int,
) -> jax.Array:
  """Running number `[rows]` of wrong items that reach the threshold."""
  scores = _blockwise.scores(queries, gallery)
  inside = jnp.arange(scores.shape[1]) < valid
  wrong = inside & ~_blockwise.right(relevance)
  ahead = wrong & (scores >= threshold[:, None])
  return count + jnp.sum(ahead, axis=1, dtype=jnp.int32)


def retrieval_ranks(
  queries: Any,
  gallery: Any,
  query_ids: Any = None,
  gallery_ids: Any = None,
  *,
  relevance: Sequence[Any] | None = None,
  normalize: bool = True,
  tie_tolerance: float = 1e-6,
  block_size: int = _blockwise.DEFAULT_BLOCK_SIZE,
) -> np.ndarray:
  """Rank of the best right gallery item of each query, ties counted against.

  `rank_i = 1 + #{j wrong for i : s_ij >= max_{r right for i} s_ir - eps}`

  Other right items never count against a query, so a caption with several
  images, or an image with several captions, is judged by the one ranked
  first. `eps` is `tie_tolerance` times the norms of the vectors: the round-off
  of float32 splits equal scores either way, and would hand a collapsed model a
  random rank. Runs over tiles of at most `block_size` squared, twice where a
  tile holds right pairs.

  Args:
    queries: floating `[N, d]`.
    gallery: floating `[M, d]`.
    query_ids: integers or strings `[N]`; a gallery item is right for a query
      if their identifiers are equal.
    gallery_ids: integers or strings `[M]`.
    relevance: instead of both identifiers, N arrays of gallery indices.
    normalize: score by cosine; otherwise by the inner product as it is.
    tie_tolerance: scores this close are ties.
    block_size: rows and columns of a tile.

  Returns:
    int64 `[N]`, from 1 to M; a query without any right item has `M + 1`.

  Raises:
    ValueError: wrong shapes or types, entries that are not finite, neither or
      both of identifiers and `relevance`.

  >>> x = np.eye(3, dtype=np.float32)
  >>> retrieval_ranks(x, x, [7, 8, 9], [7, 9, 8]).tolist()
  [1, 3, 3]
  >>> retrieval_ranks(np.ones((3, 2)), np.ones((3, 2)), range(3), range(3))
  array([3, 3, 3])
  """
  queries, gallery = _inputs.same_width(
    {"queries": queries, "gallery": gallery}, normalize=normalize
  )
  if not 0 <= tie_tolerance < np.inf:
    raise ValueError(
      f"tie_tolerance must be zero or a positive number, got {tie_tolerance}."
    )
  shape = (len(queries), len(gallery))
  right = _blockwise.Relevance(
    query_ids, gallery_ids, relevance, shape, block_size
  )
  columns = [*_blockwise.blocks(gallery, right.columns)]
  tolerance = np.full(len(queries), tie_tolerance, np.float32)
  if not normalize:
    tolerance *= np.linalg.norm(queries, axis=1)
    tolerance *= np.max(np.linalg.norm(gallery, axis=1))
  row_blocks = (
    _blockwise.blocks(array, right.rows) for array in (queries, tolerance)
  )
  parts = []
  for i, (rows, margin) in enumerate(zip(*row_blocks)):
    best = jnp.full(right.rows, -jnp.inf, jnp.float32)
    for j, column in enumerate(columns):
      # Datasets often keep the captions beside their image: most tiles then
      # hold no right pair, and the first pass is nearly free.
      if right.any(i, j):
        best = _best_right(best, rows, column, right.tile(i, j))
    threshold = best - margin
    count = jnp.zeros(right.rows, jnp.int32)
    for j, column in enumerate(columns):
      valid = len(gallery) - j * right.columns
      tile = right.tile(i, j)
      count = _count_wrong(count, threshold, rows, column, tile, valid)
    parts.append(count)
  count = np.concatenate([np.asarray(part) for part in parts])[: len(queries)]
  ranks = 1 + count.astype(np.int64)
  return np.where(right.has_right, ranks, len(gallery) + 1)


def retrieval_metrics(
  queries: Any,
  gallery: Any,
  query_ids: Any = None,
  gallery_ids: Any = None,
  *,
  ks: Sequence[int] = (1, 5, 10),
  relevance: Sequence[Any] | None = None,
  normalize: bool = True,
  tie_tolerance: float = 1e-6,
  block_size: int = _blockwise.DEFAULT_BLOCK_SIZE,
) -> dict[str, float]:
  """Recall at k, median and mean rank over the queries with a right item.

  `recall_at_k = #{i : rank_i <= k} / #{i with a right item}` with the ranks of
  `retrieval_ranks` (ties count against the model). Queries without any right
  item are left out and counted. A `k` above the size of the gallery is allowed
  and gives 1.

  Args:
    queries: floating `[N, d]`.
    gallery: floating `[M, d]`.
    query_ids: integers or strings `[N]`.
    gallery_ids: integers or strings `[M]`.
    ks: cut-offs.
    relevance: instead of both identifiers, N arrays of gallery indices.
    normalize: score by cosine; otherwise by the inner product as it is.
    tie_tolerance: scores this close are ties.
    block_size: rows and columns of a tile.

  Returns:
    `recall_at_{k}` for each k, `median_rank` (mean of the middle two for an
    even number), `mean_rank`, `queries` (those judged) and
    `queries_without_match` (those left out).

  Raises:
    ValueError: as `retrieval_ranks`, a bad `ks`, or no query with a right item.

  Reference:
    Karpathy and Fei-Fei, Deep visual-semantic alignments, CVPR 2015 (recall at
    k with five captions an image).

  >>> x = np.eye(4, dtype=np.float32)
  >>> metrics = retrieval_metrics(x, x, [0, 1, 2, 3], [0, 1, 2, 9], ks=(1,))
  >>> metrics["recall_at_1"], metrics["queries_without_match"]
  (1.0, 1.0)
  """
  _inputs.cutoffs("ks", ks)  # Before the work.
  ranks = retrieval_ranks(
    queries,
    gallery,
    query_ids,
    gallery_ids,
    relevance=relevance,
    normalize=normalize,
    tie_tolerance=tie_tolerance,
    block_size=block_size,
  )
  return rank_metrics(ranks, len(gallery), ks=ks)


def rank_metrics(
  ranks: np.ndarray, size: int, *, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
  """The numbers of `retrieval_metrics`, of ranks that are known.

  Args:
    ranks: integers `[N]`, as of `retrieval_ranks`.
    size: M, of the gallery; a query of a higher rank has no right item.
    ks: cut-offs.

  Raises:
    ValueError: if no query has a right item, or of a bad `ks`.

  >>> metrics = rank_metrics(np.array([1, 3, 5]), 4, ks=(1,))
  >>> metrics["recall_at_1"], metrics["queries_without_match"]
  (0.5, 1.0)
  """
  ks = _inputs.cutoffs("ks", ks)
  judged = ranks <= size
  if not judged.any():
    raise ValueError(
      "gallery must hold a right item for at least one query, got none for"
      f" {len(ranks)} queries."
    )
  ranks = ranks[judged]
  metrics = {f"recall_at_{k}": float(np.mean(ranks <= k)) for k in ks}
  metrics["median_rank"] = float(np.median(ranks))
  metrics["mean_rank"] = float(np.mean(ranks))
  metrics["queries"] = float(len(ranks))
  metrics["queries_without_match"] = float(np.sum(~judged))
  return metrics


@functools.partial(jax.jit, static_argnames="k")
def _merge_top(
  best: tuple[jax.Array, jax.Array],
  queries: jax.Array,
  gallery: jax.Array,
  start: int,
  valid: int,
  *,
  k: int,
) -> tuple[jax.Array, jax.Array]:
  """Merges a tile into the running `k` best indices and scores `[rows, k]`."""
  scores = _blockwise.scores(queries, gallery)
  column = jnp.arange(scores.shape[1], dtype=jnp.int32)
  scores = jnp.where(column < valid, scores, -jnp.inf)
  # `lax.top_k` puts the earlier of two equals first, here the lower index.
  top, position = jax.lax.top_k(scores, min(k, scores.shape[1]))
  merged = jnp.concatenate([best[1], top], axis=1)
  indices = jnp.concatenate([best[0], start + position], axis=1)
  top, position = jax.lax.top_k(merged, k)
  return jnp.take_along_axis(indices, position, axis=1), top


def top_k(
  queries: Any,
  gallery: Any,
  k: int,
  *,
  normalize: bool = True,
  block_size: int = _blockwise.DEFAULT_BLOCK_SIZE,
) -> tuple[np.ndarray, np.ndarray]:
  """The `k` gallery items of highest score for each query, best first.

  Args:
    queries: floating `[N, d]`.
    gallery: floating `[M, d]`.
    k: how many, at most M.
    normalize: score by cosine; otherwise by the inner product as it is.
    block_size: rows and columns of a tile.

  Returns:
    Indices int32 `[N, k]` and scores float32 `[N, k]`; of equal scores the
    lower index comes first.

  Raises:
    ValueError: wrong shapes or types, or `k` above M.

  >>> x = np.eye(3, dtype=np.float32)
  >>> top_k(x, x, 1)[0].ravel().tolist()
  [0, 1, 2]
  """
  _inputs.positive("k", k, integer=True)
  queries, gallery = _inputs.same_width(
    {"queries": queries, "gallery": gallery}, normalize=normalize
  )
  if k > len(gallery):
    raise ValueError(
      f"k must be at most the size of the gallery ({len(gallery)}), got {k}."
    )
  row_length = _blockwise.block_length(len(queries), block_size)
  column_length = _blockwise.block_length(len(gallery), block_size)
  columns = [*_blockwise.blocks(gallery, column_length)]
  parts = []
  for rows in _blockwise.blocks(queries, row_length):
    best = (
      jnp.zeros((row_length, k), jnp.int32),
      jnp.full((row_length, k), -jnp.inf, jnp.float32),
    )
    for j, column in enumerate(columns):
      start = j * column_length
      valid = len(gallery) - start
      best = _merge_top(best, rows, column, start, valid, k=int(k))
    parts.append(best)
  indices = np.concatenate([np.asarray(part[0]) for part in parts])
  scores = np.concatenate([np.asarray(part[1]) for part in parts])
  return indices[: len(queries)], scores[: len(queries)]
