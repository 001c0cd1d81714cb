"""Trains and evaluates an image-text model.

python -m experiments.train
python -m experiments.train --config.steps=20 --workdir=runs/smoke
python -m experiments.train --config.data=folder --config.data.path=DIR
"""

import os
import pathlib
import sys
import threading
from typing import Any

import jax
from absl import flags

from contrastive_jax.training import config as config_lib
from contrastive_jax.training import processes, runner
from experiments import flags as flags_lib

_FLAGS = flags.FlagValues()
_CONFIG = flags_lib.define_config(flag_values=_FLAGS)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  "runs/clip_emoji",
  "Where the run keeps its files.",
  flag_values=_FLAGS,
)

_COORDINATOR = flags.DEFINE_string(
  "coordinator",
  "",
  "HOST:PORT of process 0, for several processes.",
  flag_values=_FLAGS,
)
_PROCESS_COUNT = flags.DEFINE_integer(
  "process_count", 0, "Processes.", flag_values=_FLAGS
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", -1, "This process.", flag_values=_FLAGS
)
_DEAD_AFTER = flags.DEFINE_float(
  "dead_after",
  30.0,
  "Seconds after which a silent process is taken for gone.",
  lower_bound=1.0,
  flag_values=_FLAGS,
)

_START_WITHIN = flags.DEFINE_float(
  "start_within",
  300.0,
  "Seconds in which all processes must have started.",
  lower_bound=1.0,
  flag_values=_FLAGS,
)

_USAGE = """Trains and evaluates an image-text model.

  python -m experiments.train                      the default: emoji, CPU
  python -m experiments.train --config.steps=20    a smoke run
  python -m experiments.train --config.data=folder --config.data.path=DIR
                                                   your images and captions
Flags:
  --config=FILE      recipe; default experiments/configs/clip_emoji.py
  --config.NAME=X    changes a field of the recipe, see below
  --workdir=DIR      checkpoints, logs, plots, results.json; default
                     runs/clip_emoji. The same command again resumes there.
  --coordinator=X    several processes (hosts): "auto" on TPU pods and SLURM, or
                     HOST:PORT of process 0 together with
  --process_count=N  how many processes there are, and
  --process_id=I     which of them this is, from 0. All see the same workdir.
  --dead_after=S     when one of them has not answered for S seconds (30), the
                     others name it and exit with code 75
  --start_within=S   seconds in which all of them must have started (300); else those
                     that have exit with code 75
SIGTERM and Ctrl-C finish the step, save, and exit with code 75 as well: the same command
goes on. A mistake exits with 2, a run that became NaN with 1.
On Linux it starts itself again to ask for huge pages of memory and few arenas, if the
environment has no GLIBC_TUNABLES.
"""


def start_processes(
  coordinator: str,
  count: int,
  index: int,
  *,
  start_within: float = 300.0,
  dead_after: float = 30.0,
) -> None:
  """Joins the processes of a run; must come before anything of JAX.

  Args:
    coordinator: "" for one process, "auto", or HOST:PORT of process 0.
    count: processes; 0 if not given.
    index: this process; -1 if not given.
    start_within: seconds in which all of them must have started.
    dead_after: seconds without an answer after which one is taken for gone. The
      runtime waits four times as long, because `training.processes` says which one.

  Raises:
    config_lib.UserError: if the flags do not go together.
  """
  if not coordinator:
    if count > 0 or index >= 0:
      raise config_lib.UserError(
        "--process_count and --process_id need --coordinator=HOST:PORT."
      )
    return
  # Its own handler of SIGTERM would take the place of ours.
  jax.config.update("jax_enable_preemption_service", False)
  options: dict[str, Any] = {
    # It may notice after half of this time; the watch needs 1.6 * dead_after.
    "heartbeat_timeout_seconds": round(4 * dead_after),
  }
  if coordinator == "auto":
    _initialize(start_within, **options)
    return
  if ":" not in coordinator or not 0 <= index < count:
    raise config_lib.UserError(
      "--coordinator=HOST:PORT needs --process_count=N and --process_id from 0"
      f" to N - 1; got --coordinator={coordinator} --process_count={count}"
      f" --process_id={index}."
    )
  _initialize(
    start_within,
    coordinator_address=coordinator,
    num_processes=count,
    process_id=index,
    **options,
  )


def _initialize(start_within: float, **options: Any) -> None:
  """`jax.distributed.initialize`, which would end the process without our words."""
  timer = threading.Timer(start_within, _leave, (start_within,))
  timer.daemon = True
  timer.start()
  # Some time later, so that the words are ours.
  jax.distributed.initialize(
    initialization_timeout=round(start_within) + 60, **options
  )
  timer.cancel()
  if jax.default_backend() == "cpu":
    # A program that XLA reads from the cache has lost the order of the collectives
    # in its loops (jaxlib 0.10): CPUs then take one's numbers for another's.
    jax.config.update("jax_enable_compilation_cache", False)


def _leave(start_within: float) -> None:
  print(
    f"Stopped: not all processes of the run have started within {start_within:g} s"
    " (--start_within); the same commands try again.",
    file=sys.stderr,
    flush=True,
  )
  # The main thread waits in the runtime.
  os._exit(processes.EXIT_CODE)


def main() -> None:
  """Runs the program."""
  start_processes(
    _COORDINATOR.value,
    _PROCESS_COUNT.value,
    _PROCESS_ID.value,
    start_within=_START_WITHIN.value,
    dead_after=_DEAD_AFTER.value,
  )
  config = config_lib.parse(_CONFIG.value)
  workdir = pathlib.Path(_WORKDIR.value).expanduser()
  results = runner.train(config, workdir, dead_after=_DEAD_AFTER.value)
  if jax.process_index() == 0:
    print("\n" + runner.table(results))
    print(f"\nPlots and results.json are in {workdir}.")


if __name__ == "__main__":
  flags_lib.run(
    main,
    flag_values=_FLAGS,
    usage=_USAGE,
    trains=True,
    interrupted="the same command resumes at the last checkpoint",
  )
