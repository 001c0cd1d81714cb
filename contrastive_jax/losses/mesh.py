"""A loss over a mesh, called with global arrays."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from contrastive_jax.losses.em_state import EMState, EMStep


def on_mesh(
  loss: Callable[..., Any],
  mesh: jax.sharding.Mesh,
  *,
  axes: str | Sequence[str] | None = None,
) -> Callable[..., Any]:
  """Splits a loss of this package over the devices of a mesh.

  What comes out is called like the loss, with arrays of the whole batch, in or
  outside of `jax.jit`, and gives the same values and gradients. Arrays with a row
  an example are split by rows; scalars are the same on every device. The tables of
  an `EMState` are split by owner: make it with `num_devices`.

  Args:
    loss: a function of this package that takes `axes`.
    mesh: the devices, its axes of type `AxisType.Auto` or `Manual`.
    axes: the mesh axes that the batch is split over; None is all of them. Two
      make a grid, whose sides are best of similar size.

  Returns:
    The loss as a function of global arrays: `[N]` ([2N] for two views), the
    tuple of such arrays that `log_partition_clip` returns, or an `EMStep`.

  Raises:
    ValueError: if the mesh has no such axes, or Explicit ones; in the call, if
      the batch does not divide over them.

  >>> import jax
  >>> import jax.numpy as jnp
  >>> from contrastive_jax import losses
  >>> mesh = jax.make_mesh((1, 1), ("row", "col"),
  ...     axis_types=(jax.sharding.AxisType.Auto,) * 2)
  >>> x = jnp.eye(4)
  >>> clip = jax.jit(losses.on_mesh(losses.clip, mesh))
  >>> [round(v, 4) for v in clip(x, x, logit_scale=2.0).tolist()]
  [0.3408, 0.3408, 0.3408, 0.3408]
  """
  names = mesh.axis_names if axes is None else axes
  names = (names,) if isinstance(names, str) else tuple(names)
  unknown = [name for name in names if name not in mesh.axis_names]
  if unknown or not names:
    raise ValueError(
      f"axes must be some of the mesh's, {', '.join(mesh.axis_names)}; got"
      f" {', '.join(map(str, unknown)) or 'none'}."
    )
  types = dict(zip(mesh.axis_names, mesh.axis_types))
  explicit = [name for name in names if types[name] == AxisType.Explicit]
  if explicit:
    raise ValueError(
      f"mesh must have axes of type Auto; got Explicit {', '.join(explicit)}:"
      " make it with axis_types=(jax.sharding.AxisType.Auto,) * n."
    )
  devices = math.prod(mesh.shape[name] for name in names)
  rows: Any = PartitionSpec(names)
  mapped_names: Any = names[0] if len(names) == 1 else names

  parameters = list(inspect.signature(loss).parameters)

  @functools.wraps(loss)
  def call(*arrays: jax.Array, **options: Any) -> Any:
    for name, value in list(options.items()):
      if isinstance(value, EMState):  # It stands behind the features.
        arrays = (*arrays, options.pop(name))
    named = dict(zip(parameters, arrays)) | options
    length = arrays[0].shape[0]
    # Arguments with a row an example are split as the rows are (`group_ids`,
    # temperatures).
    split = {
      k: jnp.asarray(v)
      for k, v in options.items()
      if _is_array(v)
      and k != "key"
      and jnp.ndim(v)
      and jnp.shape(v)[0] == length
    }
    split |= {k: v for k, v in options.items() if _are_rows(v)}
    of_arrays: list[Any] = [
      x.specs(names) if isinstance(x, EMState) else rows for x in arrays
    ]
    for name, x in named.items():
      if isinstance(x, EMState) or (name in options and name not in split):
        continue
      for each in x if _are_rows(x) else (x,):
        if jnp.shape(each)[0] % devices:
          raise ValueError(
            f"{name} has {jnp.shape(each)[0]} rows, which do not divide over"
            f" {devices} devices ({', '.join(names)})."
          )
    # Scalars may be traced, so they are operands; what is left is static.
    scalars = {
      k: v for k, v in options.items() if k not in split and _is_array(v)
    }
    static = {k: v for k, v in options.items() if k not in {*split, *scalars}}

    states = [x for x in of_arrays if isinstance(x, EMState)]

    def local(arrays, split, scalars):
      values = loss(*arrays, **split, **scalars, **static, axes=mapped_names)
      if states:
        return values
      # One row for each of the values that an example has (two in nt_xent).
      return jax.tree.map(lambda v: v.reshape(-1, arrays[0].shape[0]), values)

    mapped = jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(tuple(of_arrays), rows, PartitionSpec()),
      out_specs=EMStep(rows, states[0], rows)
      if states
      else PartitionSpec(None, names),
    )
    values = mapped(arrays, split, scalars)
    if states:
      return values
    return jax.tree.map(lambda v: v.reshape(-1), values)

  return call


def _are_rows(value: Any) -> bool:
  """Several arrays with a row an example, such as a `reference`."""
  return (
    isinstance(value, tuple | list)
    and len(value) > 0
    and all(_is_array(x) and jnp.ndim(x) > 1 for x in value)
  )


def _is_array(value: Any) -> bool:
  """An array, traced or not; a Python number is checked and used as it is."""
  return isinstance(value, jax.Array) or hasattr(value, "__array__")
