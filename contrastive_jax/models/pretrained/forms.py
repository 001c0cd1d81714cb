"""Forms in which parameters of ours are some of theirs."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

Shape = tuple[int, ...]


def _like(array: np.ndarray, shape: Shape) -> np.ndarray:
  """The array in a shape of as many values."""
  if array.size != math.prod(shape):
    raise ValueError
  return array.reshape(shape)


def _same(array: np.ndarray, shape: Shape) -> np.ndarray:
  """The array in a shape that differs by axes of length one."""
  if [n for n in array.shape if n > 1] != [n for n in shape if n > 1]:
    raise ValueError
  return array.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Form:
  """How an array of one side becomes one of the other.

  Attributes:
    theirs: ours -> theirs.
    ours: theirs, and the shape of ours -> ours.
    positions: whether the first axis of ours is one of positions, which may be
      resampled to another number.
    extra: how many positions come before those of a square grid; None where
      positions are of a sequence, of which the first are kept.
  """

  theirs: Callable[[np.ndarray], np.ndarray]
  ours: Callable[[np.ndarray, Shape], np.ndarray] = _same
  positions: bool = False
  extra: int | None = None


# The same but for axes of length one.
SAME = Form(lambda x: x)
# A scalar of ours, of theirs [1]; or one row [1, d] of ours, [d] of theirs.
VECTOR = Form(np.ravel)
# One row [1, d] of ours, [1, 1, d] of theirs.
TOKEN = Form(lambda x: x[None])
# First row of a table of theirs. The inverse makes a table of two rows, as BERT
# has for two kinds of sentences; the second, which is unknown, is zero.
FIRST_ROW = Form(
  lambda x: np.stack([x, np.zeros_like(x)]),
  lambda x, shape: _same(x[:1], shape),
)
# A kernel [in, out] of ours, or [in, heads, each] of `MultiHeadDotProductAttention`;
# of theirs [out, in].
DENSE = Form(
  lambda x: x.reshape(len(x), -1).T, lambda x, shape: _like(x.T, shape)
)
# Its output's kernel [heads, each, out].
HEADS_OUT = Form(
  lambda x: x.reshape(-1, x.shape[-1]).T, lambda x, shape: _like(x.T, shape)
)
# Its bias [heads, each].
HEADS_BIAS = Form(np.ravel, _like)
# [height, width, in, out] and [out, in, height, width].
CONV = Form(
  lambda x: x.transpose(3, 2, 0, 1),
  lambda x, shape: _like(x.transpose(2, 3, 1, 0), shape),
)


def vocabulary(read: int, write: int | None = None) -> Form:
  """A table or bias by token ids; ours may have one id more, the last, for a mask.

  Args:
    read: the id of a mask in what is loaded, of which ours begins.
    write: the id of a mask in what is saved, which ours becomes; None leaves ours
      out, of vocabularies without a mask.
  """

  def ours(table: np.ndarray, shape: Shape) -> np.ndarray:
    if len(table) + 1 == shape[0]:
      table = np.concatenate([table, table[read : read + 1]])
    return _same(table, shape)

  def theirs(table: np.ndarray) -> np.ndarray:
    if write is not None:
      table = table.copy()
      table[write] = table[-1]
    return table[:-1]

  return Form(theirs, ours)


def positions(extra: int | None, *, batched: bool = False) -> Form:
  """Positions [T, d] of ours, of theirs the same or [1, T, d].

  Args:
    extra: tokens before the grid's; None if they are a text's.
    batched: whether theirs have an axis more.
  """
  form = TOKEN if batched else SAME
  return dataclasses.replace(form, positions=True, extra=extra)
