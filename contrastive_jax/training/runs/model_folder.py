"""A run's model as a folder that stands by itself; see `inference.folder`.

`begin` writes what the model is when a run begins, and `write` its weights when the
run ends. Between the two, and for any other checkpoint, `export` makes the folder; it
needs nothing of the training data.
"""

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from contrastive_jax import inference, models
from contrastive_jax.data import sources
from contrastive_jax.data.images import augment
from contrastive_jax.data.sets.choices import DATA_SETS
from contrastive_jax.inference import description as description_lib
from contrastive_jax.inference import folder as folder_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives.choices import ANSWERING, OBJECTIVES
from contrastive_jax.training.runs import hits_file, initial_weights
from contrastive_jax.training.runs.run import HEADLINES, Run
from contrastive_jax.training.trainer import checkpoints
from contrastive_jax.training.trainer import state as state_lib

_USES = {
  "": 'images = model.encode_image(["a.png", "b.png"])',
  "pretrain": 'model.match("a.png", ["a red cup", "a dog"])',
  "vqa": 'model.answer("a.png", "what colour is the cup?")',
  "entailment": 'model.entails("a.png", "a dog sleeps")',
  "nlvr2": 'model.compare("a.png", "b.png", "both show a dog")',
}


def describe(run: Run) -> inference.Description | None:
  """What a run's model is; None of a model that the package does not know.

  The scale of logits is that of its weights, which `inference.save` looks up.
  """
  config, model = run.config, run.objective.model
  fields: dict[str, Any] = {"vocab_size": run.data.tokenizer.vocab_size}
  if isinstance(model, models.FusionModel):
    kind = description_lib.FUSION
    fields = {"vocab_size": model.vocab_size, "task": model.task}
    if model.independent_head:
      fields["independent_head"] = "linear"
    if model.task == "vqa":
      fields["answer_length"] = config.objective.answer_length
      if ANSWERING.name_of(config.objective.answering) == "rank":
        fields["answers"] = tuple(run.data.answers)
  elif isinstance(model, models.TwoTower):
    kind = description_lib.TWO_TOWERS
    fields["independent_head"] = model.independent_head or ""
    fields["sigmoid"] = bool(getattr(config.loss, "takes_bias", False))
  elif isinstance(model, (models.SelfSupervised, models.Classifier)):
    kind = description_lib.IMAGE_TOWER
  else:
    return None
  mean, std = augment.NORMALIZATIONS[config.augment.normalization]
  return inference.Description(
    kind=kind,
    preset=config.model.preset,
    overrides=dict(config.model.overrides),
    image_size=config.model.image_size,
    context_length=config.model.context_length,
    pictures=inference.Pictures(
      stored_size=_stored_size(run),
      fit=getattr(config.data, "fit", "pad"),
      mean=mean,
      std=std,
    ),
    templates=tuple(getattr(run.data, "prompts", ("{}",))),
    **fields,
  )


def begin(run: Run) -> None:
  """Writes what the model is into the workdir; one process does."""
  described = describe(run)
  if described is None or jax.process_index() > 0:
    return
  folder = run.workdir / folder_lib.IN_WORKDIR
  folder.mkdir(exist_ok=True)
  description_lib.write(described, folder / folder_lib.CONFIG)


def write(
  run: Run, state: state_lib.TrainState, results: Mapping[str, float]
) -> None:
  """Writes the model with the parameters that evaluation uses into the workdir.

  All processes take part; one writes.

  Args:
    run: opened.
    state: of the run.
    results: its scores, for the card.

  Raises:
    WorkdirError: if it cannot be written.
  """
  described = describe(run)
  if described is None:
    return
  variables = _on_host(
    initial_weights.variables(state.eval_params, state.objective_state)
  )
  if jax.process_index() > 0:
    return
  counts = hits_file.counts(run.hits)
  try:
    inference.save(
      run.workdir / folder_lib.IN_WORKDIR,
      described,
      _own(described, variables),
      run.data.tokenizer,
      card=_card(run.config, described, results, counts),
    )
  except inference.ModelError as error:
    raise workdirs.WorkdirError(f"{error} The run is saved.") from error


