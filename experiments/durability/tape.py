"""Float64 values, gradients, and what float32 may get wrong in them.

A `Node` is a value of NumPy with its size: the sum of the absolute values of all
terms that it is made of, whatever of them cancels, with what a nonlinear function
makes of the size of its argument. Rounding errors are a small multiple of epsilon
times that (running error analysis), for gradients as for values. Nothing here is
shared with JAX.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

EPSILON = 2.0**-23  # Of float32.
# Errors that are allowed, in units of epsilon times the size.
BOUND = 8.0
_NUMBERS = itertools.count()


class Factor(NamedTuple):
  """What a gradient is multiplied by, and its size."""

  value: Any
  size: Any


def _value(x: Any) -> Any:
  return x.value


def _size(x: Any) -> Any:
  return x.size


# A pull takes the gradient (or its size) of a result to that of an argument; it
# gets `_value` or `_size`, by which it looks at its factors.
Pull = Callable[[Any, Callable[[Any], Any]], Any]


class Node:
  """A float64 array, its size, and what it was made of."""

  __array_ufunc__ = None  # NumPy leaves operators to it.

  def __init__(
    self,
    value: Any,
    size: Any = None,
    parents: Sequence[tuple["Node", Pull]] = (),
  ):
    """A constant or an argument, if it has no parents."""
    self.value = np.asarray(value, np.float64)
    size = np.abs(self.value) if size is None else size
    self.size = np.broadcast_to(size, self.value.shape)
    self.parents = parents
    self.number = next(_NUMBERS)

  @property
  def shape(self) -> tuple[int, ...]:
    """Shape of the value."""
    return self.value.shape

  @property
  def T(self) -> "Node":  # noqa: N802
    """Rows and columns exchanged."""
    pull = ((self, lambda g, _: g.T),)
    return Node(self.value.T, self.size.T, pull)

  def __add__(self, other: Any) -> "Node":
    other = node(other)
    same: Pull = lambda g, _: g  # noqa: E731
    return Node(
      self.value + other.value,
      self.size + other.size,
      ((self, same), (other, same)),
    )

  def __mul__(self, other: Any) -> "Node":
    other = node(other)
    return Node(
      self.value * other.value,
      self.size * other.size,
      (
        (self, lambda g, of: g * of(other)),
        (other, lambda g, of: g * of(self)),
      ),
    )

  def __matmul__(self, other: "Node") -> "Node":
    return Node(
      self.value @ other.value,
      self.size @ other.size,
      (
        (self, lambda g, of: g @ of(other).T),
        (other, lambda g, of: of(self).T @ g),
      ),
    )

  def __neg__(self) -> "Node":
    return self * -1.0

  def __sub__(self, other: Any) -> "Node":
    return self + -node(other)

  def __truediv__(self, other: Any) -> "Node":
    return self * power(node(other), -1.0)

  __radd__, __rmul__ = __add__, __mul__

  def __rsub__(self, other: Any) -> "Node":
    return -self + other

  def __rtruediv__(self, other: Any) -> "Node":
    return node(other) / self

  def __getitem__(self, index: Any) -> "Node":
    def pull(g, _):
      out = np.zeros(self.shape)
      np.add.at(out, index, g)
      return out

    return Node(self.value[index], self.size[index], ((self, pull),))

  def sum(self, axis: int | None = None) -> "Node":
    """Sum over an axis, or of everything."""

    def pull(g, _):
      g = g if axis is None else np.expand_dims(g, axis)
      return np.broadcast_to(g, self.shape)

    return Node(self.value.sum(axis), self.size.sum(axis), ((self, pull),))

  def reshape(self, *shape: int) -> "Node":
    """The same in another shape."""
    pull = ((self, lambda g, _: g.reshape(self.shape)),)
    return Node(self.value.reshape(shape), self.size.reshape(shape), pull)


def node(x: Any) -> Node:
  """A constant, unless it is a node."""
  return x if isinstance(x, Node) else Node(x)


def constant(x: Node) -> Node:
  """The same without gradient."""
  return Node(x.value, x.size)


def concatenate(parts: Sequence[Node]) -> Node:
  """One after the other."""
  stops = np.cumsum([len(part.value) for part in parts])

  def pull(stop, length):
    return lambda g, _: g[stop - length : stop]

  return Node(
    np.concatenate([part.value for part in parts]),
    np.concatenate([part.size for part in parts]),
    [(part, pull(stop, len(part.value))) for part, stop in zip(parts, stops)],
  )


def function(x: Node, value: Any, slope: Any, bend: Any) -> Node:
  """A function of each entry, by its value and first two derivatives."""
  size = np.abs(value) + np.abs(slope) * x.size
  factor = Factor(slope, np.abs(slope) + np.abs(bend) * x.size)
  return Node(value, size, ((x, lambda g, of: g * of(factor)),))


def _exponent(size: Any) -> Any:
  """The size of an exponent, grown by what its error does when it is large."""
  return np.expm1(np.minimum(BOUND * EPSILON * size, 100.0)) / (BOUND * EPSILON)


def power(x: Node, exponent: float) -> Node:
  """X to a fixed exponent."""
  first = exponent * x.value ** (exponent - 1)
  second = exponent * (exponent - 1) * x.value ** (exponent - 2)
  return function(x, x.value**exponent, first, second)


def log(x: Node) -> Node:
  """The natural logarithm."""
  return function(x, np.log(x.value), 1 / x.value, 1 / x.value**2)


def softplus(x: Node) -> Node:
  """log(1 + e^x)."""
  value, sigmoid = (np.logaddexp(0.0, x.value), _sigmoid(x.value))
  grown = _exponent(x.size)
  factor = Factor(sigmoid, sigmoid * (1.0 + grown))
  size = value + np.minimum(sigmoid * grown, x.size)
  return Node(value, size, ((x, lambda g, of: g * of(factor)),))


def _sigmoid(x: Any) -> Any:
  return np.exp(-np.logaddexp(0.0, -x))


def capped_exp(x: Node, cap: float) -> Node:
  """Exp, above the cap its tangent."""
  slope = np.exp(np.minimum(x.value, cap))
  value = slope * (1.0 + np.maximum(x.value - cap, 0.0))
  # Far above the cap it is a line, whatever the error.
  line = x.value - cap > 2.0 * BOUND * EPSILON * x.size
  grown = np.where(line, x.size, _exponent(x.size))
  factor = Factor(slope, slope * np.where(line, 1.0, 1.0 + grown))
  size = value + slope * grown
  return Node(value, size, ((x, lambda g, of: g * of(factor)),))


def logsumexp(x: Node, where: Any = True) -> Node:
  """Over the last axis, of the entries of a mask; -inf of none."""
  masked = np.where(where, x.value, -np.inf)
  top = masked.max(-1, keepdims=True)
  weights = np.exp(masked - np.where(np.isfinite(top), top, 0.0))
  total = weights.sum(-1, keepdims=True)
  share = weights / np.where(total > 0, total, 1.0)
  with np.errstate(divide="ignore"):
    value = (np.where(np.isfinite(top), top, 0.0) + np.log(total))[..., 0]
  most = np.where(where, x.size, 0.0).max(-1, keepdims=True)
  factor = Factor(share, share * (1.0 + _exponent(2.0 * most)))
  size = np.abs(np.where(np.isfinite(value), value, 0.0)) + most[..., 0] + 1.0
  return Node(value, size, ((x, lambda g, of: g[..., None] * of(factor)),))


def gradients(
  root: Node, weights: np.ndarray, leaves: Sequence[Node]
) -> list[Factor]:
  """Gradients of the weighted sum of a node, with their sizes."""
  order: dict[int, Node] = {}
  waiting = [root]
  while waiting:
    found = waiting.pop()
    if found.number not in order:
      order[found.number] = found
      waiting.extend(parent for parent, _ in found.parents)
  results = []
  for of in (_value, _size):
    start = weights if of is _value else np.abs(weights)
    known: dict[int, Any] = {root.number: start}
    # Whatever is made of a node has a larger number.
    for number in sorted(order, reverse=True):
      for parent, pull in order[number].parents:
        g = _fold(pull(known[number], of), parent.shape)
        known[parent.number] = known.get(parent.number, 0.0) + g
    results.append(
      [known.get(leaf.number, np.zeros(leaf.shape)) for leaf in leaves]
    )
  return [Factor(value, size) for value, size in zip(*results)]


def _fold(g: Any, shape: tuple[int, ...]) -> np.ndarray:
  """Adds up what broadcasting had spread."""
  g = np.asarray(g)
  g = g.sum(tuple(range(g.ndim - len(shape))))
  spread = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] > 1)
  return g.sum(spread, keepdims=True) if spread else g
