"""Cells of a study, one after the other, each written down at once.

A cell is a method at a batch size and a number of epochs: its reported seeds, at a
learning rate that other seeds chose on validation things. A study that was stopped
goes on with the next cell.
"""

import dataclasses
import os
import pathlib
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from contrastive_jax.data.files import locks
from contrastive_jax.programs import differences, reporting
from contrastive_jax.training import config as config_lib
from experiments.frozen import features, maps

# Hits are counted among the first 1 and 10 names.
DEPTHS = (1, 10)
CATALOGUE = "catalogue"
OUTCOMES = (CATALOGUE, "unseen artist", "unseen things")
VALIDATION = "validation"
_DIGEST = "features_sha256"
_EXTENSIONS = 2  # Times that a grid grows on one side,
_NEW = 3  # by so many rates.

_Name = TypeVar("_Name")


class Plan(NamedTuple):
  """A cell to be run.

  Attributes:
    name: of the method.
    method: what it does.
    batch: pairs a step.
    epochs: visits of each thing.
    rate: the learning rate; None to choose it.
  """

  name: str
  method: maps.Method
  batch: int
  epochs: int
  rate: float | None = None

  @property
  def key(self) -> tuple[str, int, int]:
    """Key that tells the plan from others of the study."""
    return (self.name, self.batch, self.epochs)


class Choice(NamedTuple):
  """A learning rate and why.

  Attributes:
    rate: the best one.
    scores: by rate, the higher the better.
    at_end: whether no worse one was tried on one of its sides.
  """

  rate: float
  scores: dict[float, float]
  at_end: bool


def choose(
  score: Callable[[Sequence[float]], Sequence[float]], grid: Sequence[float]
) -> Choice:
  """The best learning rate; the grid grows where it is the last on a side.

  Args:
    score: of learning rates.
    grid: a geometric progression to begin with; it grows by three at a time,
      at most twice on a side.
  """
  factor = grid[1] / grid[0]
  scores = dict(zip(grid, score(grid), strict=True))
  left = {-1: _EXTENSIONS, 1: _EXTENSIONS}
  while True:
    tried = sorted(scores)
    best = max(tried, key=lambda rate: scores[rate])
    side = {tried[0]: -1, tried[-1]: 1}.get(best, 0)
    if not side or not left[side]:
      return Choice(best, {r: scores[r] for r in tried}, bool(side))
    left[side] -= 1
    new = [best * factor ** (side * (i + 1)) for i in range(_NEW)]
    scores |= zip(new, score(new), strict=True)


def open_record(path: pathlib.Path, head: Mapping[str, Any]) -> dict[str, Any]:
  """The record of a study: the one that is there, or an empty one.

  Features of the same weights and data are the same inputs, though another machine
  rounds them otherwise: their digests are listed in "rounded".

  Args:
    path: of its JSON file.
    head: what it says besides its cells.

  Raises:
    UserError: if the one that is there is of other inputs or settings.
  """
  if not path.exists():
    return {**head, "cells": []}
  record = reporting.read_json(path)
  for name in ("provenance", "settings", "items"):
    begun, value = _exact(record.get(name)), _exact(head[name])
    if begun != value:
      raise config_lib.UserError(
        f"{path} was begun with {name} = {_short(begun)}, and this is"
        f" {_short(value)}: choose another --out, or remove the file."
      )
  digests = record.setdefault("rounded", [])
  for one in (record, head):
    digest = one["provenance"].get(_DIGEST)
    if digest and digest not in digests:
      digests.append(digest)
  return record


def rate_text(cell: Mapping[str, Any]) -> str:
  """The learning rate, and what the best one for the catalogue would give."""
  tried = cell["tried"]
  best = max(tried, key=lambda rate: tried[rate][CATALOGUE])
  chosen = f"{cell['rate']:g}"
  text = f"{chosen}{'*' if cell['at_end'] else ''}"
  r_at_1 = f"{tried[chosen][CATALOGUE]:.3f}"
  if best != chosen:
    r_at_1 += f"; {tried[best][CATALOGUE]:.3f} at {best}"
  return f"{text} ({r_at_1})"


def rounded(record: Mapping[str, Any]) -> str:
  """A sentence on machines of a record that round features otherwise, or ""."""
  count = len(record.get("rounded", ()))
  if count < 2:
    return ""
  return (
    f" Its cells come from {count} machines, whose features of the same images"
    " and names differ by rounding."
  )


def _exact(part: Any) -> Any:
  """A part of a record without what depends on a machine's rounding."""
  if not isinstance(part, Mapping):
    return part
  return {k: v for k, v in part.items() if k != _DIGEST}


