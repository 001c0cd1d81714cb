"""Walks of the registry: every place where something is chosen, every field."""

import dataclasses
import json
import math
import types
import typing
from typing import Any

from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import names


@dataclasses.dataclass(frozen=True)
class Spot:
  """A place where something is chosen.

  Attributes:
    path: such as "loss.e_step".
    kind: of what is chosen there.
    several: whether several are, which lie under their names.
    lead: the choices that bring it, by path.
  """

  path: str
  kind: Any
  several: bool
  lead: dict[str, str]

  @property
  def id(self):
    lead = ",".join(f"{k}={v}" for k, v in self.lead.items())
    return f"{self.path}[{lead}]" if lead else self.path


def spots(cls=config_lib.Config, prefix="", lead=None, main=""):
  """Every `Spot`, the outer before the inner."""
  lead = lead or {}
  for f in dataclasses.fields(cls):
    path = f"{prefix}.{f.name}" if prefix else f.name
    meta = f.metadata
    if "section" in meta:
      yield from spots(meta["section"], path, lead, meta.get("main", ""))
    kind = meta.get("kind") or meta.get("several")
    if kind is None:
      continue
    several = "several" in meta
    place = prefix if f.name == main else path
    yield Spot(place, kind, several, lead)
    for name in kind.variants:
      below = f"{place}.{name}" if several else place
      yield from spots(kind.find(name), below, {**lead, place: name})


def leaves(cls, prefix=""):
  """(path, dataclass field, type) of the fields of a class that hold values."""
  hints = typing.get_type_hints(cls)
  for f in dataclasses.fields(cls):
    path = f"{prefix}.{f.name}" if prefix else f.name
    if "section" in f.metadata:
      yield from leaves(f.metadata["section"], path)
    elif not {"kind", "several"} & {*f.metadata}:
      yield path, f, hints[f.name]


def has(cls, name):
  """Whether a variant, or a choice that may be made inside of it, has a field."""
  return any(name in path.split(".") for path, _ in names.paths(cls, ""))


def another(f, wanted):
  """A value that a field may have and does not have by default."""
  if isinstance(wanted, types.UnionType):
    wanted = typing.get_args(wanted)[0]
  default = (
    f.default_factory() if f.default is dataclasses.MISSING else f.default
  )
  if typing.get_origin(wanted) is tuple:
    inner, *rest = typing.get_args(wanted)
    one = dataclasses.field(default=None, metadata=f.metadata)
    if rest == [Ellipsis]:
      return (another(one, inner),)
    return tuple(0.5 * value for value in default)
  if wanted is dict or typing.get_origin(wanted) is dict:
    return {"a": {"b": (1, 2)}, "c": None}
  among = f.metadata["among"]
  if among:
    return next(value for value in among if value != default)
  if wanted is bool:
    return not default
  if wanted is str:
    return "déjà vu"
  low, high = f.metadata["low"], f.metadata["high"]
  if wanted is int:
    return next(v for v in ((default or 0) + 1, low) if low <= v <= high)
  finite = [v for v in (low, high, default or 0.0) if math.isfinite(v)]
  middle = float(sum(finite) / len(finite))
  return middle + (0.125 if middle == default else 0.0)


def text_of(value):
  """A value as on a command line."""
  if isinstance(value, dict):
    return json.dumps(value)
  if isinstance(value, tuple):
    return ",".join(map(text_of, value))
  return str(value)


def draft(texts):
  """The default run, changed as by flags."""
  made = config_lib.default_config()
  made.override(texts)
  return made


def value_at(made, path):
  """Value of a draft at a dotted path."""
  holder, name = made._walk(path)
  return getattr(holder, name)
