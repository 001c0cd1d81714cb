"""Shared parts of studies' programs: --out, the machine, pages, files."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from contrastive_jax.programs import reporting


def define_out(
  name: str, flag_values: flags.FlagValues
) -> flags.FlagHolder[Any]:
  """Defines --out of a program whose record has this name."""
  return flags.DEFINE_string(
    "out",
    str(reporting.RESULTS),
    f"Folder of {name}.json, its page {name}.md, and its figure if it has one.",
    flag_values=flag_values,
  )


def folder(path: str) -> pathlib.Path:
  """A folder, which is made: a study that cannot write does not begin."""
  made = pathlib.Path(path)
  made.mkdir(parents=True, exist_ok=True)
  return made


def machine(*packages: str) -> dict[str, Any]:
  """Facts on the machine for a record: cores, and versions of packages."""
  return {"cores": os.cpu_count(), "versions": reporting.versions(*packages)}


def shell(*lines: str) -> str:
  """Commands as a block of a page."""
  return "\n".join(["```sh", *lines, "```"])


def page(*blocks: str | Sequence[str]) -> str:
  r"""Blocks of Markdown (text, or a table's lines); empty ones are left out.

  >>> page("# A", ["| a |", "|---|"], "")
  '# A\n\n| a |\n|---|\n'
  """
  texts = (b if isinstance(b, str) else "\n".join(b) for b in blocks)
  return "\n\n".join(filter(None, texts)) + "\n"


def publish(
  out: pathlib.Path,
  name: str,
  record: Mapping[str, Any],
  page: str,
  plot: Callable[[Any, pathlib.Path], None] | None = None,
  *,
  indent: int | None = 1,
) -> None:
  """Writes a record and its page, and its figure if there is a plot; tells so."""
  reporting.write(out, name, record, page, indent=indent)
  if plot is not None:
    plot(record, out / f"{name}.png")
  kinds = " and .md" if plot is None else ", .md and .png"
  print(f"Wrote {name}.json{kinds} to {out}.")
