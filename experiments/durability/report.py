"""The record of the studies of durability: `durability.json` and its page."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from contrastive_jax.programs import reporting
from contrastive_jax.training.config import workdirs
from experiments import studies

_PACKAGES = ("jax", "jaxlib", "orbax-checkpoint", "grain", "numpy")
# The study of numbers keeps a record of its own.
_NUMBERS = "durability_numbers.json"


def read(out: pathlib.Path) -> dict[str, Any]:
  """The record; empty if there is none."""
  path = out / "durability.json"
  return workdirs.read_json(path) if path.exists() else {}


def write(out: pathlib.Path, section: str, found: Mapping[str, Any]) -> None:
  """Puts a study into the record, and writes the page anew."""
  out.mkdir(parents=True, exist_ok=True)
  record = read(out) | {
    section: found,
    "versions": reporting.versions(*_PACKAGES),
  }
  workdirs.write_json(out / "durability.json", record)
  numbers = out / _NUMBERS
  known = workdirs.read_json(numbers) if numbers.exists() else {}
  text = page(record, known)
  (out / "durability.md").write_text(text, encoding="utf-8")


def page(record: Mapping[str, Any], numbers: Mapping[str, Any]) -> str:
  """All studies in Markdown."""
  return studies.page(
    "# Durability",
    "What was done to runs, and what came of it. The quick cases are in"
    " `tests/faults/`; these are the long ones.",
    *(_kills(record["kills"]) if "kills" in record else ()),
    *(_soak(record["soak"]) if "soak" in record else ()),
    *(_numbers(numbers) if numbers else ()),
    f"Versions: {reporting.listed(record['versions'])}.",
  )


def _kills(found: Mapping[str, Any]) -> Iterator[str | list[str]]:
  yield "## Killed and started again"
  yield (
    "`python -m experiments.durability.kills`. Each run (600 steps of a tiny model"
    " with the augmented loss, 240 of ALBEF's with two processes, a checkpoint every"
    " 20, a validation every 50) is stopped by `kill -9` at random moments and started"
    " again with the same command, then compared with one that was left in peace: all leaves of the"
    " last state (parameters, tables, queues, momentum parameters, optimiser), the"
    " log line by line without what depends on the clock, and the scores. With two"
    " processes one of them is killed; how long the other lived on is beside it,"
    " with `--dead_after=5`, as is how often it named the dead one: not if that died"
    " before both were ready, nor if it was process 0, whose end only the runtime"
    " tells (in ALBEF's row it was named too, by code that is gone). The slow one"
    " had one of its processes stopped for up to a second, as often. How often the"
    " processes ended by themselves stands after the kills, if they did."
  )
  yield reporting.table(
    [
      *("run", "kills by moment", "in a half-written checkpoint"),
      *("leaves, lines", "differences", "other process"),
    ],
    map(_kills_row, found, found.values()),
  )
  seconds = sum(row["seconds"] for row in found.values())
  yield f"All of it took {seconds / 60:.0f} minutes."


def _kills_row(name: str, row: Mapping[str, Any]) -> list[str]:
  kinds = ", ".join(f"{v} {k}" for k, v in row["kills"].items())
  if row.get("crashes"):
    kinds += f"; {row['crashes']} by itself"
  total, other = sum(row["kills"].values()), ""
  if "longest_wait" in row:
    other = (
      f"at most {row['longest_wait']:.0f} s; named {row['named']} of {total}"
    )
  return [
    name.replace("_", " "),
    f"{total}: {kinds}",
    f"{row['half_written']}",
    f"{row['leaves']}, {row['lines']}",
    ", ".join(row["differences"]) or "none",
    other,
  ]


def _soak(found: Mapping[str, Any]) -> Iterator[str | list[str]]:
  first, last = found["memory"]
  before, after = found["open_files"]
  yield "## A long run"
  yield (
    "`python -m experiments.durability.soak`: the tiny preset,"
    f" {found['steps']:,} steps with a checkpoint every 50 and a validation every"
    " 100, measured in the second half of them. Memory is the process's own: without"
    " mapped files, with what is swapped out."
  )
  yield (
    "| what | found | bound |\n|---|---|---|\n"
    f"| memory, MiB per 100 steps (least squares) | {found['slope']:.2f} | 1 |\n"
    f"| memory, first and last quarter, MiB (medians) | {first:.0f}, {last:.0f} |"
    " level |\n"
    f"| open files, first and second half (medians) | {before}, {after} | level |\n"
    f"| compilations after the second validation | {found['late']} of"
    f" {found['compilations']} | 0 |"
  )


def _numbers(found: Mapping[str, Any]) -> Iterator[str | list[str]]:
  types = list(dict.fromkeys(row["dtype"] for row in found["losses"]))
  worst: dict[str, dict[str, Any]] = {}
  for row in found["losses"]:
    worst.setdefault(row["loss"], {})[row["dtype"]] = row
  yield "## Numbers"
  failures = ", ".join(map(str, found["failures"])) or "none"
  yield (
    f"`{found['command']}`: every public loss, {found['cases']:,} cases of 1 to 257"
    " rows of 1 to 130 numbers, temperatures from 0.005 to 1, rows that are duplicated,"
    " zero, opposite, all the same, huge or tiny; values and gradients must be finite,"
    f" and within {found['bound']:g} units of float64, a unit being {found['unit']}."
    f" Failures: {failures}. The largest errors, in"
    " units, of a value and of a gradient; in how many of the cases the bound is below"
    " 1 % of what it bounds stands last: the others tell little more than that all is"
    " finite."
  )
  table = []
  for name, rows in worst.items():
    cells = (rows.get(t) for t in types)
    table.append(
      [
        name,
        *(f"{r['value']:.2g}, {r['gradient']:.2g}" if r else "" for r in cells),
        f"{sum(row['cases'] for row in rows.values())}",
        f"{sum(row['sharp'] for row in rows.values())}",
      ]
    )
  yield reporting.table(["loss", *types, "cases", "sharp"], table)
