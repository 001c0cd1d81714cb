"""Brute-force float64 references, written apart from the library."""

import numpy as np


def unit(x):
  x = np.asarray(x, np.float64)
  norm = np.linalg.norm(x, axis=1, keepdims=True)
  return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def mask_from_ids(query_ids, gallery_ids):
  return np.array([[q == g for g in gallery_ids] for q in query_ids])


def ranks(scores, right, tolerance=0.0):
  """Ranks by sorting, wrong items first among equals; None without match."""
  result = []
  for row, good in zip(np.asarray(scores, np.float64), right, strict=True):
    if not good.any():
      result.append(None)
      continue
    # Right items get their score lowered by the tolerance: ties are lost.
    order = sorted(
      range(len(row)),
      key=lambda j: (-(row[j] - tolerance * good[j]), bool(good[j])),
    )
    wrong_before = 0
    for j in order:
      if good[j]:
        break
      wrong_before += 1
    result.append(1 + wrong_before)
  return result


def ridge(x, y, strength, weight, classes):
  """Weighted ridge with a free intercept, by its normal equations."""
  d = x.shape[1]
  design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
  penalty = strength * np.eye(d + 1)
  penalty[d, d] = 0
  targets = np.eye(classes)[y]
  gram = design.T @ (weight[:, None] * design) + penalty
  solution = np.linalg.solve(gram, design.T @ (weight[:, None] * targets))
  return solution[:d], solution[d]


def blobs(rng, classes, per_class, d, spread=1.0):
  centers = 2.0 * rng.normal(size=(classes, d))
  y = np.repeat(np.arange(classes), per_class)
  x = centers[y] + spread * rng.normal(size=(len(y), d)) + 3.0
  return x.astype(np.float32), y


def average_precision(scores, labels, points):
  """By thresholds: the best precision of those with enough recall."""
  kept = labels >= 0
  scores, right = np.asarray(scores, np.float64)[kept], labels[kept] == 1
  pairs = []
  for threshold in sorted(set(scores.tolist())):
    said = scores >= threshold
    pairs.append(((said & right).sum() / said.sum(), (said & right).sum()))
  return np.mean(
    [
      # As whole numbers, for no recall is missed by rounding.
      max(p for p, hits in pairs if hits * (points - 1) >= k * right.sum())
      for k in range(points)
    ]
  )
