"""Argument checks that run at trace time and name what is wrong."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_features(**arrays: jax.Array) -> None:
  """Checks that all arrays are floating [N, d] with the same N and d.

  Args:
    **arrays: the arrays by argument name; the first one is the measure.

  Raises:
    ValueError: naming the argument, what came and what was expected.
  """
  first_name, first = None, None
  for name, array in arrays.items():
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
      raise ValueError(
        f"{name} must be an array of shape [N, d]; got {type(array).__name__}."
      )
    if array.ndim != 2:
      raise ValueError(
        f"{name} must have shape [N, d]; got {tuple(array.shape)}."
      )
    if not jnp.issubdtype(array.dtype, jnp.floating):
      raise ValueError(f"{name} must be floating point; got {array.dtype}.")
    if array.shape[0] == 0 or array.shape[1] == 0:
      raise ValueError(
        f"{name} must hold at least one row and one column; got"
        f" {tuple(array.shape)}."
      )
    if first is None:
      first_name, first = name, array
    elif array.shape != first.shape:
      raise ValueError(
        f"{name} must have the shape of {first_name},"
        f" {tuple(first.shape)}; got {tuple(array.shape)}."
      )


def check_group_ids(group_ids: jax.Array | None, num_rows: int) -> None:
  """Checks that `group_ids` is None or an integer array [N].

  Args:
    group_ids: the ids, or None.
    num_rows: N.

  Raises:
    ValueError: naming what came and what was expected.
  """
  if group_ids is None:
    return
  if not hasattr(group_ids, "shape") or tuple(group_ids.shape) != (num_rows,):
    came = getattr(group_ids, "shape", type(group_ids).__name__)
    raise ValueError(f"group_ids must have shape ({num_rows},); got {came}.")
  if not jnp.issubdtype(group_ids.dtype, jnp.integer):
    raise ValueError(f"group_ids must be integers; got {group_ids.dtype}.")


def check_positive(name: str, value: Any) -> None:
  """Checks a scalar hyper-parameter; a traced value is checked for shape only.

  Args:
    name: the argument's name.
    value: a Python number, or an array of shape [].

  Raises:
    ValueError: if it is not a scalar, or known and not a finite number > 0.
  """
  if np.shape(value) != ():
    raise ValueError(f"{name} must be a scalar; got shape {np.shape(value)}.")
  if isinstance(value, jax.core.Tracer):
    return
  number = float(value)
  if not (number > 0 and np.isfinite(number)):
    raise ValueError(f"{name} must be a finite number > 0; got {number}.")
