"""Study: does a small batch find the optimum that all negatives define?

python -m experiments.synthetic.noise

Two parts. One parameter whose optimum is 1 whatever the noise (`scalar`), from
ten initial values, and the optimum of InfoNCE by the number of negatives; and two
linear encoders (`encoders`), judged by the loss over all negatives on unseen pairs
and by the angle to the optimum's similarities. Learning rates of the encoders are
chosen for each method on validation pairs of data sets of their own.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.programs import differences, reporting
from experiments import studies
from experiments.synthetic import encoders, noise_report, scalar
from experiments.synthetic.noise_methods import DCL, EXACT, INFO_NCE, METHODS

_FLAGS = flags.FlagValues()
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)
_OUT = studies.define_out("noise", _FLAGS)
_SEEDS = _integer("seeds", 10, "Data sets of the encoders.", lower_bound=2)
_STEPS = _integer(
  "steps",
  0,
  "Steps of every run, for a smoke run; 0 is each part's own.",
  lower_bound=0,
)
_PAGE = flags.DEFINE_bool(
  "page", False, "Make the page of what is recorded.", flag_values=_FLAGS
)
SCALAR_NOISE = (0.0, 1.0, 1.73)
ENCODER_NOISE = (0.3, 0.6, 1.0)
INITIAL = tuple(np.linspace(0.1, 2.0, 10).round(3).tolist())
NEGATIVES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
RATES = tuple(0.001 * 2.0**power for power in range(-3, 8))
_TUNING_SEEDS = 3
_FIRST_TUNING_SEED = 1000


def scalar_part(
  settings: scalar.ScalarSizes, report: Any = print
) -> list[dict[str, Any]]:
  """Theta of all methods at all noise levels: paths and final averages."""
  rows = []
  levels, runs = len(SCALAR_NOISE), len(INITIAL)
  for method in METHODS:
    began = time.monotonic()
    # All levels at once: a step is too small to keep a machine busy.
    path, final = scalar.run(
      method,
      jnp.repeat(jnp.asarray(SCALAR_NOISE), runs),
      jnp.tile(jnp.asarray(INITIAL), levels),
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
        SCALAR_NOISE, np.split(path, levels), np.split(final, levels)
      )
    ]
    ends = ", ".join(f"{np.mean(r['final']):.3f}" for r in rows[-levels:])
    report(f"{method}: {ends} ({time.monotonic() - began:.0f} s)")
  return rows


def optima() -> list[dict[str, Any]]:
  """The optimum of minibatch losses by the number of negatives."""
  return [
    {
      "sigma": sigma,
      "method": method,
      "optimum": [
        round(
          float(
            scalar.optimum(
              jax.random.key(0), sigma, n, include_positive=method == INFO_NCE
            )
          ),
          4,
        )
        for n in NEGATIVES
      ],
    }
    for sigma in SCALAR_NOISE
    for method in (INFO_NCE, DCL)
  ]


def encoder_part(
  settings: encoders.EncoderSizes, seeds: int, report: Any = print
) -> list[dict[str, Any]]:
  """Held-out loss and angle of all methods, a row a method and noise level."""
  rows = []
  for sigma in ENCODER_NOISE:
    tuning = _data(_FIRST_TUNING_SEED, _TUNING_SEEDS, sigma, settings)
    data = _data(0, seeds, sigma, settings)
    best = jax.vmap(
      lambda key, x, y: encoders.optimum(key, x[0], y[0], settings)
    )(*data)
    found = jax.jit(jax.vmap(functools.partial(_scores, settings)))(
      best, best, *data[1:]
    )
    rows.append(_row(sigma, "all negatives (optimum)", None, found))
    for method in METHODS:
      if method == EXACT:  # `all negatives` stands for it.
        continue
      began = time.monotonic()
      rate = _chosen(method, tuning, settings)
      found = jax.jit(
        jax.vmap(functools.partial(_one, settings, method, rate))
      )(best, *data)
      rows.append(_row(sigma, method, rate, found))
      report(
        f"sigma {sigma}, {method}: held-out loss"
        f" {np.mean(found['test']):.3f}, rate {rate:g}"
        f" ({time.monotonic() - began:.0f} s)"
      )
  return rows


def _data(first, count, sigma, settings):
  """Keys [count], and the views of their data sets."""
  keys = jax.vmap(jax.random.key)(jnp.arange(first, first + count))
  make = functools.partial(encoders.make_pairs, sigma=sigma, settings=settings)
  draws = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
  return keys, *jax.vmap(make)(draws)


def _scores(settings, params, best, x, y):
  loss = functools.partial(encoders.full_loss, temperature=settings.temperature)
  return {
    "test": loss(params, x[2], y[2]),
    "angle": encoders.angle(params, best, x[2], y[2]),
  }


def _one(settings, method, rate, best, key, x, y):
  params = encoders.train(method, key, x[0], y[0], rate, settings)
  return _scores(settings, params, best, x, y)


def _chosen(method, tuning, settings):
  """The learning rate of the lowest mean loss on the tuning sets' validation."""

  def validation(key, x, y, rate):
    params = encoders.train(method, key, x[0], y[0], rate, settings)
    return encoders.full_loss(params, x[1], y[1], settings.temperature)

  over_rates = jax.vmap(validation, (None, None, None, 0))
  over_sets = jax.jit(jax.vmap(over_rates, (0, 0, 0, None)))
  found = np.asarray(over_sets(*tuning, jnp.asarray(RATES))).mean(0)
  return RATES[int(np.nanargmin(found))]


