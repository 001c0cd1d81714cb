"""Records finished stages of experiments.fusion_study: NAME.json, .md, .png.

python -m experiments.fusion_study_report --workdir=runs/fusion --name=fusion_scenes
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags

from contrastive_jax.programs import command_line, reporting
from contrastive_jax.recipes import _fusion
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.runs import results_file
from contrastive_jax.training.trainer import metric_log
from experiments import fusion_study
from experiments.fusion_study import PRETRAINING

_FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string(
  "workdir",
  "runs/fusion",
  "Folder of experiments.fusion_study.",
  flag_values=_FLAGS,
)
_NAME = flags.DEFINE_string(
  "name", "fusion_scenes", "Name of the record.", flag_values=_FLAGS
)
_OUT = flags.DEFINE_string(
  "out",
  str(reporting.RESULTS),
  "Folder it goes to, whose NAME.reading.md, if there is one, becomes part of the page.",
  flag_values=_FLAGS,
)

_TITLES = {
  "vqa": "questions (VQA)",
  "nlvr2": "statements on two images (NLVR2)",
  "entailment": "visual entailment",
  "easy_vqa": "easy-VQA",
}
_WAYS = {
  "image_to_text": "the caption of an image",
  "text_to_image": "the image of a caption",
}


def collect(workdir: pathlib.Path) -> dict[str, Any]:
  """Versions, and the finished stages of a folder by name.

  Of each there is the configuration, the results and the curve: minutes of training
  and the score on validation.

  Raises:
    config_lib.UserError: if the pre-training is not there, or not finished.
  """
  stages = {}
  for name in (PRETRAINING, *_fusion.ALL_TASKS):
    folder = workdir / name
    results = results_file.read(folder)
    if results is None:
      continue
    config = config_lib.parse(workdirs.read_json(folder / "config.json"))
    values = config.to_dict()
    if name != PRETRAINING:
      # Wherever on this machine it was.
      values["initial"]["workdir"] = _fusion.BEGINS.get(name, PRETRAINING)
    stages[name] = {
      "config": values,
      "results": dict(results),
      "curve": list(_curve(folder, name, config.batch_size, results)),
    }
  if PRETRAINING not in stages:
    raise config_lib.UserError(
      f"{workdir / PRETRAINING} holds no finished run (no results.json): run"
      " python -m experiments.fusion_study first."
    )
  return {"versions": reporting.versions(), "stages": stages}


def _curve(
  folder: pathlib.Path,
  name: str,
  batch_size: int,
  results: Mapping[str, float],
) -> Iterator[tuple[float, float]]:
  """Minutes of training, compiling and evaluation apart, and the score then."""
  metric = (
    "retrieval_validation/image_to_text/recall_at_1"
    if name == PRETRAINING
    else "_validation/accuracy"
  )
  minutes, step = 0.0, 0
  last = {k: v for k, v in results.items() if not k.startswith("train/")}
  for row in (*metric_log.read_metrics(folder), last):
    speed = row.get("train/examples_per_second")
    if speed:
      minutes += (row["step"] - step) * batch_size / speed / 60
      step = row["step"]
    for key, value in row.items():
      if key.endswith(metric):
        yield minutes, value


def page(name: str, record: Mapping[str, Any], reading: str = "") -> str:
  """The record as Markdown; what was read in it comes after what was run."""
  stages = record["stages"]
  tasks = [stage for stage in stages if stage != PRETRAINING]
  results = stages[PRETRAINING]["results"]
  retrieval = (
    [
      f"{title}, among 500 images'",
      f"{results[f'retrieval/{way}/recall_at_1']:.3f}",
      f"{results[f'retrieval_reranked/{way}/recall_at_1']:.3f}",
    ]
    for way, title in _WAYS.items()
  )
  lines = [
    f"# {name}",
    "",
    "One run of every stage. Minutes are those of a whole stage with compiling and"
    " evaluation; the test of scenes has 500 images, or pairs of them.",
    "",
    "```sh",
    _command(stages, tasks),
    "```",
    "",
    *([reading, ""] if reading else []),
    *reporting.table(
      ["pre-training", "R@1 by contrast", "re-ranked by matching"], retrieval
    ),
    "",
    *reporting.table(
      ["stage", "steps", "minutes", "test", "unseen pairs", "texts alone"],
      (_row(stage, stages[stage]) for stage in stages),
    ),
    "",
    "Texts alone: the accuracy of the commonest training answer to each text.",
    "Unseen pairs: images with, and texts about, colours of shapes that training"
    " never shows together.",
  ]
  for task in tasks:
    lines += ["", *_kinds(_TITLES[task], stages[task])]
  lines += reporting.picture_and_source(
    name, "Validation scores over the minutes of training", record["versions"]
  )
  return "\n".join(lines)


def _command(stages: Mapping[str, Any], tasks: list[str]) -> str:
  """Command of the stages; a comment if they share no factor of the steps."""
  seed = stages[PRETRAINING]["config"]["seed"]
  words = [
    "python -m experiments.fusion_study",
    f"--tasks={','.join(tasks)}",
    f"--seed={seed}",
  ]
  usual = fusion_study.stages(pathlib.Path(), tasks)
  shares = {
    round(stage["config"]["steps"] / usual[name].steps, 2)
    for name, stage in stages.items()
  }
  if len(shares) > 1:
    return "# Each stage by hand, with the steps of the table."
  if shares != {1.0}:
    words.append(f"--times={shares.pop():g}")
  return " ".join(words)


def _objective(stage: Mapping[str, Any]) -> str:
  return stage["config"]["objective"]["name"]


def _row(name: str, stage: Mapping[str, Any]) -> list[str]:
  """A stage's length, and its scores if it is a task."""
  results, prefix = stage["results"], _objective(stage)
  keys = (
    f"{prefix}/accuracy",
    f"{prefix}_test_unseen_pairs/accuracy",
    f"{prefix}/text_only_accuracy",
  )
  return [
    _TITLES.get(name, "pre-training"),
    f"{stage['config']['steps']:,}",
    f"{results['train/seconds'] / 60:.1f}",
    *(f"{results[key]:.3f}" if key in results else "–" for key in keys),
  ]


