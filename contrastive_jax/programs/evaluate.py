"""Evaluates a checkpoint of a run and prints its numbers.

  python -m experiments.evaluate --workdir=runs/clip_emoji
  python -m experiments.evaluate --workdir=runs/clip --suite=zero_shot --suite_dir=DIR
  python -m experiments.evaluate --workdir=runs/mine --config.data.path=DIR

The last names the folder of data that have moved. Suites and benchmarks do without the
run's own data. The numbers go to evaluation_STEP.json in the workdir. Answers to questions whose own
answers are kept back go to answers_SPLIT_STEP.json (without the step for the last).
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable
from typing import Any

from absl import flags

from contrastive_jax.data import benchmarks, sources
from contrastive_jax.data.files import stores
from contrastive_jax.programs import command_line
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import checks
from contrastive_jax.training.evaluators import choices
from contrastive_jax.training.objectives.choices import OBJECTIVES

_FITS = ("pad", "crop", "stretch")
_FLAGS = flags.FlagValues()
_FIELDS = command_line.define_fields(flag_values=_FLAGS)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  "runs/clip_emoji",
  "Folder of an earlier run, whose config.json is read.",
  flag_values=_FLAGS,
)
_STEP = flags.DEFINE_integer(
  "step",
  None,
  "Step of the checkpoint; the newest if absent.",
  flag_values=_FLAGS,
)
_EVALUATORS = flags.DEFINE_string(
  "evaluators",
  "",
  "Evaluators beside the run's own, such as mixed, or module:Class of yours; their"
  " fields are the defaults.",
  flag_values=_FLAGS,
)
_BENCHMARKS = flags.DEFINE_string(
  "benchmarks",
  None,
  "Published sets to score instead of the run's own, such as"
  " cifar10,imagenet_v2.",
  flag_values=_FLAGS,
)
_BENCHMARKS_DIR = flags.DEFINE_string(
  "benchmarks_dir",
  None,
  "TFDS's data directory that has the sets of --benchmarks.",
  flag_values=_FLAGS,
)
_SUITE = flags.DEFINE_string(
  "suite",
  "",
  "Suites of published sets to score instead: zero_shot, probe (13 sets), elevater"
  " (linear probes on 5, 20, 50 shots and all), elevater_fine_tune (the image encoder"
  " trained as well, 190 times a set), retrieval (COCO and Flickr30k). A set that is"
  " scored already is skipped; scores go to suite_NAME_STEP.json and .md.",
  flag_values=_FLAGS,
)
_SUITE_DIR = flags.DEFINE_string(
  "suite_dir",
  "",
  "Data of --suite: TFDS's data directory, or for retrieval the folder with coco/ and"
  " flickr30k/, each Karpathy's dataset_*.json and images/.",
  flag_values=_FLAGS,
)
_FIT = flags.DEFINE_enum(
  "fit",
  None,
  _FITS,
  "How pictures of suites and benchmarks become squares, instead of the run's own"
  " way.",
  flag_values=_FLAGS,
)
_PLOTS = flags.DEFINE_bool(
  "plots",
  False,
  "Draw plots: of the last step into plots/, of an earlier one into plots_STEP/; and a"
  " page with them and the scores, report_STEP.html.",
  flag_values=_FLAGS,
)

_WITH_TEXTS = ("zero_shot", "retrieval")


def main() -> None:
  """Runs the program."""
  _named(_BENCHMARKS, benchmarks.BENCHMARKS)  # Before anything is opened.
  _added()
  names = _suites()
  with stores.writable(_WORKDIR.value, must_exist=True) as place:
    _evaluate(place.local, names)


def _evaluate(workdir: pathlib.Path, names: tuple[str, ...]) -> None:
  """Scores the run of a workdir, or suites of these names."""
  from contrastive_jax.training.runs import hits_file, results_file

  run, state = _restored(workdir, bool(names))
  if names:
    for name in names:
      _score_suite(name, run, state, workdir)
    return
  evaluators = _evaluators(run.config)
  if isinstance(run.data.splits[sources.TRAIN], sources.Absent):
    evaluators = {"benchmarks": evaluators["benchmarks"]}
  results = run.evaluate(state, run.build(evaluators))
  step = int(state.step)
  if _PLOTS.value:
    # The plots of the finished run stay as they are.
    name = "plots" if step == run.steps else f"plots_{step}"
    run.draw(state, workdir / name)
    page = run.page(state, results, workdir / name)
    (workdir / f"report_{step}.html").write_text(page, encoding="utf-8")
  path = workdir / f"evaluation_{step}.json"
  path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
  print("\n" + results_file.table(results, hits_file.counts(run.hits)))
  print(f"\nStep {step}; the numbers are in {_shown(path)}.")


def _restored(workdir: pathlib.Path, without: bool) -> tuple[Any, Any]:
  """The run and its state, without its data where these are asked for or absent."""
  from contrastive_jax.data.sets.folder.folder_rows import DataError
  from contrastive_jax.training.runs import runner

  restore = functools.partial(
    runner.restore, workdir, step=_STEP.value, changes=_FIELDS.fields
  )
  if without:
    return restore(with_data=False)
  try:
    return restore()
  except (DataError, OSError, config_lib.UserError) as error:
    if not _BENCHMARKS.value:
      raise
    print(f"Note: the run's own data are left out: {error}")
    return restore(with_data=False)


def _named(flag: flags.FlagHolder, known: Iterable[str]) -> tuple[str, ...]:
  """The names that a flag lists; raises on one that is not known."""
  names = (name.strip() for name in (flag.value or "").split(","))
  names = tuple(name for name in names if name)
  for name in names:
    if name not in known:
      raise config_lib.UserError(
        f"--{flag.name} must be some of {', '.join(known)}; got {name!r}."
      )
  return names


def _added() -> dict[str, Any]:
  """Evaluators of --evaluators; raises on one that is not known."""
  found = {}
  for name in filter(None, map(str.strip, _EVALUATORS.value.split(","))):
    try:
      found[name] = choices.EVALUATORS.find(name)()
    except ValueError as error:
      raise config_lib.UserError(f"--evaluators {error}") from error
  return found


def _suites() -> tuple[str, ...]:
  """Suites of --suite; raises on one that is not known, or without data."""
  names = _named(_SUITE, benchmarks.SUITES)
  where = pathlib.Path(_SUITE_DIR.value).expanduser()
  if names and not (_SUITE_DIR.value and where.is_dir()):
    raise config_lib.UserError(
      "--suite needs --suite_dir, the folder with its data; got"
      f" {_SUITE_DIR.value!r}: see --help."
    )
  return names


def _score_suite(name: str, run, state, workdir: pathlib.Path) -> None:
  """Scores one, and writes its table."""
  from contrastive_jax.training.evaluators import benchmark_suites

  objective = OBJECTIVES.name_of(run.chosen)
  encoder, kind = run.encoder, benchmarks.SUITES[name].kind
  if encoder is None:
    raise config_lib.UserError(
      "--suite needs a model that embeds images; got config.objective="
      f"{objective!r}."
    )
  if kind in _WITH_TEXTS and not encoder.has_text:
    raise config_lib.UserError(
      f"--suite={name} needs a model with texts; got config.objective="
      f"{objective!r}."
    )
  if kind == "fine_tune" and not encoder.trains_images:
    raise config_lib.UserError(
      f"--suite={name} needs an image tower that is trained; got"
      f" config.objective.frozen={run.objective.frozen!r}: score elevater instead."
    )
  own = _own_fit(run.config)
  fit = _FIT.value or own
  # Scores of other squares are other scores.
  other = "" if fit == own else f"_{fit}"
  path = workdir / f"suite_{name}_{int(state.step)}{other}.json"
  scores = benchmark_suites.run(
    name,
    encoder,
    state,
    path,
    data_dir=_SUITE_DIR.value,
    image_size=run.image_size,
    fit=fit,
    seed=run.seed,
  )
  text = benchmark_suites.table(name, scores)
  path.with_suffix(".md").write_text(text, encoding="utf-8")
  print(f"\n{name}\n\n{text}\nThe numbers are in {_shown(path)}.")


def _shown(path: pathlib.Path) -> str:
  """A file of the workdir, as the user has named that."""
  return f"{_WORKDIR.value.rstrip('/')}/{path.name}"


def _own_fit(config: config_lib.Config) -> str:
  """How a run's model sees pictures that are not square."""
  chosen = config.evaluation.evaluators.get("benchmarks", config.data)
  return getattr(chosen, "fit", "pad")


