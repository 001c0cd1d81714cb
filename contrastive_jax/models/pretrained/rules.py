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
  """A parameter of ours that is one of theirs.

  Attributes:
    ours: a path such as `image/norm/scale`; its last name tells the collection.
    theirs: a name such as `visual.ln_post.weight`.
    form: how they correspond.
    also: path of a second parameter of ours, which theirs has after the first.
    optional: whether theirs may be absent; then ours is 0.
  """

  ours: str
  theirs: str
  form: forms.Form = forms.SAME
  also: str | None = None
  optional: bool = False

  @property
  def paths(self) -> list[str]:
    """Paths of ours with their collections."""
    found = [self.ours] if self.also is None else [self.ours, self.also]
    statistics = self.ours.endswith(("/mean", "/var"))
    collection = "batch_stats" if statistics else "params"
    return [f"{collection}/{path}" for path in found]

  def read(
    self, theirs: np.ndarray, shapes: Sequence[forms.Shape]
  ) -> tuple[list[np.ndarray], bool]:
    """Ours, float32, and whether their positions were changed."""
    form, resized = self.form, False
    theirs = theirs.astype(np.float32)
    if form.positions:
      table = theirs.reshape(theirs.shape[-2:])
      length, width = shapes[0]
      if table.shape[1] == width and table.shape[0] != length:
        theirs, resized = _other_length(table, length, form.extra), True
    parts = np.split(theirs, len(shapes)) if self.also else [theirs]
    return [
      form.ours(part, shape) for part, shape in zip(parts, shapes)
    ], resized

  def written(self, ours: Sequence[np.ndarray]) -> np.ndarray:
    """The published array that holds ours."""
    parts = [self.form.theirs(x) for x in ours]
    return np.concatenate(parts) if self.also else parts[0]


@dataclasses.dataclass
class Report:
  """Report on the names of weights that did not fit.

  Attributes:
    missing: names of theirs that were expected, and are not there; and paths of
      ours for which there is no name.
    unexpected: names of theirs that nothing of ours takes.
    misshapen: names of theirs of another shape, with what was expected.
    resized: names of theirs whose positions were resampled or cut.
  """

  missing: list[str] = dataclasses.field(default_factory=list)
  unexpected: list[str] = dataclasses.field(default_factory=list)
  misshapen: list[str] = dataclasses.field(default_factory=list)
  resized: list[str] = dataclasses.field(default_factory=list)


# --- Rules of common layers ------------------------------------------------


def layer(
  ours: str,
  theirs: str,
  kernel: forms.Form = forms.DENSE,
  bias: forms.Form = forms.SAME,
) -> list[Rule]:
  """A dense layer or a convolution with its bias."""
  if not theirs.endswith("_"):
    theirs += "."
  return [
    Rule(f"{ours}/kernel", f"{theirs}weight", kernel),
    Rule(f"{ours}/bias", f"{theirs}bias", bias),
  ]


def norm(ours: str, theirs: str) -> list[Rule]:
  """A layer norm."""
  return [
    Rule(f"{ours}/scale", f"{theirs}.weight"),
    Rule(f"{ours}/bias", f"{theirs}.bias"),
  ]


def normed_conv(
  conv: str, batch_norm: str, their_conv: str, their_norm: str
) -> list[Rule]:
  """A convolution without bias, and a batch norm with its running statistics."""
  return [
    Rule(f"{conv}/kernel", f"{their_conv}.weight", forms.CONV),
    *norm(batch_norm, their_norm),
    Rule(f"{batch_norm}/mean", f"{their_norm}.running_mean"),
    Rule(f"{batch_norm}/var", f"{their_norm}.running_var"),
  ]


def within(ours: str, theirs: str, rules: Iterable[Rule]) -> list[Rule]:
  """The rules of a part: what its paths and its names begin with is put there."""
  return [
    dataclasses.replace(
      rule,
      ours=ours + rule.ours,
      theirs=theirs + rule.theirs,
      also=rule.also and ours + rule.also,
    )
    for rule in rules
  ]


# --- From one side to the other ---------------------------------------------


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
  out = layers.by_path(variables)
  report = Report()
  used: set[str] = set()
  nameless = set(out)
  for rule in rules:
    if any(name not in out for name in rule.paths):
      continue  # A model without this part: its tensors are unexpected.
    nameless.difference_update(rule.paths)
    used.add(rule.theirs)
    shapes = [tuple(out[name].shape) for name in rule.paths]
    if rule.theirs not in tensors:
      if rule.optional:
        out[rule.paths[0]] = np.zeros(shapes[0], np.float32)
      else:
        report.missing.append(rule.theirs)
      continue
    theirs = np.asarray(tensors[rule.theirs])
    try:
      made, resized = rule.read(theirs, shapes)
    # Whatever it is that makes no such array of them.
    except (ValueError, IndexError, TypeError):
      fits = rule.written([np.empty(shape, np.float32) for shape in shapes])
      report.misshapen.append(
        f"{rule.theirs} {theirs.shape}, expected {fits.shape}"
      )
      continue
    if resized:
      report.resized.append(rule.theirs)
    out |= zip(rule.paths, made)
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
  leaves = layers.by_path(variables)
  out: dict[str, np.ndarray] = {}
  for rule in rules:
    if all(name in leaves for name in rule.paths):
      ours = [np.asarray(leaves.pop(name), np.float32) for name in rule.paths]
      if optional or not rule.optional:
        out[rule.theirs] = rule.written(ours)
  if leaves:
    raise PretrainedError(
      f"No name is known for {_some(leaves)}: such a model cannot be exported."
    )
  return out


def _other_length(
  table: np.ndarray, length: int, extra: int | None
) -> np.ndarray:
  """Positions for another number of tokens."""
  if extra is None:
    if length > len(table):
      raise ValueError
    return table[:length]
  return np.asarray(layers.resize_positions(jnp.asarray(table), length, extra))


def _check(report: Report, allow: frozenset[str]) -> None:
  kinds = ("missing", "unexpected", "misshapen")
  for kind in allow:
    layers.check_choice("each of allow", kind, kinds)
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
