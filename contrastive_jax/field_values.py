"""Values of fields: of the field's type, within its bounds, or refused.

This module knows the standard library alone, as `choices`, whose fields these are.
"""

import difflib
import math
import numbers
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def checked(value: Any, wanted: Any, checks: Mapping[str, Any]) -> Any:
  """A value as the type of its field, within its bounds.

  Args:
    value: what was given; lists become tuples, whole numbers floats.
    wanted: the field's type: bool, int, float, str, dict or a tuple of them.
    checks: the field's metadata.

  Raises:
    ValueError: that says what is wanted and what came.
  """
  if isinstance(wanted, types.UnionType):  # Such as int | None.
    wanted = typing.get_args(wanted)[0]
  if typing.get_origin(wanted) is tuple:
    return _tuple(value, typing.get_args(wanted), checks)
  if wanted is dict or typing.get_origin(wanted) in (dict, Mapping):
    if not isinstance(value, Mapping):
      raise ValueError(f"must be a dict; got {value!r}.")
    return _plain(value)
  # Also NumPy's numbers, of which JSON knows nothing.
  if not isinstance(value, bool):
    if wanted is float and isinstance(value, numbers.Real):
      value = float(value)
    elif wanted is int and isinstance(value, numbers.Integral):
      value = int(value)
  if type(value) is not wanted:
    raise ValueError(f"must be of type {wanted.__name__}; got {value!r}.")
  if wanted is float and not math.isfinite(value):
    raise ValueError(f"must be a finite number; got {value}.")
  low, high = checks.get("low", -math.inf), checks.get("high", math.inf)
  if wanted in (int, float) and not low <= value <= high:
    bound = f"at least {low}" if math.isinf(high) else f"in [{low}, {high}]"
    raise ValueError(f"must be {bound}; got {value!r}.")
  among = checks.get("among", ())
  if among and value not in among:
    near = difflib.get_close_matches(str(value), among, n=1, cutoff=0.0)
    raise ValueError(
      f"must be one of {listed(among)}; got {value!r}. Did you mean {near[0]!r}?"
    )
  return value


def listed(among: Sequence[str]) -> str:
  """The texts that a field may have, for people."""
  return ", ".join(text or "''" for text in among)


def _tuple(value: Any, wanted: tuple[Any, ...], checks: Mapping[str, Any]):
  inner = wanted[0]
  length = None if wanted[-1] is Ellipsis else len(wanted)
  right = isinstance(value, Iterable) and not isinstance(
    value, (str, bytes, Mapping)
  )
  values = tuple(value) if right else ()
  if not right or length not in (None, len(values)):
    count = "" if length is None else f" of {length}"
    raise ValueError(
      f"must be a tuple{count} of type {inner.__name__}; got {value!r}."
    )
  return tuple(checked(one, inner, checks) for one in values)


def _plain(value: Any) -> Any:
  """Dicts and tuples, whether they came from JSON or from Python."""
  if isinstance(value, Mapping):
    return {key: _plain(one) for key, one in value.items()}
  return (
    tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value
  )
