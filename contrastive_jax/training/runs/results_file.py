"""The scores of a finished run: its `results.json`, and a table of them."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from contrastive_jax.training.config import workdirs

# Items of a score, below which a table says so.
_FEW = 50


def read(workdir: pathlib.Path) -> dict[str, float] | None:
  """The content of `results.json`; None if the run is not finished."""
  path = workdir / "results.json"
  if not path.exists():
    return None
  results = workdirs.read_json(path)
  # It is printed: no text that a terminal would obey, nor a billion digits.
  if not all(
    name.isprintable()
    and (isinstance(v, float) or (isinstance(v, int) and abs(v) < 2**64))
    for name, v in results.items()
  ):
    raise workdirs.WorkdirError(
      f"{path} must hold names and numbers: restore it, or choose another"
      " --workdir."
    )
  return results


def table(
  results: Mapping[str, float], items: Mapping[str, int] | None = None
) -> str:
  """Results as an aligned text table, a group of names a block.

  Args:
    results: numbers by name.
    items: of how many items a score is the mean, where that is known; see
      `hits_file.counts`. A line tells which scores are of few.
  """
  items = items or {}
  width = max(map(len, results), default=0)
  lines, group = [], None
  for name in sorted(results, key=_in_order):
    if group not in (None, name.split("/")[0]):
      lines.append("")
    group = name.split("/")[0]
    value = results[name]
    text = f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
    count = f"  of {items[name]:,}" if name in items else ""
    lines.append(f"{name:<{width}}  {text:>10}{count}")
  few = [name for name in results if items.get(name, _FEW) < _FEW]
  if few:
    least = min(items[name] for name in few)
    lines += [
      "",
      f"{len(few)} scores are of fewer than {_FEW} items: one item more or less moves"
      f" them by up to {1 / least:.2g}.",
    ]
  return "\n".join(lines)


def _in_order(name: str) -> list[Any]:
  """A name as what it is sorted by: numbers in it count as such."""
  return [
    (int(part), "") if part.isdigit() else (-1, part)
    for part in re.split(r"(\d+)", name)
  ]
