"""The record of the gradient-bias study as a page and a figure."""

import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from contrastive_jax.programs import reporting

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
  lines = [
    "# Gradient bias: how far small batches are from all of the data",
    "",
    "```sh",
    "python -m experiments.synthetic.gradient_bias --batches="
    + ",".join(map(str, record["settings"]["batches"])),
    "```",
    "",
    *_sphere(record),
    "",
    *_embeddings(record),
    "",
    *_at(record, _SHOWN),
    *_ratios(record),
    "",
    *_rates(record),
    "",
    *_over_batches(record, "squared_bias"),
    "",
    *_over_batches(record, "variance"),
  ]
  made = reporting.listed(record["versions"])
  seconds = (
    f"{record['training_seconds']:.0f} s of training and"
    f" {record['seconds']:.0f} s after it, by the clock, on"
    f" {record['cores']} cores that may have been shared"
  )
  lines += ["", f"Made with {made} in {seconds}.", ""]
  return "\n".join(lines)


def _number(x: float, digits: int = 3) -> str:
  """Without a leading zero, as the tables have it."""
  return f"{x:.{digits}f}".replace("0.", ".", 1) if abs(x) < 1 else f"{x:.3g}"


def _sphere(record: Mapping[str, Any]) -> list[str]:
  rows = [
    [
      f"{r['dim']}, {r['temperature']}",
      f"{r['squared_variation']:.3g}",
      f"{r['negatives']}",
      f"{r['log_bias']:.4f} ± {1.96 * r['log_error']:.4f}",
      f"{r['log_exact']:.4f}",
      f"{r['log_first_order']:.4f}",
      f"{r['weight_bias']:.4f} ± {1.96 * r['weight_error']:.4f}",
      f"{r['weight_exact']:.4f}",
      f"{r['weight_first_order']:.4f}",
    ]
    for r in record["sphere"]
  ]
  return [
    "## Negatives on a sphere",
    "",
    "Negatives uniform on the unit sphere of R^d, B of them a draw. Z and CV² ="
    " Var(exp(D)) / Z² come from Bessel functions, the exact columns from the"
    " Laplace transform of exp(D); Monte Carlo with 95 % intervals"
    f" ({record['similarities']:,} negatives a row).",
    "",
    *reporting.table(
      [
        "d, tau",
        "CV²",
        "B",
        "E log Ẑ − log Z",
        "exact",
        "−CV²/2B",
        "E[Z/Ẑ] − 1",
        "exact",
        "CV²/B",
      ],
      rows,
    ),
  ]


def _embeddings(record: Mapping[str, Any]) -> list[str]:
  settings, first = record["settings"], record["stages"][0]
  memory = settings["memory"]
  rows = [
    [
      s["stage"],
      f"{s['step']:,}",
      f"{s['temperature']:.4f}",
      f"{s['log_partition']:.2f}",
      " / ".join(f"{v:.3g}" for v in s["squared_variation"]),
    ]
    for s in record["stages"]
  ]
  return [
    "## Gradients on a model's embeddings",
    "",
    f"A CLIP model is trained on the emoji data for {settings['steps']:,} steps"
    f" (narrow image tower, d = {first['dim']}, one English caption); at three"
    f" checkpoints, n = {first['examples']:,} training things are embedded, one"
    " drawing and the English name of each. The gradient is that of two d × d"
    " maps, one a modality, at the identity, applied to the frozen embeddings"
    " before they are normalised, at the model's own temperature.",
    "",
    *reporting.table(
      ["stage", "step", "tau", "mean log Z", "CV², 10 / 50 / 90 % of anchors"],
      rows,
    ),
    "",
    "g is the gradient over all n examples of the objective that a method aims"
    " at. For InfoNCE (positive in the denominator) that is InfoNCE with all n"
    " examples as its batch; for all others the global contrastive loss, the"
    " mean over anchors and both directions of the log of the mean of exp(D)"
    " over the n − 1 others. Bias is |E g_B − g| / |g|, variance E|g_B − E"
    " g_B|² / |g|² of one draw.",
    "",
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
    "",
    "![bias and variance over the batch size](gradient_bias.png)",
  ]


def _stages(record: Mapping[str, Any]) -> list[str]:
  return [s["stage"] for s in record["stages"]]


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


def _at(record: Mapping[str, Any], batches: Sequence[int]) -> list[str]:
  lines: list[str] = []
  stages = _stages(record)
  for batch in batches:
    if batch not in record["settings"]["batches"]:
      continue
    rows = []
    for method in _methods(record["rows"]):
      found = [_row(record["rows"], s, method, batch) for s in stages]
      rows.append(
        [
          method,
          *map(_bias_cell, found),
          *map(_length_cell, found),
          *(f"{statistics.fmean(r['variance']):.3g}" for r in found),
        ]
      )
    lines += [
      f"### B = {batch}",
      "",
      "Bias with its interval; E g_B along g and across it, in units of |g|"
      " (1, 0 is no bias; a method that adapts its step size undoes what is"
      " along); variance.",
      "",
      *reporting.table(
        [
          "method",
          *(f"bias, {s}" for s in stages),
          *(f"along, across, {s}" for s in stages),
          *(f"variance, {s}" for s in stages),
        ],
        rows,
      ),
      "",
    ]
  return lines


