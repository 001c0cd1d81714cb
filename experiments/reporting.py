"""What the records of all studies share: intervals and versions."""

import importlib.metadata
import math
import platform
import statistics
from collections.abc import Sequence

from scipy import stats


def half_width(values: Sequence[float]) -> float:
  """Half of the 95 % confidence interval of a mean (Student's t).

  Args:
    values: one number a seed, at least two.

  Returns:
    t * s / sqrt(n), with the 97.5 % quantile at n - 1 degrees of freedom.

  >>> round(half_width([1.0, 2.0, 3.0]), 3)
  2.484
  """
  n = len(values)
  quantile = float(stats.t.ppf(0.975, n - 1))
  return quantile * statistics.stdev(values) / math.sqrt(n)


def interval(values: Sequence[float], digits: int) -> str:
  """Mean ± half of the 95 % interval, as a table's cell.

  >>> interval([1.0, 2.0, 3.0], 2)
  '2.00 ± 2.48'
  """
  mean = f"{statistics.fmean(values):.{digits}f}"
  if len(values) < 2:
    return mean
  return f"{mean} ± {half_width(values):.{digits}f}"


def versions(*packages: str) -> dict[str, str]:
  """Versions of Python and of those of the packages that are installed."""
  found = {"python": platform.python_version()}
  for package in packages:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
