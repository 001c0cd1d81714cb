"""Results of float64 references, and how far float32 may be from them.

A bound is a small multiple of float32's epsilon, times the sum of the absolute
values of all terms that a number is made of, whatever of them cancels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

FLOAT32_EPSILON = 2.0**-23
# How many times `FLOAT32_EPSILON` and a size are allowed in extreme cases.
BOUND = 8.0


@dataclasses.dataclass
class Reference:
  """A loss and its gradients.

  Attributes:
    per_example: losses, [N] ([2N] for `nt_xent`).
    gradients: of the weighted sum, by argument name.
    magnitudes: by argument name, the sum of absolute values of the terms
      whose sum the gradient is (its largest entry).
    sizes: the same with what errors of logits do to the terms, and "" of the
      losses: `FLOAT32_EPSILON` times that is what float32 cannot avoid. A float32
      logit s carries an error of about `FLOAT32_EPSILON * |s|`, which is the
      *relative* error of exp(s).
  """

  per_example: np.ndarray
  gradients: dict[str, np.ndarray]
  magnitudes: dict[str, float]
  sizes: dict[str, float]

  def assert_values(self, actual: np.ndarray, *, rtol: float = 1e-6) -> None:
    """Per-example losses agree: `rtol`, and the rounding of the logits."""
    self._assert_near("", actual, self.per_example, rtol)

  def assert_gradient(
    self, name: str, actual: np.ndarray, *, rtol: float = 1e-6
  ) -> None:
    """The gradient of `name` agrees: `rtol * max|gradient|`, and rounding."""
    self._assert_near(name, actual, self.gradients[name], rtol)

  def check(
    self,
    per_example: np.ndarray,
    gradients: Mapping[str, np.ndarray],
    rtol: float = 1e-6,
  ) -> None:
    """Losses and all given gradients agree."""
    self.assert_values(per_example, rtol=rtol)
    for name, actual in gradients.items():
      self.assert_gradient(name, actual, rtol=rtol)

  def _assert_near(self, name, actual, expected, rtol) -> None:
    what = name or "loss"
    actual = np.asarray(actual, np.float64)
    assert actual.shape == expected.shape, (what, actual.shape)
    bound = rtol * np.abs(expected).max() + FLOAT32_EPSILON * self.sizes[name]
    error = np.abs(actual - expected).max()
    assert error <= bound, f"{what}: error {error:.3g}, bound {bound:.3g}"

  def renamed(self, **names: str) -> Reference:
    """The same with other names; what gets one name is added."""
    return total(self, per_example=self.per_example, names=names)

  def with_constants(self, **arrays: np.ndarray | float) -> Reference:
    """Arguments that no gradient reaches, by definition."""
    none = dict.fromkeys(arrays, 0.0)
    zeros = {k: np.zeros(np.shape(v)) for k, v in arrays.items()}
    return dataclasses.replace(
      self,
      gradients=self.gradients | zeros,
      magnitudes=self.magnitudes | none,
      sizes=self.sizes | none,
    )


def of_terms(
  per_example: np.ndarray,
  size: np.ndarray,
  **gradients: tuple[np.ndarray, ...],
) -> Reference:
  """Reference of losses with sizes, and of gradients with magnitudes and sizes.

  Sizes of gradients may be left out where they are the magnitudes.
  """
  return Reference(
    per_example,
    {k: np.asarray(value) for k, (value, *_) in gradients.items()},
    {k: float(np.max(terms[1])) for k, terms in gradients.items()},
    {k: float(np.max(terms[-1])) for k, terms in gradients.items()}
    | {"": float(np.max(size))},
  )


def total(
  *parts: Reference,
  per_example: np.ndarray | None = None,
  names: Mapping[str, str] | None = None,
  factor: float = 1.0,
) -> Reference:
  """A factor > 0 times the sum of losses of the same examples.

  `per_example` stands for their sum where it is something else.
  """
  sums: tuple[dict, dict, dict] = {}, {}, {}
  for part in parts:
    for into, found in zip(sums, (part.gradients, part.magnitudes, part.sizes)):
      for name, value in found.items():
        name = (names or {}).get(name, name)
        into[name] = into.get(name, 0.0) + factor * value
  if per_example is None:
    per_example = factor * sum(part.per_example for part in parts)
  return Reference(per_example, *sums)


class Gradients:
  """Adds up gradients, the magnitudes of their terms, and their sizes."""

  def __init__(self, **arguments: np.ndarray | float):
    self.terms = {k: [np.zeros(np.shape(v))] * 3 for k, v in arguments.items()}
    self.largest = 1.0

  def add(
    self,
    name: str,
    value: np.ndarray,
    absolute: np.ndarray,
    size: np.ndarray,
  ) -> None:
    before = self.terms[name]
    self.terms[name] = [x + y for x, y in zip(before, (value, absolute, size))]

  def through_logits(
    self,
    parts: tuple[np.ndarray, ...],
    a: tuple[str, np.ndarray],
    b: tuple[str, np.ndarray],
    factor: float,
    factor_gradient: tuple[str, float],
    *,
    errors: np.ndarray | None = None,
    exact: int = 1,
  ) -> None:
    """Backpropagates G = sum(parts) through s = factor <a_i, b_j>.

    `errors` are the relative ones of the parts, in `FLOAT32_EPSILON`: by default
    1 + the largest |s| of a row. The first `exact` parts have none of them.
    """
    (a_name, a_rows), (b_name, b_rows) = a, b
    cosine = a_rows @ b_rows.T
    if errors is None:
      errors = 1.0 + np.abs(factor * cosine).max(1, keepdims=True)
    self.largest = max(self.largest, errors.max())
    absolute = [np.abs(part) for part in parts]
    sizes = absolute[:exact] + [errors * part for part in absolute[exact:]]
    all_g = sum(parts), sum(absolute), sum(sizes)
    # The value of what G is multiplied by, and twice its absolute value.
    of_a, of_b, of_cosine = (
      (x, np.abs(x), np.abs(x)) for x in (a_rows, b_rows, cosine)
    )
    name, derivative = factor_gradient  # d factor / d argument
    slopes = derivative, abs(derivative), abs(derivative)
    self.add(a_name, *(factor * g @ x for g, x in zip(all_g, of_b)))
    self.add(b_name, *(factor * g.T @ x for g, x in zip(all_g, of_a)))
    self.add(
      name, *(d * np.sum(g * x) for d, g, x in zip(slopes, all_g, of_cosine))
    )

  def reference(self, per_example: np.ndarray, unit: float = 1.0) -> Reference:
    """`unit`: what a loss of one is multiplied by."""
    return of_terms(per_example, self.largest * unit, **self.terms)


def float64(*arrays: np.ndarray) -> list[np.ndarray]:
  return [np.asarray(array).astype(np.float64) for array in arrays]


def weights_of(weights: np.ndarray | None, n: int) -> np.ndarray:
  return np.full(n, 1.0 / n) if weights is None else float64(weights)[0]


def positives_of(group_ids: np.ndarray | None, n: int) -> np.ndarray:
  ids = np.arange(n) if group_ids is None else np.asarray(group_ids)
  return ids[:, None] == ids[None, :]


def cross_entropy(
  numerator_logits: np.ndarray,
  denominator_logits: np.ndarray,
  positives: np.ndarray,
  in_denominator: np.ndarray,
  weights: np.ndarray,
  label_smoothing: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Rows' losses, and the gradient's two parts: -w t (numerator), w p."""
  live = in_denominator.any(axis=1)
  targets = positives / positives.sum(axis=1, keepdims=True)
  targets = (1 - label_smoothing) * targets + label_smoothing / len(targets)
  masked = np.where(in_denominator, denominator_logits, -np.inf)
  peak = np.where(live, masked.max(axis=1), 0.0)
  exponentials = np.exp(masked - peak[:, None])
  total = np.where(live, exponentials.sum(axis=1), 1.0)
  loss = peak + np.log(total) - (targets * numerator_logits).sum(axis=1)
  scaled = np.where(live, weights, 0.0)[:, None]
  return (
    np.where(live, loss, 0.0),
    -scaled * targets,
    scaled * exponentials / total[:, None],
  )
