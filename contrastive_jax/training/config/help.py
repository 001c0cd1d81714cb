"""Text of `--help` on a configuration, from the fields' own texts."""

import dataclasses
import textwrap
from typing import Any

from contrastive_jax import field_values
from contrastive_jax.training.config import names
from contrastive_jax.training.config.draft import Draft
from contrastive_jax.training.config.schema import Config, ConfigDraft

_WIDTH = 80


def overview(draft: ConfigDraft) -> str:
  """The groups of a configuration with its values, and what can be chosen."""
  values, lines = draft._values, []
  for f in dataclasses.fields(Config):
    meta, name = f.metadata, f.name
    if not draft.uses(name):
      continue
    kind: Any = meta.get("kind")
    main = meta.get("main")
    if main:
      inner = {g.name: g for g in dataclasses.fields(meta["section"])}[main]
      kind = inner.metadata["several"]
      chosen = ",".join(values[name]._values[main]) or "none"
    elif kind is not None:
      chosen = values[name].variant()
    elif "section" in meta:
      lines.append(f"  {name:<11} {meta['doc']}")
      continue
    else:
      continue
    start = f"  {name:<11} {chosen}"
    others = ", ".join(n for n in kind.variants if n not in chosen.split(","))
    lines += _wrapped(f"{start}  (or {others})", 14)
  plain = [
    f"{name} {_shown(value)}"
    for name, value in values.items()
    if not isinstance(value, Draft) and draft.uses(name)
  ]
  return "\n".join([*_wrapped("  " + ", ".join(plain), 2), "", *lines])


def describe(draft: ConfigDraft, name: str) -> str | None:
  """Fields of a group, or of all variants of a choice; None if there is none.

  Args:
    draft: whose values are shown.
    name: dotted, such as "loss" or "loss.e_step"; its first part may be left out
      where that is clear.
  """
  found = _find(Config, name.removeprefix("config.").split("."), "config")
  if found is None:
    return None
  path, f = found
  kind: Any = f.metadata.get("kind") or f.metadata.get("several")
  if "section" in f.metadata:
    return "\n".join([f.metadata["doc"], *_fields(f.metadata["section"], path)])
  if kind is None:
    return f"{f.metadata['doc']}\n  --{path}={_default(f)}"
  classes = {variant: kind.find(variant) for variant in kind.variants}
  shared = _shared(list(classes.values())) if "kind" in f.metadata else set()
  lines = [f.metadata["doc"]]
  for variant, cls in classes.items():
    place = path if "kind" in f.metadata else f"{path}.{variant}"
    mark = " (default)" if f.metadata["default"] == variant else ""
    about = (cls.__doc__ or "").partition("\n")[0]
    lines += ["", *_wrapped(f"{path}={variant}{mark}: {about}", 4)]
    lines += _fields(cls, place, without=shared)
  if shared:
    cls = next(iter(classes.values()))
    others = {g.name for g in dataclasses.fields(cls)} - shared
    lines += ["", "Fields of all of them:", *_fields(cls, path, without=others)]
  return "\n".join(lines)


def groups() -> list[str]:
  """Names that `describe` knows at the top."""
  return [
    f.name
    for f in dataclasses.fields(Config)
    if {"kind", "several", "section"} & {*f.metadata}
  ]


def _find(cls: type, parts: list[str], path: str) -> tuple[str, Any] | None:
  first, *rest = parts
  for f in dataclasses.fields(cls):
    place = f"{path}.{f.name}"
    if f.name == first and not rest:
      return place, f
    inner = rest if f.name == first else parts
    for child, child_path in names.children(f, place, place):
      found = _find(child, inner, child_path) if inner else None
      if found is not None:
        return found
  return None


def _shared(classes: list[type]) -> set[str]:
  """Names of the fields that all of several dataclasses have alike."""
  found = [{f.name: f for f in dataclasses.fields(cls)} for cls in classes]
  return {
    name
    for name, f in found[0].items()
    if all(
      name in other
      and (other[name].default, other[name].metadata) == (f.default, f.metadata)
      for other in found[1:]
    )
  }


def _fields(
  cls: type, path: str, *, without: set[str] | frozenset[str] = frozenset()
) -> list[str]:
  lines = []
  for f in dataclasses.fields(cls):
    if f.name in without:
      continue
    meta = f.metadata
    doc = meta["doc"]
    if meta.get("among"):
      doc += f" One of: {field_values.listed(meta['among'])}."
    kind: Any = meta.get("kind") or meta.get("several")
    if kind is not None:
      doc += f" One of: {', '.join(kind.variants)}; --help={f.name} tells more."
    lines += _wrapped(f"  --{path}.{f.name}={_default(f)}", 4)
    lines += textwrap.wrap(
      doc, _WIDTH - 6, initial_indent=" " * 6, subsequent_indent=" " * 6
    )
  return lines


def _default(f: Any) -> str:
  if "default" in f.metadata:
    default = f.metadata["default"]
    return default if isinstance(default, str) else ",".join(default)
  if f.default_factory is not dataclasses.MISSING:
    return _shown(f.default_factory())
  return _shown(f.default)


def _shown(value: Any) -> str:
  if isinstance(value, tuple):
    return ",".join(map(str, value))
  return repr(value) if value == "" else str(value)


def _wrapped(text: str, indent: int) -> list[str]:
  return textwrap.wrap(
    text,
    _WIDTH,
    subsequent_indent=" " * indent,
    break_long_words=False,
    break_on_hyphens=False,
  )
