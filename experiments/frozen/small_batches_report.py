"""The page and the figure of `small_batches`, all of it from the record."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from contrastive_jax.programs import differences, reporting
from experiments.frozen import campaign

INFO_NCE, DCL = "InfoNCE", "DCL"
OURS = "average by epochs: positive-free + level"
_OURS = "ours"
MARGIN, EXACT = "average by epochs: margin", "exact 1/Z"
OUTCOMES = (
  (campaign.CATALOGUE, 1),
  ("unseen artist", 1),
  ("unseen artist", 10),
  ("unseen things", 1),
  ("unseen things", 10),
)
_CRITERIA = {
  campaign.VALIDATION: "mean log rank on validation things",
  campaign.CATALOGUE: "R@1 of the catalogue",
}
# Lines of the figure: colours that the colour-blind tell apart (Okabe and Ito).
_LINES = {
  OURS: ("#D55E00", _OURS, "o"),
  EXACT: ("#000000", "exact 1/Z", "s"),
  MARGIN: ("#CC79A7", "margins", "v"),
  DCL: ("#0072B2", "DCL", "D"),
  "SigLIP": ("#009E73", "SigLIP", "^"),
  INFO_NCE: ("#777777", "InfoNCE", "X"),
}


def reference(record: Mapping[str, Any]) -> Mapping[str, Any]:
  """InfoNCE at the largest batch, of the fewest epochs."""
  own = [c for c in record["cells"] if c["method"] == INFO_NCE]
  return max(own, key=lambda c: (-c["epochs"], c["batch"]))


def pairs(
  record: Mapping[str, Any],
) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
  """The differences that the page shows, by name, which are one family."""
  cells, base = campaign.by_key(record), reference(record)
  epochs = base["epochs"]
  small = min(batch for _, batch, _ in cells)
  chosen = [
    *((m, b, e) for m, b, e in cells if (b, e) == (small, epochs)),
    *((m, b, e) for m, b, e in cells if (m, e) == (OURS, epochs)),
  ]
  found = {
    f"{_named(key, epochs)} minus {_named(campaign.key_of(base), epochs)}": (
      cells[key],
      base,
    )
    for key in chosen
    if cells[key] is not base
  }
  # Where both long and short runs are; at others the figure shows it.
  lengths = {e for _, _, e in cells}
  for _, batch, length in [key for key in cells if key[0] == OURS]:
    if not all((OURS, batch, e) in cells for e in lengths):
      continue
    for other in (INFO_NCE, DCL, MARGIN, EXACT):
      key, ours = (other, batch, length), (OURS, batch, length)
      if key in cells:
        name = f"{_named(ours, epochs)} minus {_named(key, epochs)}"
        found[name] = cells[ours], cells[key]
  return found


def page(record: Mapping[str, Any]) -> str:
  """The record as Markdown."""
  settings, base = record["settings"], reference(record)
  found = campaign.compared(record, pairs(record), OUTCOMES)
  small = min(c["batch"] for c in record["cells"])
  main = f"{_OURS}, {small} minus {INFO_NCE}, {base['batch']}"
  things = len(record["items"][campaign.CATALOGUE]) // 2
  lines = [
    "# Small batches on frozen features",
    "",
    "```sh",
    record["command"],
    "```",
    "",
    "Two linear maps from the features of frozen published encoders"
    f" (EfficientNet-Lite0, MiniLM) to {settings['dim']} dimensions, of"
    f" {things:,} emoji and their English names, a random artist's drawing at"
    f" each visit; temperature {settings['temperature']:g}, {base['epochs']}"
    " epochs unless another number is named, Adam, cosine schedule."
    f" {len(settings['seeds'])} seeds, with the same maps, batches and drawings"
    " for every method. Learning rate of every cell chosen by the"
    f" {_CRITERIA[settings['criterion']]} of {len(settings['tuning_seeds'])}"
    " other seeds; the grid grows where the best one is at its end.",
    "",
    "![Recall over batch size](frozen_small_batches.png)",
    "",
    f"*Catalogue*: recall among all {things:,} training things, mean of both"
    " directions. *Unseen artist*: drawings by an artist who was not trained on,"
    " among the same names. *Unseen things*: drawings of things that were not"
    " trained on, among their names.",
    "",
    f'"Ours" is "{OURS}": tables of tau log A with a level,'
    " [stochastic EM in one call](../../docs/guides/e_step.md).",
    "",
    "## Read from the numbers",
    "",
    *(
      "- " + differences.sentence(f"{name}, {task} R@{depth}", row)
      for name, own in found.items()
      if name.startswith(f"{_OURS},")
      # All outcomes of what the study is for: the smallest batch.
      for (task, depth), row in zip(OUTCOMES, own)
      if (task, depth) == OUTCOMES[0] or name == main
    ),
    *_ends(record),
    "",
  ]
  for task, depth in OUTCOMES:
    lines += [
      f"## {task[0].upper()}{task[1:]}, R@{depth}",
      "",
      *_by_batch(
        record,
        lambda c, t=task, k=str(depth): reporting.interval(
          c["numbers"][t][k], 3
        ),
      ),
      "",
    ]
  lines += [
    "## Paired differences",
    "",
    "Mean ± half of the 95 % interval over seeds (Student's t); below it the 95 %"
    " interval over things (bootstrap) and p after Holm's correction for all"
    f" {sum(map(len, found.values()))} differences of this table; bold where that"
    " is below 0.05.",
    "",
    *reporting.table(
      ["difference", *(f"{task} R@{k}" for task, k in OUTCOMES)],
      ([name, *map(differences.cell, own)] for name, own in found.items()),
    ),
    "",
    "## Weights",
    "",
    "Sum of an anchor's weights u Z-hat in the last epoch, which is 1 where weights"
    " are right on average:",
    "",
    *_by_batch(record, lambda c: _interval(c["weight_sum"])),
    "",
    "Root mean square of what the tables say minus the true log Z after the last"
    " epoch, in nats:",
    "",
    *_by_batch(
      record,
      lambda c: _interval(c["table_error"].get(str(c["epochs"]), [])),
    ),
    "",
    "## Learning rates",
    "",
    "A * marks a rate at an end of its grid, which had grown twice on that side. In parentheses the tuning"
    " seeds' R@1 of the catalogue, and where another of the rates that were tried"
    " has a higher one, that.",
    "",
    *_by_batch(record, campaign.rate_text),
    "",
    f"Hits of every item are in [frozen_small_batches.json]"
    "(frozen_small_batches.json). Recorded with"
    f" {reporting.listed(record['versions'])}; "
    f"{sum(c['cpu_seconds'] for c in record['cells']) / 60:.0f} CPU minutes.",
    "",
  ]
  return "\n".join(lines)


def plot(record: Mapping[str, Any], path: pathlib.Path) -> None:
  """R@1 over batch size; below, paired differences from the reference."""
  from matplotlib import figure

  cells, base = campaign.by_key(record), reference(record)
  batches = sorted({b for _, b, e in cells if e == base["epochs"]})
  canvas = figure.Figure(figsize=(8.0, 5.6), layout="constrained")
  axes = canvas.subplots(2, 3, sharex=True)
  for column, task in enumerate(campaign.OUTCOMES):
    above, below = axes[:, column]
    known = base["numbers"][task]["1"]
    above.axhline(np.mean(known), color="#777777", ls="--", lw=0.9, zorder=1)
    below.axhline(0.0, color="#777777", ls="--", lw=0.9, zorder=1)
    ends = []
    for place, (method, (colour, label, marker)) in enumerate(_LINES.items()):
      own = [cells.get((method, batch, base["epochs"])) for batch in batches]
      at = [np.log2(b) for b, c in zip(batches, own) if c]
      values = [np.array(c["numbers"][task]["1"]) for c in own if c]
      if not values:
        continue
      style = {"color": colour, "lw": 1.4, "ms": 3.5, "marker": marker}
      above.plot(at, [v.mean() for v in values], **style)
      apart = [(v - known).tolist() for v in values]
      below.errorbar(
        # Beside each other, or intervals would hide each other.
        np.array(at) + (place - len(_LINES) / 2) * 0.07,
        [np.mean(d) for d in apart],
        yerr=[reporting.half_width(d) for d in apart],
        **{**style, "lw": 0.9},
      )
      ends.append((values[0].mean(), label, colour))
    _label(above, np.log2(batches[0]), ends)
    above.set_title(
      {
        campaign.CATALOGUE: f"catalogue of {len(record['items'][task]) // 2:,}"
      }.get(task, task),
      fontsize=9,
    )
    above.annotate(
      f"InfoNCE, {base['batch']}",
      (np.log2(batches[-1]), np.mean(known)),
      xytext=(0, -2),
      textcoords="offset points",
      ha="right",
      va="top",
      fontsize=7,
      color="#555555",
      bbox={"color": "white", "alpha": 0.8, "pad": 0.5},
    )
    below.set_xticks(np.log2(batches), [str(b) for b in batches], fontsize=7)
    below.set_xlim(np.log2(batches[0]) - 2.6, np.log2(batches[-1]) + 0.3)
    below.set_xlabel("batch size", fontsize=8)
    for ax in (above, below):
      ax.tick_params(axis="y", labelsize=7)
      ax.spines[["top", "right"]].set_visible(False)
  axes[0, 0].set_ylabel("R@1", fontsize=8)
  axes[1, 0].set_ylabel(
    f"minus InfoNCE, {base['batch']}\n(paired, 95 %)", fontsize=8
  )
  canvas.savefig(path, dpi=200)


def _label(ax: Any, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
  """Names of lines at their left ends, moved apart where they would overlap."""
  low, high = ax.get_ylim()
  apart, last = (high - low) * 0.07, -np.inf
  for y, label, colour in sorted(ends):
    last = max(y, last + apart)
    ax.text(
      x - 0.25, last, label, color=colour, fontsize=7, ha="right", va="center"
    )
  ax.set_ylim(low, max(high, last + apart))


def _named(key: tuple[str, int, int], epochs: int) -> str:
  method, batch, length = key
  longer = "" if length == epochs else f", {length} epochs"
  return f"{_OURS if method == OURS else method}, {batch}{longer}"


def _by_batch(
  record: Mapping[str, Any], text_of: Callable[[Mapping[str, Any]], str]
) -> list[str]:
  """A table of methods by batch size, without those of which it says nothing."""
  cells = campaign.by_key(record)
  batches = sorted({b for _, b, _ in cells})
  rows = []
  for method, length in dict.fromkeys((m, e) for m, _, e in cells):
    own = [cells.get((method, batch, length)) for batch in batches]
    texts = ["" if cell is None else text_of(cell) for cell in own]
    if any(text not in ("", "–") for text in texts):
      rows.append([method, str(length), *texts])
  return reporting.table(["method", "epochs", *map(str, batches)], rows)


def _interval(values: Sequence[float | None]) -> str:
  known = [v for v in values if v is not None]
  complete = known and len(known) == len(values)
  return reporting.interval(known, 2) if complete else "–"


def _ends(record: Mapping[str, Any]) -> list[str]:
  """Lines on learning rates at an end of their grid."""
  ends = [campaign.key_of(c) for c in record["cells"] if c["at_end"]]
  if not ends:
    return ["- No chosen learning rate is at an end of its grid."]
  epochs = reference(record)["epochs"]
  names = "; ".join(_named(key, epochs) for key in ends)
  return [f"- The learning rate is at an end of its grid for: {names}."]
