"""The record of the gradient-bias study as a page and a figure."""

import math
import pathlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from contrastive_jax.programs import reporting
from experiments import studies

# Batch sizes of the page's tables with intervals, where they were measured.
_SHOWN = (8, 64)
_COLOURS = {
  "InfoNCE": "C3",
  "DCL": "C1",
  "moving average .5 (SogCLR)": "C0",
  "moving average .5, gamma 8": "C9",
  "moving average .5, gamma 1": "C4",
  "moving average .1": "C2",
  "conjugate, log alpha 10 (SCENT)": "C5",
  "amortised (NeuCLIP)": "C6",
  "exact 1/Z (control)": "black",
}


def bias(squares: Sequence[float]) -> tuple[float, float, float]:
  """|E g_B - g| / |g| with the ends of its 95 % interval.

  The mean and its interval are those of the squared bias, whose estimates are
  unbiased and may be negative; the root is taken at the end, of 0 there.

  Args:
    squares: squared bias, one a seed, at least two.

  Returns:
    Bias, low, high.

  >>> [round(x, 2) for x in bias([0.25, 0.25])]
  [0.5, 0.5, 0.5]
  >>> bias([-0.5, 0.25])[:2]
  (0.0, 0.0)
  """
  mean, half = statistics.fmean(squares), reporting.half_width(squares)
  low, middle, high = (
    math.sqrt(max(0.0, x)) for x in (mean - half, mean, mean + half)
  )
  return middle, low, high


def page(record: Mapping[str, Any]) -> str:
  """The record as Markdown."""
  settings, first = record["settings"], record["stages"][0]
  memory, batches = settings["memory"], settings["batches"]
  rows, stages = record["rows"], [s["stage"] for s in record["stages"]]
  at = {
    batch: _table(rows, stages, batch, "bias", "along, across", "variance")
    for batch in _SHOWN
    if batch in batches
  }
  return studies.page(
    "# Gradient bias: how far small batches are from all of the data",
    studies.shell(
      "python -m experiments.synthetic.gradient_bias --batches="
      + ",".join(map(str, batches))
    ),
    "## Negatives on a sphere",
    "Negatives uniform on the unit sphere of R^d, B of them a draw. Z and CV² ="
    " Var(exp(D)) / Z² come from Bessel functions, the exact columns from the"
    " Laplace transform of exp(D); Monte Carlo with 95 % intervals"
    f" ({record['similarities']:,} negatives a row).",
    reporting.table(
      [
        *("d, tau", "CV²", "B"),
        *("E log Ẑ − log Z", "exact", "−CV²/2B"),
        *("E[Z/Ẑ] − 1", "exact", "CV²/B"),
      ],
      map(_sphere_cells, record["sphere"]),
    ),
    "## Gradients on a model's embeddings",
    f"A CLIP model is trained on the emoji data for {settings['steps']:,} steps"
    f" (narrow image tower, d = {first['dim']}, one English caption); at three"
    f" checkpoints, n = {first['examples']:,} training things are embedded, one"
    " drawing and the English name of each. The gradient is that of two d × d"
    " maps, one a modality, at the identity, applied to the frozen embeddings"
    " before they are normalised, at the model's own temperature.",
    reporting.table(
      ["stage", "step", "tau", "mean log Z", "CV², 10 / 50 / 90 % of anchors"],
      (
        [
          s["stage"],
          f"{s['step']:,}",
          f"{s['temperature']:.4f}",
          f"{s['log_partition']:.2f}",
          " / ".join(f"{v:.3g}" for v in s["squared_variation"]),
        ]
        for s in record["stages"]
      ),
    ),
    "g is the gradient over all n examples of the objective that a method aims"
    " at. For InfoNCE (positive in the denominator) that is InfoNCE with all n"
    " examples as its batch; for all others the global contrastive loss, the"
    " mean over anchors and both directions of the log of the mean of exp(D)"
    " over the n − 1 others. Bias is |E g_B − g| / |g|, variance E|g_B − E"
    " g_B|² / |g|² of one draw.",
    "Tables are at their steady state: for each seed"
    f" {memory['chains']} chains of epochs of updates at the same B,"
    f" {memory['snapshots']} snapshots each after {memory['burn_in']} epochs;"
    " a draw takes a random snapshot and a random batch, whose own estimate is"
    " folded in before it is weighted. The mean E-step with moving average .5"
    " is SogCLR; gamma 1 and gamma 8 draw u around it. NeuCLIP's is"
    f" {record['prototypes']} prototypes of each modality, begun at keys of the"
    " data and fitted by AdaGrad, one step a batch. The control weights with"
    " the exact 1 / Z, and so has no bias."
    f" {settings['seeds']} seeds, {settings['draws']:,} draws each at B = 8 and"
    " as many rows at other sizes (at least 32 draws). Intervals are 95 % over"
    " seeds. The embeddings stand still: what tables lose by being old while a"
    " model moves is not in these numbers.",
    "![bias and variance over the batch size](gradient_bias.png)",
    *(
      block
      for batch, lines in at.items()
      for block in (
        f"### B = {batch}",
        "Bias with its interval; E g_B along g and across it, in units of |g|"
        " (1, 0 is no bias; a method that adapts its step size undoes what is"
        " along); variance.",
        lines,
      )
    ),
    *(_ratios(record, stages) if 8 in batches else ()),
    *(_rates(record["rates"], stages) if record["rates"] else ()),
    *("### Bias over B", _over_batches(rows, stages, batches, "point")),
    *("### Variance over B", _over_batches(rows, stages, batches, "variance")),
    f"Made with {reporting.listed(record['versions'])} in"
    f" {record['training_seconds']:.0f} s of training and"
    f" {record['seconds']:.0f} s after it, by the clock, on"
    f" {record['cores']} cores that may have been shared.",
  )


