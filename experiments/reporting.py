"""What the records of all studies share: files, tables, intervals, versions."""

import dataclasses
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

RESULTS = pathlib.Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "grain")


def half_width(values: Sequence[float]) -> float:
  """Half of the 95 % confidence interval of a mean (Student's t).

  Args:
    values: one number a seed, at least two.

  Returns:
    t * s / sqrt(n), with the 97.5 % quantile at n - 1 degrees of freedom.

  >>> round(half_width([1.0, 2.0, 3.0]), 3)
  2.484
  """
  n = len(values)
  quantile = float(stats.t.ppf(0.975, n - 1))
  return quantile * statistics.stdev(values) / math.sqrt(n)


def interval(values: Sequence[float], digits: int) -> str:
  """Mean ± half of the 95 % interval, as a table's cell.

  >>> interval([1.0, 2.0, 3.0], 2)
  '2.00 ± 2.48'
  """
  mean = f"{statistics.fmean(values):.{digits}f}"
  if len(values) < 2:
    return mean
  return f"{mean} ± {half_width(values):.{digits}f}"


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
  """Versions of Python and of the packages that are installed.

  Args:
    *packages: their names; none are those of a training run.
  """
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


def changed_fields(
  one: config_lib.Config, other: config_lib.Config
) -> dict[str, Any]:
  """What `ConfigDraft.override` makes the second of two configurations of.

  Args:
    one: the configuration that is changed.
    other: the one that comes out.

  Returns:
    Values by dotted name; those of choices are names.

  >>> first, second = config_lib.default_config(), config_lib.default_config()
  >>> second.loss, second.loss.temperature = "decoupled", 0.1
  >>> changed_fields(config_lib.checked(first), config_lib.checked(second))
  {'loss': 'decoupled', 'loss.temperature': 0.1}
  """
  if type(one.objective) is not type(other.objective):
    # Another objective brings evaluators of its own.
    changes: Any = {"evaluators": None}
    evaluation = dataclasses.replace(one.evaluation, **changes)
    one = dataclasses.replace(one, evaluation=evaluation)
  return _changed_fields(one, other, "")


def _changed_fields(one: Any, other: Any, prefix: str) -> dict[str, Any]:
  found = {}
  for f in dataclasses.fields(other):
    old, new = getattr(one, f.name), getattr(other, f.name)
    path = f"{prefix}{f.name}"
    if new is None or old == new:
      continue
    if "several" in f.metadata:
      # They lie in the group that holds them.
      group = prefix.removesuffix(".")
      if old is None or [*old] != [*new]:
        found[group] = tuple(new)
      for name, variant in new.items():
        before = (old or {}).get(name, type(variant)())
        found |= _changed_fields(before, variant, f"{group}.{name}.")
    elif "kind" in f.metadata:
      if type(old) is not type(new):
        found[path], old = f.metadata["kind"].name_of(new), type(new)()
      found |= _changed_fields(old, new, f"{path}.")
    elif "section" in f.metadata:
      found |= _changed_fields(old or type(new)(), new, f"{path}.")
    else:
      found[path] = new
  return found


def reading(out: pathlib.Path, name: str) -> str:
  """What a person wrote about a record, to be part of its page.

  Args:
    out: folder of the record.
    name: of the record.

  Returns:
    The text of NAME.reading.md; "" if there is no such file.
  """
  path = out / f"{name}.reading.md"
  return path.read_text(encoding="utf-8").strip() if path.exists() else ""


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
  """Writes NAME.json, all of it or nothing, and NAME.md.

  Args:
    out: the folder, which is made.
    name: of the record.
    record: what the JSON file holds.
    page: Markdown.
    indent: of the JSON file; None is one line.
  """
  write_json(out / f"{name}.json", record, indent=indent)
  (out / f"{name}.md").write_text(page, encoding="utf-8")
