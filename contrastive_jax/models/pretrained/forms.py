"""Forms in which parameters of ours are some of theirs."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

Arrays = tuple[np.ndarray, ...]
Shapes = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Form:
  """How arrays of one side become those of the other.

  Attributes:
    ours: theirs, and the shapes of ours -> ours.
    theirs: ours -> theirs.
    axis: of ours, the axis of positions that may be resampled to another number;
      None if there is none.
    extra: how many positions come before those of a square grid; None where
      positions are of a sequence, of which the first are kept.
  """

  ours: Callable[[Arrays, Shapes], Arrays]
  theirs: Callable[[Arrays], Arrays]
  axis: int | None = None
  extra: int | None = None


def _like(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """The array in a shape of as many values."""
  if array.size != math.prod(shape):
    raise ValueError
  return array.reshape(shape)


def _same(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """The array in a shape that differs by axes of length one."""
  if [n for n in array.shape if n > 1] != [n for n in shape if n > 1]:
    raise ValueError
  return array.reshape(shape)


# The same but for axes of length one.
SAME = Form(
  lambda theirs, shapes: (_same(theirs[0], shapes[0]),),
  lambda ours: (ours[0],),
)
# A scalar of ours, of theirs [1].
SCALAR = Form(
  lambda theirs, shapes: (_same(theirs[0], shapes[0]),),
  lambda ours: (ours[0].reshape(1),),
)
# One row [1, d] of ours, [d] of theirs.
VECTOR = Form(
  lambda theirs, shapes: (_same(theirs[0], shapes[0]),),
  lambda ours: (ours[0].reshape(-1),),
)
# Of a table of theirs the first row. The inverse makes one of two rows, as BERT has
# them for two kinds of sentences; of the second nothing is known.
FIRST_ROW = Form(
  lambda theirs, shapes: (_same(theirs[0][:1], shapes[0]),),
  lambda ours: (np.stack([ours[0], np.zeros_like(ours[0])]),),
)
# One row [1, d] of ours, [1, 1, d] of theirs.
TOKEN = Form(
  lambda theirs, shapes: (_same(theirs[0], shapes[0]),),
  lambda ours: (ours[0][None],),
)
# A kernel [in, out] of ours, of theirs [out, in].
DENSE = Form(
  lambda theirs, shapes: (_like(theirs[0].T, shapes[0]),),
  lambda ours: (ours[0].T,),
)
# [height, width, in, out] and [out, in, height, width].
CONV = Form(
  lambda theirs, shapes: (_like(theirs[0].transpose(2, 3, 1, 0), shapes[0]),),
  lambda ours: (ours[0].transpose(3, 2, 0, 1),),
)
# A kernel [in, heads, each] of `MultiHeadDotProductAttention`, or its bias.
HEADS = Form(
  lambda theirs, shapes: (_like(theirs[0].T, shapes[0]),),
  lambda ours: (ours[0].reshape(ours[0].shape[0], -1).T,),
)
# Its output's kernel [heads, each, out].
HEADS_OUT = Form(
  lambda theirs, shapes: (_like(theirs[0].T, shapes[0]),),
  lambda ours: (ours[0].reshape(-1, ours[0].shape[-1]).T,),
)
HEADS_BIAS = Form(
  lambda theirs, shapes: (_like(theirs[0], shapes[0]),),
  lambda ours: (ours[0].reshape(-1),),
)
# Several kernels [in, heads, each], of theirs one [their number * out, in].
SPLIT_HEADS = Form(
  lambda theirs, shapes: tuple(
    _like(part.T, shape)
    for part, shape in zip(np.split(theirs[0], len(shapes)), shapes)
  ),
  lambda ours: (np.concatenate([x.reshape(x.shape[0], -1).T for x in ours]),),
)
SPLIT_BIAS = Form(
  lambda theirs, shapes: tuple(
    _like(part, shape)
    for part, shape in zip(np.split(theirs[0], len(shapes)), shapes)
  ),
  lambda ours: (np.concatenate([x.reshape(-1) for x in ours]),),
)


def vocabulary(read: int, write: int | None = None) -> Form:
  """A table or bias by token ids; ours may have one id more, the last, for a mask.

  Args:
    read: the id of a mask in what is loaded, of which ours begins.
    write: the id of a mask in what is saved, which ours becomes; None leaves ours
      out, of vocabularies without a mask.
  """

  def ours(theirs: Arrays, shapes: Shapes) -> Arrays:
    (table,) = theirs
    if len(table) + 1 == shapes[0][0]:
      table = np.concatenate([table, table[read : read + 1]])
    return (_same(table, shapes[0]),)

  def theirs(ours: Arrays) -> Arrays:
    table = ours[0].copy()
    if write is not None:
      table[write] = table[-1]
    return (table[:-1],)

  return Form(ours, theirs)


def positions(extra: int | None, *, batched: bool = False) -> Form:
  """Positions [T, d] of ours, of theirs the same or [1, T, d].

  Args:
    extra: tokens before the grid's; None if they are a text's.
    batched: whether theirs have an axis more.
  """
  return Form(
    lambda theirs, shapes: (_same(theirs[0], shapes[0]),),
    lambda ours: (ours[0][None] if batched else ours[0],),
    axis=0,
    extra=extra,
  )
