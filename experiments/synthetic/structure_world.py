"""Study: when each regulariser of latent structure pays, where the causes are known.

python -m experiments.synthetic.structure_world

Fixed pairs of two modalities (`structure_pairs`): how many, how much nuisance, a plain
first view or a changed one, two terms of the loss or four. Every arm of every world has
a weight and a learning rate of its own, chosen on validation pairs by seeds that are
not reported. On two CPU cores it takes about half an hour; it goes on where it was stopped.
"""

import dataclasses
import functools
import itertools
import json
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.programs import reporting
from contrastive_jax.training import config as config_lib
from experiments import studies
from experiments.synthetic import structure_pairs, structure_world_report

NAME = "structure_world"
_FLAGS = flags.FlagValues()
_OUT = studies.define_out(NAME, _FLAGS)
_PAGE = flags.DEFINE_bool(
  "page", False, "Make the page of what is recorded.", flag_values=_FLAGS
)

PAIRS = (96, 192, 768, 3_072)
NUISANCES = (0.5, 1.0)
VIEWS = {"plain": 0.0, "changed": structure_pairs.PairSizes.changed}
SEEDS = tuple(range(10))
TUNING_SEEDS = (100, 101, 102)
RATES = (2.5e-3, 5e-3, 1e-2, 2e-2)
# A base has no weight: it has as many settings, in finer steps of the rate.
_FINE_RATES = tuple(2e-2 * 2 ** (-i / 3) for i in range(11, -1, -1))
WEIGHTS = {
  "separation": (0.1, 0.3, 1.0),
  "bridge": (0.1, 0.4, 1.6),
  "consistency": (0.03, 0.1, 0.3),
  "CyCLIP": (0.1, 0.3, 1.0),
  "CUA": (0.1, 0.3, 1.0),
  "ModGap": (0.1, 0.3, 1.0),
}
# Two regularisers together: shares of the weights that each has alone.
_SHARES = (0.25, 0.5, 1.0)
COMBINED = (
  ("separation", "bridge"),
  ("separation", "consistency"),
  ("bridge", "consistency"),
)
_EXTENSIONS = 2  # Times that a grid grows.
_AT_ONCE = 32  # Runs of a call.


class Arm(NamedTuple):
  """A loss.

  Attributes:
    base: one of `structure_pairs.BASES`.
    regularisers: none, one or two.
  """

  base: str
  regularisers: tuple[str, ...] = ()

  @property
  def name(self) -> str:
    """Its name in the record."""
    return " + ".join(self.regularisers) or structure_world_report.NONE


class Cell(NamedTuple):
  """A world: pairs, the nuisance's scale, and which first view is shown."""

  pairs: int
  nuisance: float
  view: str


class Setting(NamedTuple):
  """A learning rate and a weight (1 without a regulariser; a share of two)."""

  rate: float
  weight: float


class Choice(NamedTuple):
  """The best setting of a cell, all scores, and whether it ends a grid."""

  setting: Setting
  scores: dict[Setting, float]
  at_end: bool


ARMS = tuple(
  Arm(base, regularisers)
  for base in (structure_pairs.TWO_TERMS, structure_pairs.FOUR_TERMS)
  for regularisers in (
    (),
    *((name,) for name in structure_pairs.REGULARISERS),
    *COMBINED,
  )
) + (Arm(structure_pairs.TWO_BATCHES),)
CELLS = tuple(
  Cell(*which) for which in itertools.product(PAIRS, NUISANCES, VIEWS)
)


def choose(
  score: Callable[[Sequence[tuple[Cell, Setting]]], Sequence[float]],
  cells: Sequence[Cell],
  rates: Sequence[float],
  weights: Sequence[float],
) -> dict[Cell, Choice]:
  """The best setting of every cell; a grid grows where that is at an end of it.

  It grows by a factor of 2 in the rate on either side, and towards greater weights
  alone: a weight of nought is the base.

  Args:
    score: of settings in cells, the higher the better; all of a round at once.
    cells: that have a choice each.
    rates: learning rates to begin with.
    weights: to begin with; a single one is not varied.
  """
  scores: dict[Cell, dict[Setting, float]] = {cell: {} for cell in cells}
  grid = [Setting(*which) for which in itertools.product(rates, weights)]
  new = {cell: grid for cell in cells}
  for _ in range(1 + _EXTENSIONS):
    asked = [(cell, s) for cell, own in new.items() for s in own]
    if not asked:
      break
    for (cell, setting), value in zip(asked, score(asked), strict=True):
      scores[cell][setting] = value
    new = {cell: _beyond(own) for cell, own in scores.items()}
  return {
    cell: Choice(max(own, key=own.__getitem__), own, bool(new[cell]))
    for cell, own in scores.items()
  }


def _beyond(scores: dict[Setting, float]) -> list[Setting]:
  """Settings that lie next to the best one and beyond an end of the grid."""
  best = max(scores, key=scores.__getitem__)
  rates, weights = (sorted(set(axis)) for axis in zip(*scores))
  new = []
  if best.rate in (rates[0], rates[-1]):
    factor = 0.5 if best.rate == rates[0] else 2.0
    new += [Setting(best.rate * factor, w) for w in weights]
  if len(weights) > 1 and best.weight == weights[-1]:
    greater = best.weight * weights[-1] / weights[-2]
    new += [Setting(rate, greater) for rate in rates]
  return new


