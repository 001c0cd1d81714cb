"""Trains and evaluates a model.

  python -m experiments.train                      the default: CLIP on emoji, CPU
  python -m experiments.train --config=simclr_emoji --workdir=runs/simclr
  python -m experiments.train --config.data=folder --config.data.path=DIR

SIGTERM and Ctrl-C finish the step and save. Exit codes: 0 done, 75 saved (rerun the
same command to resume), 2 a mistake in flags or data, 1 a non-finite loss.
"""

import shlex
import sys

from absl import flags

from contrastive_jax.data.files import stores
from contrastive_jax.programs import arenas, command_line
from contrastive_jax.training import config as config_lib

_FLAGS = flags.FlagValues()
_CONFIG = command_line.define_config(flag_values=_FLAGS)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  "runs/clip_emoji",
  "Folder of the run's files; the same command again resumes there.",
  flag_values=_FLAGS,
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator",
  "",
  'For several processes: "auto" on TPU pods and SLURM, or HOST:PORT of process 0.',
  flag_values=_FLAGS,
)
_PROCESS_COUNT = flags.DEFINE_integer(
  "process_count", 0, "Number of processes of the run.", flag_values=_FLAGS
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", -1, "Number of this process, from 0.", flag_values=_FLAGS
)
_DEAD_AFTER = flags.DEFINE_float(
  "dead_after",
  30.0,
  "Seconds without an answer after which another process is taken for gone.",
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


def main() -> None:
  """Runs the program."""
  config = config_lib.checked(_CONFIG.value)
  kind = config.to_dict()
  if _PROCESS_ID.value <= 0:
    print(
      f"{_CONFIG.recipe}: {kind['objective']['name']} on {kind['data']['name']},"
      f" {config.steps:,} steps of {config.batch_size}, in {_WORKDIR.value}.",
      flush=True,
    )
  arenas.use_two()
  # Only now: these import JAX, Orbax and more, which takes seconds.
  import jax

  from contrastive_jax.training.distributed import start as start_lib
  from contrastive_jax.training.runs import hits_file, results_file, runner

  start_lib.start_processes(
    _COORDINATOR.value,
    _PROCESS_COUNT.value,
    _PROCESS_ID.value,
    start_within=_START_WITHIN.value,
    dead_after=_DEAD_AFTER.value,
  )
  config = config_lib.parse(_CONFIG.value)
  if stores.is_address(_WORKDIR.value) and jax.process_count() > 1:
    raise config_lib.UserError(
      f"--workdir={_WORKDIR.value} is for one process; {jax.process_count()} share a"
      " folder: mount the bucket (gcsfuse, mount-s3) on each host and name the folder."
    )
  with stores.writable(_WORKDIR.value) as place:
    results = runner.train(
      config,
      place.local,
      dead_after=_DEAD_AFTER.value,
      command=shlex.join(
        [*command_line.command("train").split(), *sys.argv[1:]]
      ),
      saved=place.push,
    )
    if jax.process_index() == 0:
      items = hits_file.counts(hits_file.load(place.local))
      print("\n" + results_file.table(results, items))
      plots = "report.html, " if config.evaluation.plots else ""
      print(f"\n{plots}results.json and the model are in {_WORKDIR.value}.")


def start() -> None:
  """Parses the command line and runs the program."""
  command_line.run(
    main,
    flag_values=_FLAGS,
    usage=__doc__,
    interrupted="the same command resumes at the last checkpoint",
    addresses=("workdir",),
  )


if __name__ == "__main__":
  start()
