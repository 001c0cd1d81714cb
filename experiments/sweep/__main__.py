"""Runs a grid of configurations over seeds, and records what came out.

python -m experiments.sweep --sweep=clip_small_batches

What is finished stands in the record, which grows by a run at a time: started again,
the program goes on with what is missing.
"""

import functools
import os
import pathlib
import tempfile

from absl import flags

from contrastive_jax.programs import command_line
from experiments import reporting

_FLAGS = flags.FlagValues()
_SWEEP = flags.DEFINE_string(
  "sweep", "", "Name of a sweep, or its file.", flag_values=_FLAGS
)
_OUT = flags.DEFINE_string(
  "out", str(reporting.RESULTS), "Folder of the record.", flag_values=_FLAGS
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

  python -m experiments.sweep --sweep=clip_small_batches
  python -m experiments.sweep --sweep=latent_structure:bridge --processes=4
  python -m experiments.sweep --sweep=my_sweep.py --out=runs/my_sweep

Writes NAME.json, NAME.md and NAME.png after every run; the page begins with the text
of NAME.reading.md, if there is one and no run is missing. Flags:
  --sweep=NAME   a sweep of those below, or a Python file with get_sweep() ->
                 experiments.sweep.Sweep; FILE.py:x calls get_sweep("x") if the
                 file's VARIANTS name it
  --out=DIR      folder of the record; default experiments/results
  --minutes=N    begin no run after N minutes; the same command goes on later
  --processes=N  runs at a time, each in a process of its own; default 1: in this one
  --list         run nothing, but print a command for each run that can be made now, a
                 line each, for a scheduler; those that depend on others' scores come
                 when these are there. The next start puts what they leave in the record
  --job=NAME     what these commands say: this run only
Sweeps (experiments/sweeps/):
  clip_small_batches            eight image-text losses at three batch sizes
  fine_tuning:emoji             maps on published towers against CLIP from scratch
  fine_tuning:openclipart       the same on Open Clip Art
  fusion_structure              ALBEF with regularisers, and without each of its losses
  fusion_structure:nlvr2        its regularisers for statements about two images
  latent_structure              CLIP with each regulariser, weights tuned
  latent_structure:ablation     each regulariser without each of its terms
  latent_structure:bridge       Brownian bridges with a momentum encoder
  latent_structure:momentum     regularisers with features of a momentum encoder
  latent_structure:openclipart  regularisers on Open Clip Art
  modality_gap                  CLIP with a loss that closes the gap
  ssl_small_batches:simclr      SimCLR with each loss at five batch sizes
  ssl_small_batches:moco_v3     the same with MoCo v3
  ssl_small_batches:simclr_emoji, ssl_small_batches:moco_v3_emoji
                                on emoji, two artists' drawings as views
"""


def main() -> None:
  """Runs the program."""
  # Only now: these import JAX, Orbax and more, which takes seconds.
  import jax

  from experiments.sweep import files, jobs

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


if __name__ == "__main__":
  command_line.run(
    main,
    flag_values=_FLAGS,
    usage=_USAGE,
    interrupted="the same command goes on with the runs that are missing",
  )
