"""Records finished runs of several seeds: NAME.json, NAME.md, a plot.

python -m experiments.record --name=clip_emoji --workdirs=runs/a,runs/b
"""

import dataclasses
import json
import pathlib
import shlex
import shutil
import types
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from contrastive_jax import recipes
from contrastive_jax.programs import command_line, reporting
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs as workdirs_lib
from contrastive_jax.training.runs import results_file

_FLAGS = flags.FlagValues()
_WORKDIRS = flags.DEFINE_list(
  "workdirs",
  [],
  "Finished runs of one configuration, of different seeds.",
  flag_values=_FLAGS,
)
_NAME = flags.DEFINE_string(
  "name", "", "Name of the record.", flag_values=_FLAGS
)
_RECIPE = flags.DEFINE_string(
  "recipe",
  command_line.DEFAULT_RECIPE,
  "Recipe, or its file, by which the page tells how the runs were made.",
  flag_values=_FLAGS,
)
_OUT = flags.DEFINE_string(
  "out", str(reporting.RESULTS), "Folder it goes to.", flag_values=_FLAGS
)

# Numbers that the page has, with their titles; the JSON file has all.
_RETRIEVAL = (
  ("retrieval", "200 unseen concepts, English name and keywords"),
  ("retrieval_names", "the same, name alone"),
  ("retrieval_de", "the same, German"),
  ("retrieval_es", "the same, Spanish"),
  ("retrieval_fr", "the same, French"),
  ("retrieval_ja", "the same, Japanese"),
  ("retrieval_zh", "the same, Chinese"),
  ("retrieval_all_names", "unseen concepts among all names"),
  ("retrieval_unseen_style", "unseen style among all names"),
  ("retrieval_unseen_both", "unseen style, 200 unseen concepts"),
)
_OTHERS = (
  ("zero_shot/accuracy_top1", "zero-shot, unseen style, top 1"),
  ("zero_shot/accuracy_top5", "zero-shot, unseen style, top 5"),
  ("few_shot/accuracy_1_shot", "1-shot, subcategories"),
  ("few_shot/accuracy_4_shot", "4-shot, subcategories"),
  ("few_shot/accuracy_16_shot", "16-shot, subcategories"),
  ("linear_probe/accuracy", "linear probe, subcategories"),
  ("knn/accuracy", "kNN, subcategories"),
  ("geometry/alignment", "alignment"),
  ("geometry/modality_gap_centroid_distance", "modality gap (centroids)"),
  ("train/examples_per_second", "training images a second"),
  ("train/input_wait", "share of time waiting for input"),
  ("train/seconds", "seconds, all in all"),
)


def summarize(values: Sequence[float]) -> dict[str, Any]:
  """Mean, half of its 95 % interval over seeds (None for one), and the values."""
  mean, half = reporting.spread(values)
  half = half if len(values) > 1 else None
  return {"mean": mean, "half_width": half, "values": list(values)}


def collect(workdirs: Sequence[pathlib.Path]) -> dict[str, Any]:
  """Seeds, configuration, versions and numbers of runs that differ in the seed alone.

  Raises:
    config_lib.UserError: if a run is not finished or of another configuration.
  """
  if not workdirs:
    raise config_lib.UserError(
      "--workdirs must name at least one finished run."
    )
  configs, results = [], []
  for workdir in workdirs:
    numbers = results_file.read(workdir)
    if numbers is None:
      raise config_lib.UserError(
        f"{workdir} holds no finished run (no results.json)."
      )
    results.append(numbers)
    # Fields that are newer than the run have the default there.
    values = config_lib.parse(workdirs_lib.read_json(workdir / "config.json"))
    configs.append(values.to_dict())
    difference = config_lib.first_difference(
      {**configs[0], "seed": 0}, {**configs[-1], "seed": 0}
    )
    if difference:
      raise config_lib.UserError(
        f"{workdirs[0]} and {workdir} differ in config.{difference[0]}:"
        f" {difference[1]!r} and {difference[2]!r}."
      )
  names = [n for n in results[0] if all(n in r for r in results)]
  return {
    "seeds": [c["seed"] for c in configs],
    "config": {k: v for k, v in configs[0].items() if k != "seed"},
    "versions": reporting.versions(),
    "numbers": {n: summarize([r[n] for r in results]) for n in sorted(names)},
  }


def command(
  config: Mapping[str, Any], recipe: str = command_line.DEFAULT_RECIPE
) -> list[str]:
  """Quoted flags of `train` that make a configuration (but its seed) of a recipe.

  Raises:
    UserError: if there is no such recipe.
  """
  try:
    draft = recipes.load(recipe)
  except FileNotFoundError as error:
    raise config_lib.UserError(
      f"--recipe must be one of {', '.join(recipes.names())}, or a file; got"
      f" {recipe!r}."
    ) from error
  try:
    begun = config_lib.parse(draft)
  except config_lib.ConfigError:  # It lacks its data, which the runs have.
    data = draft.data
    given: Any = types.SimpleNamespace(
      **{name: getattr(data, name) for name in dir(data)}
    )
    draft.data = config["data"]
    begun = dataclasses.replace(config_lib.parse(draft), data=given)
  fields = changed_fields(begun, config_lib.parse(config))
  fields.pop("seed", None)
  found = [f"--config.{name}={_text(value)}" for name, value in fields.items()]
  if recipe != command_line.DEFAULT_RECIPE:
    found.insert(0, f"--config={recipe}")
  return [shlex.quote(flag) for flag in found]