def _row(sigma, method, rate, scores):
  numbers = {
    k: np.asarray(v, np.float64).round(5).tolist() for k, v in scores.items()
  }
  return {"sigma": sigma, "method": method, "learning_rate": rate, **numbers}


def comparisons(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Paired differences of test losses, corrected for all of them by Holm.

  Every method minus InfoNCE and minus DCL, at each noise level.
  """
  found: list[dict[str, Any]] = []
  tests = {(r["sigma"], r["method"]): r["test"] for r in rows}
  for sigma, method in tests:
    for other in (INFO_NCE, DCL):
      if method in METHODS and method != other:
        found.append(
          {
            "sigma": sigma,
            "method": method,
            "minus": other,
            **differences.paired(tests[sigma, method], tests[sigma, other]),
          }
        )
  for row, p in zip(found, reporting.holm([row["p"] for row in found])):
    row["holm"] = p
  return found


def make_record(
  small: scalar.ScalarSizes,
  pair: encoders.EncoderSizes,
  seeds: int,
  report: Any = print,
) -> Mapping[str, Any]:
  """Runs both parts."""
  began = time.monotonic()
  report("One parameter ...")
  parts: dict[str, Any] = {
    "scalar": scalar_part(small, report),
    "optima": optima(),
  }
  report("Two encoders ...")
  parts["encoders"] = encoder_part(pair, seeds, report)
  return {
    "scalar_settings": dataclasses.asdict(small),
    "recorded": small.recorded().tolist(),
    "negatives": NEGATIVES,
    "encoder_settings": dataclasses.asdict(pair),
    "learning_rates": RATES,
    "seeds": seeds,
    **studies.machine("jax", "jaxlib", "numpy", "optax"),
    **parts,
    "comparisons": comparisons(parts["encoders"]),
    "seconds": time.monotonic() - began,
  }


def main() -> None:
  """Runs the program."""
  out = studies.folder(_OUT.value)
  small, pair = scalar.ScalarSizes(), encoders.EncoderSizes()
  if steps := _STEPS.value:
    small = dataclasses.replace(small, steps=steps)
    pair = dataclasses.replace(pair, steps=steps, full_steps=steps)
  report = functools.partial(print, flush=True)
  if _PAGE.value:
    record = noise_report.read(out)
  else:
    record = make_record(small, pair, _SEEDS.value, report)
  studies.publish(
    out,
    "noise",
    record,
    noise_report.page(record),
    noise_report.plot,
    indent=None,
  )


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=__doc__)
