"""Study: from how many visits on a table pays.

python -m experiments.frozen.visits

Maps as in `small_batches`, at its smallest batch: every table and rate over the
number of epochs, against DCL, which remembers nothing. Every cell has a learning rate
of its own, the best for the catalogue: validation things, which are new to the maps,
want small rates in long runs, and would hide what a table is worth.
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
from experiments.frozen import (
  campaign,
  features,
  maps,
  small_batches,
)

NAME = "frozen_visits"
_FLAGS = flags.FlagValues()
_OUT = studies.define_out(NAME, _FLAGS)
_PAGE = flags.DEFINE_bool(
  "page", False, "Make the page of what is recorded.", flag_values=_FLAGS
)

_USAGE = """From how many visits on a table pays.

  python -m experiments.frozen.visits

Writes frozen_visits.json after each cell, .md and .png at the end; goes on where it was
stopped. Flags:
  --page      only the page and the plot of what is recorded
  --out=DIR   of the record; default experiments/results
"""

EPOCHS = (2, 4, 8, 16, 40, 160)
BATCH = 8
SEEDS = tuple(range(10))
TUNING_SEEDS = (100, 101, 102)
GRID = (0.01, 0.02, 0.04)
RATES = ("0.1", "0.5", "by epochs")
DCL = "DCL"
_OUTCOMES = ((campaign.CATALOGUE, 1),)
_STYLES = {
  # Styles by table, in colours that the colour-blind tell apart (Okabe, Ito).
  "margin": ("#CC79A7", "--", "v"),
  "margin + level": ("#CC79A7", "-", "v"),
  "positive-free": ("#D55E00", "--", "o"),
  "positive-free + level": ("#D55E00", "-", "o"),
}


def method(table: str, rate: str, epochs: int) -> maps.Method:
  """A moving average in a table."""
  margins, level = small_batches.TABLES[table]
  number = losses.rate_of_epochs(epochs) if rate == "by epochs" else float(rate)
  return maps.Method(
    "em", losses.MovingAverage(number), margins=margins, level_rate=level
  )


def name_of(table: str, rate: str) -> str:
  """The name of a method in the record, as in that of `small_batches`."""
  return f"average {rate}: {table}"


def plans() -> list[campaign.Plan]:
  """All cells, the shortest first."""
  found = []
  for epochs in EPOCHS:
    methods = {DCL: maps.Method("decoupled")}
    for table in small_batches.TABLES:
      for rate in RATES:
        methods[name_of(table, rate)] = method(table, rate, epochs)
    found += [
      campaign.Plan(name, own, BATCH, epochs) for name, own in methods.items()
    ]
  return found


def page(record: Mapping[str, Any]) -> str:
  """The record as Markdown."""
  cells = campaign.by_key(record)
  lengths = sorted({epochs for _, _, epochs in cells})
  found = compared(record)
  things = len(record["items"][campaign.CATALOGUE]) // 2

  def rows(text_of):
    for table in small_batches.TABLES:
      for rate in RATES:
        keys = [(name_of(table, rate), BATCH, e) for e in lengths]
        yield [table, rate, *(text_of(k) if k in cells else "" for k in keys)]

  def number(own):
    known = [v for v in own if v is not None]
    return reporting.interval(known, 2) if len(known) == len(own) else "–"

  def chosen(cell):
    return f"{cell['rate']:g}{'*' if cell['at_end'] else ''}"

  head = ["table", "rate", *(f"{e} epochs" for e in lengths)]
  settings = record["settings"]
  return "\n".join(
    [
      "# From how many visits on a table pays",
      "",
      *_missing(cells),
      "```sh",
      record["command"],
      "```",
      "",
      f"The maps of [frozen_small_batches](frozen_small_batches.md) at a batch of"
      f" {BATCH}: tables of margins (log Z) or positive-free (tau log A), with a"
      " level or without, by the rate of the moving average and the number of"
      f" epochs, which is that of the visits. {len(settings['seeds'])} seeds;"
      " the learning rate of every cell is the best one for the catalogue's R@1 of"
      f" {len(settings['tuning_seeds'])} other seeds, and the grid grows where that"
      " is at its end. By epochs the rate is 1 up to 7 of them: such a table remembers"
      " nothing, and has the weights of DCL.",
      "",
      "![Difference from DCL, error and weights over epochs](frozen_visits.png)",
      "",
      "## Read from the numbers",
      "",
      *_sentences(found, lengths),
      "",
      f"## R@1 of the catalogue ({things:,} things), minus DCL's",
      "",
      "Mean ± half of the 95 % interval over seeds (Student's t, paired); below it"
      " the 95 % interval over things (bootstrap) and p after Holm's correction for"
      f" all {len(found)} differences; bold where that is below 0.05.",
      "",
      *reporting.table(head, rows(lambda key: differences.cell(found[key]))),
      "",
      *reporting.table(
        ["DCL", *head[2:]],
        [
          [
            "R@1",
            *(
              reporting.interval(
                cells[DCL, BATCH, e]["numbers"][campaign.CATALOGUE]["1"], 3
              )
              for e in lengths
            ),
          ]
        ],
      ),
      "",
      "## Learning rates",
      "",
      "A * marks a rate at an end of its grid, which had grown twice on that side.",
      "",
      *reporting.table(head, rows(lambda k: chosen(cells[k]))),
      "",
      f"DCL: {', '.join(chosen(cells[DCL, BATCH, e]) for e in lengths)}.",
      "",
      "## Error of the table",
      "",
      "Root mean square of what it says minus the true log Z after the last epoch,"
      " in nats.",
      "",
      *reporting.table(
        head, rows(lambda k: number(cells[k]["table_error"][str(k[2])]))
      ),
      "",
      "## Sum of weights",
      "",
      "Mean u Z-hat in the last epoch, which is 1 where weights are right on"
      " average.",
      "",
      *reporting.table(head, rows(lambda k: number(cells[k]["weight_sum"]))),
      "",
      f"Hits of every item are in [{NAME}.json]({NAME}.json). Recorded with"
      f" {reporting.listed(record['versions'])};"
      f" {sum(c['cpu_seconds'] for c in record['cells']) / 60:.0f} CPU minutes."
      f"{campaign.rounded(record)}",
      "",
    ]
  )


def _missing(cells) -> list[str]:
  """A line on a record that is not finished."""
  whole = len(EPOCHS) * (1 + len(small_batches.TABLES) * len(RATES))
  if len(cells) >= whole:
    return []
  return [
    f"**Not finished**: {len(cells)} of {whole} cells; the same command goes on.",
    "",
  ]


def compared(
  record: Mapping[str, Any],
) -> dict[tuple[str, int, int], dict[str, Any]]:
  """Every table's difference from DCL of as many epochs, one family."""
  cells = campaign.by_key(record)
  pairs = {
    key: (cells[key], cells[DCL, *key[1:]]) for key in cells if key[0] != DCL
  }
  found = campaign.compared(record, pairs, _OUTCOMES)
  return {key: rows[0] for key, rows in found.items()}


