"""Study: networks at every batch size, all with the same number of steps.

python -m experiments.frozen.encoders

Networks with a hidden layer on the features of `features`, at a low temperature,
where a thing has many near neighbours. Every batch size makes the same number of
steps, so that a larger batch sees more examples and its steps are less noisy. Exact
weights 1/Z tell what is left when the bias is taken away and the noise stays.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags

from contrastive_jax import losses
from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.programs import differences, reporting
from experiments import studies
from experiments.frozen import campaign, features, maps, small_batches

NAME = "frozen_encoders"
_FLAGS = flags.FlagValues()
_OUT = studies.define_out(NAME, _FLAGS)
_BATCHES = flags.DEFINE_list(
  "batches", [], "Batch sizes alone that are run now.", flag_values=_FLAGS
)
_PAGE = flags.DEFINE_bool(
  "page", False, "Make the page of what is recorded.", flag_values=_FLAGS
)

_USAGE = """Networks at every batch size, all with the same number of steps.

  python -m experiments.frozen.encoders

Writes frozen_encoders.json after each cell, .md and .png at the end; goes on where
it was stopped. Flags:
  --batches=8,32   of the cells that lack, these alone
  --page           only the page and the plot of what is recorded
  --out=DIR        of the record; default experiments/results
"""

SETTINGS = maps.MapSettings(hidden=256, temperature=0.02)
STEPS = 3000
BATCHES = (8, 32, 128, 512)
SEEDS = tuple(range(10))
TUNING_SEEDS = (100, 101, 102)
# Losses prefer rates that are a hundredfold apart, and scores have two peaks: all
# try the whole range, not what lies around a first best one.
GRID = tuple(0.003 * 3**i for i in range(8))
INFO_NCE, DCL, OURS, EXACT = "InfoNCE", "DCL", "ours", "exact 1/Z"
_OUTCOMES = (
  (campaign.CATALOGUE, 1),
  ("unseen artist", 1),
  ("unseen artist", 10),
  ("unseen things", 1),
)
_STYLES = {  # Colours that the colour-blind tell apart (Okabe, Ito).
  OURS: ("#D55E00", "o"),
  EXACT: ("#000000", "s"),
  DCL: ("#0072B2", "D"),
  INFO_NCE: ("#777777", "X"),
}


def plans(things: int) -> list[campaign.Plan]:
  """All cells, in epochs that make `STEPS` steps of each batch size."""
  found = []
  for batch in BATCHES:
    epochs = round(STEPS / (things // batch))
    methods = {
      INFO_NCE: maps.Method("clip"),
      DCL: maps.Method("decoupled"),
      OURS: maps.Method(
        "em",
        losses.MovingAverage(losses.rate_of_epochs(epochs)),
        level_rate=small_batches.LEVEL_RATE,
      ),
    }
    # The largest batch holds a third of all things: the control would cost the
    # most where it differs the least.
    if batch < BATCHES[-1]:
      methods[EXACT] = maps.Method("exact")
    found += [
      campaign.Plan(name, method, batch, epochs)
      for name, method in methods.items()
    ]
  return found


def compared(record: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
  """The differences that the page shows, by name, one family."""
  cells = {(m, b): cell for (m, b, _), cell in campaign.by_key(record).items()}
  small, large = (f(b for _, b in cells) for f in (min, max))
  pairs = {
    f"{method}, {small} minus {method}, {large}": (
      cells[method, small],
      cells[method, large],
    )
    for method in _STYLES
    if (method, large) in cells
  }
  pairs[f"{OURS}, {small} minus {INFO_NCE}, {large}"] = (
    cells[OURS, small],
    cells[INFO_NCE, large],
  )
  for method, batch in cells:
    if method in (OURS, EXACT):
      for other in (INFO_NCE, DCL)[: 2 if method == OURS else 1]:
        name = f"{method}, {batch} minus {other}, {batch}"
        pairs[name] = cells[method, batch], cells[other, batch]
  return campaign.compared(record, pairs, _OUTCOMES)


def page(record: Mapping[str, Any]) -> str:
  """The record as Markdown."""
  settings, found = record["settings"], compared(record)
  cells = {(m, b): cell for (m, b, _), cell in campaign.by_key(record).items()}
  batches = sorted({b for _, b in cells})
  things = len(record["items"][campaign.CATALOGUE]) // 2

  def table(text_of):
    return reporting.table(
      ["method", *map(str, batches)],
      [
        [m, *(text_of(cells[m, b]) if (m, b) in cells else "" for b in batches)]
        for m in _STYLES
      ],
    )

  def weights(cell):
    if cell["weight_max"][0] is None:
      return "–"
    total = reporting.interval(cell["weight_sum"], 2)
    return f"{total}; {max(cell['weight_max']):.1f}"

  return studies.page(
    "# Networks at every batch size, with the same number of steps",
    studies.shell(record["command"]),
    f"Networks of one hidden layer ({settings['hidden']}, GELU) from features of"
    f" frozen published encoders to {settings['dim']} dimensions, of {things:,}"
    " emoji and their English names, as"
    " [frozen_small_batches](frozen_small_batches.md) has them, at a temperature"
    f" of {settings['temperature']:g}. About {settings['steps']:,} steps at every"
    " batch size, so a batch of"
    f" {batches[-1]} sees {batches[-1] // batches[0]} times the examples of a batch"
    f" of {batches[0]}. {len(settings['seeds'])} seeds; learning rates chosen by the"
    " mean log rank on validation things of"
    f" {len(settings['tuning_seeds'])} other seeds. *Exact 1/Z* has the weights of"
    " today's network over all things: no bias, and the noise of its batch.",
    "![Recall over batch size](frozen_encoders.png)",
    "## Read from the numbers",
    [
      "- " + differences.sentence(f"{name}, {task} R@{depth}", row)
      for name, own in list(found.items())[: len(_STYLES) + 1]
      for (task, depth), row in list(zip(_OUTCOMES, own))[:2]
    ],
    *(
      block
      for task, depth in _OUTCOMES
      for block in (
        f"## {task[0].upper()}{task[1:]}, R@{depth}",
        table(
          lambda c, t=task, k=str(depth): reporting.interval(
            c["numbers"][t][k], 3
          )
        ),
      )
    ),
    "## Paired differences",
    "Mean ± half of the 95 % interval over seeds (Student's t); below it the 95 %"
    " interval over things (bootstrap) and p after Holm's correction for all"
    f" {sum(map(len, found.values()))} differences; bold where that is below 0.05.",
    reporting.table(
      ["difference", *(f"{task} R@{k}" for task, k in _OUTCOMES)],
      ([name, *map(differences.cell, own)] for name, own in found.items()),
    ),
    "## Weights",
    "Sum of an anchor's weights u Z-hat in the last epoch, which is 1 where weights are"
    " right on average, and the largest one of any step and seed.",
    table(weights),
    "## Learning rates",
    "A * marks a rate at an end of its grid, which had grown twice on that side. In"
    " parentheses the tuning seeds' R@1 of the catalogue, and where another of the"
    " rates that were tried has a higher one, that.",
    table(campaign.rate_text),
    f"Hits of every item are in [{NAME}.json]({NAME}.json). Recorded with"
    f" {reporting.listed(record['versions'])};"
    f" {sum(c['cpu_seconds'] for c in record['cells']) / 60:.0f} CPU minutes.",
  )


def plot(record: Mapping[str, Any], path: pathlib.Path) -> None:
  """R@1 over batch size, a panel an outcome."""
  from matplotlib import figure

  cells = {(m, b): cell for (m, b, _), cell in campaign.by_key(record).items()}
  batches = sorted({b for _, b in cells})
  canvas = figure.Figure(figsize=(8.0, 3.0), layout="constrained")
  for ax, task in zip(canvas.subplots(1, 3), campaign.OUTCOMES):
    for method, (colour, marker) in _STYLES.items():
      known = [b for b in batches if (method, b) in cells]
      own = [cells[method, b]["numbers"][task]["1"] for b in known]
      ax.errorbar(
        np.log2(known),
        [np.mean(v) for v in own],
        yerr=[reporting.half_width(v) for v in own],
        color=colour,
        marker=marker,
        ms=3.5,
        lw=1.2,
        label=method,
      )
    ax.set_title(task, fontsize=9)
    ax.set_xticks(np.log2(batches), [str(b) for b in batches], fontsize=7)
    ax.set_xlabel("batch size", fontsize=8)
    ax.tick_params(axis="y", labelsize=7)
    ax.spines[["top", "right"]].set_visible(False)
  canvas.axes[0].set_ylabel("R@1", fontsize=8)
  canvas.axes[0].legend(fontsize=7, frameon=False)
  canvas.savefig(path, dpi=200)


def main() -> None:
  """Runs the program."""
  out = studies.folder(_OUT.value)
  path = out / f"{NAME}.json"
  if _PAGE.value:
    record = reporting.read_json(path)
  else:
    inputs, provenance = features.load()
    settings = campaign.settings_of(
      SETTINGS, SEEDS, TUNING_SEEDS, GRID, steps=STEPS
    )
    record = campaign.open_record(
      path,
      campaign.head(
        "experiments.frozen.encoders", inputs, provenance, settings
      ),
    )
    todo = plans(len(inputs.text))
    campaign.run(
      [p for p in todo if not _BATCHES.value or str(p.batch) in _BATCHES.value],
      inputs,
      record,
      path,
      seeds=SEEDS,
      tuning_seeds=TUNING_SEEDS,
      grid=GRID,
      settings=SETTINGS,
      report=functools.partial(print, flush=True),
    )
    lack = [p for p in todo if p.key not in campaign.by_key(record)]
    if lack:
      print(f"{len(lack)} of {len(todo)} cells are not run yet: no page.")
      return
  studies.publish(out, NAME, record, page(record), plot, indent=None)


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=_USAGE)
