"""The names of all fields, and the one that somebody meant."""

import dataclasses
import difflib
import functools
from collections.abc import Iterator
from typing import Any

# Names by which other programs and papers know a field.
_SYNONYMS = {
  "alpha_init": "temperature",
  "bs": "batch_size",
  "datadir": "data_dir",
  "dataset": "data",
  "ema": "ema_decay",
  "epochs": "steps",
  "grad_clip": "clip_norm",
  "init_logit_scale": "temperature",
  "init_temperature": "temperature",
  "iterations": "steps",
  "logit_scale": "temperature",
  "lr": "learning_rate",
  "lr_schedule": "schedule",
  "max_logit_scale": "min_temperature",
  "max_steps": "steps",
  "momentum_decay": "momentum",
  "num_steps": "steps",
  "num_workers": "num_threads",
  "precision": "dtype",
  "resolution": "image_size",
  "tau": "temperature",
  "train_steps": "steps",
  "warmup": "warmup_share",
  "wd": "weight_decay",
}


@functools.cache  # Many hundreds, which a sweep of many arms asks for often.
def paths(cls: type, prefix: str = "config") -> tuple[tuple[str, Any], ...]:
  """(dotted name, dataclass field) of every field of every variant."""
  found: dict[str, Any] = {}
  for name, f in _paths(cls, prefix):
    found.setdefault(name, f)
  return tuple(found.items())


def children(
  f: dataclasses.Field[Any], path: str = "", group: str = ""
) -> Iterator[tuple[type, str]]:
  """The dataclasses that a field may hold, and where their fields stand.

  Args:
    f: a field.
    path: its dotted name.
    group: where each of several variants stands, under its name.
  """
  meta = f.metadata
  if "section" in meta:
    yield meta["section"], path
  kind: Any = meta.get("kind") or meta.get("several")
  for name in kind.variants if kind is not None else ():
    yield kind.find(name), path if "kind" in meta else f"{group}.{name}"


def known_as(name: str) -> str:
  """The name that a field has here, where others call it differently."""
  return _SYNONYMS.get(name, name)


def nearest(cls: type, name: str) -> str:
  """The field of a configuration that is most like a name such as "config.lr"."""
  *groups, last = name.split(".")
  last = known_as(last)
  wanted = ".".join([*groups, last])
  known = [path for path, _ in paths(cls)]
  # A right last part in a wrong or absent group is the usual slip.
  same = [path for path in known if path.split(".")[-1] == last]
  # Then the same letters: two that are swapped are two edits to difflib.
  swapped = [path for path in known if sorted(path) == sorted(wanted)]
  near = difflib.get_close_matches(wanted, same or known, n=1, cutoff=0.0)
  return (*swapped, *near)[0]


def _paths(cls: type, prefix: str, main: str = "") -> Iterator[tuple[str, Any]]:
  for f in dataclasses.fields(cls):
    path = f"{prefix}.{f.name}"
    yield path, f
    # One of several variants lies in the group that its field is the main one of.
    group = prefix if f.name == main else path
    for inner, place in children(f, path, group):
      yield from _paths(inner, place, f.metadata.get("main", ""))