def changed_fields(
  one: config_lib.Config, other: config_lib.Config
) -> dict[str, Any]:
  """Changes by which `ConfigDraft.override` turns `one` into `other`.

  Values by dotted name; those of choices are names.

  >>> first, second = config_lib.default_config(), config_lib.default_config()
  >>> second.loss, second.loss.temperature = "decoupled", 0.1
  >>> changed_fields(config_lib.checked(first), config_lib.checked(second))
  {'loss': 'decoupled', 'loss.temperature': 0.1}
  """
  if type(one.objective) is not type(other.objective):
    # Another objective brings evaluators of its own.
    changes: Any = {"evaluators": None}
    evaluation = dataclasses.replace(one.evaluation, **changes)
    one = dataclasses.replace(one, evaluation=evaluation)
  return _changed_fields(one, other, "")


def _changed_fields(one: Any, other: Any, prefix: str) -> dict[str, Any]:
  found = {}
  for f in dataclasses.fields(other):
    new = getattr(other, f.name)
    old = getattr(one, f.name, new)
    path = f"{prefix}{f.name}"
    if new is None or old == new:
      continue
    if "several" in f.metadata:
      # They lie in the group that holds them.
      group = prefix.removesuffix(".")
      if old is None or [*old] != [*new]:
        found[group] = tuple(new)
      for name, variant in new.items():
        before = (old or {}).get(name, type(variant)())
        found |= _changed_fields(before, variant, f"{group}.{name}.")
    elif "kind" in f.metadata:
      if type(old) is not type(new):
        found[path] = f.metadata["kind"].name_of(new)
        # Values given to the former variant stay, and nothing tells that here.
        found |= _changed_fields(type(new)(), new, f"{path}.")
      found |= _changed_fields(old, new, f"{path}.")
    elif "section" in f.metadata:
      found |= _changed_fields(old or type(new)(), new, f"{path}.")
    else:
      found[path] = new
  return found


def _text(value: Any) -> str:
  """A value as a flag has it."""
  if isinstance(value, tuple):
    return ",".join(map(str, value))
  return json.dumps(value) if isinstance(value, dict) else str(value)


def page(
  name: str,
  record: Mapping[str, Any],
  recipe: str = command_line.DEFAULT_RECIPE,
) -> str:
  """The record of `collect` as Markdown; commands are told by the recipe."""
  numbers = record["numbers"]

  def cell(key: str) -> str:
    if key not in numbers:
      return "–"
    return reporting.interval(numbers[key]["values"], 3)

  fields = " ".join(
    ["python -m experiments.train", *command(record["config"], recipe)]
  )
  ways = (("image_to_text", (1, 5, 10)), ("text_to_image", (1, 10)))
  retrieval = [
    [
      title,
      *(
        # Only own names ask, among the same images: the row of names alone.
        "–"
        if key == "retrieval_all_names" and way == "text_to_image"
        else cell(f"{key}/{way}/recall_at_{k}")
        for way, ks in ways
        for k in ks
      ),
    ]
    for key, title in _RETRIEVAL
    if f"{key}/image_to_text/recall_at_1" in numbers
  ]
  lines = [
    f"# {name}",
    "",
    f"Seeds {', '.join(map(str, record['seeds']))}; mean ± half width of the"
    " 95 % interval over seeds (Student's t).",
    "",
    "```sh",
    *(
      f"{fields} --config.seed={seed} --workdir=runs/seed{seed}"
      for seed in record["seeds"]
    ),
    "```",
    "",
    *reporting.table(
      ["retrieval", "image→text R@1", "R@5", "R@10", "text→image R@1", "R@10"],
      retrieval,
    ),
    "",
    *reporting.table(
      ["other", "value"], ([title, cell(key)] for key, title in _OTHERS)
    ),
    *reporting.picture_and_source(
      name,
      "Images and their nearest names, and the other way round",
      record["versions"],
    ),
  ]
  return "\n".join(lines)


def main() -> None:
  """Runs the program."""
  if not _NAME.value:
    raise config_lib.UserError("--name must be given.")
  workdirs = [pathlib.Path(w) for w in _WORKDIRS.value]
  record = collect(workdirs)
  out = pathlib.Path(_OUT.value)
  text = page(_NAME.value, record, _RECIPE.value)
  reporting.write(out, _NAME.value, record, text)
  sheet = workdirs[0] / "plots" / "retrieval.png"
  if sheet.exists():
    shutil.copyfile(sheet, out / f"{_NAME.value}.png")
  print(f"Wrote {_NAME.value}.json and .md to {out}.")


if __name__ == "__main__":
  command_line.run(main, flag_values=_FLAGS, usage=__doc__)