def run_arm(
  arm: Arm,
  singles: dict[str, dict[Cell, float]],
  sizes: structure_pairs.PairSizes,
  *,
  cells: Sequence[Cell] = CELLS,
  seeds: Sequence[int] = SEEDS,
  tuning_seeds: Sequence[int] = TUNING_SEEDS,
) -> list[dict[str, Any]]:
  """An arm in all cells; what the record says of it, a row a cell.

  Args:
    arm: the loss.
    singles: weights chosen for each regulariser alone, of this base.
    sizes: of all runs.
    cells: the worlds.
    seeds: that are reported.
    tuning_seeds: that choose.
  """
  train = jax.jit(
    jax.vmap(
      functools.partial(
        structure_pairs.train, arm.base, arm.regularisers, sizes=sizes
      )
    )
  )

  def evaluate(asked):
    """Scores of (cell, setting, seed), by name, [len(asked)]."""
    found = []
    for start in range(0, len(asked), _AT_ONCE):
      part = asked[start : start + _AT_ONCE]
      filled = [*part, *[part[0]] * (_AT_ONCE - len(part))]
      runs = [
        _run(arm, cell, setting, seed, singles, sizes)
        for cell, setting, seed in filled
      ]
      stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *runs)
      out = jax.device_get(train(jax.tree.map(jnp.asarray, stacked)))
      found.append({k: v[: len(part)] for k, v in out.items()})
    return {k: np.concatenate([f[k] for f in found]) for k in found[0]}

  def score(asked):
    each = [(*which, seed) for which in asked for seed in tuning_seeds]
    found = evaluate(each)[structure_pairs.VALIDATION]
    return found.reshape(len(asked), -1).mean(1).tolist()

  weights: Sequence[float] = (1.0,)
  if arm.regularisers:
    single = len(arm.regularisers) == 1
    weights = WEIGHTS[arm.regularisers[0]] if single else _SHARES
  rates = RATES if arm.regularisers else _FINE_RATES
  chosen = choose(score, cells, rates, weights)
  each = [(c, chosen[c].setting, seed) for c in cells for seed in seeds]
  numbers = evaluate(each)
  rows = []
  for i, cell in enumerate(cells):
    choice, part = chosen[cell], slice(i * len(seeds), (i + 1) * len(seeds))
    rows.append(
      {
        "base": arm.base,
        "arm": arm.name,
        **cell._asdict(),
        "rate": choice.setting.rate,
        "weight": choice.setting.weight if arm.regularisers else None,
        "at_end": choice.at_end,
        "tried": [
          [s.rate, s.weight, round(value, 4)]
          for s, value in sorted(choice.scores.items())
        ],
        "numbers": {
          k: numbers[k][part].round(5).tolist()
          for k in structure_pairs.OUTCOMES
        },
      }
    )
  return rows


def _run(arm, cell, setting, seed, singles, sizes):
  """The numbers of a run."""
  weights = {}
  for name in arm.regularisers:
    alone = 1.0 if len(arm.regularisers) == 1 else singles[name][cell]
    weights[name] = np.float32(setting.weight * alone)
  return structure_pairs.Run(
    seed=np.int32(seed),
    nuisance=np.float32(cell.nuisance),
    first=np.float32(VIEWS[cell.view]),
    rate=np.float32(setting.rate),
    weights=weights,
    index=structure_pairs.batches(cell.pairs, seed, sizes),
  )


def main() -> None:
  """Runs the program."""
  out, sizes = studies.folder(_OUT.value), structure_pairs.PairSizes()
  path = out / f"{NAME}.json"
  if _PAGE.value:
    record = reporting.read_json(path)
  else:
    record = _open(path, sizes)
    _run_all(record, path, sizes)
  reading = reporting.reading(out, NAME, record["rows"])
  page = structure_world_report.page(record, reading)
  studies.publish(
    out, NAME, record, page, structure_world_report.plot, indent=None
  )


def _open(path: pathlib.Path, sizes) -> dict[str, Any]:
  """The record that is there, or an empty one."""
  head = {
    "settings": {
      **dataclasses.asdict(sizes),
      "seeds": SEEDS,
      "tuning_seeds": TUNING_SEEDS,
      "rates": RATES,
      "weights": WEIGHTS,
    },
    **studies.machine("jax", "jaxlib", "numpy", "optax"),
  }
  head = json.loads(json.dumps(head))  # Tuples are lists there.
  if not path.exists():
    return {**head, "seconds": 0.0, "rows": []}
  record = reporting.read_json(path)
  if record["settings"] != head["settings"]:
    raise config_lib.UserError(
      f"{path} was begun with other settings: choose another --out, or remove it."
    )
  return record


def _run_all(record, path, sizes) -> None:
  done = {(row["base"], row["arm"]) for row in record["rows"]}
  todo = [arm for arm in ARMS if (arm.base, arm.name) not in done]
  began = time.monotonic()
  for number, arm in enumerate(todo):
    singles: dict[str, dict[Cell, float]] = {}
    for row in record["rows"]:
      if row["base"] == arm.base and row["weight"] is not None:
        cell = Cell(row["pairs"], row["nuisance"], row["view"])
        singles.setdefault(row["arm"], {})[cell] = row["weight"]
    at = time.monotonic()
    rows = run_arm(arm, singles, sizes)
    record["rows"] += rows
    record["seconds"] = round(record["seconds"] + time.monotonic() - at, 1)
    reporting.write_json(path, record, indent=None)
    jax.clear_caches()
    shown = math.fsum(np.mean(row["numbers"]["retrieval"]) for row in rows)
    left = (time.monotonic() - began) / (number + 1) * (len(todo) - number - 1)
    print(
      f"{number + 1}/{len(todo)}  {arm.base}, {arm.name}: mean R@1"
      f" {shown / len(rows):.3f}  ETA {left / 60:.0f} min",
      flush=True,
    )


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=__doc__)
