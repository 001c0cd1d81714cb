"""How parameters under our names and others' names correspond."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

Arrays = tuple[np.ndarray, ...]
Shapes = tuple[tuple[int, ...], ...]


class PretrainedError(ValueError):
  """Weights do not fit a model."""


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


@dataclasses.dataclass(frozen=True)
class Rule:
  """Parameters of ours that are some of theirs.

  Attributes:
    ours: paths such as `params/image/norm/scale`.
    theirs: names such as `visual.ln_post.weight`.
    form: how they correspond.
    optional: whether theirs may be absent; then ours are 0.
  """

  ours: tuple[str, ...]
  theirs: tuple[str, ...]
  form: Form
  optional: bool = False


@dataclasses.dataclass
class Report:
  """What did not fit.

  Attributes:
    missing: names of theirs that were expected, and are not there; and paths of
      ours for which there is no name.
    unexpected: names of theirs that are for nothing.
    misshapen: names of theirs of another shape, with what was expected.
    resized: names of theirs whose positions were resampled or cut.
  """

  missing: list[str] = dataclasses.field(default_factory=list)
  unexpected: list[str] = dataclasses.field(default_factory=list)
  misshapen: list[str] = dataclasses.field(default_factory=list)
  resized: list[str] = dataclasses.field(default_factory=list)


# --- Forms ------------------------------------------------------------------


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
# One kernel [in, 3 out], of theirs three [out, in].
JOIN = Form(
  lambda theirs, shapes: (
    _like(np.concatenate([x.T for x in theirs], axis=1), shapes[0]),
  ),
  lambda ours: tuple(x.T for x in np.split(ours[0], 3, axis=1)),
)
JOIN_BIAS = Form(
  lambda theirs, shapes: (_like(np.concatenate(theirs), shapes[0]),),
  lambda ours: tuple(np.split(ours[0], 3)),
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


def layer(ours: str, theirs: str, form: Form = DENSE) -> list[Rule]:
  """A dense layer or a convolution with its bias."""
  return [
    Rule((f"{ours}/kernel",), (f"{theirs}.weight",), form),
    Rule((f"{ours}/bias",), (f"{theirs}.bias",), SAME),
  ]


def norm(ours: str, theirs: str) -> list[Rule]:
  """A layer norm."""
  return [
    Rule((f"{ours}/scale",), (f"{theirs}.weight",), SAME),
    Rule((f"{ours}/bias",), (f"{theirs}.bias",), SAME),
  ]


def batch_norm(ours: str, theirs: str) -> list[Rule]:
  """A batch norm, with its running statistics; `ours` has no collection."""
  return [
    *norm(f"params/{ours}", theirs),
    Rule((f"batch_stats/{ours}/mean",), (f"{theirs}.running_mean",), SAME),
    Rule((f"batch_stats/{ours}/var",), (f"{theirs}.running_var",), SAME),
  ]


# --- From one side to the other ---------------------------------------------


def flatten(tree: Any) -> dict[str, Any]:
  """Leaves by path, names joined by slashes."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def load(
  rules: Sequence[Rule],
  tensors: Mapping[str, np.ndarray],
  variables: Any,
  *,
  ignored: Iterable[str] = (),
  allow: Iterable[str] = (),
  partial: bool = False,
) -> tuple[Any, Report]:
  """Makes a model's variables of tensors.

  Positions of a grid of another size are resampled bicubically, and texts' positions
  cut to a shorter context; the report names them.

  Args:
    rules: how names correspond.
    tensors: theirs, by name.
    variables: ours, arrays or their shapes; what no rule makes stays.
    ignored: patterns of names of theirs that are no weights.
    allow: of `missing`, `unexpected` and `misshapen`, those that are no error;
      parameters that then get nothing stay.
    partial: whether the rules are those of a part, so that parameters without a
      rule stay.

  Returns:
    The variables float32, and what did not fit.

  Raises:
    PretrainedError: if something does not fit and is not allowed.
  """
  out = flatten(variables)
  report = Report()
  used: set[str] = set()
  nameless = set(out)
  for rule in rules:
    if any(name not in out for name in rule.ours):
      continue  # A model without this part: its tensors are unexpected.
    nameless.difference_update(rule.ours)
    absent = [name for name in rule.theirs if name not in tensors]
    used.update(rule.theirs)
    if absent:
      if rule.optional:
        out |= {n: np.zeros(out[n].shape, np.float32) for n in rule.ours}
      else:
        report.missing += absent
      continue
    shapes = tuple(tuple(out[name].shape) for name in rule.ours)
    theirs = tuple(np.asarray(tensors[n]) for n in rule.theirs)
    try:
      made, resized = _made(rule, theirs, shapes)
    # Whatever it is that makes no such array of them.
    except (ValueError, IndexError, TypeError):
      expected = _expected(rule, shapes)
      report.misshapen += [
        f"{name} {x.shape}, expected {shape}"
        for name, x, shape in zip(rule.theirs, theirs, expected)
      ]
      continue
    if resized:
      report.resized += rule.theirs
    out |= dict(zip(rule.ours, made))
  if not partial:
    report.missing += [name for name in out if name in nameless]
  patterns = [re.compile(pattern) for pattern in ignored]
  report.unexpected += [
    name
    for name in tensors
    if name not in used and not any(p.fullmatch(name) for p in patterns)
  ]
  _check(report, frozenset(allow))
  structure = jax.tree.structure(variables)
  return jax.tree.unflatten(structure, list(out.values())), report