def _ratios(record: Mapping[str, Any]) -> list[str]:
  """Bias over InfoNCE's at B = 8."""
  if 8 not in record["settings"]["batches"]:
    return []
  stages = _stages(record)
  own = {
    s: bias(_row(record["rows"], s, "InfoNCE", 8)["squared_bias"])[0]
    for s in stages
  }
  found = {}
  for source in (record["rows"], record["rates"]):
    for method in _methods(source):
      found[method] = [
        bias(_row(source, s, method, 8)["squared_bias"])[0] / own[s]
        for s in stages
      ]
  few = [m for m, ratios in found.items() if max(ratios) <= 0.25]
  return [
    "Bias at B = 8 as a multiple of InfoNCE's, each against its own objective"
    f" (at most .25 at every stage: {', '.join(few) or 'none'}):",
    "",
    *reporting.table(
      ["method", *stages],
      ([m, *(_number(x) for x in r)] for m, r in found.items()),
    ),
  ]


def _rates(record: Mapping[str, Any]) -> list[str]:
  if not record["rates"]:
    return []
  stages = _stages(record)
  rows = []
  for method in _methods(record["rates"]):
    found = [_row(record["rates"], s, method, 8) for s in stages]
    rows.append(
      [
        method,
        *(_number(statistics.fmean(r["rate"]), 2) for r in found),
        *map(_bias_cell, found),
        *(f"{statistics.fmean(r['variance']):.3g}" for r in found),
      ]
    )
  return [
    "### Other rates, B = 8",
    "",
    "An average of rate γ that holds the batch's own Ẑ is at least γ Ẑ, so no"
    " batch counts for more than 1/γ anchors of average weight. Where CV² / B"
    " is far above 1, an anchor's gradient comes from the few batches with Ẑ"
    " many times Z, and those are cut: that is what is left of the bias, and"
    " why it falls with the rate while the variance rises. Weights from before"
    " the batch (lagged) have no such bound: what is then left is that E[1/Z̄]"
    " is above 1/Z, and a variance that is far larger. The conjugate"
    " rule's rate is sigmoid(log Z + log alpha): near 1, and so near DCL, where"
    " Z is not small; .1 takes log alpha of about −log Z − 2. Chains begin at"
    " the exact Z, and of rates below .05 are not quite at their steady state.",
    "",
    *reporting.table(
      [
        "method",
        *(f"rate, {s}" for s in stages),
        *(f"bias, {s}" for s in stages),
        *(f"variance, {s}" for s in stages),
      ],
      rows,
    ),
  ]


def _over_batches(record: Mapping[str, Any], what: str) -> list[str]:
  batches = record["settings"]["batches"]
  rows = []
  for stage in _stages(record):
    for method in _methods(record["rows"]):
      cells = []
      for batch in batches:
        values = _row(record["rows"], stage, method, batch)[what]
        value = statistics.fmean(values)
        if what == "squared_bias":
          cells.append(_number(bias(values)[0]))
        else:
          cells.append(f"{value:.3g}")
      rows.append([stage, method, *cells])
  name = "Bias" if what == "squared_bias" else "Variance"
  return [
    f"### {name} over B",
    "",
    *reporting.table(["stage", "method", *map(str, batches)], rows),
  ]


def plot(record: Mapping[str, Any], path: pathlib.Path) -> None:
  """Bias (above) and variance (below) over the batch size, a panel a stage."""
  from matplotlib import figure

  stages = record["stages"]
  canvas = figure.Figure(figsize=(3.9 * len(stages), 7.4), layout="constrained")
  axes = canvas.subplots(2, len(stages), squeeze=False, sharex=True)
  for column, stage in enumerate(stages):
    above, below = axes[0, column], axes[1, column]
    for method in _methods(record["rows"]):
      rows = [
        r
        for r in record["rows"]
        if r["stage"] == stage["stage"] and r["method"] == method
      ]
      batches = [r["batch"] for r in rows]
      style = {
        "color": _COLOURS.get(method, "grey"),
        "linestyle": ":" if "control" in method else "-",
        "linewidth": 1.4,
        "marker": "o",
        "markersize": 3,
      }
      below.plot(
        batches,
        [statistics.fmean(r["variance"]) for r in rows],
        label=method,
        **style,
      )
      if "control" in method:
        continue
      middle, low, high = np.array([bias(r["squared_bias"]) for r in rows]).T
      # What is not told from no bias has no place on a logarithmic axis.
      seen = np.where((middle > 0) & (low > 0), middle, np.nan)
      above.plot(batches, seen, **style)
      above.fill_between(
        batches,
        np.where(np.isnan(seen), np.nan, low),
        np.where(np.isnan(seen), np.nan, high),
        color=style["color"],
        alpha=0.15,
        linewidth=0,
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
  axes[0, 0].set_ylabel("bias |E g_B − g| / |g|")
  axes[1, 0].set_ylabel("variance E|g_B − E g_B|² / |g|²")
  handles, labels = axes[1, 0].get_legend_handles_labels()
  canvas.legend(
    handles, labels, loc="outside lower center", ncols=3, fontsize=8
  )
  canvas.savefig(path, dpi=110)
