"""Runs a grid of configurations over seeds, and records what came out.

python -m experiments.sweep --sweep=experiments/sweeps/clip_small_batches.py

A sweep file is Python and has `get_sweep() -> Sweep`. Runs go through the
trainer one after the other, or as `sweep_jobs`. What is finished stands in the
record, which grows by a run at a time: started again, the program goes on with what
is missing.
"""

import copy
import dataclasses
import importlib.util
import os
import pathlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
from absl import flags

from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import errors
from contrastive_jax.training.runs import runner
from experiments import sweep_jobs, sweep_report

_FLAGS = flags.FlagValues()
_SWEEP = flags.DEFINE_string(
  "sweep", "", "File with get_sweep().", flag_values=_FLAGS
)
_OUT = flags.DEFINE_string(
  "out",
  str(pathlib.Path(__file__).parent / "results"),
  "Folder of the record.",
  flag_values=_FLAGS,
)
_MINUTES = flags.DEFINE_float(
  "minutes",
  0.0,
  "Begin no run after so many minutes; 0 is no limit.",
  lower_bound=0.0,
  flag_values=_FLAGS,
)

_PROCESSES = flags.DEFINE_integer(
  "processes", 1, "Runs at a time.", lower_bound=1, flag_values=_FLAGS
)
_LIST = flags.DEFINE_bool(
  "list", False, "Print a command a run.", flag_values=_FLAGS
)
_JOB = flags.DEFINE_string("job", "", "One run alone.", flag_values=_FLAGS)

_USAGE = """Runs a grid of configurations over seeds; resumes where it stopped.

  python -m experiments.sweep --sweep=experiments/sweeps/clip_small_batches.py

Writes NAME.json, NAME.md and NAME.png, anew after every run. Flags:
  --sweep=FILE   Python with get_sweep() -> experiments.sweep.Sweep
  --out=DIR      of the record; default experiments/results
  --minutes=N    begin no run after N minutes; the same command goes on later
  --processes=N  runs at a time, each in a process of its own; default 1: in this one
  --list         run nothing, but print a command for each run that can be made now, a
                 line each, for a scheduler; those that depend on others' scores come
                 when these are there. The next start puts what they leave in the record
  --job=NAME     what these commands say: this run alone
"""


@dataclasses.dataclass(frozen=True)
class Arm:
  """One configuration of a sweep.

  Attributes:
    method: what is compared, a row of the table and a line of the plot.
    setting: where it is compared (a batch size), a column and the plot's x.
    fields: dotted fields of the configuration and their values.
    tuned: a dotted field, or several separated by commas that have one value, to
      be chosen for this arm instead of the sweep's.
    candidates: its values.
  """

  method: str
  setting: float
  fields: Mapping[str, Any]
  tuned: str = ""
  candidates: Sequence[float] = ()

  @property
  def name(self) -> str:
    """Method and setting."""
    return f"{self.method} @ {self.setting:g}"


@dataclasses.dataclass(frozen=True)
class Sweep:
  """A grid of runs.

  Attributes:
    name: of the record.
    title: of its page.
    text: says what is compared, Markdown.
    config: what all runs have in common.
    arms: the configurations.
    baseline: the method that the others are compared with, at each setting.
    setting: what the settings are, such as "batch size".
    seeds: of every arm; runs of one seed are paired.
    metrics: names in `results.json` and what the page calls them; a run may lack
      some, but not the first.
    tuned: a dotted field that is chosen for each arm on its own, or "".
    candidates: its values; an arm may have a field and values of its own.
    tune_metric: chooses, the larger the better; of validation data.
    tune_seed: of the runs that choose, none of `seeds`.
    reading: what the finished record shows, Markdown.
    train_fn: a configuration's results; None is a run of the trainer.
    others: what else `train_fn` trains: configurations by name, for the record.
  """

  name: str
  title: str
  text: str
  config: ml_collections.ConfigDict
  arms: Sequence[Arm]
  baseline: str
  setting: str
  seeds: Sequence[int]
  metrics: Mapping[str, str]
  tuned: str = ""
  candidates: Sequence[float] = ()
  tune_metric: str = ""
  tune_seed: int = 1000
  reading: str = ""
  train_fn: Callable[[config_lib.Config], Mapping[str, float]] | None = None
  others: Mapping[str, ml_collections.ConfigDict] = dataclasses.field(
    default_factory=dict
  )

  def __post_init__(self):
    if self.tune_seed in self.seeds:
      raise ValueError(
        f"tune_seed must be none of seeds; got {self.tune_seed}."
      )
    methods = {arm.method for arm in self.arms}
    if self.baseline not in methods:
      raise ValueError(
        f"baseline must be one of {', '.join(sorted(methods))}; got"
        f" {self.baseline!r}."
      )
    for arm in self.arms:
      field, candidates = self.tuning(arm)
      if field and not (candidates and self.tune_metric):
        raise ValueError("tuned needs candidates and tune_metric.")

  @property
  def total_runs(self) -> int:
    """How many runs it has, those that choose included."""
    tuning = sum(len(self.tuning(arm)[1]) for arm in self.arms)
    return tuning + len(self.arms) * len(self.seeds)

  def tuning(self, arm: Arm) -> tuple[str, Sequence[float]]:
    """The field that is chosen for an arm, and its values."""
    if arm.tuned:
      return arm.tuned, arm.candidates
    return self.tuned, self.candidates if self.tuned else ()