def export(
  workdir: pathlib.Path, out: pathlib.Path, *, step: int | None = None
) -> int:
  """Writes the model of a run's checkpoint as a folder; no data are opened.

  Args:
    workdir: of the run.
    out: is made if absent.
    step: which checkpoint; None is the newest.

  Returns:
    The step.

  Raises:
    WorkdirError: if the workdir holds no run, or no such checkpoint.
    ModelError: if the model cannot be written.
  """
  described_at = workdir / folder_lib.IN_WORKDIR / folder_lib.CONFIG
  tokenizer = workdirs.read_tokenizer(workdir / "tokenizer.json")
  for path in (
    workdir / "config.json",
    described_at,
    workdir / "tokenizer.json",
  ):
    if not path.exists():
      raise workdirs.WorkdirError(
        f"{workdir} holds no run whose model can be exported (no"
        f" {path.relative_to(workdir)})."
      )
  config = config_lib.parse(workdirs.read_json(workdir / "config.json"))
  described = description_lib.read(described_at)
  saved = checkpoints.Checkpoints(workdir, keep=None)
  with contextlib.closing(saved):
    try:
      saved.check(step)
    except FileNotFoundError as error:
      raise workdirs.WorkdirError(str(error)) from error
    step, found = saved.variables(
      sharding.replicated(sharding.make_mesh(jax.local_devices()[:1])), step
    )
  results, counts = {}, {}
  if step == config.steps and (workdir / "results.json").exists():
    results = workdirs.read_json(workdir / "results.json")
    counts = hits_file.counts(hits_file.load(workdir))
  inference.save(
    out,
    described,
    _own(described, _on_host(found)),
    tokenizer,
    card=_card(config, described, results, counts, step=step),
  )
  return step


def _own(
  described: inference.Description, variables: Mapping[str, Any]
) -> dict[str, Any]:
  """The variables of what is described, of those of the run's model."""
  if described.kind != description_lib.IMAGE_TOWER:
    return dict(variables)
  return {k: part["tower"] for k, part in variables.items() if "tower" in part}


def _card(
  config: config_lib.Config,
  described: inference.Description,
  results: Mapping[str, float],
  counts: Mapping[str, int],
  *,
  step: int | None = None,
) -> str:
  """The model card, Markdown."""
  data = DATA_SETS.name_of(config.data)
  licence = getattr(config.data, "licence", "that of the pictures and texts")
  objective = OBJECTIVES.name_of(config.objective)
  use = _USES[described.task]
  lines = [
    f"# {objective} on {data}",
    "",
    f"`{config.model.preset}`, trained with `objective={objective}` on `data={data}`:"
    f" {config.steps if step is None else step:,} steps of {config.batch_size:,}"
    f" examples. Licence of the data: {licence}.",
    "",
    "```python",
    "import contrastive_jax",
    "",
    'model = contrastive_jax.load("the folder of this file")',
    use,
    "```",
    "",
  ]
  rows = [
    [f"`{name}`", f"{results[name]:.3f}", str(counts.get(name, ""))]
    for name in HEADLINES
    if name in results
  ]
  if rows:
    lines += ["| score | value | items |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += [""]
  recipe = json.dumps(config.to_dict(), indent=2)
  lines += ["Configuration of the run:", "", "```json", recipe, "```"]
  return "\n".join(lines) + "\n"


def _stored_size(run: Run) -> int:
  """Side of the squares that the run's splits have."""
  for split in (sources.TEST, sources.VALIDATION, sources.TRAIN):
    source = run.data.splits.get(split, ())
    if len(source):
      return int(source[0]["image"].shape[0])
  return 2 * run.image_size


def _on_host(tree: Any) -> Any:
  """Arrays on this host, whatever devices they are split over."""

  def leaf(x: Any) -> np.ndarray:
    if x.is_fully_replicated or x.is_fully_addressable:
      return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))

  return jax.tree.map(leaf, tree)
