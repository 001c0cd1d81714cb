"""Tiles of a similarity matrix that is never formed.

Rows and columns are cut into blocks, the last one padded. A jitted function
sees one tile at a time, always of the same shape, so that it compiles once
whatever the number of examples; small inputs use the next power of two.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.evaluation import _inputs

# On CPUs a tile of this size stays in the cache; larger ones gain nothing.
DEFAULT_BLOCK_SIZE = 1024


def block_length(count: int, block_size: int) -> int:
  """Length of the blocks that `count` items are cut into."""
  _inputs.positive("block_size", block_size, integer=True)
  return min(int(block_size), 1 << max(count - 1, 0).bit_length())


def blocks(array: np.ndarray, length: int, fill: int = 0) -> Iterator[Any]:
  """Puts rows on the device, `length` at a time, the last padded with `fill`."""
  for start in range(0, len(array), length):
    block = array[start : start + length]
    padding = ((0, length - len(block)),) + ((0, 0),) * (array.ndim - 1)
    yield jax.device_put(np.pad(block, padding, constant_values=fill))


def scores(queries: jax.Array, gallery: jax.Array) -> jax.Array:
  """Inner products `[N, M]` of one tile, in full float32."""
  # TPUs and recent GPUs would multiply in bfloat16 or TF32, and ranks with it.
  return jax.lax.dot_general(
    queries,
    gallery,
    (((1,), (1,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )


class Relevance:
  """Relevant gallery items of each query, one tile at a time.

  Given by equal identifiers, or by an explicit list of gallery indices for
  each query. The full `[N, M]` mask never exists.
  """

  def __init__(
    self,
    query_ids: Any,
    gallery_ids: Any,
    indices: Sequence[Any] | None,
    shape: tuple[int, int],
    block_size: int,
  ):
    queries, gallery = shape
    self.rows = block_length(queries, block_size)
    self.columns = block_length(gallery, block_size)
    if indices is None:
      if query_ids is None or gallery_ids is None:
        raise ValueError(
          "query_ids and gallery_ids must both be given unless relevance is,"
          f" got {'None' if query_ids is None else 'query_ids'} and"
          f" {'None' if gallery_ids is None else 'gallery_ids'}."
        )
      row_codes, column_codes = _inputs.shared_codes(
        "query_ids",
        _inputs.identifiers("query_ids", query_ids, queries),
        "gallery_ids",
        _inputs.identifiers("gallery_ids", gallery_ids, gallery),
      )
      self._codes: Any = (row_codes, column_codes)
      # Padding differs on the two sides, so that it matches nothing.
      self._row_blocks = [*blocks(row_codes, self.rows, fill=-1)]
      self._column_blocks = [*blocks(column_codes, self.columns, fill=-2)]
      self.has_right = np.isin(row_codes, column_codes)
      return
    if query_ids is not None or gallery_ids is not None:
      raise ValueError(
        "relevance must not be given together with query_ids or gallery_ids,"
        " got both."
      )
    self._codes = None
    self._blank: jax.Array | None = None
    self._pairs = _ragged_pairs(indices, queries, gallery)
    self.has_right = np.zeros(queries, bool)
    self.has_right[self._pairs[0]] = True

  def _tile_pairs(self, row: int, column: int) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = self._pairs
    low, high = np.searchsorted(rows, [row * self.rows, (row + 1) * self.rows])
    rows, columns = rows[low:high], columns[low:high]
    inside = columns // self.columns == column
    return (
      rows[inside] - row * self.rows,
      columns[inside] - column * self.columns,
    )

  def any(self, row: int, column: int) -> bool:
    """Whether the tile at these block numbers holds a right pair."""
    if self._codes is None:
      return bool(self._tile_pairs(row, column)[0].size)
    rows = self._codes[0][row * self.rows : (row + 1) * self.rows]
    start = column * self.columns
    columns = self._codes[1][start : start + self.columns]
    return bool(np.isin(rows, columns).any())

  def tile(self, row: int, column: int) -> Any:
    """Arrays that `right` turns into the tile's mask in a jitted function."""
    if self._codes is not None:
      return self._row_blocks[row], self._column_blocks[column]
    pairs = self._tile_pairs(row, column)
    if not pairs[0].size:  # Most tiles; one mask on the device serves them all.
      if self._blank is None:
        self._blank = jax.device_put(np.zeros((self.rows, self.columns), bool))
      return self._blank
    mask = np.zeros((self.rows, self.columns), bool)
    mask[pairs] = True
    return jax.device_put(mask)


def right(tile: Any) -> jax.Array:
  """Mask `[rows, columns]` of the right pairs of a tile."""
  if isinstance(tile, tuple):
    rows, columns = tile
    return rows[:, None] == columns[None, :]
  return tile


def _ragged_pairs(
  indices: Sequence[Any], queries: int, gallery: int
) -> tuple[np.ndarray, np.ndarray]:
  """Pairs (query, gallery item), sorted by query."""
  if len(indices) != queries:
    raise ValueError(
      f"relevance must have one array of indices for each of {queries}"
      f" queries, got {len(indices)}."
    )
  arrays = []
  for number, value in enumerate(indices):
    array = np.asarray(value)
    if array.ndim == 1 and array.size == 0:
      array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
      raise ValueError(
        f"relevance[{number}] must be a one-dimensional array of gallery"
        f" indices, got {_inputs.describe(array)}."
      )
    if array.size and (array.min() < 0 or array.max() >= gallery):
      raise ValueError(
        f"relevance[{number}] must hold indices from 0 to {gallery - 1}, got"
        f" {int(array.min())} to {int(array.max())}."
      )
    arrays.append(array.astype(np.int64))
  lengths = [len(array) for array in arrays]
  return np.repeat(np.arange(queries), lengths), np.concatenate(arrays)


@jax.jit
def _linear_correct(
  x: jax.Array, kernel: jax.Array, bias: jax.Array, labels: jax.Array
) -> jax.Array:
  logits = scores(x, kernel.T) + bias
  true = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
  is_true = jnp.arange(logits.shape[1]) == labels[:, None]
  best_wrong = jnp.max(jnp.where(is_true, -jnp.inf, logits), axis=1)
  return true > best_wrong


def linear_correct(
  x: np.ndarray,
  kernel: Any,
  bias: Any,
  labels: np.ndarray,
  block_size: int,
) -> np.ndarray:
  """Whether a linear classifier puts the true class strictly first.

  Args:
    x: float32 `[N, d]`.
    kernel: float32 `[d, C]`.
    bias: float32 `[C]`.
    labels: int32 `[N]` in `[0, C)`.
    block_size: rows a tile.

  Returns:
    bool `[N]`; a tie with a wrong class is an error.
  """
  length = block_length(len(x), block_size)
  parts = [
    _linear_correct(rows, kernel, bias, classes)
    for rows, classes in zip(blocks(x, length), blocks(labels, length))
  ]
  return np.concatenate([np.asarray(part) for part in parts])[: len(x)]


def mean_per_class(correct: np.ndarray, labels: np.ndarray) -> float:
  """Mean over the classes that occur of the share that is correct."""
  counts = np.bincount(labels)
  hits = np.bincount(labels, weights=correct.astype(np.float64))
  return float(np.mean(hits[counts > 0] / counts[counts > 0]))
