"""Checks every public loss on random cases against float64.

python -m experiments.durability.numbers --cases=10000 --seed=0

Value and gradient must be finite, and as near to the formula in float64 as rounding
allows. A case that fails is named; `--case=LOSS/PROGRAM/NUMBER` is that one again.
"""

import collections
import functools
import itertools
import json
import operator
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from contrastive_jax import losses
from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.programs import reporting
from contrastive_jax.training import config as config_lib
from experiments.durability import cases
from tests.losses import rounding

_FLAGS = flags.FlagValues()
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)
_string = functools.partial(flags.DEFINE_string, flag_values=_FLAGS)
_CASES = _integer(
  "cases",
  10_000,
  "Cases of all losses together; the default takes about ten minutes of one core.",
  lower_bound=1,
)
_SEED = _integer("seed", 0, "Seed of the data.", lower_bound=0)
_OUT = _string("out", "", "File of the record, JSON; none prints alone.")
_CASE = _string(
  "case", "", "LOSS/PROGRAM/NUMBER, as failures are listed: that one alone."
)

_FLOOR = 1e-30  # Products of what is less are zero in float32.
_PROGRAMS = 16  # Most programs of a loss.
# A case tells much of a gradient if its bound is below this share of it.
_SHARP = 1e-2


class Finding(NamedTuple):
  """Result of a case.

  Attributes:
    value: largest error of the values, in units of rounding: `FLOAT32_EPSILON`
      times a size, see `tests.losses.rounding`; `BOUND` of them are allowed.
    gradient: the same of the gradients, beyond the rounding to the arrays' type.
    relative: largest error of a gradient, relative to its largest entry.
    sharp: whether all bounds are below 1 % of what they bound.
    problem: what is wrong, or "".
  """

  value: float
  gradient: float
  relative: float
  sharp: bool
  problem: str


def name_of(case: cases.Case, number: int) -> str:
  """How a case is named, for `--case`."""
  return f"{case.program.loss}/{case.program.number}/{number}"


def compiled(which: cases.Program) -> Callable[..., Any]:
  """The values of a case, and the gradients of their weighted sum."""
  loss, static = getattr(losses, which.loss), which.static

  def values(arrays, scalars, known):
    given = {**arrays, **scalars, **known, **static}
    if which.loss == "uniformity":
      out = loss(given.pop("image"), given.pop("text"), **given)
    elif which.loss == "prototype_log_partition":
      params = {"prototypes": given.pop("prototypes")}
      out = loss(params, given.pop("queries"), given.pop("keys"), **given)
    else:
      out = loss(**given)
    return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(out)])

  def total(arrays, scalars, known, weights):
    rows = values(arrays, scalars, known)
    return jnp.sum(weights * rows), rows

  def both(arrays, scalars, known, weights):
    (_, rows), found = jax.value_and_grad(total, (0, 1), has_aux=True)(
      arrays, scalars, known, weights
    )
    return rows, {**found[0], **found[1]}

  return jax.jit(both)


def check(case: cases.Case, run: Callable[..., Any]) -> Finding:
  """How far a loss, as `compiled`, is from its reference."""
  rows, gradients = run(case.arrays, case.scalars, case.known, case.weights)
  wanted = case.reference()
  value, problem = _errors(rows, wanted.per_example, wanted.sizes[""])
  problem = problem and f"value: {problem}"
  worst, relative, sharp = 0.0, 0.0, True
  for name, want in wanted.gradients.items():
    found, size = np.asarray(gradients[name]), wanted.sizes[name]
    error, wrong = _errors(found, want, size)
    worst = max(worst, error)
    problem = problem or (wrong and f"gradient of {name}: {wrong}")
    largest = np.abs(want).max()
    # Below that it is told by the smallest numbers of the type, not by its digits.
    if largest > max(float(jnp.finfo(found.dtype).tiny), _FLOOR) and not wrong:
      away = np.abs(found.astype(np.float64) - want).max()
      relative = max(relative, float(away / largest))
      sharp &= rounding.BOUND * _unit(want, size) < _SHARP * largest
  return Finding(value, worst, relative, bool(sharp), problem)


def _unit(value: np.ndarray, size: float) -> float:
  return rounding.FLOAT32_EPSILON * max(np.abs(value).max(), size) + _FLOOR


def _errors(found, value, size) -> tuple[float, str]:
  """The largest error in units of rounding, and what is wrong with it."""
  found = np.asarray(found)
  if found.shape != value.shape:
    return np.inf, f"shape {found.shape} instead of {value.shape}"
  finite = np.isfinite(value)
  if not np.array_equal(found[~finite], value[~finite], equal_nan=True):
    return np.inf, "finite where it is infinite"
  if not np.isfinite(found[finite]).all():
    return np.inf, "not finite"
  if not finite.any():
    return 0.0, ""
  info, value = jnp.finfo(found.dtype), value[finite]
  error = np.abs(found[finite].astype(np.float64) - value)
  if found.dtype != np.float32:
    # Half a unit in the last place of what the gradient is returned in.
    low = 0.51 * float(info.eps) * np.abs(value)
    error -= np.maximum(low, float(info.smallest_subnormal))
  worst = float(max(error.max(), 0.0) / _unit(value, size))
  if worst <= rounding.BOUND:
    return worst, ""
  place = int(np.argmax(error))
  return worst, (
    f"{found[finite][place]:.9g} instead of {value[place]:.9g},"
    f" {worst:.3g} units of rounding"
  )


