"""Checks and conversions that every evaluation function starts with."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

# Below this share of the mean squared norm, the spread of float32 embeddings
# is round-off: dividing by it would classify noise.
LEAST_SPREAD = 1e-12

# Squared row norms above this overflow float32 in a dot product.
_LARGEST_NORM = 1e18


def describe(value: Any) -> str:
  """Returns `float32[3, 4]` for an array and the value itself otherwise."""
  if hasattr(value, "dtype") and hasattr(value, "shape"):
    return f"{value.dtype}{list(value.shape)}"
  return repr(value)


def l2_normalize(array: np.ndarray) -> np.ndarray:
  """Divides the last axis by its norm; zero vectors stay zero.

  Args:
    array: float32 `[..., d]`.

  Returns:
    float32 `[..., d]`; equal rows stay bitwise equal.
  """
  # The largest entry first: squares of tiny or huge entries would leave the
  # range of float32.
  largest = np.max(np.abs(array), axis=-1, keepdims=True)
  # Clamping the divisor to a normal number keeps subnormal rows finite.
  array = array / np.maximum(largest, np.finfo(np.float32).tiny)
  norm = np.sqrt(np.sum(array * array, axis=-1, keepdims=True))
  return array / np.where(norm > 0, norm, 1)


def embeddings(
  name: str,
  value: Any,
  *,
  normalize: bool = False,
  width: int | None = None,
  least: int = 1,
) -> np.ndarray:
  """Returns `value` as a contiguous, finite float32 `[N, d]` on the host.

  Args:
    name: the argument's name, for the error.
    value: array of any floating type, `[N, d]`.
    normalize: whether to divide each row by its norm.
    width: the `d` that is expected, if another argument fixes it.
    least: the smallest N allowed.

  Returns:
    float32 `[N, d]`.

  Raises:
    ValueError: wrong rank, type or width, too few rows, or an entry that is
      not finite (NaN compares false with everything, so it would pass for a
      perfect rank).
  """
  array = np.asarray(value)
  if (
    array.ndim != 2
    or array.shape[1] == 0
    or not jnp.issubdtype(array.dtype, jnp.floating)
  ):
    raise ValueError(
      f"{name} must be a floating-point array [N, d], got {describe(array)}."
    )
  if array.shape[0] < least:
    raise ValueError(
      f"{name} must have at least {least} row(s), got {describe(array)}."
    )
  if width is not None and array.shape[1] != width:
    raise ValueError(
      f"{name} must have {width} columns like the embeddings that it is"
      f" compared with, got {describe(array)}."
    )
  with np.errstate(over="ignore"):
    array = np.ascontiguousarray(array, dtype=np.float32)
  finite = np.isfinite(array).all(axis=1)
  if not finite.all():
    raise ValueError(
      f"{name} must be finite, got {int((~finite).sum())} row(s) with NaN or"
      f" infinite entries, the first at row {int(np.argmin(finite))}."
    )
  if normalize:
    return l2_normalize(array)
  largest = float(np.max(np.abs(array)))
  if largest * np.sqrt(array.shape[1]) > _LARGEST_NORM:
    raise ValueError(
      f"{name} must have row norms below {_LARGEST_NORM:g} (their products"
      f" overflow float32), got an entry of {largest:g}."
    )
  return array


def same_width(
  named: dict[str, Any], *, normalize: bool = False
) -> list[np.ndarray]:
  """`embeddings` of several arguments by name, all as wide as the first."""
  arrays: list[np.ndarray] = []
  for name, value in named.items():
    width = arrays[0].shape[1] if arrays else None
    arrays.append(embeddings(name, value, normalize=normalize, width=width))
  return arrays


def identifiers(name: str, value: Any, length: int) -> np.ndarray:
  """Returns `value` as integers or strings `[length]`.

  Raises:
    ValueError: wrong rank, type or length.
  """
  array = np.asarray(value)
  if array.dtype == object:
    array = np.asarray(array.tolist())
  if array.ndim != 1 or array.dtype.kind not in "iubUS":
    raise ValueError(
      f"{name} must be a one-dimensional array of integers or strings, got"
      f" {describe(array)}."
    )
  if array.shape[0] != length:
    raise ValueError(
      f"{name} must have one entry for each of {length} embeddings, got"
      f" {array.shape[0]}."
    )
  return array


def shared_codes(
  first_name: str,
  first: np.ndarray,
  second_name: str,
  second: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Numbers the identifiers of two arrays together, as int32.

  64-bit hashes and strings become small integers here, because JAX would
  truncate the former and cannot hold the latter.
  """
  if (first.dtype.kind in "US") != (second.dtype.kind in "US"):
    raise ValueError(
      f"{second_name} must be of the same kind as {first_name}, got"
      f" {second.dtype} and {first.dtype}."
    )
  if first.dtype.kind in "US" or first.dtype.kind == second.dtype.kind:
    merged = np.concatenate([first, second])
  else:
    # Signed and unsigned would meet in float64 and lose their low bits.
    merged = np.concatenate([first.astype(object), second.astype(object)])
  codes = np.unique(merged, return_inverse=True)[1].astype(np.int32).ravel()
  return codes[: len(first)], codes[len(first) :]


