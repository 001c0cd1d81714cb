"""Choices: names that stand for frozen dataclasses, which own their fields.

Whatever a run can choose (its data set, loss, objective, evaluators, ...) is a
`Kind`: a table of names and of the dataclasses behind them, the variants. A
variant stands in the module that implements it, with its fields, their help and
its own checks::

  LOSSES = Kind("loss", {"clip": "contrastive_jax.training...:Clip"})

  @dataclasses.dataclass(frozen=True)
  class Clip:
    '''Symmetric InfoNCE between images and captions.'''

    temperature: float = field(0.07, "Initial temperature.", low=0.01)

    def check(self):  # Optional: raises ValueError, naming the field first.
      ...

A module is imported when one of its variants is asked for, and a name with a
colon, `my_project.losses:Tempered`, is imported from wherever it is. Modules with
variants import neither JAX nor anything else that is slow: a command line is
checked before those are loaded. This module knows the standard library alone.
"""

import dataclasses
import difflib
import importlib
import math
from collections.abc import Mapping
from typing import Any


def field(
  default: Any,
  doc: str,
  *,
  low: float = -math.inf,
  high: float = math.inf,
  among: tuple[str, ...] = (),
  own: bool = False,
  place: bool = False,
) -> Any:
  """A field that holds a value.

  Args:
    default: its value where none is given.
    doc: help: a phrase that needs no neighbour.
    low: the smallest number that is allowed.
    high: the largest one.
    among: the texts that are allowed; () allows any.
    own: whether the value means something else to another variant, which begins
      at its own default then.
    place: whether it says where something lies, and not what it is: a run may go on
      after it has moved.
  """
  checks: dict[str, Any] = {"low": low, "high": high, "among": among}
  checks |= {"own": own, "place": place}
  return dataclasses.field(default=default, metadata={"doc": doc, **checks})


def choice(kind: "Kind", default: str, doc: str, **more: Any) -> Any:
  """A field that holds a variant of `kind`, by default the one named."""
  metadata = {"doc": doc, "kind": kind, "default": default, **more}
  return dataclasses.field(
    default_factory=lambda: kind.find(default)(), metadata=metadata
  )


def several(
  kind: "Kind", default: tuple[str, ...], doc: str, **more: Any
) -> Any:
  """A field that holds variants of `kind` by their names, a dict."""
  metadata = {"doc": doc, "several": kind, "default": default, **more}
  return dataclasses.field(
    default_factory=lambda: {name: kind.find(name)() for name in default},
    metadata=metadata,
  )


def section(cls: type, doc: str, **more: Any) -> Any:
  """A field that holds a group of fields, another dataclass.

  A group whose `main` names a field of several variants takes their names in its
  place: `structure=bridge` is `structure.terms=bridge`.
  """
  return dataclasses.field(
    default_factory=cls, metadata={"doc": doc, "section": cls, **more}
  )


def load(place: str) -> Any:
  """The object at `module:name`, whose module is imported now."""
  module, _, name = place.partition(":")
  return getattr(importlib.import_module(module), name)


class Kind:
  """Something that a run chooses: names, and the dataclasses behind them."""

  def __init__(self, name: str, variants: Mapping[str, str]):
    """Takes what is chosen, and `module:Class` of each variant by its name."""
    self.name = name
    self.variants = dict(variants)

  def find(self, name: str) -> type:
    """The dataclass of a variant.

    Args:
      name: of a variant of this kind, or `module:Class` of the user's own.

    Raises:
      ValueError: if there is none.
    """
    place = self.variants.get(name, name)
    if ":" not in place:
      near = difflib.get_close_matches(name, self.variants, n=1, cutoff=0.0)
      hint = f" Did you mean {near[0]!r}?" if near else ""
      raise ValueError(
        f"must be one of {', '.join(self.variants)}, or module:Class of your own;"
        f" got {name!r}.{hint}"
      )
    try:
      found = load(place)
    except Exception as error:  # A module of the user's may raise anything.
      raise ValueError(
        f"cannot import {name!r}: {type(error).__name__}: {error}."
      ) from error
    parameters = getattr(found, "__dataclass_params__", None)
    if not (isinstance(found, type) and getattr(parameters, "frozen", False)):
      raise ValueError(f"must name a frozen dataclass; got {name!r}.")
    # Under this name a stored variant has its own.
    if "name" in {f.name for f in dataclasses.fields(found)}:
      raise ValueError(f"must have no field 'name'; got {name!r}.")
    return found

  def name_of(self, variant: Any) -> str:
    """The name by which `find` gives the class of a variant."""
    cls = variant if isinstance(variant, type) else type(variant)
    place = f"{cls.__module__}:{cls.__qualname__}"
    names = {value: key for key, value in self.variants.items()}
    return names.get(place, place)

  def having(self, field_name: str) -> list[str]:
    """Names of the variants that have a field."""
    return [
      name
      for name in self.variants
      if field_name in {f.name for f in dataclasses.fields(self.find(name))}
    ]


def to_dict(value: Any) -> Any:
  """Nested plain values, as `config.json` has them.

  A variant is a dict with its name under `name`, several are a dict of dicts.
  Groups and fields that are None are not there.
  """
  if not dataclasses.is_dataclass(value):
    if isinstance(value, Mapping):
      return {k: to_dict(v) for k, v in value.items()}
    return [*map(to_dict, value)] if isinstance(value, tuple) else value
  found: dict[str, Any] = {}
  for f in dataclasses.fields(value):
    inner = getattr(value, f.name)
    if inner is None:
      continue
    if "several" in f.metadata:
      found[f.name] = {name: to_dict(one) for name, one in inner.items()}
    elif "kind" in f.metadata:
      name = f.metadata["kind"].name_of(inner)
      found[f.name] = {"name": name, **to_dict(inner)}
    else:
      found[f.name] = to_dict(inner)
  return found