def plan(count: int) -> Iterator[tuple[str, int, range]]:
  """Loss, number of the program and its cases; `count` cases in all."""
  names = list(cases.REFERENCES)
  for place, name in enumerate(names):
    share = count * (place + 1) // len(names) - count * place // len(names)
    # Compiling takes most of the time: the extremes of every loss, and of the other
    # shapes as many as there is time for, others for each loss.
    most = min(_PROGRAMS, -(-share // 8))
    ends, rest = cases.EXTREMES, len(cases.SHAPES) - cases.EXTREMES
    numbers = [
      *range(ends),
      *(ends + (5 * place + i) % rest for i in range(rest)),
    ]
    if most <= ends:
      numbers = numbers[ends:]
    for i, number in enumerate(numbers[:most]):
      yield name, number, range(share * i // most, share * (i + 1) // most)


class Summary:
  """Results of all cases, by loss and type."""

  def __init__(self):
    self.rows: dict[tuple[str, str], dict[str, Any]] = {}
    self.kinds: collections.Counter[str] = collections.Counter()
    self.failures: list[dict[str, str]] = []

  def add(self, case: cases.Case, number: int, found: Finding) -> None:
    """Counts a case."""
    key = case.program.loss, case.program.dtype
    row = self.rows.setdefault(
      key, dict(cases=0, sharp=0, value=0.0, gradient=0.0, relative=0.0)
    )
    row["cases"] += 1
    row["sharp"] += found.sharp
    for worst in ("value", "gradient", "relative")[: 2 + found.sharp]:
      row[worst] = max(row[worst], getattr(found, worst))
    self.kinds[case.kind] += 1
    if found.problem:
      name, kind = name_of(case, number), case.kind
      self.failures.append(dict(case=name, kind=kind, problem=found.problem))

  def record(self) -> dict[str, Any]:
    """All of it, rounded, as it is written."""
    return {
      "failures": self.failures,
      "kinds": dict(sorted(self.kinds.items())),
      "losses": [
        {"loss": loss, "dtype": dtype}
        | {
          k: float(f"{v:.3g}") if isinstance(v, float) else v
          for k, v in row.items()
        }
        for (loss, dtype), row in self.rows.items()
      ],
    }


def run(
  count: int, seed: int, report: Callable[[str], None] = print
) -> Summary:
  """Checks so many cases; `report` receives a line a loss and one a failure."""
  summary, began, done = Summary(), time.monotonic(), 0
  for loss, programs in itertools.groupby(plan(count), operator.itemgetter(0)):
    for _, number, numbers in programs:
      which = cases.program(loss, number)
      both = compiled(which)
      for i in numbers:
        case = cases.draw(which, seed, i)
        found = check(case, both)
        summary.add(case, i, found)
        if found.problem:
          report(f"{name_of(case, i)} ({case.kind}): {found.problem}")
      done += len(numbers)
    rows = [row for (name, _), row in summary.rows.items() if name == loss]
    value, gradient = (max(r[k] for r in rows) for k in ("value", "gradient"))
    seconds = time.monotonic() - began
    left = seconds / done * (count - done) / 60
    report(
      f"{done:,} of {count:,}  {loss}: value {value:.2g}, gradient {gradient:.2g}"
      f" units of rounding  {seconds:.0f} s  ETA {left:.0f} min"
    )
    # The programs of a loss are not needed again.
    jax.clear_caches()
  return summary


def one(name: str, seed: int) -> Finding:
  """A single case, by its name.

  Raises:
    UserError: if there is no such case.
  """
  try:
    loss, number, case = name.split("/")
    if loss not in cases.REFERENCES or min(int(number), int(case)) < 0:
      raise ValueError
  except ValueError:
    raise config_lib.UserError(
      "--case must be LOSS/PROGRAM/NUMBER, such as clip/3/14, of the losses"
      f" {', '.join(cases.REFERENCES)}; got {name!r}."
    ) from None
  which = cases.program(loss, int(number))
  return check(cases.draw(which, seed, int(case)), compiled(which))


def main() -> None:
  """Runs the program."""
  report = functools.partial(print, flush=True)
  if _CASE.value:
    report(one(_CASE.value, _SEED.value))
    return
  began = time.monotonic()
  summary = run(_CASES.value, _SEED.value, report)
  record: Mapping[str, Any] = {
    "command": "python -m experiments.durability.numbers"
    f" --cases={_CASES.value} --seed={_SEED.value}",
    "versions": reporting.versions("jax", "jaxlib", "numpy", "ml_dtypes"),
    "backend": jax.default_backend(),
    "seconds": round(time.monotonic() - began),
    "cases": _CASES.value,
    "bound": rounding.BOUND,
    "unit": "2^-23 times the sum of the absolute values of all terms, and of what"
    " logits that are rounded do to them; gradients of bfloat16 and float16 may"
    " also differ by 0.51 of their last place",
    **summary.record(),
  }
  if _OUT.value:
    text = json.dumps(record, indent=1) + "\n"
    pathlib.Path(_OUT.value).expanduser().write_text(text, encoding="utf-8")
  report(f"{len(summary.failures):,} of {_CASES.value:,} cases failed.")
  if summary.failures:
    raise SystemExit(1)


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=__doc__)
