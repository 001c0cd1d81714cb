"""A configuration while it is written: what recipes and flags change.

Every assignment is checked where it stands. A choice is made by its name, which
puts the variant's fields in the place of the former ones. Those that were given a
value, and that both variants have, keep it; all others are at their defaults (to
choose what is chosen already changes nothing):

  config.loss.temperature = 0.2
  config.loss = "augmented"  # Its temperature is 0.2.
  config.loss.e_step = "moving_average"
  config.loss.e_step.rate = 0.3

A name that a group lacks is looked for in the choices made inside of it, so that
`config.loss.rate` means `config.loss.e_step.rate`.
"""

import contextlib
import copy
import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from contrastive_jax import field_values
from contrastive_jax.training.config import names, texts
from contrastive_jax.training.config.errors import ConfigError


class Draft:
  """A dataclass of `choices` fields, not yet frozen."""

  def __init__(
    self,
    cls: type,
    path: str,
    *,
    root: type | None = None,
    kind: Any = None,
    main: str = "",
    among: bool = False,
  ):
    """All fields at their defaults.

    Args:
      cls: the dataclass.
      path: where it stands, such as "config.loss".
      root: the whole configuration's dataclass; None is `cls`.
      kind: of which it is a variant; None for a group of fields.
      main: the field that the group's own name stands for, see `section`.
      among: whether it is one of several variants, which lie under their names.
    """
    state = self.__dict__
    state["_cls"], state["_path"], state["_kind"] = cls, path, kind
    state["_main"], state["_among"] = main, among
    state["_root"] = root or cls
    state["_fields"] = {f.name: f for f in dataclasses.fields(cls)}
    state["_types"] = typing.get_type_hints(cls)
    state["_given"] = set()
    state["_values"] = {
      name: self._default(f) for name, f in self._fields.items()
    }

  def __getattr__(self, name: str) -> Any:
    if name.startswith("_"):
      raise AttributeError(name)
    if name in self._values:
      return self._values[name]
    return getattr(self._within(name), name)

  def __setattr__(self, name: str, value: Any) -> None:
    if name not in self._fields:
      setattr(self._within(name), name, value)
      return
    self._set(name, value)
    self._given.add(name)

  def __dir__(self) -> list[str]:
    return sorted(self._fields)

  def __deepcopy__(self, memo: dict[int, Any]) -> "Draft":
    """Another draft of the same values, for `copy.deepcopy`."""
    made = object.__new__(type(self))
    made.__dict__.update(
      self.__dict__,
      _given=set(self._given),
      _values=copy.deepcopy(self._values, memo),
    )
    return made

  def assign(self, path: str, value: Any) -> None:
    """Sets the field at a dotted path below this one.

    Args:
      path: such as "loss.rate".
      value: of the field, or a text of it as on a command line, where tuples are
        separated by commas, and dicts are JSON or Python.
    """
    holder, name = self._walk(path)
    group = {"kind", "several", "section"} & {*holder._fields[name].metadata}
    if isinstance(value, str) and not group:
      try:
        value = texts.read(value, holder._types[name])
      except ValueError as error:
        raise ConfigError(f"{holder._path}.{name} {error}") from error
    setattr(holder, name, value)

  def reach(self, name: str, rest: str = "") -> Any:
    """The group, or the variants by name, under a name.

    Args:
      name: of a field.
      rest: the further path that is looked for, which errors name.
    """
    if name in self._fields:
      value = self._values[name]
      several = "several" in self._fields[name].metadata
      return _Several(self, value) if several else value
    return self._within(name, rest).reach(name, rest)

  def freeze(self) -> Any:
    """The dataclass, its own checks passed.

    Raises:
      ConfigError: naming the field that a check refuses.
    """
    values = {name: _frozen(value) for name, value in self._values.items()}
    made = self._cls(**values)
    check = getattr(made, "check", None)
    if check is not None:
      try:
        check()
      except ConfigError:
        raise
      except ValueError as error:
        raise ConfigError(f"{self._path}.{error}") from error
    return made

  def unknown(self, name: str, rest: str = "") -> ConfigError:
    """The error on a name that this draft has not: its owner, or the nearest."""
    full = ".".join(filter(None, (self._path, name, rest)))
    owner = self._owner(name)
    if owner:
      return ConfigError(f"{full} belongs to {owner}.")
    if name == "name" and self._kind is not None and not self._among:
      return ConfigError(
        f"{full} is not a field; did you mean {self._path}={self.variant()}?"
      )
    return ConfigError(
      f"{full} is not a field; did you mean {names.nearest(self._root, full)}?"
    )

  def variant(self) -> str:
    """The name of the variant that this is."""
    return self._kind.name_of(self._cls)

  def _default(self, f: dataclasses.Field[Any]) -> Any:
    path, meta = f"{self._path}.{f.name}", f.metadata
    if "kind" in meta:
      return _chosen(meta["kind"], meta["default"], path, self._root)
    if "several" in meta:
      kind = meta["several"]
      return {
        name: _chosen(kind, name, self._below(f, name), self._root, among=True)
        for name in meta["default"]
      }
    if "section" in meta:
      main = meta.get("main", "")
      return Draft(meta["section"], path, root=self._root, main=main)
    if f.default_factory is not dataclasses.MISSING:
      return f.default_factory()
    return f.default

  def _set(self, name: str, value: Any) -> None:
    f = self._fields[name]
    path, meta = f"{self._path}.{name}", f.metadata
    if "kind" in meta and isinstance(value, Mapping) and "name" not in value:
      self._values[name]._update(value)  # The chosen variant stays.
    elif "kind" in meta and value != self._values[name].variant():
      chosen = _chosen(meta["kind"], value, path, self._root)
      if isinstance(value, str):  # A mapping is the whole.
        chosen._keep(self._values[name])
      self._values[name] = chosen
    elif "kind" in meta:
      pass  # Its fields stay as the recipe has tuned them.
    elif "several" in meta:
      self._values[name] = self._chosen_several(f, value)
    elif "section" in meta:
      main = meta.get("main")
      if isinstance(value, Draft):
        value = value._plain()
      known = self._values[name]._fields
      if isinstance(value, Mapping) and (not main or {*value} <= {*known}):
        self._values[name]._update(value)
      elif main:
        setattr(self._values[name], main, value)
      else:
        raise ConfigError(
          f"{path} is a group of fields, not {value!r}: set one of them, such as"
          f" {path}.{next(iter(known))}."
        )
    else:
      try:
        self._values[name] = field_values.checked(
          value, self._types[name], meta
        )
      except ValueError as error:
        raise ConfigError(f"{path} {error}") from error

  def _keep(self, old: "Draft") -> None:
    """Takes the values that a former variant was given, where it can have them."""
    for name in (name for name in old._fields if name in self._fields):
      value = old._values[name]
      inner = isinstance(value, Draft)
      if name in old._given and not old._fields[name].metadata.get("own"):
        with contextlib.suppress(ConfigError):
          setattr(self, name, value.variant() if inner else value)
      mine = self._values[name]
      if inner and isinstance(mine, Draft):
        mine._keep(value)

  def _chosen_several(self, f: dataclasses.Field[Any], value: Any) -> Any:
    if isinstance(value, str):
      value = tuple(part.strip() for part in value.split(",") if part.strip())
    if not (
      isinstance(value, (Mapping, tuple, list))
      and all(isinstance(name, str) for name in value)
    ):
      place = self._place(f.name)
      raise ConfigError(
        f"config.{place} must be a tuple of names; got {value!r}."
      )
    # Where names alone are given, the fields of those that stay are kept.
    old: Any = {} if isinstance(value, Mapping) else self._values[f.name]
    fields = value if isinstance(value, Mapping) else {}
    return {
      name: old.get(name)
      or _chosen(
        f.metadata["several"],
        {"name": name, **_mapping(fields.get(name, {}))},
        self._below(f, name),
        self._root,
        among=True,
      )
      for name in value
    }

  def _place(self, name: str) -> str:
    """The path by which a user sets a field, without the first "config."."""
    path = self._path if name == self._main else f"{self._path}.{name}"
    return path.removeprefix("config.")

  def _below(self, f: dataclasses.Field[Any], variant: str) -> str:
    """Where the fields of one of several variants stand."""
    return f"config.{self._place(f.name)}.{variant}"

  def _update(self, values: Mapping[str, Any]) -> None:
    """Sets fields to values, choices before the fields of what was chosen."""
    for name in sorted(values, key=lambda n: not self._chooses(n)):
      setattr(self, name, values[name])

  def _chooses(self, name: str) -> bool:
    """Whether a field's value decides which other fields there are."""
    meta = self._fields[name].metadata if name in self._fields else {}
    return bool({"kind", "several"} & {*meta}) or bool(meta.get("main"))

  def _walk(self, path: str) -> tuple[Any, str]:
    """The draft that has the field at a dotted path, and the field's name."""
    place: Any = self
    rest = path
    while "." in rest:
      name, _, after = rest.partition(".")
      for own in place._own_names():
        if rest.startswith(f"{own}."):
          name, after = own, rest[len(own) + 1 :]
      place, rest = place.reach(name, after), after
      if not isinstance(place, (Draft, _Several)):
        raise self.unknown(path)
    return place._holder(rest), rest

  def _holder(self, name: str) -> Any:
    """The draft itself, or the one inside of it that has a field `name`."""
    return self if name in self._fields else self._within(name)._holder(name)

  def _own_names(self) -> list[str]:
    """Names, which have dots, of the user's own among several variants."""
    groups = (
      self._values[name]
      for name, f in self._fields.items()
      if "several" in f.metadata
    )
    return [name for group in groups for name in group if ":" in name]

  def _within(self, name: str, rest: str = "") -> Any:
    """The one choice made inside of this group that has a field `name`."""
    found = self._having(name)
    if len(found) != 1:
      raise self.unknown(name, rest)
    return found[0]

  def _having(self, name: str) -> list[Any]:
    """All choices made inside of this group that have a field `name`."""
    found: list[Any] = []
    for f in self._fields.values():
      value = self._values[f.name]
      if "several" in f.metadata:
        if name in value:
          found.append(_Several(self, value))
      elif isinstance(value, Draft) and self._path.count("."):
        inner = name in value._fields or len(value._having(name)) == 1
        found += [value] if inner else []
    return found

  def _owner(self, name: str) -> str:
    """The variant that has the field which this one lacks, and the chosen one."""
    here = self._path.removeprefix("config.")
    others = self._kind.having(name) if self._kind is not None else []
    if others and self._among:
      group = here.rpartition(".")[0]
      return " or ".join(f"{group}.{other}" for other in others) + (
        f", not to {here}"
      )
    if others:
      return (
        f"{here}={' or '.join(others)}; this run has {here}={self.variant()}"
      )
    for f in self._fields.values():
      if "several" in f.metadata and name in f.metadata["several"].variants:
        place = self._place(f.name)
        chosen = ",".join(self._values[f.name]) or "none"
        return f"{place}={name}; this run has {place}={chosen}"
      value = self._values[f.name]
      if isinstance(value, Draft) and self._path.count("."):
        owner = value._owner(name)
        if owner:
          return owner
    if self._kind is not None:
      for other in self._kind.variants:
        if any(name in nested for nested in _nested(self._kind.find(other))):
          return f"{here}={other}; this run has {here}={self.variant()}"
    return ""

  def _plain(self) -> dict[str, Any]:
    """Nested plain values, as `choices.to_dict` gives them."""
    found = {} if self._kind is None else {"name": self.variant()}
    for name, value in self._values.items():
      if isinstance(value, Draft):
        value = value._plain()
      elif "several" in self._fields[name].metadata:
        value = {one: draft._plain() for one, draft in value.items()}
      found[name] = value
    return found


