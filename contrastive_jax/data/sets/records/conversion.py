"""From tar shards, parquet files and lists to records with random access.

`OUT/train/00012.image.array_record` has the encoded images of a unit,
`00012.text.array_record` one JSON object each, `OUT/units/00012.json` says what
became of it. A unit is written under other names and moved into place, its
`units` file last: a conversion that is stopped goes on where it was, and a unit whose
input has changed is made again.
"""

import collections
import dataclasses
import hashlib
import json
import multiprocessing
import os
import pathlib
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

from contrastive_jax.data.files import links
from contrastive_jax.data.sets.folder import folder_rows
from contrastive_jax.data.sets.folder.folder_rows import SPLITS, DataError
from contrastive_jax.data.sets.records import (
  caption_tables,
  items,
  sharing,
  units,
)

DATASET_FILE = "dataset.json"
_SETTINGS_FILE = "conversion.json"
_LOCK_FILE = f".{_SETTINGS_FILE}.lock"
_SKIPPED_FILE = "skipped.jsonl"
_VERSION = 1
_REPORT_EVERY = 5.0  # Seconds between two lines.
# Seconds after which an unfinished file is what a killed process left.
_ABANDONED = 3600.0
# Name of this process among those of all hosts that write into one folder.
_TOKEN = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"


@dataclasses.dataclass(frozen=True)
class ConversionSettings:
  """How pairs are converted.

  Attributes:
    inputs: files, folders or patterns.
    format: of them, one of `units.FORMATS`.
    columns: of parquet files and lists.
    how: examples are read.
    image_root: the folder below which a list's images are; "" is the list's.
    shorter_side: larger images become JPEGs of this size, pixels; 0 keeps all.
    validation: share of the captions that goes to validation, by a hash.
    test: the same of the test split.
  """

  inputs: tuple[str, ...]
  format: str = "auto"
  columns: caption_tables.Columns = caption_tables.Columns()
  how: items.Reading = items.PAIRS
  image_root: str = ""
  shorter_side: int = 0
  validation: float = 0.0
  test: float = 0.0

  def __post_init__(self) -> None:
    """Raises `ValueError` for what cannot be."""
    if self.format not in units.FORMATS:
      raise ValueError(
        f"format must be one of {', '.join(units.FORMATS)}; got {self.format!r}."
      )
    if self.shorter_side < 0:
      raise ValueError(
        f"shorter_side must be 0 or more; got {self.shorter_side}."
      )
    shares = self.validation, self.test
    if min(shares) < 0 or sum(shares) >= 1:
      raise ValueError(
        "validation and test must be shares of at least 0, together below 1; got"
        f" {self.validation:g} and {self.test:g}."
      )

  def split_of(self, concept_id: int) -> str:
    """The split of an example; equal captions share it."""
    place = concept_id / 2**31
    if place < self.validation:
      return SPLITS[1]
    return SPLITS[2] if place < self.validation + self.test else SPLITS[0]


@dataclasses.dataclass(frozen=True)
class Summary:
  """Result of a conversion, in numbers.

  Attributes:
    examples: of each split.
    problems: number of examples (or parts of inputs) that were left out, by kind.
    units: number of parts of the inputs.
    broken: number of those that are not all read, with an unknown loss.
  """

  examples: dict[str, int]
  problems: dict[str, int]
  units: int
  broken: int = 0


def convert(
  settings: ConversionSettings,
  out: str | os.PathLike[str],
  *,
  workers: int = 0,
  max_bad_share: float = 0.05,
  retry: bool = False,
  report: Callable[[str], None] = print,
) -> Summary:
  """Converts pairs, in parallel; done parts are not done again.

  Args:
    settings: what is converted, and how.
    out: the folder that receives them.
    workers: processes; 0 is one a processor. With more than one a script of your
      own needs `if __name__ == "__main__":`, as they are started anew.
    max_bad_share: of the examples may be bad, and of the parts of the inputs may be
      broken; more of them are an error, after all of them are listed.
    retry: whether parts with problems are converted again, as when images of a list
      are there that were missing.
    report: receives lines for the user.

  Returns:
    What there is now.

  Raises:
    DataError: if the inputs cannot be read, `out` holds another conversion or is
      being written by one, or too much is bad.
  """
  root = pathlib.Path(out).expanduser()
  files = units.find(settings.inputs, settings.format)
  _check(root, settings)
  root.mkdir(parents=True, exist_ok=True)
  with sharing.held(
    root / _LOCK_FILE,
    settings.inputs,
    files,
    claim=lambda: _claim(root, settings),
    report=report,
  ):
    report(f"{len(files):,} input file(s) to {root}.")
    _sweep(root)
    todo = units.split(
      files,
      format=settings.format,
      columns=settings.columns,
      root=settings.image_root,
      how=settings.how,
    )
    progress = _Progress(len(files), report)
    for result in _run(todo, settings, root, workers or _processors(), retry):
      progress.add(result)
    if not progress.results:
      raise DataError("The inputs hold no example; check --inputs.")
    return _finish(root, settings, progress.results, max_bad_share, report)


