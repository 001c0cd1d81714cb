"""Study: how biased are the gradients of small batches?

python -m experiments.synthetic.gradient_bias

Two parts. Negatives on a sphere, where the bias of log Z-hat is known exactly
(`sphere`); and the gradients of seven methods at batch sizes from 4 to 1,024 on
the embeddings of a CLIP model at three stages of its training, against the
gradient over all examples of the objective that each aims at
(`gradient_stages`, `gradient_methods`, `gradient_estimates`).
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.runs import runner
from experiments import studies
from experiments.synthetic import (
  gradient_estimates,
  gradient_methods,
  gradient_report,
  gradient_stages,
  sphere,
)

_FLAGS = flags.FlagValues()
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)
_OUT = studies.define_out("gradient_bias", _FLAGS)
_WORK = flags.DEFINE_string(
  "work",
  "",
  "Folder that keeps the training run and what is finished: the same command"
  " goes on there; empty is a temporary one.",
  flag_values=_FLAGS,
)
_ALL_BATCHES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
_BATCHES = flags.DEFINE_list(
  "batches", [*map(str, _ALL_BATCHES)], "Batch sizes.", flag_values=_FLAGS
)
_SEEDS = _integer("seeds", 4, "Seeds of the draws.", lower_bound=2)
_STEPS = _integer(
  "steps",
  1000,
  "Training steps of the model, a multiple of 10.",
  lower_bound=10,
)
_DRAWS = _integer(
  "draws",
  4096,
  "Gradients of a method and seed at a batch of 8.",
  lower_bound=2,
)

# Where bias is also split into length and direction.
_SPLIT = (8, 64)
# Where other rates are tried.
_RATES_BATCH = 8


@dataclasses.dataclass(frozen=True)
class BiasSizes:
  """Sizes of the second part.

  Attributes:
    steps: of the training run.
    examples: n at most; the batch sizes must not exceed what there are.
    batches: B.
    seeds: of the draws.
    draws: at B = 8; of other sizes as many as see as many rows, at least 32.
    memory: of the E-step's steady state.
  """

  steps: int = 1000
  examples: int = 1600
  batches: tuple[int, ...] = _ALL_BATCHES
  seeds: int = 4
  draws: int = 4096
  memory: gradient_estimates.Memory = gradient_estimates.Memory()

  def draws_of(self, batch: int) -> int:
    """Gradients of a method and seed at this batch size."""
    return max(min(32, self.draws), self.draws * 8 // batch)


def describe(stage: gradient_stages.Stage) -> dict[str, Any]:
  """Properties of a stage's embeddings."""
  data = stage.data
  variation = gradient_estimates.squared_variations(data)
  shares = jnp.quantile(variation, jnp.array([0.1, 0.5, 0.9]))
  return {
    "stage": stage.name,
    "step": stage.step,
    "examples": len(stage.image),
    "dim": stage.image.shape[1],
    "temperature": stage.temperature,
    "log_partition": float(jnp.mean(gradient_estimates.log_partitions(data))),
    "squared_variation": shares.tolist(),
  }


def measure(
  chosen: Mapping[str, gradient_methods.Method],
  stage: gradient_stages.Stage,
  *,
  batch: int,
  settings: BiasSizes,
) -> list[dict[str, Any]]:
  """Bias and variance of methods at one stage and batch size.

  Returns:
    A row a method, its numbers one a seed; `length` is <E g_B, g> / |g|^2, at
    the batch sizes at which it is measured.
  """
  data = stage.data
  references = gradient_estimates.references(data)
  draws = settings.draws_of(batch)
  states: dict[Any, Any] = {}
  rows = []
  for name, method in chosen.items():
    reference = references[method.objective]
    twice = jax.tree.map(lambda g: 2.0 * g, reference)
    row: dict[str, Any] = {
      "stage": stage.name,
      "batch": batch,
      "method": name,
      "objective": method.objective,
      "draws": draws,
      "rate": [],
      "squared_bias": [],
      "variance": [],
      "length": [],
    }
    for seed in range(settings.seeds):
      # The same tables, batches and draws for all methods that have them.
      remember, draw = jax.random.split(jax.random.key(seed))
      known = (method.kind, method.rule, seed)
      if known not in states:
        states[known] = gradient_estimates.steady_state(
          method, data, remember, batch=batch, memory=settings.memory
        )
      measured = functools.partial(
        gradient_estimates.statistics,
        *(method, data, states[known]),
        key=draw,
        batch=batch,
        draws=draws,
      )
      found = measured(reference=reference)
      row["rate"].append(gradient_methods.mean_rate(method, states[known]))
      row["squared_bias"].append(float(found.squared_bias))
      row["variance"].append(float(found.variance))
      if batch in _SPLIT:
        other = measured(reference=twice)
        # |m - g|^2 = m.m - 2 m.g + g.g, and |m - 2g|^2 = m.m - 4 m.g + 4 g.g.
        gap = 4.0 * float(other.squared_bias) - float(found.squared_bias)
        row["length"].append((3.0 - gap) / 2.0)
    rows.append(row)
  return rows