def dump(
  rules: Sequence[Rule], variables: Any, *, optional: bool = False
) -> dict[str, np.ndarray]:
  """The inverse of `load`: theirs by name, float32.

  Args:
    rules: how names correspond; those of parts that the model lacks are left out.
    variables: ours.
    optional: whether what may be absent is there.

  Returns:
    Arrays by name.

  Raises:
    PretrainedError: if the model has parameters that no rule names.
  """
  leaves = flatten(variables)
  out: dict[str, np.ndarray] = {}
  for rule in rules:
    if all(name in leaves for name in rule.ours):
      ours = tuple(
        np.asarray(leaves.pop(name), np.float32) for name in rule.ours
      )
      if rule.optional and not optional:
        continue
      out |= dict(zip(rule.theirs, rule.form.theirs(ours)))
  if leaves:
    raise PretrainedError(
      f"No name is known for {_some(leaves)}: such a model cannot be exported."
    )
  return out


def _made(rule: Rule, theirs: Arrays, shapes: Shapes) -> tuple[Arrays, bool]:
  """A rule's parameters, and whether their positions were changed."""
  form, resized = rule.form, False
  theirs = tuple(_float32(x) for x in theirs)
  if form.axis is not None:
    table = theirs[0].reshape(theirs[0].shape[-2:])
    if table.shape[1] == shapes[0][1] and table.shape[0] != shapes[0][0]:
      theirs, resized = (_other_length(table, shapes[0][0], form.extra),), True
  return form.ours(theirs, shapes), resized


def _float32(x: np.ndarray) -> np.ndarray:
  return x.astype(np.float32)


def _other_length(
  table: np.ndarray, length: int, extra: int | None
) -> np.ndarray:
  """Positions for another number of tokens."""
  if extra is None:
    if length > len(table):
      raise ValueError
    return table[:length]
  return resize_positions(table, length, extra)


def resize_positions(table: np.ndarray, length: int, extra: int) -> np.ndarray:
  """Positions of a square grid for another one, bicubically.

  Args:
    table: [extra + n * n, d].
    length: extra + m * m.
    extra: positions that come before the grid's, and stay.

  Returns:
    [length, d].

  Raises:
    ValueError: if either has no square grid.
  """
  sides = [math.isqrt(max(count - extra, 0)) for count in (len(table), length)]
  if any(s * s + extra != n for s, n in zip(sides, (len(table), length))):
    raise ValueError(
      f"positions must be {extra} and a square; got {len(table)} and {length}."
    )
  grid = table[extra:].reshape(sides[0], sides[0], -1)
  grid = jax.image.resize(grid, (sides[1], sides[1], grid.shape[-1]), "bicubic")
  return np.concatenate(
    [table[:extra], np.asarray(grid).reshape(sides[1] ** 2, -1)]
  )


def _expected(rule: Rule, shapes: Shapes) -> Shapes:
  """The shapes of theirs that would fit."""
  empty = tuple(np.empty(shape, np.float32) for shape in shapes)
  return tuple(x.shape for x in rule.form.theirs(empty))


def _check(report: Report, allow: frozenset[str]) -> None:
  kinds = ("missing", "unexpected", "misshapen")
  for kind in allow:
    if kind not in kinds:
      raise ValueError(
        f"allow must be some of {', '.join(kinds)}; got {kind!r}."
      )
  wrong = [
    f"{kind} ({len(names)}): {_some(names)}"
    for kind in kinds
    if kind not in allow and (names := getattr(report, kind))
  ]
  if wrong:
    raise PretrainedError(
      "The weights do not fit the model. " + "; ".join(wrong) + "."
    )


def _some(names: Iterable[str], most: int = 6) -> str:
  names = list(names)
  more = f" and {len(names) - most} more" if len(names) > most else ""
  return ", ".join(names[:most]) + more