@dataclasses.dataclass(frozen=True)
class Job:
  """One run: an arm with a seed and, where it is tuned, a value."""

  arm: Arm
  seed: int
  value: float | None

  @property
  def key(self) -> str:
    """Its name in the record."""
    value = "" if self.value is None else f" | {self.value:g}"
    return f"{self.arm.name}{value} | seed {self.seed}"


Runs = dict[str, dict[str, Any]]


def pending(sweep: Sweep, runs: Runs) -> Iterator[Job]:
  """The runs that are missing, in order; later ones depend on earlier ones.

  First those that choose the tuned field, then seed by seed all arms, so that a
  record that is not finished compares pairs.

  Args:
    sweep: the grid.
    runs: what is finished; it is read anew for every run.

  Yields:
    Jobs; each must be in `runs` before the next is asked for.
  """
  for arm in sweep.arms:
    for value in sweep.tuning(arm)[1]:
      job = Job(arm, sweep.tune_seed, value)
      if job.key not in runs:
        yield job
  for seed in sweep.seeds:
    for arm in sweep.arms:
      job = Job(arm, seed, sweep_report.chosen(sweep, arm, runs))
      if job.key not in runs:
        yield job


def configuration(sweep: Sweep, job: Job) -> config_lib.Config:
  """The configuration of a run.

  Raises:
    ConfigError: if a field is wrong.
  """
  # A copy: a field that one arm sets must not reach the next.
  values = copy.deepcopy(sweep.config.to_dict())
  fields = {**job.arm.fields, "seed": job.seed}
  if job.value is not None:
    fields |= dict.fromkeys(sweep.tuning(job.arm)[0].split(","), job.value)
  for name, value in fields.items():
    *groups, last = name.split(".")
    place = values
    for group in groups:
      place = place[group]
    place[last] = value
  return config_lib.parse(values)


def train(config: config_lib.Config) -> dict[str, float]:
  """A run in a folder of its own, which is not kept."""
  folder = tempfile.mkdtemp()
  try:
    return runner.train(config, folder, report=lambda line: None)
  finally:
    shutil.rmtree(folder, ignore_errors=True)


def measure(
  sweep: Sweep,
  job: Job,
  train_fn: Callable[[config_lib.Config], Mapping[str, float]] | None = None,
) -> dict[str, Any]:
  """Makes a run; what the record has of it.

  Args:
    sweep: the grid.
    job: the run.
    train_fn: a configuration's results; None is the sweep's own.
  """
  train_fn = train_fn or sweep.train_fn or train
  began = time.monotonic()
  results = train_fn(configuration(sweep, job))
  return {
    "arm": job.arm.name,
    "seed": job.seed,
    "value": job.value,
    "results": {
      name: float(results[name])
      for name in (*sweep.metrics, sweep.tune_metric)
      if name in results
    },
    "seconds": round(time.monotonic() - began, 1),
  }


