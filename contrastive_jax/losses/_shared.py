"""Shared parts of losses: types, sums over pairs, and checks of arguments."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import ops
from contrastive_jax._types import Axes, BlockSize, Reference, Scalar


def widen(*features: jax.Array) -> tuple[list[jax.Array], np.dtype]:
  """Features in float32, and the type that holds them exactly.

  Once, before they are used: the gradients of all uses are then added in
  float32 and rounded to the input's type only at the end.
  """
  dtype = jnp.dtype(jnp.result_type(*features))
  return [x.astype(jnp.float32) for x in features], dtype


def steered(
  reference: Reference, **features: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Checked features of two sides, those of a frozen model beside them.

  The rows [x, r_x] and [y, -r_y] have the product <x, y> - <r_x, r_y>, so whatever
  takes margins of products takes those of both models' differences.

  Args:
    reference: features [N, e] of both sides, or None.
    **features: [N, d] of both sides, by argument name.

  Returns:
    Both sides, [N, d], or [N, d + e] of the type that holds all exactly.

  Raises:
    ValueError: on wrong shapes or types, naming the argument.
  """
  ops.check_features(**features)
  a, b = features.values()
  if reference is None:
    return a, b
  if not isinstance(reference, tuple | list) or len(reference) != 2:
    raise ValueError(
      "reference must be a pair of arrays [N, e]; got"
      f" {type(reference).__name__}"
      f"{f' of {len(reference)}' if hasattr(reference, '__len__') else ''}."
    )
  ops.check_features(
    **{f"reference[{side}]": x for side, x in enumerate(reference)}
  )
  if len(reference[0]) != len(a):
    raise ValueError(
      f"reference must have {len(a)} rows, as the features have; got"
      f" {len(reference[0])}."
    )
  dtype = jnp.result_type(a, b, *reference)
  of_a, of_b = (jax.lax.stop_gradient(jnp.asarray(x, dtype)) for x in reference)
  return (
    jnp.concatenate([jnp.asarray(a, dtype), of_a], axis=1),
    jnp.concatenate([jnp.asarray(b, dtype), -of_b], axis=1),
  )


def of_views(
  first: jax.Array, second: jax.Array, reference: Reference
) -> tuple[jax.Array, jax.Array]:
  """Rows of two `steered` views as anchors and as keys, [2N, d] each.

  A view is on both sides of the similarity, so the sign of the frozen model's
  features is that of the side and not of the view.
  """
  rows = jnp.concatenate([first, second])
  if reference is None:
    return rows, rows
  width = reference[0].shape[1]
  sign = jnp.ones(rows.shape[1], rows.dtype).at[-width:].set(-1.0)
  return jnp.concatenate([first, sign * second]), jnp.concatenate(
    [sign * first, second]
  )


def paired(a: jax.Array, b: jax.Array) -> jax.Array:
  """Products of rows with each other: [N] float32."""
  return jnp.sum(a * b, axis=1)


def example_ids(group_ids: jax.Array | None, n: int, axes: Axes) -> jax.Array:
  """Ids [n] that are equal where rows are no negatives of each other."""
  return ops.global_row_ids(n, axes) if group_ids is None else group_ids


def num_negatives(group_ids: jax.Array | None, n: int, axes: Axes) -> jax.Array:
  """How many rows of the global batch are of another group: [n] float32."""
  total = n * ops.axis_size(axes)
  if group_ids is None:
    return jnp.full(n, total - 1.0, jnp.float32)
  every = jnp.sort(ops.gather_rows(jnp.asarray(group_ids), axes))
  first, last = (
    jnp.searchsorted(every, group_ids, side=side) for side in ("left", "right")
  )
  return (total - (last - first)).astype(jnp.float32)


def check_temperature(name: str, value: Scalar, n: int) -> Scalar:
  """A scalar > 0, or float32 [n]; a traced value is checked for shape only."""
  if jnp.shape(value) == ():
    ops.check_positive(name, value)
    return value
  if jnp.shape(value) != (n,):
    raise ValueError(
      f"{name} must be a scalar or have shape ({n},); got {jnp.shape(value)}."
    )
  if not isinstance(value, jax.core.Tracer):
    rows = np.asarray(value, np.float64)
    if not np.all(np.isfinite(rows) & (rows > 0)):
      bad = rows[~(np.isfinite(rows) & (rows > 0))][0]
      raise ValueError(f"{name} must be finite numbers > 0; got {bad}.")
  return jnp.asarray(value, jnp.float32)


def check_negative_mass(value: Scalar) -> None:
  """A finite scalar > 0; a traced value is checked for shape only."""
  ops.check_positive("negative_mass", value)


def check_row(
  name: str, array: Any, n: int | None, kind: Any = jnp.floating
) -> None:
  """An array [n] of a kind of type; n None is any length >= 1."""
  came = getattr(array, "shape", None)
  wanted = "[N]" if n is None else f"({n},)"
  if came is None or not hasattr(array, "dtype"):
    came = type(array).__name__
  elif len(came) == 1 and came[0] >= 1 and (n is None or came[0] == n):
    if not jnp.issubdtype(array.dtype, kind):
      what = "floating point" if kind is jnp.floating else "integers"
      raise ValueError(f"{name} must be {what}; got {array.dtype}.")
    return
  raise ValueError(f"{name} must be an array of shape {wanted}; got {came}.")


def is_number(value: Any) -> bool:
  """A number that is known, and no flag."""
  return isinstance(value, int | float | np.number) and not isinstance(
    value, bool
  )


def check_range(name, value, expected, holds) -> None:
  """Checks what is a number; rules may also hold traced values."""
  if is_number(value) and not (math.isfinite(value) and holds(value)):
    raise ValueError(f"{name} must be {expected}; got {value}.")
  if isinstance(value, str | bool) or value is None:
    raise ValueError(f"{name} must be {expected}; got {value!r}.")


def _mean_logit(rows: jax.Array, others: jax.Array, scale: Scalar, axes: Axes):
  """Mean logit of each row with all `others` of the global batch: [N]."""
  total = ops.sum_over(jnp.sum(others, axis=0), axes)
  count = others.shape[0] * ops.axis_size(axes)
  return scale * jnp.sum(rows * (total / count), axis=1)


def cross_entropy(
  queries: jax.Array,
  keys: jax.Array,
  scale: Scalar,
  group_ids: jax.Array | None,
  dtype: np.dtype,
  axes: Axes,
  block_size: BlockSize,
  *,
  label_smoothing: float = 0.0,
  both: bool = False,
  key_gradient: bool = True,
) -> list[jax.Array]:
  """InfoNCE of each query among the keys and, if `both`, the other way.

  Of float32 features that `dtype` holds; see `losses.contrastive`.
  """
  ops.check_group_ids(group_ids, queries.shape[0])
  sums = ops.row_column_sums(
    queries,
    keys,
    scale=scale,
    group_ids=group_ids,
    positives="none" if group_ids is None else "group",
    columns=both,
    key_gradient=key_gradient,
    dtype=dtype,
    axes=axes,
    block_size=block_size,
  )

  def loss(total, positive, rows, others):
    if group_ids is None:
      positive = scale * paired(queries, keys)
    if label_smoothing:
      mean = _mean_logit(rows, others, scale, axes)
      positive += label_smoothing * (mean - positive)
    return total - positive

  losses = [loss(sums.rows, sums.row_positive, queries, keys)]
  if both:
    losses.append(loss(sums.columns, sums.column_positive, keys, queries))
  return losses