def _number(x: float, digits: int = 3) -> str:
  """Without a leading zero, as the tables have it."""
  return f"{x:.{digits}f}".replace("0.", ".", 1) if abs(x) < 1 else f"{x:.3g}"


def _sphere_cells(row: Mapping[str, Any]) -> list[str]:
  cells = [
    f"{row['dim']}, {row['temperature']}",
    f"{row['squared_variation']:.3g}",
    f"{row['negatives']}",
  ]
  for kind in ("log", "weight"):
    error = 1.96 * row[f"{kind}_error"]
    cells += [
      f"{row[f'{kind}_bias']:.4f} ± {error:.4f}",
      f"{row[f'{kind}_exact']:.4f}",
      f"{row[f'{kind}_first_order']:.4f}",
    ]
  return cells


def _row(rows, stage: str, method: str, batch: int) -> Mapping[str, Any]:
  return next(
    r
    for r in rows
    if (r["stage"], r["method"], r["batch"]) == (stage, method, batch)
  )


def _methods(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  return list(dict.fromkeys(r["method"] for r in rows))


def _bias_cell(row: Mapping[str, Any]) -> str:
  middle, low, high = (_number(x) for x in bias(row["squared_bias"]))
  return f"{middle} [{low}, {high}]"


def _length_cell(row: Mapping[str, Any]) -> str:
  """Length along g, and what is across: the rest of the bias."""
  along = statistics.fmean(row["length"])
  across = statistics.fmean(row["squared_bias"]) - (along - 1.0) ** 2
  return f"{_number(along, 2)}, {_number(math.sqrt(max(0.0, across)), 2)}"


# The cell of a row in each kind of column.
_CELLS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
  "rate": lambda row: _number(statistics.fmean(row["rate"]), 2),
  "bias": _bias_cell,
  "point": lambda row: _number(bias(row["squared_bias"])[0]),
  "along, across": _length_cell,
  "variance": lambda row: f"{statistics.fmean(row['variance']):.3g}",
}


def _table(rows, stages: Sequence[str], batch: int, *columns: str) -> list[str]:
  """A row a method, in each column a cell a stage."""
  return reporting.table(
    ["method", *(f"{c}, {s}" for c in columns for s in stages)],
    (
      [
        m,
        *(_CELLS[c](_row(rows, s, m, batch)) for c in columns for s in stages),
      ]
      for m in _methods(rows)
    ),
  )


def _over_batches(rows, stages, batches, column: str) -> list[str]:
  """A row a stage and method, a cell a batch size."""
  return reporting.table(
    ["stage", "method", *map(str, batches)],
    (
      [s, m, *(_CELLS[column](_row(rows, s, m, b)) for b in batches)]
      for s in stages
      for m in _methods(rows)
    ),
  )


