"""Trains and evaluates an image-text model.

python -m experiments.train
python -m experiments.train --config.steps=20 --workdir=runs/smoke
python -m experiments.train --config.data=folder --config.data.path=DIR
"""

import pathlib

from absl import flags

from contrastive_jax.training import config as config_lib
from contrastive_jax.training import runner
from experiments import flags as flags_lib

_CONFIG = flags_lib.define_config()
_WORKDIR = flags.DEFINE_string(
  "workdir", "runs/clip_emoji", "Where the run keeps its files."
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
"""


def main() -> None:
  """Runs the program."""
  config = config_lib.parse(_CONFIG.value)
  workdir = pathlib.Path(_WORKDIR.value).expanduser()
  results = runner.train(config, workdir)
  print("\n" + runner.table(results))
  print(f"\nPlots and results.json are in {workdir}.")


if __name__ == "__main__":
  flags_lib.run(
    main,
    usage=_USAGE,
    interrupted="the same command resumes at the last checkpoint",
  )
