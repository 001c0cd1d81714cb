"""Study: whether weights keep within their rules' bounds, and which runs collapse.

python -m experiments.frozen.stability

Maps as in `small_batches`, every rule and table at four temperatures and four batch
sizes. A run has collapsed if it finds less than half as much of the catalogue as DCL
at the same temperature and batch size, or nothing finite.
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from contrastive_jax import losses
from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.programs import reporting
from experiments import studies
from experiments.frozen import features, maps, small_batches

NAME = "frozen_stability"
_FLAGS = flags.FlagValues()
_OUT = studies.define_out(NAME, _FLAGS)

_USAGE = """Whether weights keep within their rules' bounds, and which runs collapse.

  python -m experiments.frozen.stability

Writes frozen_stability.json after each cell, .md at the end; goes on where it was
stopped. Flags:
  --out=DIR   of the record; default experiments/results
"""

EPOCHS = 16
BATCHES = (8, 16, 32, 64)
TEMPERATURES = (0.01, 0.02, 0.05, 0.1)
SEEDS = (0, 1, 2)
RATE = 0.02  # The middle of the grid of `small_batches`.
DCL = "DCL"
# Rules with the bound of u Z-hat that their docstrings state.
RULES: dict[str, tuple[Any, float]] = {
  "average by epochs": (
    losses.MovingAverage(losses.rate_of_epochs(EPOCHS)),
    1.0 / losses.rate_of_epochs(EPOCHS),
  ),
  "average 0.1": (losses.MovingAverage(0.1), 10.0),
  "conjugate 10, min_rate 0.3": (losses.Conjugate(10.0), 1.0 / 0.3),
  "conjugate 10, eps 1e-6 (published)": (
    losses.Conjugate(10.0, min_rate=0.0, eps=1e-6),
    1.0 + math.exp(-10.0) / 1e-6,
  ),
  "U-max 0.5": (losses.DualDescent(0.5), math.exp(-0.5) / 0.5),
  "softplus 0.5": (losses.Softplus(0.5), 10.0),
}
_ROUNDING = 1e-4  # Relative, of a ratio of exponentials in float32.


@dataclasses.dataclass(frozen=True)
class Cell:
  """A rule and a table at a batch size; temperatures and seeds run together."""

  rule: str
  table: str
  batch: int

  def method(self) -> maps.Method:
    """The loss."""
    if self.rule == DCL:
      return maps.Method("decoupled")
    margins, level = small_batches.TABLES[self.table]
    return maps.Method(
      "em", RULES[self.rule][0], margins=margins, level_rate=level
    )


def cells() -> list[Cell]:
  """All cells, DCL first."""
  return [
    *(Cell(DCL, "", batch) for batch in BATCHES),
    *(
      Cell(rule, table, batch)
      for rule, table, batch in itertools.product(
        RULES, small_batches.TABLES, BATCHES
      )
    ),
  ]


def run_cell(cell: Cell, inputs: features.Inputs) -> dict[str, Any]:
  """The R@1 of the catalogue and the largest weight sum, by temperature and seed."""
  runs = list(itertools.product(TEMPERATURES, SEEDS))
  found = maps.train(
    cell.method(),
    inputs,
    batch=cell.batch,
    epochs=EPOCHS,
    seeds=[seed for _, seed in runs],
    rates=[RATE] * len(runs),
    temperatures=[tau for tau, _ in runs],
  )
  hits = np.mean([found.ranks[side] == 0 for side in maps.CATALOGUE], axis=0)
  shape = len(TEMPERATURES), len(SEEDS)
  return {
    **dataclasses.asdict(cell),
    "recall": hits.mean(1).reshape(shape).round(5).tolist(),
    "weight_max": [
      [float(f"{x:.5g}") if math.isfinite(x) else None for x in row]
      for row in found.weight_max.reshape(shape).tolist()
    ],
  }


def verdicts(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Runs beyond the bound and collapsed ones, a row a rule and table."""
  base = {c["batch"]: np.array(c["recall"]) for c in found if c["rule"] == DCL}
  rows = []
  for rule, table in itertools.product(RULES, small_batches.TABLES):
    own = [c for c in found if (c["rule"], c["table"]) == (rule, table)]
    if not own:
      continue
    bound = RULES[rule][1]
    weights = np.array([c["weight_max"] for c in own], float)
    # Not finite counts as beyond, and as collapsed: such maps find nothing.
    share = [np.array(c["recall"]) / base[c["batch"]] for c in own]
    rows.append(
      {
        "rule": rule,
        "table": table,
        "runs": weights.size,
        "bound": bound,
        "largest": float(np.max(weights)),
        "beyond": int(np.sum(~(weights <= bound * (1 + _ROUNDING)))),
        "collapsed": int(np.sum(np.array(share) < 0.5)),
        "least": float(np.min(share)),
      }
    )
  return rows