def _ratios(
  record: Mapping[str, Any], stages: Sequence[str]
) -> Iterator[str | list[str]]:
  """Bias over InfoNCE's at B = 8."""

  def biases(rows, method):
    found = (_row(rows, s, method, 8)["squared_bias"] for s in stages)
    return np.array([bias(squares)[0] for squares in found])

  own = biases(record["rows"], "InfoNCE")
  found = {
    method: biases(rows, method) / own
    for rows in (record["rows"], record["rates"])
    for method in _methods(rows)
  }
  few = [m for m, ratios in found.items() if max(ratios) <= 0.25]
  yield (
    "Bias at B = 8 as a multiple of InfoNCE's, each against its own objective"
    f" (at most .25 at every stage: {', '.join(few) or 'none'}):"
  )
  yield reporting.table(
    ["method", *stages], ([m, *map(_number, r)] for m, r in found.items())
  )


def _rates(rates, stages: Sequence[str]) -> Iterator[str | list[str]]:
  yield "### Other rates, B = 8"
  yield (
    "An average of rate γ that holds the batch's own Ẑ is at least γ Ẑ, so no"
    " batch counts for more than 1/γ anchors of average weight. Where CV² / B"
    " is far above 1, an anchor's gradient comes from the few batches with Ẑ"
    " many times Z, and those are cut: that is what is left of the bias, and"
    " why it falls with the rate while the variance rises. Weights from before"
    " the batch (lagged) have no such bound: what is then left is that E[1/Z̄]"
    " is above 1/Z, and a variance that is far larger. The conjugate"
    " rule's rate is sigmoid(log Z + log alpha): near 1, and so near DCL, where"
    " Z is not small; .1 takes log alpha of about −log Z − 2. Chains begin at"
    " the exact Z, and of rates below .05 are not quite at their steady state."
  )
  yield _table(rates, stages, 8, "rate", "bias", "variance")


def plot(record: Mapping[str, Any], path: pathlib.Path) -> None:
  """Bias (above) and variance (below) over the batch size, a panel a stage."""
  from matplotlib import figure

  stages = record["stages"]
  canvas = figure.Figure(figsize=(3.9 * len(stages), 7.4), layout="constrained")
  axes = canvas.subplots(2, len(stages), squeeze=False, sharex=True)
  for column, stage in enumerate(stages):
    above, below = axes[0, column], axes[1, column]
    for method in _methods(record["rows"]):
      own = (stage["stage"], method)
      rows = [r for r in record["rows"] if (r["stage"], r["method"]) == own]
      batches = [r["batch"] for r in rows]
      style = {
        "color": _COLOURS.get(method, "grey"),
        "linestyle": ":" if "control" in method else "-",
        "linewidth": 1.4,
        "marker": "o",
        "markersize": 3,
      }
      variances = [statistics.fmean(r["variance"]) for r in rows]
      below.plot(batches, variances, label=method, **style)
      if "control" in method:
        continue
      middle, low, high = np.array([bias(r["squared_bias"]) for r in rows]).T
      # A bias that is not told from none has no place on a logarithmic axis.
      seen = np.where((middle > 0) & (low > 0), middle, np.nan)
      above.plot(batches, seen, **style)
      ends = (np.where(np.isnan(seen), np.nan, x) for x in (low, high))
      above.fill_between(
        batches, *ends, color=style["color"], alpha=0.15, linewidth=0
      )
    above.set_title(
      f"{stage['stage']} (step {stage['step']:,}), median CV²"
      f" {stage['squared_variation'][1]:.3g}",
      fontsize=10,
    )
    for ax in (above, below):
      ax.set_xscale("log", base=2)
      drawn = [y for line in ax.lines for y in line.get_ydata()]
      if np.any(np.isfinite(drawn)):  # In a smoke run there may be nothing.
        ax.set_yscale("log")
      ax.set_xticks(batches, [str(b) for b in batches], fontsize=8)
      ax.minorticks_off()
      ax.grid(alpha=0.25)
    below.set_xlabel("batch size B")
  axes[0, 0].set_ylabel(
    "bias |E g_B − g| / |g|\n(drawn where it is told from none)"
  )
  axes[1, 0].set_ylabel("variance E|g_B − E g_B|² / |g|²")
  handles, labels = axes[1, 0].get_legend_handles_labels()
  canvas.legend(
    handles, labels, loc="outside lower center", ncols=3, fontsize=8
  )
  canvas.savefig(path, dpi=110)