class _Several:
  """Variants by name, as attributes."""

  def __init__(self, owner: Draft, drafts: Mapping[str, Draft]):
    self.__dict__.update(_owner=owner, _drafts=drafts)

  def __getattr__(self, name: str) -> Draft:
    if name.startswith("_"):
      raise AttributeError(name)
    return self.reach(name)

  def __setattr__(self, name: str, value: Any) -> None:
    getattr(self, name)._update(_mapping(value))

  def reach(self, name: str, rest: str = "") -> Draft:
    """The variant of a name."""
    if name in self._drafts:
      return self._drafts[name]
    raise self._owner.unknown(name, rest)

  def _own_names(self) -> list[str]:
    return [name for name in self._drafts if ":" in name]

  def _holder(self, name: str) -> Draft:
    path = self.reach(name)._path
    raise ConfigError(
      f"{path} is a group of fields: set one of them, {path}.NAME."
    )


def _chosen(
  kind: Any, value: Any, path: str, root: type, *, among: bool = False
) -> Draft:
  """The draft of a variant: of its name, or of a mapping with its fields."""
  if isinstance(value, Draft):
    value = value._plain()
  fields = dict(value) if isinstance(value, Mapping) else {"name": value}
  name = fields.pop("name", None)
  if not isinstance(name, str):
    raise ConfigError(
      f"{path} must be a name, one of {', '.join(kind.variants)}; got {value!r}."
    )
  try:
    cls = kind.find(name)
  except ValueError as error:
    place = path.removesuffix(f".{name}") if among else path
    raise ConfigError(f"{place} {error}") from error
  draft = Draft(cls, path, root=root, kind=kind, among=among)
  draft._update(fields)
  return draft


def _frozen(value: Any) -> Any:
  if isinstance(value, Draft):
    return value.freeze()
  if isinstance(value, Mapping):
    return {name: _frozen(one) for name, one in value.items()}
  return value


def _mapping(value: Any) -> Mapping[str, Any]:
  if isinstance(value, Draft):
    return value._plain()
  if not isinstance(value, Mapping):
    raise ConfigError(f"fields must be given by name; got {value!r}.")
  return {k: v for k, v in value.items() if k != "name"}


def _nested(cls: type) -> Iterator[set[str]]:
  """Names of the fields of every variant that a dataclass may hold."""
  for f in dataclasses.fields(cls):
    for inner, _ in names.children(f):
      yield {g.name for g in dataclasses.fields(inner)}
      yield from _nested(inner)