def run(
  sweep: Sweep,
  out: pathlib.Path,
  *,
  minutes: float = 0.0,
  train_fn: Callable[[config_lib.Config], Mapping[str, float]] | None = None,
  report: Callable[[str], None] = print,
) -> Runs:
  """Makes the runs that the record lacks, and writes it after each.

  Args:
    sweep: the grid.
    out: folder of the record.
    minutes: begin no run after so many; 0 is no limit.
    train_fn: a configuration's results; None is the sweep's own.
    report: receives lines for the user.

  Returns:
    All finished runs.

  Raises:
    UserError: if the record is of another sweep.
    errors.Stopped: if a signal stopped a run, which is not in the record.
  """
  for arm in sweep.arms:  # A mistake must show before hours of others.
    first = (*sweep.tuning(arm)[1], None)[0]
    configuration(sweep, Job(arm, sweep.seeds[0], first))
  path = out / f"{sweep.name}.json"
  runs = sweep_report.read(sweep, path)
  total, began = sweep.total_runs, time.monotonic()
  for job in pending(sweep, runs):
    if minutes and time.monotonic() - began > 60 * minutes:
      done = sweep_report.finished(sweep, runs)
      report(f"Stopped after {minutes:g} minutes, {done} of {total} runs.")
      break
    try:
      runs[job.key] = measure(sweep, job, train_fn)
    except errors.Stopped as stopped:
      raise errors.Stopped(
        "the record has all runs but the one in hand; the same command goes on with"
        " that one from its beginning."
      ) from stopped
    kept, seconds = runs[job.key]["results"], runs[job.key]["seconds"]
    sweep_report.write(sweep, runs, out)
    usual = statistics.median(r["seconds"] for r in runs.values())
    done = sweep_report.finished(sweep, runs)
    left = usual * (total - done) / 60
    first = next(iter(kept))
    report(
      f"{done}/{total}  {job.key}: {first} {kept[first]:.4f}"
      f"  {seconds:.0f} s  ETA {left:.0f} min"
    )
    jax.clear_caches()
  sweep_report.write(sweep, runs, out)
  return runs


def load(path: str) -> Sweep:
  """The sweep of a file.

  Raises:
    UserError: if there is no such file, it fails, or it has no get_sweep.
  """
  if not os.path.isfile(path):
    raise config_lib.UserError(
      f"--sweep must be a file with get_sweep(); got {path!r}."
    )
  spec = importlib.util.spec_from_file_location("sweep_file", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  # A sweep is a program: it may raise anything.
  try:
    spec.loader.exec_module(module)
    make = getattr(module, "get_sweep", None)
    found: Any = make() if make else None
  except Exception as error:
    raise config_lib.UserError(
      f"--sweep={path} failed: {flags_lib.failure(path, error)}."
    ) from error
  if make is None:
    raise config_lib.UserError(f"--sweep={path} has no function get_sweep.")
  # Run as a program this module has another `Sweep` than the file's.
  if not hasattr(found, "total_runs"):
    raise config_lib.UserError(
      f"--sweep={path}: get_sweep() must return a Sweep; got"
      f" {type(found).__name__}."
    )
  return found


def main() -> None:
  """Runs the program."""
  sweep = load(_SWEEP.value)
  out = pathlib.Path(_OUT.value).expanduser()
  out.mkdir(parents=True, exist_ok=True)
  # Runs of one arm differ in their seed alone, and share their programs.
  cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or tempfile.mkdtemp()
  jax.config.update("jax_compilation_cache_dir", cache)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = cache  # For processes of its own.
  runs = sweep_report.read(sweep, out / f"{sweep.name}.json")
  if _JOB.value:
    sweep_jobs.run_one(sweep, runs, _JOB.value, out)
    return
  sweep_jobs.collect(sweep, runs, out)
  if _LIST.value:
    print("\n".join(sweep_jobs.lines(sweep, runs, _SWEEP.value, out)))
    return
  if _PROCESSES.value > 1:
    sweep_jobs.run_beside(
      sweep,
      runs,
      _SWEEP.value,
      out,
      processes=_PROCESSES.value,
      minutes=_MINUTES.value,
      report=lambda line: print(line, flush=True),
    )
  else:
    run(
      sweep,
      out,
      minutes=_MINUTES.value,
      report=lambda line: print(line, flush=True),
    )
  print(f"Wrote {sweep.name}.json, .md and .png to {out}.")


if __name__ == "__main__":
  flags_lib.run(
    main,
    flag_values=_FLAGS,
    usage=_USAGE,
    trains=True,
    interrupted="the same command goes on with the runs that are missing",
  )
