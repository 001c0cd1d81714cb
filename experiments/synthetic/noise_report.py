"""The page and the figure of the study of noise."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from contrastive_jax.programs import reporting
from experiments import studies
from experiments.synthetic.noise_methods import DCL, EXACT, INFO_NCE, METHODS

# Colours that the colour-blind tell apart (Okabe and Ito).
_SHOWN = {
  INFO_NCE: "#000000",
  "average 0.5: margin": "#CC79A7",
  "average 0.5: positive-free + level": "#0072B2",
  "average (visits + 1)^-0.9: margin": "#E69F00",
  "average (visits + 1)^-0.9: positive-free": "#009E73",
}


def read(folder: pathlib.Path) -> Mapping[str, Any]:
  """The record."""
  return reporting.read_json(folder / "noise.json")


def page(record: Mapping[str, Any]) -> str:
  """The record as Markdown."""
  sigmas = sorted({r["sigma"] for r in record["scalar"]})
  small = record["scalar_settings"]
  scalars = [
    [
      method,
      *(
        f"{np.mean(r['final']):.3f} [{min(r['final']):.3f},"
        f" {max(r['final']):.3f}]"
        for r in record["scalar"]
        if r["method"] == method
      ),
    ]
    for method in METHODS
    if any(r["method"] == method for r in record["scalar"])
  ]
  optima = [
    [
      f"{r['method']}, sigma {r['sigma']}",
      *("none below 60" if x > 60 else f"{x:.3f}" for x in r["optimum"]),
    ]
    for r in record["optima"]
  ]
  encoder, rates = record["encoder_settings"], record["learning_rates"]
  return studies.page(
    "# Noise in the negatives: what small batches converge to",
    studies.shell("python -m experiments.synthetic.noise"),
    "## One parameter",
    "The optimum over all negatives is 1.0 at every noise level. Mean over the"
    f" second half of {small['steps']:,} steps of {small['batch']} anchors with"
    f" {small['batch'] - 1} negatives each, from ten initial values: mean"
    f" [smallest, largest]. The control, {EXACT}, has weights of the true Z.",
    reporting.table(["method", *(f"sigma {s}" for s in sigmas)], scalars),
    "![Theta over the steps, optima over the number of negatives, and the"
    " encoders' test loss](noise.png)",
    "The value of theta that minimises the expected minibatch loss, by the number"
    " of negatives:",
    reporting.table(["loss", *(f"{n:,}" for n in record["negatives"])], optima),
    "## Two linear encoders",
    f"{encoder['pairs']} pairs, batches of {encoder['batch']},"
    f" {encoder['steps']:,} steps, temperature {encoder['temperature']};"
    f" {record['seeds']} data sets with the same initial encoders for every"
    " method. The learning rate of each is chosen on validation pairs of three"
    f" other data sets, from {rates[0]:g} to {rates[-1]:g} in steps of 2. Loss"
    " over all negatives on test pairs (lower is better), its paired differences,"
    " and the angle to the optimum's similarities; mean ± half of the 95 %"
    " interval. A star is a difference of p < 0.05 after Holm's correction for"
    f" all {len(record['comparisons'])} of the table.",
    reporting.table(
      [
        *("sigma", "method", "learning rate", "test loss"),
        *("minus the optimum's", "minus InfoNCE's", "minus DCL's", "angle"),
      ],
      _trained(record),
    ),
    f"Made with {reporting.listed(record['versions'])} in"
    f" {record['seconds']:.0f} s.",
  )


def _trained(record):
  """The rows of the encoders' table."""
  compared = {
    (r["sigma"], r["method"], r["minus"]): r for r in record["comparisons"]
  }

  def difference(row, other):
    found = compared.get((row["sigma"], row["method"], other))
    if found is None:
      return "–"
    star = " *" if found["holm"] < 0.05 else ""
    return f"{found['mean']:+.3f} ± {found['half_width']:.3f}{star}"

  rows, optimal = [], np.zeros(())
  for r in record["encoders"]:
    rate, excess, angle = "–", "0", "0"
    if r["learning_rate"] is None:  # The first row of a noise level.
      optimal = np.asarray(r["test"])
    else:
      rate = f"{r['learning_rate']:g}"
      if (
        r["learning_rate"]
        in record["learning_rates"][:: len(record["learning_rates"]) - 1]
      ):
        rate += " (an end)"
      excess = reporting.interval((r["test"] - optimal).tolist(), 3, "+")
      angle = reporting.interval(r["angle"], 1)
    rows.append(
      [
        f"{r['sigma']}",
        r["method"],
        rate,
        reporting.interval(r["test"], 3),
        excess,
        difference(r, INFO_NCE),
        difference(r, DCL),
        angle,
      ]
    )
  return rows


