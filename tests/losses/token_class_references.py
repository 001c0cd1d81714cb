"""A float64 NumPy reference of the loss of caption tokens as classes.

Written with whole targets [N, V] and a set for each row: d loss / dz = p - y, times
the row's weight where anything counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.losses.rounding import Reference, float64, of_terms, weights_of


def superclass(
  logits: np.ndarray,
  *,
  tokens: np.ndarray,
  token_weights: np.ndarray | None = None,
  ignored_ids: Sequence[int] = (),
  weights: np.ndarray | None = None,
) -> Reference:
  """-sum_c y_c log softmax(z)_c, y the weights of the row's set of tokens."""
  (z,) = float64(logits)
  n, size = z.shape
  importance = np.ones(size)
  if token_weights is not None:
    (importance,) = float64(token_weights)
  target = np.zeros((n, size))
  for row, texts in zip(target, np.asarray(tokens)):
    for token in {*texts.tolist()} - {*ignored_ids}:
      if 0 <= token < size:
        row[token] = importance[token]
  total = target.sum(1, keepdims=True)
  live = total[:, 0] > 0
  target = np.divide(target, total, out=np.zeros_like(target), where=total > 0)
  top = z.max(1, keepdims=True)
  log_sum = top + np.log(np.exp(z - top).sum(1, keepdims=True))
  loss = (target * (log_sum - z)).sum(1)
  w = np.where(live, weights_of(weights, n), 0.0)[:, None]
  pull, push = -w * target, w * np.exp(z - log_sum)
  largest = 1.0 + np.abs(z).max(1, keepdims=True)
  absolute = np.abs(pull) + np.abs(push)
  return of_terms(
    np.where(live, loss, 0.0),
    largest,
    logits=(pull + push, absolute, np.abs(pull) + largest * np.abs(push)),
  )


def inverse_document_frequency(tokens, size, ignored_ids=()) -> np.ndarray:
  """log((D + 1) / (n + 1)) of a corpus, a document a row."""
  counts = np.zeros(size)
  for row in np.asarray(tokens):
    for token in {*row.tolist()} - {*ignored_ids}:
      counts[token] += 1
  return np.log((len(tokens) + 1) / (counts + 1))