def _kinds(title: str, stage: Mapping[str, Any]) -> list[str]:
  """The table of a task's kinds of texts, on the test split."""
  start = f"{_objective(stage)}/accuracy/"
  kinds = {
    key.removeprefix(start).replace("_", " "): value
    for key, value in stage["results"].items()
    if key.startswith(start)
  }
  if not kinds:
    return []
  ordered = sorted(kinds.items(), key=lambda item: -item[1])
  return reporting.table(
    [title, "accuracy"], ([kind, f"{value:.3f}"] for kind, value in ordered)
  )


def draw(record: Mapping[str, Any], path: pathlib.Path) -> None:
  """Draws the scores on validation over the minutes of training."""
  from matplotlib import figure

  canvas = figure.Figure(figsize=(7, 4.2), layout="constrained")
  axis = canvas.subplots()
  for number, (name, stage) in enumerate(record["stages"].items()):
    if not stage["curve"]:
      continue
    minutes, values = zip(*stage["curve"])
    colour = f"C{number}"
    title = _TITLES.get(name, "pre-training (R@1, image to text)")
    axis.plot(minutes, values, "o-", color=colour, markersize=3, label=title)
    alone = stage["results"].get(
      f"{_objective(stage)}_validation/text_only_accuracy"
    )
    if alone is not None:
      axis.axhline(alone, color=colour, linestyle=":", linewidth=1)
  axis.set(
    xlabel="minutes of the stage's training",
    ylabel="accuracy or recall on validation",
    ylim=(0, 1.02),
    xlim=(0, None),
  )
  axis.grid(alpha=0.3)
  axis.legend(loc="lower right", fontsize=8, title="dotted: texts alone")
  canvas.savefig(path, dpi=150)


def main() -> None:
  """Runs the program."""
  record = collect(pathlib.Path(_WORKDIR.value).expanduser())
  out, name = pathlib.Path(_OUT.value), _NAME.value
  text = page(name, record, reporting.reading(out, name, record))
  reporting.write(out, name, record, text)
  draw(record, out / f"{name}.png")
  print(f"Wrote {name}.json, .md and .png to {out}.")


if __name__ == "__main__":
  command_line.run(main, flag_values=_FLAGS, usage=__doc__)
