"""Exact search in embeddings that need not fit into memory."""

import base64
import html
import io
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from contrastive_jax.data.sets.folder import folder_images
from contrastive_jax.data.sets.folder.folder_rows import RowError
from contrastive_jax.inference import embedding_files

_ROWS = 65_536  # Embeddings in memory at a time.
_THUMBNAIL = 160  # Pixels of the longer side.


class Hit(NamedTuple):
  """An embedding that a query found.

  Attributes:
    score: its cosine with the query.
    key: its name.
  """

  score: float
  key: str


def top(
  parts: Iterable[tuple[Sequence[str], np.ndarray]], queries: Any, k: int
) -> list[list[Hit]]:
  """The k embeddings with the largest inner products with each query.

  All of them are compared, in parts; `O(q k)` and one part are in memory. The earlier
  one of equals comes first.

  Args:
    parts: keys and embeddings float32 [n, d], as `embedding_files.read` gives them.
    queries: float [q, d], of unit norm.
    k: how many, at least 1; fewer come back where there are fewer.

  Returns:
    A list a query, the best first.

  Raises:
    ValueError: if queries are of another width than embeddings, or k < 1.
  """
  queries = np.asarray(queries, np.float32)
  if queries.ndim != 2 or k < 1:
    raise ValueError(
      f"queries must be [q, d] and k at least 1; got {queries.shape} and {k}."
    )
  scores = np.zeros((len(queries), 0), np.float32)
  keys: np.ndarray = np.zeros((len(queries), 0), object)
  for names, embeddings in parts:
    if embeddings.shape[1] != queries.shape[1]:
      raise ValueError(
        f"queries have {queries.shape[1]} numbers, and embeddings"
        f" {embeddings.shape[1]}: they are of another model or head."
      )
    named = np.array(names, object)
    found = queries @ embeddings.T
    best = _largest(found, k)
    scores = np.concatenate(
      [scores, np.take_along_axis(found, best, axis=1)], axis=1
    )
    keys = np.concatenate([keys, named[best]], axis=1)
    best = _largest(scores, k)
    scores = np.take_along_axis(scores, best, axis=1)
    keys = np.take_along_axis(keys, best, axis=1)
  return [
    [Hit(float(score), key) for score, key in zip(*row)]
    for row in zip(scores, keys)
  ]


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
  """The places [q, k] of the k largest of each row, the earlier of equals first."""
  if scores.shape[1] > k:
    least = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    # A partition takes any of those that equal the last one; the earliest count.
    rows = []
    for row, bound in zip(scores, least[:, 0]):
      above = np.flatnonzero(row > bound)
      equal = np.flatnonzero(row == bound)[: k - len(above)]
      rows.append(np.sort(np.concatenate([above, equal])))
    kept = np.stack(rows)
  else:
    kept = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
  order = np.argsort(
    -np.take_along_axis(scores, kept, axis=1), axis=1, kind="stable"
  )
  return np.take_along_axis(kept, order, axis=1)


def in_folder(
  folder: str | os.PathLike[str], queries: Any, k: int = 10
) -> list[list[Hit]]:
  """`top` of the embeddings that `embedding_files.embed` wrote into a folder."""
  return top(embedding_files.read(folder, _ROWS), queries, k)


def sheet(queries: Sequence[str], hits: Sequence[Sequence[Hit]]) -> str:
  """A page of HTML that needs no other file: each query, and what it found.

  Keys that are files of pictures are shown small; of others there is the name.
  """
  rows = []
  for query, found in zip(queries, hits):
    cells = "".join(_cell(hit) for hit in found)
    rows.append(
      f"<section><h2>{html.escape(query)}</h2><div>{cells}</div></section>"
    )
  return _PAGE.replace("{rows}", "\n".join(rows))


def _cell(hit: Hit) -> str:
  name = html.escape(hit.key)
  picture = _thumbnail(hit.key)
  shown = (
    f'<img src="data:image/jpeg;base64,{picture}" alt="{name}">'
    if picture
    else '<span class="none">no picture at hand</span>'
  )
  base = html.escape(os.path.basename(hit.key) or hit.key)
  return (
    f'<figure title="{name}">{shown}<figcaption>{hit.score:.3f}'
    f" {base}</figcaption></figure>"
  )


def _thumbnail(key: str) -> str:
  if not pathlib.Path(key).is_file():
    return ""
  try:
    image, _ = folder_images.load(key, _THUMBNAIL)
  except RowError:
    return ""
  image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC)
  file = io.BytesIO()
  image.save(file, format="JPEG", quality=85)
  return base64.b64encode(file.getvalue()).decode()


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Search</title>
<style>
body { font: 16px/1.4 system-ui, sans-serif; margin: 1rem auto; max-width: 75rem;
  padding: 0 1rem; color: #222; background: #fff; }
h2 { font-size: 1.1rem; margin: 1.5rem 0 .5rem; }
section > div { display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
figure { margin: 0; border: 1px solid #ddd; border-radius: .4rem; overflow: hidden; }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  background: #f6f6f6; }
.none { display: grid; place-items: center; aspect-ratio: 1; color: #767676;
  background: #f6f6f6; font-size: .85rem; }
figcaption { padding: .3rem .5rem; font-size: .85rem; overflow-wrap: anywhere; }
</style>
<body>
{rows}
</body></html>
"""