def page(record: Mapping[str, Any]) -> str:
  """The record as Markdown."""
  rows = verdicts(record["cells"])
  taus = ", ".join(map(str, TEMPERATURES))

  def total(name, own):
    return sum(r[name] for r in own)

  whole, beyond = total("runs", rows), total("beyond", rows)
  by_table = [
    (table, [r for r in rows if r["table"] == table])
    for table in small_batches.TABLES
  ]
  return studies.page(
    "# Weights within their bounds, and runs that collapsed",
    studies.shell(record["command"]),
    f"The maps of [frozen_small_batches](frozen_small_batches.md), {EPOCHS} epochs"
    f" at a learning rate of {RATE:g}, posterior means, temperatures {taus}, batches"
    f" of {', '.join(map(str, BATCHES))}, {len(SEEDS)} seeds. *Largest* is the"
    " greatest u Z-hat of any anchor in any step of all runs, beside the bound that"
    " the rule states. A run has collapsed if its R@1 of the catalogue is below half"
    " of DCL's at the same temperature, batch size and seed; *least* is the smallest"
    " share.",
    f"**{beyond} of {whole} runs have a weight beyond the bound.** Collapsed, by"
    " table:",
    [
      f"- {table}: {total('collapsed', own)} of {total('runs', own)}"
      for table, own in by_table
    ],
    reporting.table(
      ["rule", "table", "bound", "largest", "beyond", "collapsed", "least"],
      [
        [
          r["rule"],
          r["table"],
          f"{r['bound']:.2f}",
          f"{r['largest']:.2f}",
          f"{r['beyond']} of {r['runs']}",
          f"{r['collapsed']} of {r['runs']}",
          f"{r['least']:.2f}",
        ]
        for r in rows
      ],
    ),
    f"Recorded with {reporting.listed(record['versions'])};"
    f" {record['seconds'] / 60:.0f} minutes.",
  )


def main() -> None:
  """Runs the program."""
  out = studies.folder(_OUT.value)
  path = out / f"{NAME}.json"
  record: dict[str, Any] = {
    "command": "python -m experiments.frozen.stability",
    **studies.machine("jax", "jaxlib", "numpy", "optax"),
    "cells": [],
    "seconds": 0.0,
  }
  if path.exists():
    record = reporting.read_json(path)
  done = {(c["rule"], c["table"], c["batch"]) for c in record["cells"]}
  todo = [c for c in cells() if dataclasses.astuple(c) not in done]
  inputs: Any = features.load()[0] if todo else None
  start = time.monotonic()
  for number, cell in enumerate(todo):
    began = time.monotonic()
    record["cells"].append(run_cell(cell, inputs))
    seconds = time.monotonic() - began
    record["seconds"] += seconds
    reporting.write_json(path, record, indent=None)
    # The system lets a process map so many programs, and no more.
    jax.clear_caches()
    left = (time.monotonic() - start) / (number + 1) * (len(todo) - number - 1)
    print(
      f"{number + 1}/{len(todo)}  {cell.rule} {cell.table}, batch {cell.batch}"
      f"  {seconds:.0f} s  ETA {left / 60:.0f} min",
      flush=True,
    )
  reporting.write(out, NAME, record, page(record), indent=None)
  print(f"Wrote {NAME}.json and .md to {out}.")


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=_USAGE)