def _processors() -> int:
  """Number of processors that this process may use, if the system tells."""
  allowed = getattr(os, "sched_getaffinity", None)
  return len(allowed(0)) if allowed else os.cpu_count() or 1


def _sweep(root: pathlib.Path) -> None:
  """Removes what killed processes left unfinished."""
  for path in (*root.glob(".*"), *root.glob("*/.*")):
    if not re.fullmatch(r"\..+\.\d+-[0-9a-f]{8}", path.name):
      continue
    try:
      if time.time() - path.stat().st_mtime > _ABANDONED:
        path.unlink()
    except FileNotFoundError:
      continue  # Another process was faster.


class _Progress:
  """Keeps what is done, and tells of it every few seconds."""

  def __init__(self, num_files: int, report: Callable[[str], None]):
    self.results: list[dict[str, Any]] = []
    self._num_files, self._report = num_files, report
    self._start = self._last = time.monotonic()

  def add(self, result: dict[str, Any]) -> None:
    self.results.append(result)
    now = time.monotonic()
    if now - self._last < _REPORT_EVERY:
      return
    self._last = now
    passed = now - self._start
    new = [result for result in self.results if result["new"]]
    files = len({result["file"] for result in self.results})
    new_files = len({result["file"] for result in new})
    bad = sum(sum(result["problems"].values()) for result in self.results)
    eta = ""
    if new_files and self._num_files > 1:  # One file has no measure.
      minutes = passed / new_files * (self._num_files - files) / 60
      eta = f"  ETA {minutes:.0f} min"
    self._report(
      f"{files:,} of {self._num_files:,} files, {_examples(self.results):,}"
      f" examples, {bad:,} bad; {_examples(new) / passed:,.0f} examples/s{eta}"
    )


def _examples(results: Iterable[dict[str, Any]]) -> int:
  return sum(sum(result["examples"].values()) for result in results)


def _claim(root: pathlib.Path, settings: ConversionSettings) -> None:
  """Writes the settings into a new folder; of an old one they must be equal."""
  if not _check(root, settings):
    values = json.dumps(dataclasses.asdict(settings), indent=2)
    _write(root / _SETTINGS_FILE, values + "\n")


def _check(root: pathlib.Path, settings: ConversionSettings) -> bool:
  """Whether a folder has these settings; raises if it is not for them."""
  values = json.loads(json.dumps(dataclasses.asdict(settings)))
  path = root / _SETTINGS_FILE
  if path.exists():
    try:
      known = json.loads(path.read_text(encoding="utf-8"))
      differing = [k for k in values if values[k] != known.get(k)]
    except (ValueError, AttributeError, RecursionError) as error:
      raise DataError(
        f"{path} is damaged ({error}); choose another --out."
      ) from error
    if differing:
      name = differing[0]
      raise DataError(
        f"{root} holds a conversion with {name}={known.get(name)!r}, now it is"
        f" {values[name]!r}; choose another --out."
      )
    link = links.leading_out(root)
    if link is not None:
      raise DataError(
        f"{link} is a link that leads out of the conversion; choose another"
        " --out."
      )
    return True
  if root.exists() and any(
    not name.startswith(f".{_SETTINGS_FILE}") for name in os.listdir(root)
  ):
    raise DataError(
      f"{root} is not empty and holds no conversion; choose another --out."
    )
  return False