def settings_of(
  settings: maps.MapSettings,
  seeds: Sequence[int],
  tuning_seeds: Sequence[int],
  grid: Sequence[float],
  **more: Any,
) -> dict[str, Any]:
  """Settings of a study's cells, as its record has them."""
  return {
    **dataclasses.asdict(settings),
    "seeds": list(seeds),
    "tuning_seeds": list(tuning_seeds),
    "grid": list(grid),
    **more,
  }


def head(
  module: str,
  inputs: features.Inputs,
  provenance: Mapping[str, Any],
  settings: Mapping[str, Any],
) -> dict[str, Any]:
  """Content of a record besides its cells.

  Args:
    module: of the study.
    inputs: of all cells.
    provenance: where they come from.
    settings: of the study.
  """
  things = list(range(len(inputs.text)))
  items = {CATALOGUE: things + things}
  for task in OUTCOMES[1:]:
    items[task] = inputs.tasks[task].own.tolist()
  return {
    "command": f"python -m {module}",
    "versions": reporting.versions("jax", "jaxlib", "numpy", "optax"),
    "cores": os.cpu_count(),
    "provenance": dict(provenance),
    "settings": dict(settings),
    # The thing of each item, in the order of the hits.
    "items": items,
  }


def run(
  plans: Sequence[Plan],
  inputs: features.Inputs,
  record: dict[str, Any],
  path: pathlib.Path,
  *,
  seeds: Sequence[int],
  tuning_seeds: Sequence[int] = (),
  grid: Sequence[float] = (),
  criterion: str = VALIDATION,
  settings: maps.MapSettings = maps.DEFAULTS,
  report: Callable[[str], None] = print,
) -> None:
  """Runs the cells that a record lacks, and writes it after each.

  Several processes may share a record, with other plans each.

  Args:
    plans: the cells, in order.
    inputs: of all.
    record: by `open_record`, to which cells are added.
    path: of its JSON file.
    seeds: that are reported.
    tuning_seeds: that choose the learning rate of cells that come without.
    grid: learning rates to begin with.
    criterion: what chooses: "validation", -mean log(1 + rank) on validation
      things, or the R@1 of one of `OUTCOMES`.
    settings: of all runs.
    report: receives a line a cell.
  """
  todo = [plan for plan in plans if plan.key not in by_key(record)]
  whole = sum(_cost(plan, inputs) for plan in todo)
  began, paid = time.monotonic(), 0.0
  for number, plan in enumerate(todo):
    new = cell(
      plan,
      inputs,
      seeds=seeds,
      tuning_seeds=tuning_seeds,
      grid=grid,
      criterion=criterion,
      settings=settings,
    )
    _add(path, record, new)
    # The system lets a process map so many programs, and no more.
    jax.clear_caches()
    paid += _cost(plan, inputs)
    seconds = time.monotonic() - began
    report(
      f"{number + 1}/{len(todo)}  {plan.name}, batch {plan.batch},"
      f" {plan.epochs} epochs: R@1"
      f" {np.mean(new['numbers'][CATALOGUE]['1']):.3f} at {new['rate']:g}"
      f"{' (end of the grid)' if new['at_end'] else ''}"
      f"  {new['cpu_seconds']:.0f} CPU s"
      f"  ETA {seconds / paid * (whole - paid) / 60:.0f} min"
    )


