"""Runs a grid of configurations over seeds; resumes where it stopped.

  contrastive-jax sweep --sweep=my_sweep.py --out=runs/my_sweep
  contrastive-jax sweep --sweep=my_project.sweeps:small --processes=4
  python -m experiments.sweep --sweep=clip_small_batches     in a checkout

Writes NAME.json, NAME.md and NAME.png after every run; the page begins with the text
of NAME.reading.md, if there is one and no run is missing.
"""

import functools
import os
import pathlib
import tempfile

from absl import flags

from contrastive_jax.programs import command_line

_FLAGS = flags.FlagValues()
_SWEEP = flags.DEFINE_string(
  "sweep",
  "",
  "Python file or module with get_sweep() -> contrastive_jax.programs.sweep.Sweep, or"
  " the name of a file in experiments/sweeps; PLACE:x calls get_sweep('x') if the"
  " VARIANTS there name it.",
  flag_values=_FLAGS,
)
_OUT = flags.DEFINE_string(
  "out", "experiments/results", "Folder of the record.", flag_values=_FLAGS
)
_MINUTES = flags.DEFINE_float(
  "minutes",
  0.0,
  "Begin no run after so many minutes; the same command goes on later.",
  lower_bound=0.0,
  flag_values=_FLAGS,
)
_PROCESSES = flags.DEFINE_integer(
  "processes",
  1,
  "Runs at a time, each in a process of its own; 1 is in this one.",
  lower_bound=1,
  flag_values=_FLAGS,
)
_LIST = flags.DEFINE_bool(
  "list",
  False,
  "Run nothing, but print a command for each run that can be made now, a line each,"
  " for a scheduler; those that depend on others' scores come when these are there."
  " The next start puts what they leave in the record.",
  flag_values=_FLAGS,
)
_JOB = flags.DEFINE_string(
  "job", "", "The one run that a command of --list makes.", flag_values=_FLAGS
)


def main() -> None:
  """Runs the program."""
  # Only now: these import JAX, Orbax and more, which takes seconds.
  import jax

  from contrastive_jax.programs.sweep import files, jobs

  sweep = files.load(_SWEEP.value)
  out = pathlib.Path(_OUT.value).expanduser()
  out.mkdir(parents=True, exist_ok=True)
  # Runs of one arm differ in their seed alone, and share their programs.
  cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or tempfile.mkdtemp()
  jax.config.update("jax_compilation_cache_dir", cache)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = cache  # For processes of its own.
  if _JOB.value:
    jobs.run_one(sweep, _JOB.value, out)
  elif _LIST.value:
    print("\n".join(jobs.lines(sweep, out)))
  else:
    jobs.run(
      sweep,
      out,
      processes=_PROCESSES.value,
      minutes=_MINUTES.value,
      report=functools.partial(print, flush=True),
    )
    print(f"Wrote {sweep.name}.json, .md and .png to {out}.")


def start(shipped: str = "") -> None:
  """Parses the command line and runs the program.

  Args:
    shipped: what `--help` says of the sweeps that need no path.
  """
  command_line.run(
    main,
    flag_values=_FLAGS,
    usage=f"{__doc__ or ''}{shipped}",
    interrupted="the same command goes on with the runs that are missing",
  )