def _run(
  todo: Iterable[units.Unit],
  settings: ConversionSettings,
  root: pathlib.Path,
  workers: int,
  retry: bool,
) -> Iterator[dict[str, Any]]:
  """Results in the order in which they are there; a few units wait at a time."""
  if workers == 1:
    for unit in todo:
      yield _convert_unit(unit, settings, root, retry)
    return
  # Not forked: the program may have started threads.
  context = multiprocessing.get_context("spawn")
  waiting: set[futures.Future] = set()
  with futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
    try:
      for unit in todo:
        if len(waiting) >= 2 * workers:
          done, waiting = futures.wait(
            waiting, return_when=futures.FIRST_COMPLETED
          )
          yield from (future.result() for future in done)
        waiting.add(pool.submit(_convert_unit, unit, settings, root, retry))
      yield from (f.result() for f in futures.as_completed(waiting))
    except futures.process.BrokenProcessPool as error:
      raise DataError(
        "A process of the conversion died: killed for want of memory, perhaps"
        " (start it again with fewer --workers: it goes on where it was), or a script"
        ' without `if __name__ == "__main__":`.'
      ) from error
    finally:
      pool.shutdown(cancel_futures=True)


def _convert_unit(
  unit: units.Unit,
  settings: ConversionSettings,
  root: pathlib.Path,
  retry: bool,
) -> dict[str, Any]:
  """Converts a unit unless that is done; returns what is known of it.

  Problems come as numbers: all of them would be gigabytes of a large conversion.
  """
  path = root / "units" / f"{unit.number:05d}.json"
  known = _known(path, root)
  if (
    known is not None
    and (known["input"], known["digest"]) == (unit.name, unit.digest)
    and not (retry and known["problems"])
  ):
    return _counted(known) | {"file": str(unit.path), "new": False}
  problems: list[items.Problem] = []
  writers: dict[str, _Writer] = {}
  try:
    for item in unit.read():
      if isinstance(item, items.Item):
        item = items.checked(item, settings.shorter_side)
      if isinstance(item, items.Problem):
        problems.append(item)
        continue
      split = settings.split_of(item.concept_id)
      if split not in writers:
        writers[split] = _Writer(root, split, unit.number)
      writers[split].add(item)
    for writer in writers.values():
      writer.close()
  except BaseException:
    for writer in writers.values():
      writer.discard()
    raise
  result = {
    "number": unit.number,
    "input": unit.name,
    "digest": unit.digest,
    "examples": {split: writer.count for split, writer in writers.items()},
    "content": {split: writer.digest for split, writer in writers.items()},
    "bytes": {split: writer.sizes for split, writer in writers.items()},
    "problems": [list(problem) for problem in problems],
  }
  path.parent.mkdir(exist_ok=True)
  _write(path, json.dumps(result) + "\n")
  return _counted(result) | {"file": str(unit.path), "new": True}


def _counted(result: dict[str, Any]) -> dict[str, Any]:
  """A unit's result, with the numbers of its problems by kind."""
  problems: collections.Counter[str] = collections.Counter()
  broken = False
  for entry in result["problems"]:
    problem = items.Problem(*entry)
    problems[problem.kind] += 1 if problem.lost is None else problem.lost
    broken |= problem.lost is None
  return result | {"problems": dict(problems), "broken": broken}


class _Writer:
  """One unit's examples of a split, under other names until they are complete."""

  def __init__(self, root: pathlib.Path, split: str, number: int):
    # Takes a while to import: only who converts pays for it.
    from array_record.python import array_record_module

    (root / split).mkdir(exist_ok=True)
    self.count = 0
    self.sizes: list[int] = []
    self.digest = ""  # The digest of all that was written.
    self._hash = hashlib.sha256()
    self._final = files_of(root, split, number)
    self._paths = [_partial(path) for path in self._final]
    # Groups of one: others would be read and expanded with it.
    options = "group_size:1,uncompressed", "group_size:1"
    self._writers = [
      array_record_module.ArrayRecordWriter(str(path), option)
      for path, option in zip(self._paths, options)
    ]

  def add(self, item: items.Item) -> None:
    fields = {
      "key": item.key.encode(errors="replace").decode(),
      "captions": item.captions,
      "label": item.label,
      "concept_id": item.concept_id,
    }
    text = json.dumps(fields).encode()
    for writer, record in zip(self._writers, (item.image, text)):
      writer.write(record)
      self._hash.update(hashlib.sha256(record).digest())
    self.count += 1

  def close(self) -> None:
    """Moves the files into place."""
    self.digest = self._hash.hexdigest()[:16]
    for writer in self._writers:
      writer.close()
    for path, final in zip(self._paths, self._final):
      self.sizes.append(path.stat().st_size)
      os.replace(path, final)

  def discard(self) -> None:
    """Removes what is not complete."""
    for path in self._paths:
      path.unlink(missing_ok=True)


