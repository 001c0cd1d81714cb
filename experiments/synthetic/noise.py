"""Study: does a small batch find the optimum that all negatives define?

python -m experiments.synthetic.noise

Two parts. One parameter whose optimum is 1 whatever the noise (`scalar`), from
ten initial values; and two linear encoders (`encoders`), judged by the loss over
all negatives on unseen pairs and by the angle to the optimum's similarities.
Learning rates of the encoders are chosen for each method on validation pairs.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.programs import reporting
from experiments import studies
from experiments.synthetic import encoders, scalar

_FLAGS = flags.FlagValues()
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)
_OUT = studies.define_out("noise", _FLAGS)
_SEEDS = _integer("seeds", 6, "Data sets of the encoders.", lower_bound=2)
_STEPS = _integer(
  "steps",
  0,
  "Steps of every run, for a smoke run; 0 is each part's own.",
  lower_bound=0,
)
_SCALAR_NOISE = (0.0, 1.0, 1.73)
_ENCODER_NOISE = (0.3, 0.6, 1.0)
_INITIAL = tuple(np.linspace(0.1, 2.0, 10).round(3).tolist())
_RATES = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)


def scalar_part(settings: scalar.ScalarSizes) -> list[dict[str, Any]]:
  """Theta of all methods at all noise levels: paths and final averages."""
  rows = []
  levels, runs = len(_SCALAR_NOISE), len(_INITIAL)
  for method in scalar.METHODS:
    # All levels at once: a step is too small to keep a machine busy.
    path, final = scalar.run(
      method,
      jnp.repeat(jnp.asarray(_SCALAR_NOISE), runs),
      jnp.tile(jnp.asarray(_INITIAL), levels),
      seed=0,
      settings=settings,
    )
    rows += [
      {
        "sigma": sigma,
        "method": method,
        "final": final_of_level.round(5).tolist(),
        "path": path_of_level.round(4).tolist(),
      }
      for sigma, path_of_level, final_of_level in zip(
        _SCALAR_NOISE,
        np.split(np.asarray(path), levels),
        np.split(np.asarray(final), levels),
      )
    ]
  return rows


def encoder_part(
  settings: encoders.EncoderSizes, seeds: int, report: Any = print
) -> list[dict[str, Any]]:
  """Held-out loss and angle of all methods, a row a method and noise level."""
  keys = jax.random.split(jax.random.key(0), seeds)
  rates = jnp.asarray(_RATES)
  rows = []
  for sigma in _ENCODER_NOISE:
    x, y = jax.vmap(
      lambda key: encoders.make_pairs(
        jax.random.fold_in(key, 1), sigma, settings
      )
    )(keys)
    best = jax.vmap(
      lambda key, x, y: encoders.optimum(key, x[0], y[0], settings)
    )(keys, x, y)

    def scores(params, best, x, y):
      loss = functools.partial(
        encoders.full_loss, temperature=settings.temperature
      )
      return {
        "validation": loss(params, x[1], y[1]),
        "test": loss(params, x[2], y[2]),
        "angle": encoders.angle(params, best, x[2], y[2]),
      }

    optimal = jax.vmap(scores)(best, best, x, y)
    rows.append(_encoder_row(sigma, "all negatives (optimum)", None, optimal))
    for name, method in encoders.METHODS.items():
      began = time.monotonic()

      def one(key, best, x, y, rate, method=method):
        params = encoders.train(method, key, x[0], y[0], rate, settings)
        return scores(params, best, x, y)

      over_rates = jax.vmap(one, (None, None, None, None, 0))
      found = jax.jit(jax.vmap(over_rates, (0, 0, 0, 0, None)))(
        keys, best, x, y, rates
      )
      chosen = int(np.argmin(np.mean(found["validation"], axis=0)))
      own = {k: np.asarray(found[k])[:, chosen] for k in sorted(found)}
      rows.append(_encoder_row(sigma, name, _RATES[chosen], own))
      report(
        f"sigma {sigma}, {name}: held-out loss"
        f" {np.mean(own['test']):.3f} ({time.monotonic() - began:.0f} s)"
      )
  return rows


def _encoder_row(sigma, method, rate, scores):
  numbers = {
    k: np.asarray(v, np.float64).round(5).tolist() for k, v in scores.items()
  }
  return {"sigma": sigma, "method": method, "learning_rate": rate, **numbers}


def page(record: Mapping[str, Any]) -> str:
  """The record as Markdown."""
  scalars = (
    [
      method,
      *(
        f"{np.mean(r['final']):.3f} [{min(r['final']):.3f},"
        f" {max(r['final']):.3f}]"
        for r in record["scalar"]
        if r["method"] == method
      ),
    ]
    for method in scalar.METHODS
  )
  encoder = record["encoder_settings"]
  trained, optimal = [], np.zeros(())
  for r in record["encoders"]:
    if r["learning_rate"] is None:  # The first row of a noise level.
      optimal = np.asarray(r["test"])
      rate, excess, angle = "–", "0", "0"
    else:
      rate = f"{r['learning_rate']:g}"
      excess = reporting.interval((r["test"] - optimal).tolist(), 3)
      angle = reporting.interval(r["angle"], 1)
    test = reporting.interval(r["test"], 3)
    trained.append([f"{r['sigma']}", r["method"], rate, test, excess, angle])
  small = record["scalar_settings"]
  return studies.page(
    "# Noise in the negatives: what small batches converge to",
    studies.shell("python -m experiments.synthetic.noise"),
    "## One parameter",
    "The optimum over all negatives is 1.0 at every noise level. Mean over the"
    f" second half of {small['steps']:,} steps of {small['batch']} anchors with"
    f" {small['negatives']} negatives each, from ten initial values: mean"
    " [smallest, largest].",
    reporting.table(
      ["method", *(f"sigma {s}" for s in _SCALAR_NOISE)], scalars
    ),
    "![theta over the steps, and the encoders' held-out loss](noise.png)",
    "## Two linear encoders",
    f"{encoder['pairs']} pairs, batches of {encoder['batch']},"
    f" {encoder['steps']:,} steps, temperature {encoder['temperature']};"
    f" {record['seeds']} data sets with the same initial encoders for every"
    f" method, learning rate of each chosen among"
    f" {', '.join(f'{r:g}' for r in _RATES)} on validation pairs. Loss over all"
    " negatives on test pairs (lower is better), and angle to the optimum's"
    " similarities; mean ± half of the 95 % interval.",
    reporting.table(
      [
        *("sigma", "method", "learning rate", "test loss"),
        *("minus the optimum's", "angle, degrees"),
      ],
      trained,
    ),
    f"Made with {reporting.listed(record['versions'])} in"
    f" {record['seconds']:.0f} s.",
  )


def plot(record: Mapping[str, Any], path: pathlib.Path) -> None:
  """Ten runs of each method a noise level; below, the encoders."""
  from matplotlib import figure

  shown = [m for m in scalar.METHODS if "without" not in m]
  colours = dict(zip(shown, ("C3", "C0", "C2", "C1")))
  canvas = figure.Figure(figsize=(10.5, 6.4), layout="constrained")
  axes = canvas.subplots(2, 3)
  every = record["scalar_settings"]["steps"] / len(
    record["scalar"][0]["path"][0]
  )
  for ax, sigma in zip(axes[0], _SCALAR_NOISE):
    for row in record["scalar"]:
      if row["sigma"] == sigma and row["method"] in shown:
        for i, run in enumerate(row["path"]):
          ax.plot(
            every * (1 + np.arange(len(run))),
            run,
            color=colours[row["method"]],
            linewidth=0.7,
            label=None if i else row["method"],
          )
    ax.axhline(1.0, color="black", linestyle=":")
    ax.set_xscale("log")
    ax.set_ylim(0, 2.2)
    ax.set_xlabel("step")
    ax.set_title(f"one parameter, sigma = {sigma}")
  axes[0, 0].set_ylabel("theta (optimum 1)")
  axes[0, 0].legend(fontsize=7)
  for ax, sigma in zip(axes[1], _ENCODER_NOISE):
    rows = [r for r in record["encoders"] if r["sigma"] == sigma]
    optimal = np.asarray(rows[0]["test"])
    names = [r["method"] for r in rows[1:]]
    excess = [np.asarray(r["test"]) - optimal for r in rows[1:]]
    places = np.arange(len(names))[::-1]
    ax.barh(
      places,
      [e.mean() for e in excess],
      xerr=[reporting.half_width(e.tolist()) for e in excess],
      color=[colours.get(n, "grey") for n in names],
    )
    ax.axvline(0.0, color="black", linewidth=0.8)
    ax.set_yticks(places, names if ax is axes[1, 0] else [""] * len(names))
    ax.tick_params(axis="y", labelsize=7)
    ax.set_title(f"encoders, sigma = {sigma}")
    ax.set_xlabel("test loss above the optimum's")
  canvas.savefig(path, dpi=110)


def main() -> None:
  """Runs the program."""
  out = studies.folder(_OUT.value)
  small, pair = scalar.ScalarSizes(), encoders.EncoderSizes()
  if steps := _STEPS.value:
    small = dataclasses.replace(
      small, steps=steps, points=min(small.points, steps)
    )
    pair = dataclasses.replace(pair, steps=steps, full_steps=steps)
  report = functools.partial(print, flush=True)
  began = time.monotonic()
  report("One parameter ...")
  rows = scalar_part(small)
  report("Two encoders ...")
  record = {
    "scalar_settings": dataclasses.asdict(small),
    "encoder_settings": dataclasses.asdict(pair),
    "seeds": _SEEDS.value,
    **studies.machine("jax", "jaxlib", "numpy", "optax"),
    "scalar": rows,
    "encoders": encoder_part(pair, _SEEDS.value, report),
    "seconds": time.monotonic() - began,
  }
  studies.publish(out, "noise", record, page(record), plot, indent=None)


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=__doc__)
