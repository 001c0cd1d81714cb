"""Pre-trains a fusion model on scenes, and fine-tunes it on the tasks.

python -m experiments.fusion_study --workdir=runs/fusion

The stages are runs of the trainer, each in a folder of the workdir: `pretraining`,
then of every task one that begins with it, but for nlvr2, which begins with vqa.
Started again, the program goes on where it was.
"""

import copy
import pathlib
from collections.abc import Callable, Mapping, Sequence

from absl import flags

from contrastive_jax.programs import command_line
from contrastive_jax.recipes import _fusion
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.runs import runner

_FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string(
  "workdir", "runs/fusion", "Folder of the stages.", flag_values=_FLAGS
)
_TASKS = flags.DEFINE_list(
  "tasks", list(_fusion.TASKS), "Tasks to fine-tune on.", flag_values=_FLAGS
)
_SEED = flags.DEFINE_integer(
  "seed", 0, "Random seed of all stages.", lower_bound=0, flag_values=_FLAGS
)
_STEPS = flags.DEFINE_integer(
  "steps",
  0,
  "Steps of each stage; 0 keeps the recipe's.",
  lower_bound=0,
  flag_values=_FLAGS,
)
_TIMES = flags.DEFINE_float(
  "times",
  1.0,
  "Factor of the recipes' steps.",
  lower_bound=0.001,
  flag_values=_FLAGS,
)

_USAGE = """Pre-trains a fusion model on scenes, and fine-tunes it on the tasks.

  python -m experiments.fusion_study --workdir=runs/fusion
  python -m experiments.fusion_study --tasks=vqa --steps=20 --workdir=runs/smoke

Flags:
  --workdir=DIR   gets a folder a stage: pretraining/, vqa/, ... and results.json;
                  the same command again goes on where it was
  --tasks=A,B     of vqa, nlvr2, entailment, easy_vqa; default the first three;
                  easy_vqa needs the package easy-vqa; nlvr2 begins with the
                  model of vqa, which is made before it
  --seed=N        of all stages
  --steps=N       of each stage, instead of the usual ones
  --times=X       X times the usual steps of each stage; another number of steps
                  needs another --workdir
One stage by hand, with any field changed:
  python -m experiments.train --config=vqa_scenes --config.initial=run \\
      --config.initial.workdir=runs/fusion/pretraining --workdir=runs/vqa
"""

PRETRAINING = "pretraining"

Train = Callable[[config_lib.Config, pathlib.Path], Mapping[str, float]]


def recipes(tasks: Sequence[str]) -> dict[str, config_lib.ConfigDraft]:
  """What each stage is made with.

  Args:
    tasks: of `recipes._fusion.ALL_TASKS`.

  Returns:
    Recipes by the name of the stage, each after the one that it begins with.

  Raises:
    UserError: if there is no such task.
  """
  for name in tasks:
    if name not in _fusion.ALL_TASKS:
      raise config_lib.UserError(
        f"--tasks must be some of {', '.join(_fusion.ALL_TASKS)}; got {name!r}."
      )
  out = {PRETRAINING: _fusion.pretraining()}
  for name in tasks:
    for stage in (_fusion.BEGINS.get(name), name):
      if stage is not None and stage not in out:
        out[stage] = _fusion.task(stage)
  return out


def stages(
  workdir: pathlib.Path,
  recipes: Mapping[str, config_lib.ConfigDraft],
  *,
  seed: int,
  steps: int = 0,
  times: float = 1.0,
  begins: Mapping[str, str] | None = None,
) -> dict[str, config_lib.Config]:
  """The configuration of each stage, in order.

  Args:
    workdir: the folder of the stages.
    recipes: of each.
    seed: of all of them.
    steps: of each; 0 is as the recipes have it.
    times: factor of the recipes' steps.
    begins: of tasks that do not begin with the pre-training, the stage that they
      begin with; None is `recipes._fusion.BEGINS`.

  Returns:
    Configurations by the name of the stage.

  Raises:
    ConfigError: if a recipe is wrong.
  """
  begins = _fusion.BEGINS if begins is None else begins
  out = {}
  for name, recipe in recipes.items():
    values = copy.deepcopy(recipe)
    values.seed = seed
    values.steps = steps or max(1, round(times * values.steps))
    if name != PRETRAINING:
      values.initial = "run"
      values.initial.workdir = str(workdir / begins.get(name, PRETRAINING))
    out[name] = config_lib.parse(values)
  return out


def run(
  workdir: pathlib.Path,
  configs: Mapping[str, config_lib.Config],
  *,
  train: Train = runner.train,
  report: Callable[[str], None] = print,
) -> dict[str, float]:
  """Makes the stages one after the other.

  Args:
    workdir: the folder of the stages.
    configs: by `stages`.
    train: makes one.
    report: receives lines for the user.

  Returns:
    The results of all, names beginning with the stage's.
  """
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
    recipes(_TASKS.value),
    seed=_SEED.value,
    steps=_STEPS.value,
    times=_TIMES.value,
  )
  results = run(workdir, configs)
  path = workdir / "results.json"
  # Beside those of tasks that an earlier call made.
  earlier = workdirs.read_json(path) if path.exists() else {}
  workdirs.write_json(path, earlier | results)
  print("\n" + runner.table(results))
  print(f"\nresults.json is in {workdir}.")


if __name__ == "__main__":
  command_line.run(
    main,
    flag_values=_FLAGS,
    usage=_USAGE,
    interrupted="the same command goes on where it was",
  )
