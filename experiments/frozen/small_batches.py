"""Study: what a batch of 8 reaches, and what it takes a batch of 512 to reach.

python -m experiments.frozen.small_batches

Linear maps on frozen features of the emoji data (`features`, extra `pretrained`):
losses by batch size, and tables of each kind. The record is written after each
cell; starting again goes on.
"""

import dataclasses
import functools
import pathlib
from typing import Any

from absl import flags

from contrastive_jax import losses
from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.programs import reporting
from experiments import studies
from experiments.frozen import (
  campaign,
  features,
  maps,
  small_batches_report,
)

NAME = "frozen_small_batches"
_FLAGS = flags.FlagValues()
_OUT = studies.define_out(NAME, _FLAGS)
_BATCHES = flags.DEFINE_list(
  "batches", [], "Batch sizes alone that are run now.", flag_values=_FLAGS
)
_METHODS = flags.DEFINE_list(
  "methods", [], "Methods alone that are run now.", flag_values=_FLAGS
)
_EPOCHS = flags.DEFINE_list(
  "epochs", [], "Numbers of epochs alone that are run now.", flag_values=_FLAGS
)
_CRITERION = flags.DEFINE_enum(
  "criterion",
  campaign.VALIDATION,
  [campaign.VALIDATION, campaign.CATALOGUE],
  "What chooses learning rates.",
  flag_values=_FLAGS,
)
_PAGE = flags.DEFINE_bool(
  "page", False, "Make the page of what is recorded.", flag_values=_FLAGS
)

_USAGE = """What a batch of 8 reaches, and what it takes a batch of 512 to reach.

  python -m experiments.frozen.small_batches

Writes frozen_small_batches.json after each cell, .md and .png at the end; goes on
where it was stopped. Two cores are busy with two of it at a time, one with
--batches=8 and one with the other sizes. Flags:
  --batches=8,64   of the cells that lack, these alone
  --methods=DCL    the same, by the name of the method
  --epochs=40      the same, by the number of epochs
  --criterion=catalogue   choose learning rates by the tuning seeds' R@1 of the
                   catalogue, in a record of its own (--out); by default by
                   validation things, which the catalogue does not follow closely
  --page           only the page and the plot of what is recorded
  --out=DIR        of the record; default experiments/results
"""

BATCHES = (8, 16, 32, 64, 128, 256, 512)
EPOCHS = 40
LONG_EPOCHS, LONG_BATCHES = 160, (8, 64)
SEEDS = tuple(range(10))
TUNING_SEEDS = (100, 101, 102)
GRID = (0.01, 0.02, 0.04)
LEVEL_RATE = 0.1
# Ways to keep a table: whether entries are margins, rate of the level.
TABLES = {
  "margin": (True, 0.0),
  "positive-free": (False, 0.0),
  "margin + level": (True, LEVEL_RATE),
  "positive-free + level": (False, LEVEL_RATE),
}
OURS = small_batches_report.OURS
_LONG_METHODS = (
  "InfoNCE",
  "DCL",
  "average by epochs: margin",
  "average by epochs: positive-free",
  OURS,
)


def methods(epochs: int) -> dict[str, maps.Method]:
  """All methods by name, for runs of so many epochs."""
  by_epochs = losses.MovingAverage(losses.rate_of_epochs(epochs))
  found = {
    "InfoNCE": maps.Method("clip"),
    "DCL": maps.Method("decoupled"),
    "SigLIP": maps.Method("sigmoid"),
  }
  for rate, rule in (
    ("by epochs", by_epochs),
    ("0.5", losses.MovingAverage(0.5)),
  ):
    for table, (margins, level) in TABLES.items():
      found[f"average {rate}: {table}"] = maps.Method(
        "em", rule, margins=margins, level_rate=level
      )
  found["conjugate 10: margin (published)"] = maps.Method(
    "em",
    losses.Conjugate(10.0, min_rate=0.0, eps=1e-6),
    margins=True,
  )
  found["conjugate 10: positive-free + level"] = maps.Method(
    "em", losses.Conjugate(10.0, min_rate=0.3), level_rate=LEVEL_RATE
  )
  found["exact 1/Z"] = maps.Method("exact")
  for concentration in (1, 8):
    found[f"draws of concentration {concentration}"] = dataclasses.replace(
      found[OURS], concentration=float(concentration)
    )
  return found


def plans() -> list[campaign.Plan]:
  """All cells of the study, those that the figure needs first."""
  short, long = methods(EPOCHS), methods(LONG_EPOCHS)
  return [
    *(
      campaign.Plan(name, method, batch, EPOCHS)
      for name, method in short.items()
      for batch in BATCHES
    ),
    *(
      campaign.Plan(name, long[name], batch, LONG_EPOCHS)
      for batch in LONG_BATCHES
      for name in _LONG_METHODS
    ),
  ]


def settings(criterion: str = campaign.VALIDATION) -> dict[str, Any]:
  """Settings of all cells, for the record."""
  return campaign.settings_of(
    maps.DEFAULTS,
    SEEDS,
    TUNING_SEEDS,
    GRID,
    criterion=criterion,
    level_rate=LEVEL_RATE,
  )


def main() -> None:
  """Runs the program."""
  out = pathlib.Path(_OUT.value)
  path = out / f"{NAME}.json"
  if _PAGE.value:
    record = reporting.read_json(path)
  else:
    inputs, provenance = features.load()
    head = campaign.head(
      "experiments.frozen.small_batches",
      inputs,
      provenance,
      settings(_CRITERION.value),
    )
    record = campaign.open_record(path, head)
    campaign.run(
      [
        plan
        for plan in plans()
        if (not _BATCHES.value or str(plan.batch) in _BATCHES.value)
        and (not _METHODS.value or plan.name in _METHODS.value)
        and (not _EPOCHS.value or str(plan.epochs) in _EPOCHS.value)
      ],
      inputs,
      record,
      path,
      seeds=SEEDS,
      tuning_seeds=TUNING_SEEDS,
      grid=GRID,
      criterion=_CRITERION.value,
      report=functools.partial(print, flush=True),
    )
  missing = [p for p in plans() if p.key not in campaign.by_key(record)]
  if missing and not _PAGE.value:
    print(f"{len(missing)} of {len(plans())} cells are not run yet: no page.")
    return
  page = small_batches_report.page(record)
  reporting.write(out, NAME, record, page, indent=None)
  small_batches_report.plot(record, out / f"{NAME}.png")
  print(f"Wrote {NAME}.json, .md and .png to {out}.")


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=_USAGE)
