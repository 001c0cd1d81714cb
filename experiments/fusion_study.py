r"""Pre-trains a fusion model on scenes, and fine-tunes it on the tasks.

  python -m experiments.fusion_study --workdir=runs/fusion
  python -m experiments.fusion_study --tasks=vqa --steps=20 --workdir=runs/smoke

The stages are runs of the trainer. One stage by hand, with any field changed:
  python -m experiments.train --config=vqa_scenes --config.initial=run \
      --config.initial.workdir=runs/fusion/pretraining --workdir=runs/vqa
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence

from absl import flags

from contrastive_jax.programs import command_line
from contrastive_jax.recipes import _fusion
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.runs import results_file, runner

_FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string(
  "workdir",
  "runs/fusion",
  "Gets a folder a stage: pretraining/, vqa/, ... and results.json; the same command"
  " again goes on where it was.",
  flag_values=_FLAGS,
)
_TASKS = flags.DEFINE_list(
  "tasks",
  list(_fusion.TASKS),
  "Tasks to fine-tune on, of vqa, nlvr2, entailment, easy_vqa; easy_vqa needs the"
  " package easy-vqa; nlvr2 begins with the model of vqa, which is made before it.",
  flag_values=_FLAGS,
)
_SEED = flags.DEFINE_integer(
  "seed", 0, "Random seed of all stages.", lower_bound=0, flag_values=_FLAGS
)
_STEPS = flags.DEFINE_integer(
  "steps",
  0,
  "Steps of each stage, instead of the usual ones.",
  lower_bound=0,
  flag_values=_FLAGS,
)
_TIMES = flags.DEFINE_float(
  "times",
  1.0,
  "Factor of the usual steps of each stage; another number of steps needs another"
  " --workdir.",
  lower_bound=0.001,
  flag_values=_FLAGS,
)

PRETRAINING = "pretraining"


def stages(
  workdir: pathlib.Path,
  tasks: Sequence[str],
  *,
  seed: int = 0,
  steps: int = 0,
  times: float = 1.0,
) -> dict[str, config_lib.Config]:
  """The configuration of each stage, each after the one that it begins with.

  Args:
    workdir: the folder of the stages.
    tasks: of `recipes._fusion.ALL_TASKS`.
    seed: of all of them.
    steps: of each; 0 is as the recipes have it.
    times: factor of the recipes' steps.

  Returns:
    Configurations by the name of the stage.

  Raises:
    UserError: if there is no such task.
  """
  names = {PRETRAINING: None}
  for name in tasks:
    if name not in _fusion.ALL_TASKS:
      raise config_lib.UserError(
        f"--tasks must be some of {', '.join(_fusion.ALL_TASKS)}; got {name!r}."
      )
    names |= {_fusion.BEGINS.get(name, name): None, name: None}
  out = {}
  for name in names:
    first = name == PRETRAINING
    values = _fusion.pretraining() if first else _fusion.task(name)
    values.seed = seed
    values.steps = steps or max(1, round(times * values.steps))
    if not first:
      values.initial = "run"
      begun = _fusion.BEGINS.get(name, PRETRAINING)
      values.initial.workdir = str(workdir / begun)
    out[name] = config_lib.parse(values)
  return out


def run(
  workdir: pathlib.Path,
  configs: Mapping[str, config_lib.Config],
  *,
  train: Callable[..., Mapping[str, float]] = runner.train,
  report: Callable[[str], None] = print,
) -> dict[str, float]:
  """The results of all stages, made in order; names begin with the stage's."""
  out = {}
  for number, (name, config) in enumerate(configs.items(), start=1):
    report(f"Stage {number} of {len(configs)}: {name}.")
    results = train(config, workdir / name)
    out |= {f"{name}/{key}": value for key, value in results.items()}
  return out


def main() -> None:
  """Runs the program."""
  if _STEPS.value and _TIMES.value != 1.0:
    raise config_lib.UserError("--steps and --times exclude each other.")
  workdir = pathlib.Path(_WORKDIR.value).expanduser()
  configs = stages(
    workdir,
    _TASKS.value,
    seed=_SEED.value,
    steps=_STEPS.value,
    times=_TIMES.value,
  )
  results = run(workdir, configs)
  path = workdir / "results.json"
  # Beside those of tasks that an earlier call made.
  earlier = workdirs.read_json(path) if path.exists() else {}
  workdirs.write_json(path, earlier | results)
  print("\n" + results_file.table(results))
  print(f"\nresults.json is in {workdir}.")


if __name__ == "__main__":
  command_line.run(
    main,
    flag_values=_FLAGS,
    usage=__doc__,
    interrupted="the same command goes on where it was",
  )