def _evaluators(config: config_lib.Config) -> dict[str, Any]:
  """The run's evaluators, with the sets and squares of the flags."""
  found = dict(config.evaluation.evaluators)
  classified = found.get("classification")
  chosen = found.pop("benchmarks", None) or choices.Benchmarks(
    fit=_own_fit(config),
    classification=classified is not None,
    concatenated=getattr(classified, "concatenated", False),
  )
  given: dict[str, Any] = {
    "data_dir": _BENCHMARKS_DIR.value,
    "fit": _FIT.value,
    "sets": None,
  }
  if _BENCHMARKS.value is not None:
    given["sets"] = _named(_BENCHMARKS, benchmarks.BENCHMARKS)
  chosen = dataclasses.replace(
    chosen, **{k: v for k, v in given.items() if v is not None}
  )
  added = {k: v for k, v in _added().items() if k not in found}
  found |= added
  if chosen.sets:
    found["benchmarks"] = chosen
  if chosen.sets or added:
    evaluation = dataclasses.replace(config.evaluation, evaluators=found)
    checks.check(dataclasses.replace(config, evaluation=evaluation))
  if chosen.sets:
    return found
  if _FIT.value is not None:
    raise config_lib.UserError(
      f"--fit is for suites and benchmarks; got {_FIT.value!r} without --suite or"
      " --benchmarks."
    )
  return found


def start() -> None:
  """Parses the command line and runs the program."""
  command_line.run(
    main, flag_values=_FLAGS, usage=__doc__, addresses=("workdir",)
  )


if __name__ == "__main__":
  start()
