"""How parameters under our names and others' names correspond."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.models import layers
from contrastive_jax.models.pretrained import forms


class PretrainedError(ValueError):
  """Weights do not fit a model."""


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
  form: forms.Form
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


# --- Rules of common layers ------------------------------------------------


def layer(ours: str, theirs: str, form: forms.Form = forms.DENSE) -> list[Rule]:
  """A dense layer or a convolution with its bias."""
  return [
    Rule((f"{ours}/kernel",), (f"{theirs}.weight",), form),
    Rule((f"{ours}/bias",), (f"{theirs}.bias",), forms.SAME),
  ]


def norm(ours: str, theirs: str) -> list[Rule]:
  """A layer norm."""
  return [
    Rule((f"{ours}/scale",), (f"{theirs}.weight",), forms.SAME),
    Rule((f"{ours}/bias",), (f"{theirs}.bias",), forms.SAME),
  ]


def batch_norm(ours: str, theirs: str) -> list[Rule]:
  """A batch norm, with its running statistics; `ours` has no collection."""
  return [
    *norm(f"params/{ours}", theirs),
    Rule(
      (f"batch_stats/{ours}/mean",), (f"{theirs}.running_mean",), forms.SAME
    ),
    Rule((f"batch_stats/{ours}/var",), (f"{theirs}.running_var",), forms.SAME),
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
    forms.Arrays by name.

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


def _made(
  rule: Rule, theirs: forms.Arrays, shapes: forms.Shapes
) -> tuple[forms.Arrays, bool]:
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
  return np.asarray(layers.resize_positions(jnp.asarray(table), length, extra))


def _expected(rule: Rule, shapes: forms.Shapes) -> forms.Shapes:
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
