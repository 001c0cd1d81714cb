"""Shared parts of the studies' records: files, tables, intervals, versions."""

import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy import stats

from contrastive_jax.training import config as config_lib

# Records go below the folder in which a program is started.
RESULTS = pathlib.Path("experiments") / "results"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "grain")


def half_width(values: Sequence[float]) -> float:
  """Half of the 95 % confidence interval of the mean of two values or more.

  It is t * s / sqrt(n), with Student's 97.5 % quantile at n - 1 degrees of freedom.

  >>> round(half_width([1.0, 2.0, 3.0]), 3)
  2.484
  """
  quantile = float(stats.t.ppf(0.975, len(values) - 1))
  return quantile * statistics.stdev(values) / math.sqrt(len(values))


def p_value(differences: Sequence[float]) -> float:
  """Two-sided p of Student's t test that the mean difference is 0.

  >>> round(p_value([1.0, 2.0, 3.0]), 3)
  0.074
  """
  first = differences[0]
  if all(x == first for x in differences):  # No t of equal differences.
    return float(first == 0)
  return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
  """p-values corrected for all of a family (Holm, 1979).

  >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
  [0.03, 0.06, 0.06]
  """
  order = sorted(range(len(p_values)), key=p_values.__getitem__)
  found, largest = [0.0] * len(p_values), 0.0
  for place, i in enumerate(order):
    largest = max(largest, (len(p_values) - place) * p_values[i])
    found[i] = min(1.0, largest)
  return found


def spread(values: Sequence[float]) -> tuple[float, float]:
  """Mean and half of the 95 % interval, 0 for one value.

  >>> spread([1.0])
  (1.0, 0.0)
  """
  half = half_width(values) if len(values) > 1 else 0.0
  return statistics.fmean(values), half


def interval(values: Sequence[float], digits: int, sign: str = "") -> str:
  """Mean ± half of the 95 % interval, as a table's cell; sign "+" shows all.

  >>> interval([1.0, 2.0, 3.0], 2)
  '2.00 ± 2.48'
  """
  mean, half = spread(values)
  text = f"{mean:{sign}.{digits}f}"
  return f"{text} ± {half:.{digits}f}" if len(values) > 1 else text


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
  """The lines of a Markdown table.

  >>> table(["a", "b"], [["1", "2"]])
  ['| a | b |', '|---|---|', '| 1 | 2 |']
  """
  return [
    "| " + " | ".join(head) + " |",
    "|" + "---|" * len(head),
    *("| " + " | ".join(row) + " |" for row in rows),
  ]


def versions(*packages: str) -> dict[str, str]:
  """Versions of Python and of those packages, by default a run's, that are there."""
  found = {"python": platform.python_version()}
  for package in packages or PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def listed(versions: Mapping[str, str]) -> str:
  """Versions as part of a sentence.

  >>> listed({"python": "3.11", "jax": "0.10"})
  'python 3.11, jax 0.10'
  """
  return ", ".join(f"{name} {version}" for name, version in versions.items())


def picture_and_source(
  name: str, caption: str, versions: Mapping[str, str]
) -> list[str]:
  """The last lines of a page: its plot, its JSON file, what made them."""
  return [
    "",
    f"![{caption}]({name}.png)",
    "",
    f"All numbers are in [{name}.json]({name}.json). Recorded with"
    f" {listed(versions)}, {os.cpu_count()} CPU cores.",
    "",
  ]


def digest(results: Any) -> str:
  """Twelve hex digits that name a record's results, whatever they took.

  >>> digest({"score": 1, "seconds": 2}) == digest({"score": 1, "seconds": 3})
  True
  """

  def plain(x):
    if isinstance(x, Mapping):
      left_out = ("seconds", "versions")
      return {k: plain(v) for k, v in x.items() if k not in left_out}
    return [plain(v) for v in x] if isinstance(x, list | tuple) else x

  text = json.dumps(plain(results), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def reading(out: pathlib.Path, name: str, results: Any) -> str:
  """The hand-written text on these results, NAME.reading.md; "" if there is none.

  Its first line, `<!-- record DIGEST -->`, names the results that it was written
  for; where they are others, a sentence that says so comes instead.
  """
  path = out / f"{name}.reading.md"
  if not path.exists():
    return ""
  first, _, text = path.read_text(encoding="utf-8").partition("\n")
  line = f"<!-- record {digest(results)} -->"
  if first.strip() == line:
    return text.strip()
  return (
    f"**No conclusion yet.** {path.name} was written for other results: write it"
    f" for these, and begin it with the line `{line}`."
  )


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The content of a record's file; raises `UserError` if there is none."""
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError as error:
    raise config_lib.UserError(
      f"{path} is not there: run the study that writes it first."
    ) from error


def write_json(
  path: pathlib.Path, record: Mapping[str, Any], *, indent: int | None = 1
) -> None:
  """Writes a JSON file, all of it or nothing, and its folder.

  Args:
    path: of the file.
    record: what it holds.
    indent: None is one line.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix(".tmp")
  text = json.dumps(record, indent=indent) + "\n"
  temporary.write_text(text, encoding="utf-8")
  temporary.replace(path)


def write(
  out: pathlib.Path,
  name: str,
  record: Mapping[str, Any],
  page: str,
  *,
  indent: int | None = 1,
) -> None:
  """Writes NAME.json, all of it or nothing, and the page NAME.md; makes the folder."""
  write_json(out / f"{name}.json", record, indent=indent)
  (out / f"{name}.md").write_text(page, encoding="utf-8")