def plot(record: Mapping[str, Any], path: pathlib.Path) -> None:
  """Every run of some methods, the optima, and the encoders' differences."""
  from matplotlib import figure

  sigmas = sorted({r["sigma"] for r in record["scalar"]})
  noises = sorted({r["sigma"] for r in record["encoders"]})
  canvas = figure.Figure(figsize=(10.5, 10.5), layout="constrained")
  axes = canvas.subplots(
    3,
    max(len(sigmas), len(noises)),
    squeeze=False,
    height_ratios=(1.0, 0.9, 1.4),
  )
  for ax, below, sigma in zip(axes[0], axes[1], sigmas):
    for row in record["scalar"]:
      if row["sigma"] == sigma and row["method"] in _SHOWN:
        for i, run in enumerate(row["path"]):
          ax.plot(
            1 + np.asarray(record["recorded"]),
            run,
            color=_SHOWN[row["method"]],
            linewidth=0.7,
            label=None if i else row["method"],
          )
    ax.set_xlabel("step + 1")
    ax.set_title(f"one parameter, sigma = {sigma}", fontsize=10)
    for row in record["optima"]:
      if row["sigma"] == sigma:
        found = np.where(
          np.asarray(row["optimum"]) > 60, np.nan, row["optimum"]
        )
        below.plot(
          record["negatives"],
          found,
          color={INFO_NCE: "#000000", DCL: "#999999"}[row["method"]],
          marker="o",
          markersize=3,
          label=row["method"],
        )
    below.set_xlabel("negatives of an anchor")
    for one, top in ((ax, 2.6), (below, 2.6)):
      one.axhline(1.0, color="black", linestyle=":", linewidth=0.9)
      one.set_xscale("log")
      one.set_ylim(0 if one is ax else 0.9, top)
  axes[0, 0].set_ylabel("theta (optimum 1)")
  axes[1, 0].set_ylabel("the loss's own optimum")
  axes[0, 0].legend(fontsize=6.5)
  axes[1, 0].legend(fontsize=7)
  for ax, sigma in zip(axes[2], noises):
    rows = [r for r in record["encoders"] if r["sigma"] == sigma]
    others = [r for r in rows[1:] if r["method"] != INFO_NCE]
    (base,) = (r["test"] for r in rows if r["method"] == INFO_NCE)
    gains = [np.subtract(r["test"], base) for r in others]
    places = np.arange(len(others))[::-1]
    ax.errorbar(
      [g.mean() for g in gains],
      places,
      xerr=[reporting.half_width(g.tolist()) for g in gains],
      fmt="o",
      markersize=4,
      color="#0072B2",
    )
    best = np.subtract(rows[0]["test"], base).mean()
    ax.axvline(best, color="#009E73", linewidth=0.9, label="the optimum")
    ax.axvline(0.0, color="black", linestyle=":", linewidth=0.9)
    names = [r["method"] for r in others]
    ax.set_yticks(places, names if ax is axes[2, 0] else [""] * len(names))
    ax.tick_params(axis="y", labelsize=6.5)
    ax.set_title(f"encoders, sigma = {sigma}", fontsize=10)
    ax.set_xlabel("test loss minus InfoNCE's")
  axes[2, 0].legend(fontsize=7, loc="upper right")
  canvas.savefig(path, dpi=110)
