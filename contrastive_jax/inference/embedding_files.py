"""Embeddings of many pictures as parquet files, made part by part.

  OUT/embeddings.json    the model, its head, the inputs
  OUT/000012.parquet     columns key (string) and embedding (list of d float32)
  OUT/000012.skipped.jsonl  what of the part cannot be read

A part is written under another name and moved into place, so that the same call goes
on where it was stopped; a part whose input has changed is made again.
"""

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from contrastive_jax.data.sets.folder.folder_rows import DataError, RowError
from contrastive_jax.data.sets.records import items
from contrastive_jax.inference import inputs as inputs_lib
from contrastive_jax.inference import pictures
from contrastive_jax.inference.model import Model

ABOUT = "embeddings.json"
FORMAT = "contrastive_jax embeddings 1"
_REPORT_EVERY = 5.0  # Seconds between two lines.


def embed(
  model: Model,
  inputs: Sequence[str],
  out: str | os.PathLike[str],
  *,
  head: str = "shared",
  max_bad_share: float = 0.05,
  process_index: int = 0,
  process_count: int = 1,
  report: Callable[[str], None] = print,
) -> dict[str, int]:
  """Embeds pictures; parts that are there are not embedded again.

  Args:
    model: embeds.
    inputs: see `inputs.parts`.
    out: the folder that receives the files.
    head: see `Model.encode_image`.
    max_bad_share: of the pictures may be unreadable; more are an error, after all of
      them are listed.
    process_index: of this process, of several that share the parts.
    process_count: how many there are; they need nothing of each other but `inputs` and
      `out`.
    report: receives lines for the user.

  Returns:
    `pictures` that are embedded in this process's parts, and `skipped` ones.

  Raises:
    DataError: if the inputs hold no picture, `out` has embeddings of another model or
      inputs, or too many pictures are unreadable.
  """
  folder = pathlib.Path(out).expanduser()
  _claim(folder, _about(model, inputs, head))
  progress = _Progress(report)
  for part in inputs_lib.parts(inputs):
    if part.number % process_count != process_index:
      continue
    known = _known(folder, part)
    if known is None:
      known = _embed(model, part, folder, head, progress)
    progress.add(*known)
  total, skipped = progress.finish()
  if skipped > max_bad_share * (total + skipped):
    raise DataError(
      f"{skipped:,} of {total + skipped:,} pictures cannot be read, see"
      f" {folder}/*.skipped.jsonl; --max_bad_share allows more."
    )
  return {"pictures": total, "skipped": skipped}


def stream(
  model: Model,
  named: Iterable[tuple[str, Any] | items.Problem],
  problem: Callable[[items.Problem], None],
  *,
  head: str = "shared",
) -> Iterator[tuple[list[str], np.ndarray]]:
  """Keys and embeddings float32 [n, d] of pictures, a batch at a time.

  Args:
    model: embeds.
    named: keys and pictures, as `inputs.Part.read` gives them.
    problem: receives what is no picture, or cannot be read.
    head: see `Model.encode_image`.
  """
  made = model.description.pictures

  def pairs() -> Iterator[tuple[str, Any]]:
    for found in named:
      if isinstance(found, items.Problem):
        problem(found)
      else:
        yield found

  def make(pair: tuple[str, Any], row: int) -> tuple[str, Any]:
    del row
    key, picture = pair
    try:
      return key, pictures.square(picture, made.stored_size, made.fit)
    except RowError as error:
      return key, error

  for batch in pictures.decoded(pairs(), make, model.batch_size):
    good = [pair for pair in batch if not isinstance(pair[1], RowError)]
    for key, found in batch:
      if isinstance(found, RowError):
        problem(items.Problem(key, str(found)))
    if good:
      keys, squares = zip(*good)
      yield list(keys), model.encode_image(np.stack(squares), head=head)


