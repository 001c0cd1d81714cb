"""Clusters of embeddings, and how well they are the classes."""

from typing import Any

import numpy as np

from contrastive_jax.evaluation import _inputs


def k_means(
  x: Any,
  clusters: int,
  *,
  normalize: bool = True,
  restarts: int = 4,
  iterations: int = 100,
  seed: int = 0,
) -> np.ndarray:
  """The cluster of each row, by Lloyd's algorithm from starts far apart.

  Each of `restarts` starts draws its first centres with probability proportional to
  the squared distance from those already drawn (k-means++); the one whose clusters
  have the least squared distance from their centres wins. A cluster that becomes
  empty begins again at the row that is farthest from its centre.

  Args:
    x: floating `[N, d]`.
    clusters: how many, at most N.
    normalize: divide each row by its norm first.
    restarts: how many starts are tried.
    iterations: at most so many of each.
    seed: of the starts.

  Returns:
    int64 `[N]`, from 0 to `clusters` - 1.

  Raises:
    ValueError: wrong shape or type, or `clusters`, `restarts` or `iterations` out of
      range.

  References:
    Lloyd, Least squares quantization in PCM, 1982; Arthur and Vassilvitskii,
    k-means++: the advantages of careful seeding, 2007.

  >>> found = k_means(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]), 2)
  >>> bool(found[0] == found[2] != found[1])
  True
  """
  x = _inputs.embeddings("x", x, normalize=normalize).astype(np.float64)
  if not 1 <= clusters <= len(x):
    raise ValueError(
      f"clusters must be from 1 to the number of rows, {len(x)}; got {clusters}."
    )
  for name, value in (("restarts", restarts), ("iterations", iterations)):
    if value < 1:
      raise ValueError(f"{name} must be at least 1; got {value}.")
  rng = np.random.default_rng(seed)
  found = [
    _lloyd(x, _far_apart(x, clusters, rng), iterations) for _ in range(restarts)
  ]
  return min(found, key=lambda one: one[1])[0]


def _squares(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
  """Squared distances `[N, clusters]`."""
  found = (x**2).sum(1)[:, None] - 2.0 * x @ centres.T + (centres**2).sum(1)
  return np.maximum(found, 0.0)


def _far_apart(
  x: np.ndarray, clusters: int, rng: np.random.Generator
) -> np.ndarray:
  centres = [x[rng.integers(len(x))]]
  nearest = _squares(x, centres[0][None])[:, 0]
  for _ in range(clusters - 1):
    total = nearest.sum()
    # All rows may lie on the centres that there are.
    share = nearest / total if total > 0 else None
    centres.append(x[rng.choice(len(x), p=share)])
    nearest = np.minimum(nearest, _squares(x, centres[-1][None])[:, 0])
  return np.stack(centres)


def _lloyd(
  x: np.ndarray, centres: np.ndarray, iterations: int
) -> tuple[np.ndarray, float]:
  """Clusters, and the sum of squared distances from their centres."""
  labels = np.full(len(x), -1)
  for _ in range(iterations):
    squares = _squares(x, centres)
    new = squares.argmin(1)
    own = squares[np.arange(len(x)), new]
    for empty in set(range(len(centres))) - set(new.tolist()):
      new[own.argmax()] = empty
      own[own.argmax()] = 0.0
    if np.array_equal(new, labels):
      break
    labels = new
    count = np.bincount(labels, minlength=len(centres))
    sums = np.zeros_like(centres)
    np.add.at(sums, labels, x)
    # A row that fills an empty cluster may leave its own one empty.
    centres = np.where(
      count[:, None] > 0, sums / np.maximum(count, 1)[:, None], centres
    )
  return labels, float(np.square(x - centres[labels]).sum())


def v_measure(labels: Any, clusters: Any) -> dict[str, float]:
  """How well clusters are the classes: homogeneity, completeness, and both.

  With the entropies of the counts, `homogeneity = 1 - H(class | cluster) / H(class)`,
  `completeness = 1 - H(cluster | class) / H(cluster)`, and `v_measure` is their
  harmonic mean. An entropy of 0 is divided as if the ratio were 0.

  Args:
    labels: integers or strings `[N]`, the classes.
    clusters: integers or strings `[N]`.

  Returns:
    `homogeneity`, `completeness` and `v_measure`, from 0 to 1.

  Raises:
    ValueError: not one-dimensional, empty, or of different lengths.

  Reference:
    Rosenberg and Hirschberg, V-measure: a conditional entropy-based external cluster
    evaluation measure, 2007.

  >>> v_measure([0, 0, 1, 1], [5, 5, 7, 7])["v_measure"]
  1.0
  """
  first, second = np.asarray(labels), np.asarray(clusters)
  if first.ndim != 1 or not first.size:
    raise ValueError(
      f"labels must be a non-empty array [N], got {_inputs.describe(first)}."
    )
  if first.shape != second.shape:
    raise ValueError(
      f"clusters must have one entry a label ({len(first)}), got"
      f" {_inputs.describe(second)}."
    )
  rows, columns = (
    np.unique(y, return_inverse=True)[1] for y in (first, second)
  )
  joint = np.zeros((rows.max() + 1, columns.max() + 1))
  np.add.at(joint, (rows, columns), 1.0 / len(first))

  def entropy(p):
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())

  both, own, theirs = (
    entropy(joint),
    entropy(joint.sum(1)),
    entropy(joint.sum(0)),
  )
  shares = [
    min(1.0, max(0.0, 1.0 - (both - given) / whole)) if whole > 0 else 1.0
    for given, whole in ((theirs, own), (own, theirs))
  ]
  total = sum(shares)
  return {
    "homogeneity": shares[0],
    "completeness": shares[1],
    "v_measure": 2.0 * shares[0] * shares[1] / total if total else 0.0,
  }