class Parts:
  """Finished parts of the study, in a file that the same settings find."""

  def __init__(self, folder: pathlib.Path, settings: Any):
    """Opens (or begins) the file of these settings, a JSON value."""
    text = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    self._path = folder / f"parts-{digest}.json"
    self._known: dict[str, Any] = {}
    if self._path.exists():
      self._known = json.loads(self._path.read_text(encoding="utf-8"))

  def get(self, name: str, make: Callable[[], Any]) -> Any:
    """A part; made, and kept with the seconds that it took, if it is new."""
    if name not in self._known:
      began = time.monotonic()
      value = make()
      self._known[name] = {"value": value, "seconds": time.monotonic() - began}
      workdirs.write_json(self._path, self._known)
    return self._known[name]["value"]

  @property
  def seconds(self) -> float:
    """That all parts took."""
    return sum(part["seconds"] for part in self._known.values())


def study(
  settings: BiasSizes,
  work: pathlib.Path,
  *,
  similarities: int = 1 << 19,
  changes: Mapping[str, Any] | None = None,
  report: Callable[[str], None] = print,
) -> dict[str, Any]:
  """The record of both parts.

  Args:
    settings: sizes.
    work: an existing folder, see `--work`.
    similarities: drawn on the sphere for each row.
    changes: fields of the training run, see `gradient_stages.make_config`.
    report: receives lines for the user.
  """
  config = gradient_stages.make_config(settings.steps, changes=changes)
  # A part has one batch size: which others there are does not change it.
  kept = {
    k: v for k, v in dataclasses.asdict(settings).items() if k != "batches"
  }
  parts = Parts(work, [kept, similarities, config.to_dict()])
  report("Negatives on a sphere ...")
  on_sphere = parts.get(
    "sphere", lambda: sphere.rows(jax.random.key(0), similarities=similarities)
  )
  report("Training ...")
  trained = runner.train(config, work / "run", report=report)

  def embed():
    found = gradient_stages.embed_stages(
      config, work / "run", examples=settings.examples, report=report
    )
    for stage in found:
      np.savez(work / f"{stage.name}.npz", **dataclasses.asdict(stage))
    return [stage.name for stage in found]

  stages = [
    _load_stage(work / f"{name}.npz") for name in parts.get("stages", embed)
  ]

  def part(name, stage, methods, batch):
    return parts.get(
      f"{stage.name}, {name}",
      lambda: measure(methods, stage, batch=batch, settings=settings),
    )

  rows, rates = [], []
  for batch in settings.batches:
    for stage in stages:
      rows += part(f"{batch}", stage, gradient_methods.METHODS, batch)
      report(f"B = {batch}, {stage.name}: {parts.seconds:.0f} s.")
  if _RATES_BATCH in settings.batches:
    for stage in stages:
      rates += part("rates", stage, gradient_methods.RATES, _RATES_BATCH)
  return {
    "settings": dataclasses.asdict(settings),
    "config": config.to_dict(),
    "prototypes": gradient_estimates.PROTOTYPES,
    **studies.machine("jax", "jaxlib", "numpy", "optax"),
    "sphere": on_sphere,
    "similarities": similarities,
    "stages": [describe(stage) for stage in stages],
    "rows": rows,
    "rates": rates,
    "training_seconds": trained["train/seconds"],
    "seconds": parts.seconds,
  }


def _load_stage(path: pathlib.Path) -> gradient_stages.Stage:
  with np.load(path) as kept:
    return gradient_stages.Stage(
      **{name: x if x.ndim else x.item() for name, x in kept.items()}
    )


def main() -> None:
  """Runs the program."""
  out = studies.folder(_OUT.value)
  if not all(b.isdigit() and int(b) > 1 for b in _BATCHES.value):
    raise config_lib.UserError(
      f"--batches must be integers above 1; got {','.join(_BATCHES.value)}."
    )
  settings = BiasSizes(
    steps=_STEPS.value,
    seeds=_SEEDS.value,
    draws=_DRAWS.value,
    batches=tuple(map(int, _BATCHES.value)),
  )
  with contextlib.ExitStack() as stack:
    work = _WORK.value or stack.enter_context(tempfile.TemporaryDirectory())
    record = study(
      settings,
      studies.folder(work),
      report=functools.partial(print, flush=True),
    )
  studies.publish(
    out,
    "gradient_bias",
    record,
    gradient_report.page(record),
    gradient_report.plot,
    indent=None,
  )


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=__doc__)