def class_codes(
  named: dict[str, Any], embedded: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], int]:
  """Numbers class labels 0..C-1 by the first array, which defines the classes.

  Args:
    named: argument name -> labels; the first are the training labels.
    embedded: the embeddings that each of them is of.

  Returns:
    int32 codes in the order of `named`, and the number of classes C.

  Raises:
    ValueError: bad arrays, fewer than two classes, or a label that no training
      example has.
  """
  arrays = {
    name: identifiers(name, labels, len(x))
    for (name, labels), x in zip(named.items(), embedded, strict=True)
  }
  train_name = next(iter(arrays))
  classes = np.unique(arrays[train_name])
  if len(classes) < 2:
    raise ValueError(
      f"{train_name} must hold at least two classes, got only"
      f" {classes.tolist()}."
    )
  codes = []
  for name, labels in arrays.items():
    if (labels.dtype.kind in "US") != (classes.dtype.kind in "US"):
      raise ValueError(
        f"{name} must be of the same kind as {train_name}, got"
        f" {labels.dtype} and {classes.dtype}."
      )
    position = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    unknown = classes[position] != labels
    if unknown.any():
      raise ValueError(
        f"{name} must hold only classes of {train_name}, got"
        f" {np.unique(labels[unknown])[:5].tolist()} without a training"
        " example."
      )
    codes.append(position.astype(np.int32))
  return codes, len(classes)


def multi_labels(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
  """Returns `value` as int8 `[N, C]`: 1 is shown, 0 is not, -1 is not counted.

  Raises:
    ValueError: wrong shape, type or values.
  """
  array = np.asarray(value)
  if array.dtype.kind not in "iub" or array.shape != tuple(shape):
    raise ValueError(
      f"{name} must be integers {list(shape)}, got {describe(array)}."
    )
  if array.size and not -1 <= array.min() <= array.max() <= 1:
    raise ValueError(
      f"{name} must hold 1, 0 and -1 alone, got {array.min()} to {array.max()}."
    )
  return array.astype(np.int8)


def cutoffs(name: str, value: Sequence[int]) -> tuple[int, ...]:
  """Returns positive integers, at least one, as a tuple."""
  result = tuple(value)
  if not result or any(
    isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1
    for k in result
  ):
    raise ValueError(
      f"{name} must be a non-empty sequence of positive integers, got"
      f" {value!r}."
    )
  return tuple(int(k) for k in result)


def positive(name: str, value: float, *, integer: bool = False) -> None:
  """Raises `ValueError` unless `value` is a finite number above zero."""
  kinds = (int, np.integer) if integer else (int, float, np.number)
  if (
    isinstance(value, bool)
    or not isinstance(value, kinds)
    or not np.isfinite(value)
    or value <= 0
  ):
    what = "integer" if integer else "number"
    raise ValueError(f"{name} must be a positive {what}, got {value!r}.")


def strengths(name: str, value: Sequence[float]) -> np.ndarray:
  """Returns regularisation strengths as float64, strongest first."""
  result = np.asarray(tuple(value), dtype=np.float64)
  if not result.size or not (np.isfinite(result) & (result > 0)).all():
    raise ValueError(
      f"{name} must be a non-empty sequence of positive numbers, got {value!r}."
    )
  return np.sort(result)[::-1]
