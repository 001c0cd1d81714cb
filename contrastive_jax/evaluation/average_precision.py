"""Average precision, for images that show several classes."""

from typing import Any

import numpy as np

from contrastive_jax.evaluation import _inputs


def average_precision(
  scores: Any, labels: Any, *, points: int = 11
) -> np.ndarray:
  """Interpolated average precision of each class.

  `AP_c = 1/K sum_k max {P(r) : R(r) >= k / (K - 1)}` over `k = 0 ... K - 1`,
  where `P(r)` and `R(r)` are precision and recall of the r images with the
  highest scores for the class. With K = 11 it is the measure of PASCAL VOC
  2007, which the suites of CLIP and ELEVATER report. Of equal scores wrong
  images come first, so that their order does not matter and ties count against
  the model.

  Args:
    scores: floating `[N, C]`, the higher the likelier.
    labels: integers `[N, C]`: 1 for a class that the image shows, 0 for one
      that it does not, -1 for one that is not counted (VOC's difficult ones).
    points: recalls K, from 0 to 1.

  Returns:
    float64 `[C]`; NaN for a class that no image shows.

  Raises:
    ValueError: wrong shapes or types, scores that are not finite, or fewer
      than two points.

  Reference:
    Everingham et al., The PASCAL Visual Object Classes (VOC) challenge, 2010,
    section 4.2.

  >>> average_precision([[0.9], [0.8], [0.7]], [[1], [0], [1]]).round(4)
  array([0.8485])
  """
  scores = _inputs.embeddings("scores", scores)
  labels = _inputs.multi_labels("labels", labels, scores.shape)
  _inputs.positive("points", points, integer=True)
  if points < 2:
    raise ValueError(f"points must be at least 2, got {points}.")
  return np.array(
    [_interpolated(s, y, points) for s, y in zip(scores.T, labels.T)]
  )


def mean_average_precision(
  scores: Any, labels: Any, *, points: int = 11
) -> float:
  """Mean of `average_precision` over the classes that some image shows.

  Args:
    scores: as of `average_precision`.
    labels: as of `average_precision`.
    points: as of `average_precision`.

  Returns:
    A number from 0 to 1.

  Raises:
    ValueError: as `average_precision`, or if no image shows any class.

  >>> mean_average_precision([[0.9, 0.1], [0.2, 0.8]], [[1, 0], [0, 1]])
  1.0
  """
  values = average_precision(scores, labels, points=points)
  if np.isnan(values).all():
    raise ValueError(
      "labels must have a 1 somewhere, got"
      f" {_inputs.describe(np.asarray(labels))} without any."
    )
  return float(np.nanmean(values))


def _interpolated(scores: np.ndarray, labels: np.ndarray, points: int) -> float:
  counted = labels >= 0
  scores, right = scores[counted], labels[counted] > 0
  total = int(right.sum())
  if not total:
    return np.nan
  hits = np.cumsum(right[np.lexsort((right, -scores))])
  precision = hits / np.arange(1, len(hits) + 1)
  best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
  # In whole numbers: three of ten reach a recall of 0.3, which has no float.
  places = np.searchsorted((points - 1) * hits, np.arange(points) * total)
  return float(np.mean(best_from_here[places]))