def _known(path: pathlib.Path, root: pathlib.Path) -> dict[str, Any] | None:
  """The recorded result of a unit; None if its files are not all complete."""
  try:
    result = json.loads(path.read_text(encoding="utf-8"))
    complete = all(
      [file.stat().st_size for file in files_of(root, split, result["number"])]
      == sizes
      for split, sizes in result["bytes"].items()
    )
  except (
    *(OSError, ValueError, KeyError),
    *(TypeError, AttributeError, RecursionError),
  ):
    return None
  return result if complete else None


def files_of(root: pathlib.Path, split: str, number: int) -> list[pathlib.Path]:
  """A unit's two files in a split, of images and of texts."""
  return [
    root / split / f"{number:05d}.{kind}.array_record"
    for kind in ("image", "text")
  ]


def _finish(
  root: pathlib.Path,
  settings: ConversionSettings,
  results: Sequence[dict[str, Any]],
  max_bad_share: float,
  report: Callable[[str], None],
) -> Summary:
  """Lists the problems, and writes what the data set consists of."""
  results = sorted(results, key=lambda result: result["number"])
  problems: collections.Counter[str] = collections.Counter()
  for result in results:
    problems.update(result["problems"])
  broken = sum(result["broken"] for result in results)
  skipped = root / _SKIPPED_FILE
  _write(skipped, _listed(root, results))
  splits = {
    split: [
      {"number": result["number"]}
      | {key: result[key][split] for key in ("examples", "content", "bytes")}
      for result in results
      if result["examples"].get(split)
    ]
    for split in SPLITS
  }
  examples = {
    split: sum(part["examples"] for part in parts)
    for split, parts in splits.items()
  }
  good, bad = sum(examples.values()), problems.total()
  counts = folder_rows.counted(problems)
  if broken > max_bad_share * len(results):
    raise DataError(
      f"{broken:,} of {len(results):,} parts of the inputs are broken ({counts}), more"
      f" than --max_bad_share={max_bad_share:g}: fetch them anew. {skipped} lists"
      " them."
    )
  if bad > max_bad_share * (good + bad) or not examples["train"]:
    raise DataError(
      f"{bad:,} of {good + bad:,} examples cannot be used ({counts or 'none'}),"
      f" and {examples['train']:,} are left to train on; --max_bad_share is"
      f" {max_bad_share:g}. {skipped} lists them."
    )
  _write(
    root / DATASET_FILE,
    json.dumps(
      {
        "version": _VERSION,
        "images_alone": settings.how.images_alone,
        "splits": splits,
      }
    )
    + "\n",
  )
  if bad:
    report(
      f"Note: {bad:,} of {good + bad:,} cannot be used ({counts}); {skipped}"
      " lists them."
    )
  return Summary(examples, dict(problems), len(results), broken)


def _listed(
  root: pathlib.Path, results: Sequence[dict[str, Any]]
) -> Iterator[str]:
  """A line a problem, of one unit's file after the other."""
  for result in results:
    if result["problems"]:
      path = root / "units" / f"{result['number']:05d}.json"
      known = json.loads(path.read_text(encoding="utf-8"))
      for key, problem, lost in known["problems"]:
        entry = {"input": known["input"], "key": key, "problem": problem}
        if lost != 1:
          entry["lost"] = lost
        yield json.dumps(entry) + "\n"


def _write(path: pathlib.Path, text: str | Iterable[str]) -> None:
  """Writes a file that is there in full or not at all."""
  partial = _partial(path)
  with open(partial, "w", encoding="utf-8") as file:
    file.writelines([text] if isinstance(text, str) else text)
  os.replace(partial, path)


def _partial(path: pathlib.Path) -> pathlib.Path:
  """The name of a file until it is complete."""
  return path.with_name(f".{path.name}.{_TOKEN}")
