"""Shared parts of the tests of losses on several devices."""

import collections
import re

import numpy as np


def assert_close(actual, expected, scale=0.0):
  """Equal to 1e-6 of the largest entry, or of `scale` if that is more."""
  actual, expected = np.asarray(actual), np.asarray(expected)
  assert actual.shape == expected.shape
  error = np.abs(actual - expected).max()
  bound = 1e-6 * max(np.abs(expected).max(), scale)
  assert error <= bound, f"error {error:.3g}, bound {bound:.3g}"


def collectives(text, least):
  """Kinds of the collectives whose result has at least so many elements."""
  kinds = collections.Counter()
  pattern = r"= \(?(\w+)\[([\d,]*)\][^=]* (all-gather|reduce-scatter|all-reduce|all-to-all|collective-permute)(?:-start)?\("
  for _, shape, kind in re.findall(pattern, text):
    sizes = [int(s) for s in shape.split(",") if s]
    if np.prod(sizes) >= least:
      kinds[kind] += 1
  return kinds