def _sentences(found, lengths):
  for table in small_batches.TABLES:
    for rate in RATES:
      better = [
        e
        for e in lengths
        if (row := found.get((name_of(table, rate), BATCH, e)))
        and differences.verdict(row) == "higher"
      ]
      told = ", ".join(map(str, better)) or "no number of"
      yield f"- {name_of(table, rate)}: above DCL with {told} epochs."


def plot(record: Mapping[str, Any], path: pathlib.Path) -> None:
  """A column a rate: difference from DCL, error of the table, weights."""
  from matplotlib import figure

  cells, found = campaign.by_key(record), compared(record)
  canvas = figure.Figure(figsize=(8.0, 6.6), layout="constrained")
  axes = canvas.subplots(
    3, len(RATES), sharex=True, sharey="row", squeeze=False
  )
  for column, rate in enumerate(RATES):
    top, middle, bottom = axes[:, column]
    for place, (table, (colour, line, marker)) in enumerate(_STYLES.items()):
      keys = [(name_of(table, rate), BATCH, e) for e in EPOCHS]
      keys = [key for key in keys if key in cells]
      at = np.log2([key[2] for key in keys])
      style = {"color": colour, "ls": line, "marker": marker, "ms": 3.5}
      top.errorbar(
        at + (place - 1.5) * 0.07,
        [found[key]["mean"] for key in keys],
        yerr=[found[key]["half_width"] for key in keys],
        label=table,
        lw=1.2,
        **style,
      )
      for ax, values in (
        (middle, [cells[k]["table_error"][str(k[2])] for k in keys]),
        (bottom, [cells[k]["weight_sum"] for k in keys]),
      ):
        ax.plot(
          at, [np.mean(np.array(v, float)) for v in values], lw=1.2, **style
        )
    top.axhline(0.0, color="#0072B2", lw=0.9)
    bottom.axhline(1.0, color="#555555", lw=0.9, ls=":")
    bottom.set_yscale("log", base=2)
    bottom.yaxis.set_major_formatter("{x:g}")
    top.set_title(f"rate {rate}", fontsize=9)
    bottom.set_xticks(np.log2(EPOCHS), [str(e) for e in EPOCHS], fontsize=7)
    bottom.set_xlabel("epochs (visits of a thing)", fontsize=8)
    for ax in (top, middle, bottom):
      ax.tick_params(axis="y", labelsize=7)
      ax.spines[["top", "right"]].set_visible(False)
  axes[0, 0].annotate(
    "DCL",
    (0.0, 0.0),
    xycoords=("axes fraction", "data"),
    xytext=(3, 2),
    textcoords="offset points",
    color="#0072B2",
    fontsize=7,
  )
  for ax, label in zip(
    axes[:, 0],
    (
      "catalogue R@1 minus DCL's\n(paired, 95 %)",
      "error of the table, nats",
      "sum of weights",
    ),
  ):
    ax.set_ylabel(label, fontsize=8)
  axes[1, -1].legend(
    *axes[0, -1].get_legend_handles_labels(),
    fontsize=7,
    loc="upper right",
    frameon=False,
  )
  canvas.savefig(path, dpi=200)


def main() -> None:
  """Runs the program."""
  out = pathlib.Path(_OUT.value)
  path = out / f"{NAME}.json"
  if _PAGE.value:
    record = reporting.read_json(path)
  else:
    inputs, provenance = features.load()
    settings = campaign.settings_of(
      maps.DEFAULTS, SEEDS, TUNING_SEEDS, GRID, criterion=campaign.CATALOGUE
    )
    head = campaign.head(
      "experiments.frozen.visits", inputs, provenance, settings
    )
    record = campaign.open_record(path, head)
    campaign.run(
      plans(),
      inputs,
      record,
      path,
      seeds=SEEDS,
      tuning_seeds=TUNING_SEEDS,
      grid=GRID,
      criterion=campaign.CATALOGUE,
      report=functools.partial(print, flush=True),
    )
  reporting.write(out, NAME, record, page(record), indent=None)
  plot(record, out / f"{NAME}.png")
  print(f"Wrote {NAME}.json, .md and .png to {out}.")


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=_USAGE)