def _add(
  path: pathlib.Path, record: dict[str, Any], new: Mapping[str, Any]
) -> None:
  """Adds a cell, and those that other processes wrote meanwhile."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with locks.held(path.with_name(f".{path.name}.lock"), wait=lambda who: None):
    if path.exists():
      record["cells"] = reporting.read_json(path)["cells"]
    if key_of(new) not in by_key(record):
      record["cells"].append(new)
    reporting.write_json(path, record, indent=None)


def cell(
  plan: Plan,
  inputs: features.Inputs,
  *,
  seeds: Sequence[int],
  tuning_seeds: Sequence[int] = (),
  grid: Sequence[float] = (),
  criterion: str = VALIDATION,
  settings: maps.MapSettings = maps.DEFAULTS,
) -> dict[str, Any]:
  """Runs a cell; what the record says of it. Arguments are those of `run`."""
  began = _cpu_seconds()
  # As many runs in every call: the program is compiled once.
  width = len(seeds)
  if plan.rate is None:
    width = max(width, len(tuning_seeds) * len(grid))

  def train(pairs):
    filled = [*pairs, *[pairs[0]] * (width - len(pairs))]
    runs, rates = zip(*filled)
    found = maps.train(
      plan.method,
      inputs,
      batch=plan.batch,
      epochs=plan.epochs,
      seeds=runs,
      rates=rates,
      probes=probes(plan),
      settings=settings,
    )
    ranks = {k: v[: len(pairs)] for k, v in found.ranks.items()}
    return ranks, *(x[: len(pairs)] for x in found[1:])

  tried = {}

  def score(rates):
    ranks, *_ = train([(s, r) for r in rates for s in tuning_seeds])
    found = -np.log1p(ranks[VALIDATION].astype(np.float64)).mean(1)
    columns = {VALIDATION: found} | {
      task: (own < 1).mean(1) for task, own in _outcomes(ranks).items()
    }
    for i, rate in enumerate(rates):
      part = slice(i * len(tuning_seeds), (i + 1) * len(tuning_seeds))
      tried[f"{rate:g}"] = {
        task: round(float(own[part].mean()), 5) for task, own in columns.items()
      }
    return [tried[f"{rate:g}"][criterion] for rate in rates]

  rate = plan.rate
  choice = Choice(rate, {}, False) if rate else choose(score, grid)
  ranks, weight_sum, weight_max, error = train(
    [(s, choice.rate) for s in seeds]
  )
  hits = {
    task: {str(k): own < k for k in DEPTHS}
    for task, own in _outcomes(ranks).items()
  }
  return {
    "method": plan.name,
    "batch": plan.batch,
    "epochs": plan.epochs,
    "rate": choice.rate,
    # Means of the tuning seeds by rate: the validation score, and R@1.
    "tried": dict(sorted(tried.items(), key=lambda item: float(item[0]))),
    "at_end": choice.at_end,
    "numbers": {
      task: {k: h.mean(1).round(5).tolist() for k, h in own.items()}
      for task, own in hits.items()
    },
    "hits": {
      task: {k: differences.packed(h) for k, h in own.items()}
      for task, own in hits.items()
    },
    "weight_sum": _numbers(weight_sum[:, -1]),
    "weight_max": _numbers(weight_max),
    "table_error": {
      str(epoch): _numbers(error[:, i]) for i, epoch in enumerate(probes(plan))
    },
    "cpu_seconds": round(_cpu_seconds() - began, 1),
  }


def probes(plan: Plan) -> tuple[int, ...]:
  """Epochs after which a cell's tables are compared with the truth."""
  if plan.method.loss != "em":
    return ()
  asked = (2, 8, 20, 40, 160)
  return tuple(sorted({e for e in asked if e < plan.epochs} | {plan.epochs}))


def key_of(cell: Mapping[str, Any]) -> tuple[str, int, int]:
  """Key that tells a cell of a record from others, as `Plan.key`."""
  return (cell["method"], cell["batch"], cell["epochs"])


def by_key(
  record: Mapping[str, Any],
) -> dict[tuple[str, int, int], Mapping[str, Any]]:
  """The cells of a record by method, batch and epochs."""
  return {key_of(cell): cell for cell in record["cells"]}


def compared(
  record: Mapping[str, Any],
  pairs: Mapping[_Name, tuple[Mapping[str, Any], Mapping[str, Any]]],
  outcomes: Sequence[tuple[str, int]],
) -> dict[_Name, list[dict[str, Any]]]:
  """Paired differences of cells, corrected as one family.

  Args:
    record: that they are of.
    pairs: by name, two cells: the first minus the second.
    outcomes: tasks and depths.

  Returns:
    By name, for each outcome: `differences.paired`, `items` (the interval over
    items) and `holm` (p after correction).
  """
  found = {}
  for name, (ours, theirs) in pairs.items():
    found[name] = []
    for task, depth in outcomes:
      key, things = str(depth), np.asarray(record["items"][task])
      one: dict[str, Any] = differences.paired(
        ours["numbers"][task][key], theirs["numbers"][task][key]
      )
      ours_hit, theirs_hit = (
        differences.unpacked(
          c["hits"][task][key], len(c["numbers"][task][key]), len(things)
        )
        for c in (ours, theirs)
      )
      one["items"] = differences.bootstrap(ours_hit, theirs_hit, things)
      found[name].append(one)
  rows = [row for own in found.values() for row in own]
  for row, p in zip(rows, reporting.holm([row["p"] for row in rows])):
    row["holm"] = p
  return found


def _outcomes(ranks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Ranks by outcome, both directions of the catalogue as one."""
  both = np.concatenate([ranks[t] for t in maps.CATALOGUE], axis=1)
  return {CATALOGUE: both} | {task: ranks[task] for task in OUTCOMES[1:]}


def _numbers(values: np.ndarray) -> list[float | None]:
  """Rounded, with None for NaN, which JSON has not."""
  return [round(float(v), 4) if np.isfinite(v) else None for v in values]


def _cost(plan: Plan, inputs: features.Inputs) -> float:
  """About proportional to a cell's time."""
  steps = plan.epochs * (len(inputs.text) // plan.batch)
  calls = 3.0 if plan.rate is None else 1.0  # With those that choose it.
  return 100.0 + steps * (1.0 + plan.batch / 32) * calls / 3.0


def _cpu_seconds() -> float:
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) < 100 else text[:97] + "..."