def about(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """What `embeddings.json` of a folder says.

  Raises:
    DataError: if there are no embeddings.
  """
  path = pathlib.Path(folder).expanduser() / ABOUT
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise DataError(f"{path} cannot be read: {error}.") from error
  if not isinstance(found, dict) or found.get("format") != FORMAT:
    raise DataError(f"{path} is not of the format {FORMAT!r}.")
  return found


def check_model(folder: str | os.PathLike[str], model: Model) -> None:
  """Raises DataError unless a model made the embeddings of a folder."""
  theirs, ours = about(folder).get("model"), _digest(model)
  if theirs != ours:
    raise DataError(
      f"The embeddings in {folder} are of a model with digest {theirs!r}, and this"
      f" one has {ours!r}: name the model that made them."
    )


def read(
  folder: str | os.PathLike[str], rows: int = 65_536
) -> Iterator[tuple[list[str], np.ndarray]]:
  """Keys and embeddings float32 [n, d] of a folder, so many rows at a time.

  Raises:
    DataError: if there are no embeddings, or a file is damaged.
  """
  import pyarrow
  from pyarrow import parquet

  width = about(folder)["dim"]
  files = sorted(pathlib.Path(folder).expanduser().glob("*.parquet"))
  for path in files:
    try:
      for batch in parquet.ParquetFile(path).iter_batches(rows):
        values = batch.column("embedding").flatten()
        array = values.to_numpy(zero_copy_only=False)
        yield (
          batch.column("key").to_pylist(),
          array.astype(np.float32, copy=False).reshape(-1, width),
        )
    except (pyarrow.ArrowException, OSError, KeyError, ValueError) as error:
      text = " ".join(str(error).split())[:200]
      raise DataError(
        f"{path} cannot be read ({text}): delete it, and embed once more."
      ) from error


def to_npz(folder: str | os.PathLike[str], path: pathlib.Path) -> int:
  """Writes all keys and embeddings as one `numpy.savez` file; returns their number."""
  keys: list[str] = []
  found: list[np.ndarray] = []
  for names, array in read(folder):
    keys += names
    found.append(array)
  width = about(folder)["dim"]
  embeddings = np.concatenate([np.zeros((0, width), np.float32), *found])
  partial = path.with_name(path.name + ".partial")
  with open(partial, "wb") as file:
    np.savez(file, key=np.array(keys, dtype=str), embedding=embeddings)
  partial.replace(path)
  return len(keys)


def _about(model: Model, inputs: Sequence[str], head: str) -> dict[str, Any]:
  # One embedding tells how wide they are, and whether there is such a head.
  width = model.encode_image([], head=head).shape[1]
  return {
    "format": FORMAT,
    "model": _digest(model),
    "head": head,
    "dim": width,
    "inputs": list(inputs),
  }


def _digest(model: Model) -> str:
  """A hash of a model's weights: embeddings of two are of no use together."""
  import jax

  found = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(model.variables):
    found.update(jax.tree_util.keystr(path).encode())
    found.update(np.asarray(leaf).tobytes())
  return found.hexdigest()[:16]


def _claim(folder: pathlib.Path, ours: dict[str, Any]) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  if not (folder / ABOUT).exists():
    partial = folder / f".{ABOUT}.{os.getpid()}"
    partial.write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / ABOUT)
  theirs = about(folder)
  for name, value in ours.items():
    if theirs.get(name) != value:
      raise DataError(
        f"{folder} holds embeddings with {name} {theirs.get(name)!r}, and now it is"
        f" {value!r}: choose another --out."
      )


def _known(
  folder: pathlib.Path, part: inputs_lib.Part
) -> tuple[int, int] | None:
  """The numbers of a part that is there; None if it has to be made."""
  from pyarrow import parquet

  path = folder / f"{part.number:06}.parquet"
  try:
    metadata = parquet.read_metadata(path)
  except Exception:  # None, or a broken one: it is made anew.
    return None
  notes = metadata.metadata or {}
  if notes.get(b"input") != part.digest.encode():
    return None
  return metadata.num_rows, int(notes[b"skipped"])


def _embed(
  model: Model,
  part: inputs_lib.Part,
  folder: pathlib.Path,
  head: str,
  progress: "_Progress",
) -> tuple[int, int]:
  """Embeds a part and writes it; the numbers of pictures and of those skipped."""
  import pyarrow
  from pyarrow import parquet

  keys: list[str] = []
  problems: list[items.Problem] = []
  embeddings = [np.zeros((0, about(folder)["dim"]), np.float32)]
  for names, found in stream(model, part.read(), problems.append, head=head):
    keys += names
    embeddings.append(found)
    progress.working(part, len(keys) + len(problems))
  array = np.concatenate(embeddings)
  table = pyarrow.table(
    {
      "key": pyarrow.array(keys, pyarrow.string()),
      "embedding": pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.array(array.ravel()), array.shape[1]
      ),
    },
    metadata={"input": part.digest, "skipped": str(len(problems))},
  )
  path = folder / f"{part.number:06}.parquet"
  listed = path.with_suffix(".skipped.jsonl")
  listed.unlink(missing_ok=True)
  if problems:
    lines = (json.dumps(problem._asdict()) + "\n" for problem in problems)
    listed.write_text("".join(lines), encoding="utf-8")
  partial = folder / f".{path.name}.{os.getpid()}"
  parquet.write_table(table, partial, compression="none")
  partial.replace(path)
  return len(keys), len(problems)


class _Progress:
  """Tells how far it is every few seconds."""

  def __init__(self, report: Callable[[str], None]):
    self._report = report
    self._start = self._last = time.monotonic()
    self._pictures = self._skipped = self._new = 0

  def working(self, part: inputs_lib.Part, rows: int) -> None:
    """Says so if some time has passed: `rows` of a part are embedded."""
    now = time.monotonic()
    if now - self._last < _REPORT_EVERY:
      return
    self._last = now
    speed = (self._new + rows) / (now - self._start)
    of = "" if part.count is None else f" of {part.count:,}"
    left = ""
    if part.count is not None:
      left = (
        f", {(part.count - rows) / max(speed, 1e-9):.0f} s to the part's end"
      )
    self._report(
      f"{self._pictures + rows:,} pictures, {speed:,.0f}/s; {part.name}:"
      f" {rows:,}{of}{left}"
    )

  def add(self, pictures: int, skipped: int) -> None:
    """A part is there."""
    self._pictures += pictures
    self._skipped += skipped
    self._new += pictures

  def finish(self) -> tuple[int, int]:
    """The pictures that are embedded, and those that are not."""
    return self._pictures, self._skipped
