"""Paired differences over seeds and over items."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from contrastive_jax.programs import reporting

_RESAMPLES = 2000


def packed(hits: np.ndarray) -> str:
  """Booleans [R, M] as text: bits of all runs in order, base64.

  >>> packed(np.array([[True, False], [False, True]]))
  'kA=='
  """
  return base64.b64encode(np.packbits(hits).tobytes()).decode()


def unpacked(text: str, runs: int, items: int) -> np.ndarray:
  """Booleans [runs, items] of `packed`.

  >>> unpacked("kA==", 2, 2).tolist()
  [[True, False], [False, True]]
  """
  bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))
  return bits[: runs * items].astype(bool).reshape(runs, items)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
  """A mean difference over seeds, half of its 95 % interval, and p (t test).

  >>> {k: round(v, 3) for k, v in paired([2.0, 3.0, 5.0], [1.0, 1.0, 2.0]).items()}
  {'mean': 2.0, 'half_width': 2.484, 'p': 0.074}
  """
  difference = np.subtract(ours, theirs)
  half = reporting.half_width(difference.tolist())
  p = reporting.p_value(difference.tolist())
  return {"mean": float(difference.mean()), "half_width": half, "p": p}


def bootstrap(
  ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray
) -> tuple[float, float]:
  """95 % percentile interval of a difference over other items of the kind.

  Groups are drawn, not items: drawings of one thing are found or missed together.

  Args:
    ours: [R, M] hits.
    theirs: [R, M] hits of the same items.
    groups: [M] integers, the thing of each item.

  Returns:
    The 2.5 and 97.5 % quantiles of the resamples.
  """
  difference = ours.mean(0) - theirs.mean(0)
  _, place = np.unique(groups, return_inverse=True)
  total = np.bincount(place, weights=difference)
  count = np.bincount(place).astype(float)
  drawn = np.random.default_rng(0).multinomial(
    len(count), np.full(len(count), 1 / len(count)), size=_RESAMPLES
  )
  low, high = np.quantile((drawn @ total) / (drawn @ count), [0.025, 0.975])
  return float(low), float(high)


def verdict(found: Mapping[str, Any]) -> str:
  """Verdict on a corrected paired difference, in words.

  Args:
    found: by `paired`, with `holm`, its p after correction, and `items`, the
      interval over items.
  """
  low, high = found["items"]
  if not found["holm"] < 0.05:
    return "no difference is shown"
  if low <= 0 <= high:
    return "shown over seeds, not over items"
  return "higher" if found["mean"] > 0 else "lower"


def sentence(name: str, found: Mapping[str, Any]) -> str:
  """`verdict` and its numbers in words.

  Args:
    name: of the difference.
    found: see `verdict`.
  """
  low, high = found["items"]
  return (
    f"{name}: {found['mean']:+.3f} ± {found['half_width']:.3f}, over items"
    f" [{low:+.3f}, {high:+.3f}], p {found['holm']:.2g} after Holm:"
    f" {verdict(found)}."
  )


def cell(found: Mapping[str, Any]) -> str:
  """Text of a table's cell: bold where p after correction is below 0.05.

  Args:
    found: see `verdict`.
  """
  text = f"{found['mean']:+.3f} ± {found['half_width']:.3f}"
  text = f"**{text}**" if found["holm"] < 0.05 else text
  low, high = found["items"]
  return f"{text}<br>[{low:+.3f}, {high:+.3f}], p {found['holm']:.2g}"
