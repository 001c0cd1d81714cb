"""Values that a text on a command line says, by the type of their field."""

import ast
import json
import types
import typing
from typing import Any


def read(text: str, wanted: Any) -> Any:
  """The value that a text says.

  Tuples are separated by commas, or written as in Python; dicts are JSON or Python.

  Args:
    text: as on a command line.
    wanted: the field's type: bool, int, float, str, dict or a tuple of them.

  Raises:
    ValueError: that says which type is wanted and what came.
  """
  if isinstance(wanted, types.UnionType):  # Such as int | None.
    wanted = typing.get_args(wanted)[0]
  try:
    return _read(text, wanted)
  # Brackets without end are too deep for the parsers.
  except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
    raise ValueError(
      f"must be of type {_name(wanted)}; got {text!r}."
    ) from None


def _read(text: str, wanted: Any) -> Any:
  if wanted is str:
    return text
  if typing.get_origin(wanted) is tuple:
    inner = typing.get_args(wanted)[0]
    if text.strip()[:1] in ("(", "["):
      return ast.literal_eval(text)
    parts = [part.strip() for part in text.split(",")]
    return tuple(_read(part, inner) for part in parts if part)
  if wanted is dict or typing.get_origin(wanted) is dict:
    try:
      return json.loads(text)
    except (ValueError, RecursionError):
      return ast.literal_eval(text)
  if wanted is bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
      raise ValueError
    return known[text.lower()]
  return wanted(text)


def _name(wanted: Any) -> str:
  origin = typing.get_origin(wanted)
  if origin is None:
    return wanted.__name__
  inner = [getattr(a, "__name__", "...") for a in typing.get_args(wanted)]
  return f"{getattr(origin, '__name__', wanted)} of {', '.join(inner)}"
