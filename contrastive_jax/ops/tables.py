"""Tables of one entry an example, split over the devices by owner.

The log-partition of every training example, or how often it was seen, is an
array [num_examples, ...]: too big to hold on every device, and read and written
at each step by the stable `index` of the examples of the batch.

Example i belongs to device i mod K, in row i div K of that device's shard, so
consecutive examples spread evenly. Devices are numbered row-major in `axes`, as
`jax.sharding.PartitionSpec(axes)` numbers them: the shards stacked, an array
[K * rows, ...], are the table as the rest of a program sees it. `to_sharded`
and `from_sharded` go from the order of the examples to this one and back.

`read` and `update` are pure functions for mapped code (`shard_map`, `pmap` or
`vmap(axis_name=...)`), or with `axes=None` for code that is not. They send the
indices and values of the global batch, and never the table. What they return
does not depend on the number of devices, to the bit: they see the global batch
in the same order on any number of them.

Indices are 32 bits wide and not checked where they are traced: outside of
[0, num_examples) a read gives the fill value and a write is dropped, so -1 may
mark the padding of a batch.
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax._types import Axes
from contrastive_jax.ops import collectives

_RULES = ("last", "mean", "max")
_MAX_INDEX = 2**31 - 1


def table_rows(num_examples: int, num_devices: int) -> int:
  """Rows of a device's shard: num_examples / num_devices, rounded up.

  Args:
    num_examples: entries of the whole table.
    num_devices: devices that it is split over.

  Returns:
    The number of rows, at least 1.

  Raises:
    ValueError: if either is not an integer >= 1, or the table with its padding
      has more than 2**31 - 1 rows.

  >>> table_rows(10, 4)
  3
  """
  num_examples = _check_count("num_examples", num_examples)
  num_devices = _check_count("num_devices", num_devices)
  rows = -(-num_examples // num_devices)
  if rows * num_devices > _MAX_INDEX:
    raise ValueError(
      f"num_examples must leave at most {_MAX_INDEX} rows, as indices are"
      f" 32 bits wide; got {num_examples}."
    )
  return rows


def create(
  num_examples: int,
  num_devices: int = 1,
  *,
  fill_value: float | int | bool | None = None,
  shape: tuple[int, ...] = (),
  dtype: jax.typing.DTypeLike = jnp.float32,
  sharding: jax.sharding.Sharding | None = None,
) -> jax.Array:
  """A table of one value: the shards of all devices, stacked.

  With `num_devices=1` it is the table of code that is not mapped. One shard
  alone, for code that is, is `create(table_rows(num_examples, num_devices))`.

  Args:
    num_examples: entries of the whole table.
    num_devices: devices that it is split over.
    fill_value: the value; None is NaN for a floating type ("never seen") and 0
      for others.
    shape: of one entry.
    dtype: floating, integer or boolean.
    sharding: where to put it, such as `NamedSharding(mesh, P(axes))`; each
      device then makes its own shard. None is the default device.

  Returns:
    `[num_devices * rows, *shape]` of `dtype`.

  Raises:
    ValueError: if a count is not an integer >= 1, the type is another, or it
      does not hold the value.

  >>> create(3, shape=(2,)).tolist()
  [[nan, nan], [nan, nan], [nan, nan]]
  >>> create(3, 2, dtype="int32").tolist()
  [0, 0, 0, 0]
  """
  rows = table_rows(num_examples, num_devices)
  dtype = _check_dtype("dtype", dtype)
  fill = _fill(fill_value, dtype)
  return jnp.full((num_devices * rows, *shape), fill, dtype, device=sharding)


def read(
  table: jax.Array,
  indices: jax.Array,
  *,
  axes: Axes = None,
  num_examples: int | None = None,
  fill_value: float | int | bool | None = None,
) -> jax.Array:
  """Entries of this device's part of the batch, wherever they are kept.

  All devices learn all indices (an all-gather of the global batch's), each
  looks up those that it owns, and one reduce-scatter hands every device the
  entries of its own examples. The sums are of integers, of the entries' bits:
  NaN, infinities and -0.0 come back as they are, and to their readers alone.

  Args:
    table: [rows, ...] floating, integer or boolean: this device's shard.
    indices: [n] integers: the examples of this device's part of the batch; the
      same n on each.
    axes: names of the mapped axes over which table and batch are split.
    num_examples: entries of the whole table, or None for all its rows, padding
      included. With it, indices of the padding are out of range too, and the
      shard's rows are checked.
    fill_value: what an index out of range gives; None is NaN for a floating
      type and 0 for others.

  Returns:
    [n, ...] of the table's type, without gradient.

  Raises:
    ValueError: if a shape, type or value is not as above, or `axes` are not
      mapped.

  >>> table = jnp.array([0.5, jnp.nan, -2.0])
  >>> read(table, jnp.array([2, 0, 2, 1, 7])).tolist()
  [-2.0, 0.5, -2.0, nan, nan]
  """
  devices, size = _check_layout(table, indices, axes, num_examples)
  table = jax.lax.stop_gradient(jnp.asarray(table))
  fill = _fill(fill_value, jnp.dtype(table.dtype))
  mine = _in_range(indices, size)
  every = collectives.gather_rows(mine, axes)
  own = (every >= 0) & (every % devices == _device(axes))
  # Rows of others' entries are any: what is found there is not sent.
  row = jnp.where(own, every // devices, 0)
  entries = table.at[row].get(mode="promise_in_bounds")
  entries = jnp.where(_like(own, entries), _to_wire(entries), 0)
  if len(mine):  # A scatter refuses empty ones.
    entries = collectives.scatter_rows(entries, axes)
  entries = _from_wire(entries, table.dtype)
  return jnp.where(_like(mine >= 0, entries), entries, fill)


def update(
  table: jax.Array,
  indices: jax.Array,
  values: jax.Array,
  *,
  axes: Axes = None,
  duplicates: str = "last",
  num_examples: int | None = None,
) -> jax.Array:
  """The shard with the batch's values written to their rows.

  All devices learn all indices and values (all-gathers of the global batch's)
  and each writes the rows that it owns. An index may occur several times in
  the global batch; which value its row gets is a rule on that batch:

  * "last": that of the highest position. Positions count through the parts of
    all devices, row-major in `axes`.
  * "mean": their average, for floating tables. Summed in float32 at least, in
    an order that follows from the indices of the global batch.
  * "max": the largest; NaN if one of them is.

  The old entry does not matter. Values are brought to the table's type first.
  Time is O(B log B) and memory O(B) for a global batch of B, besides the
  table, which is updated in place if its buffer is donated.

  Args:
    table: [rows, ...] floating, integer or boolean: this device's shard.
    indices: [n] integers: the examples of this device's part of the batch; the
      same n on each. Those out of range write nothing.
    values: [n, ...], their new entries.
    axes: names of the mapped axes over which table and batch are split.
    duplicates: "last", "mean" or "max".
    num_examples: entries of the whole table, or None for all its rows, padding
      included. With it, indices of the padding are out of range too, and the
      shard's rows are checked.

  Returns:
    [rows, ...], of the table's type, without gradient.

  Raises:
    ValueError: if a shape, type or value is not as above, `axes` are not
      mapped, the rule is unknown or not for this type, or values would lose
      their kind (fractions in a table of integers).

  >>> table = jnp.zeros(3)
  >>> new = update(table, jnp.array([2, 0, 2]), jnp.array([5.0, 1.0, 3.0]))
  >>> new.tolist()
  [1.0, 0.0, 3.0]

  On two devices, here simulated, which keep examples 0 and 2, and 1:

  >>> parts = jnp.array([[2, 0], [2, -1]]), jnp.array([[5.0, 1.0], [3.0, 9.0]])
  >>> def step(table, indices, values):
  ...   return update(table, indices, values, axes="data", duplicates="mean")
  >>> jax.vmap(step, axis_name="data")(jnp.zeros((2, 2)), *parts).tolist()
  [[1.0, 4.0], [0.0, 0.0]]
  """
  devices, size = _check_layout(table, indices, axes, num_examples)
  _check_values(table, indices, values)
  _check_rule(duplicates, table.dtype)
  rows, batch = table.shape[0], devices * indices.shape[0]
  table = jax.lax.stop_gradient(jnp.asarray(table))
  values = jax.lax.stop_gradient(jnp.asarray(values, table.dtype))
  every = collectives.gather_rows(_in_range(indices, size), axes)
  values = collectives.gather_rows(values, axes)

  # A scatter to repeated rows has no order on some devices, so equal indices
  # are brought together, in order of position, and one of each is written.
  order = jnp.argsort(every, stable=True)
  every, values = every[order], values[order]
  position = jnp.arange(batch, dtype=jnp.int32)
  first = (every != jnp.roll(every, 1)) | (position == 0)
  last = (every != jnp.roll(every, -1)) | (position == batch - 1)
  if duplicates == "max":
    values = _running(jnp.maximum, values, first)
  elif duplicates == "mean":
    wide = values.astype(jnp.promote_types(table.dtype, jnp.float32))
    total = _running(jnp.add, wide, first)
    start = jax.lax.cummax(jnp.where(first, position, 0))
    count = (position - start + 1).astype(wide.dtype)
    values = (total / _like(count, total)).astype(table.dtype)
  own = last & (every >= 0) & (every % devices == _device(axes))
  # The rest is sent past the end, each to a row of its own.
  row = jnp.where(own, every // devices, rows + position)
  return table.at[row].set(values, mode="drop", unique_indices=True)


def to_sharded(
  values: Any,
  num_devices: int,
  *,
  fill_value: float | int | bool | None = None,
) -> Any:
  """A table in order of the examples, brought to the order of the shards.

  For making and restoring tables, on the host or under `jit`; it moves all of
  the table. NumPy arrays give NumPy arrays, JAX arrays JAX arrays.

  Args:
    values: [num_examples, ...] floating, integer or boolean.
    num_devices: devices to split it over.
    fill_value: of the padding; None is NaN for a floating type and 0 for
      others.

  Returns:
    [num_devices * rows, ...] of the same type: the shards of devices 0, 1, ...
    for `PartitionSpec(axes)`.

  Raises:
    ValueError: if a shape, type or value is not as above.

  >>> to_sharded(np.arange(5), 2).tolist()
  [0, 2, 4, 1, 3, 0]
  """
  dtype = _check_array("values", values)
  num_examples, *shape = values.shape
  rows = table_rows(num_examples, num_devices)
  xp = jnp if isinstance(values, jax.Array) else np
  padding = (rows * num_devices - num_examples, *shape)
  fill = _fill(fill_value, dtype)
  values = xp.concatenate([values, xp.full(padding, fill, dtype)])
  values = values.reshape(rows, num_devices, *shape)
  return xp.swapaxes(values, 0, 1).reshape(-1, *shape)


def from_sharded(table: Any, num_examples: int, num_devices: int) -> Any:
  """A table in order of the shards, brought to the order of the examples.

  The inverse of `to_sharded`, padding dropped. With both, a table goes from one
  number of devices to another.

  Args:
    table: [num_devices * rows, ...] floating, integer or boolean: the shards of
      devices 0, 1, ...
    num_examples: entries of the whole table.
    num_devices: devices that it is split over.

  Returns:
    [num_examples, ...] of the same type.

  Raises:
    ValueError: if a shape or type is not as above.

  >>> from_sharded(np.array([0, 2, 4, 1, 3, 0]), 5, 2).tolist()
  [0, 1, 2, 3, 4]
  """
  _check_array("table", table)
  rows, *shape = table_rows(num_examples, num_devices), *table.shape[1:]
  if table.shape[0] != num_devices * rows:
    raise ValueError(
      f"table must have {num_devices * rows} rows, {rows} for each of"
      f" {num_devices} devices, to hold {num_examples} examples; got"
      f" {table.shape[0]}."
    )
  xp = jnp if isinstance(table, jax.Array) else np
  table = xp.swapaxes(table.reshape(num_devices, rows, *shape), 0, 1)
  return table.reshape(-1, *shape)[:num_examples]


def _running(combine, values: jax.Array, first: jax.Array) -> jax.Array:
  """Values so far combined within each run; `first` marks where one begins."""

  def step(left, right):
    # Values before a run are skipped, not multiplied by zero.
    begins, value = right
    joined = jnp.where(_like(begins, value), value, combine(left[1], value))
    return left[0] | begins, joined

  return jax.lax.associative_scan(step, (first, values))[1]


def _to_wire(entries: jax.Array) -> jax.Array:
  """The same bits as integers of a type that devices can add up."""
  dtype = jnp.dtype(entries.dtype)
  if jnp.issubdtype(dtype, jnp.floating):
    bits = jnp.dtype(f"uint{8 * dtype.itemsize}")
    entries = jax.lax.bitcast_convert_type(entries, bits)
  return entries if dtype.itemsize >= 4 else entries.astype(jnp.uint32)


def _from_wire(entries: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
  dtype = jnp.dtype(dtype)
  if not jnp.issubdtype(dtype, jnp.floating):
    return entries.astype(dtype)
  bits = jnp.dtype(f"uint{8 * dtype.itemsize}")
  return jax.lax.bitcast_convert_type(entries.astype(bits), dtype)


def _in_range(indices: jax.Array, size: int) -> jax.Array:
  """Indices as int32, -1 for those out of [0, size)."""
  narrow = indices.astype(jnp.int32)
  # Compared in the wider of both types, for `size` may be beyond the own one.
  wide = indices if jnp.dtype(indices.dtype).itemsize > 4 else narrow
  return jnp.where((wide >= 0) & (wide < size), narrow, -1)


def _device(axes: Axes) -> jax.Array:
  """Number of this device, row-major in `axes`."""
  return collectives.global_row_ids(1, axes)[0]


def _like(mask: jax.Array, values: jax.Array) -> jax.Array:
  """[n] with the axes that make it broadcast to [n, ...]."""
  return mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))


def _fill(value: Any, dtype: np.dtype) -> Any:
  """The fill value of a table of this type, as it will be stored."""
  floating = jnp.issubdtype(dtype, jnp.floating)
  if value is None:
    value = np.nan if floating else 0
  if isinstance(value, jax.core.Tracer | str) or np.shape(value) != ():
    raise ValueError(f"fill_value must be a known scalar; got {value!r}.")
  if not floating:
    low, high = 0, 1
    if dtype != jnp.bool_:
      low, high = int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max)
    if not np.isfinite(value) or not (low <= value <= high) or value % 1:
      raise ValueError(
        f"fill_value must be a value that {dtype} holds; got {value!r}."
      )
  return np.asarray(value).astype(dtype)


def _check_count(name: str, value: Any) -> int:
  try:
    number = operator.index(value)
  except TypeError:
    number = 0
  if isinstance(value, bool) or number < 1:
    raise ValueError(f"{name} must be an integer >= 1; got {value!r}.")
  return number


def _check_dtype(name: str, dtype: Any) -> np.dtype:
  if not any(_kind(dtype)):
    came = getattr(dtype, "__name__", dtype)
    raise ValueError(
      f"{name} must be of a floating, integer or boolean type; got {came}."
    )
  return jnp.dtype(dtype)


def _kind(dtype: Any) -> tuple[bool, bool, bool]:
  """Whether a type is floating, integer, boolean; greater if it holds more."""
  return (
    bool(jnp.issubdtype(dtype, jnp.floating)),
    bool(jnp.issubdtype(dtype, jnp.integer)),
    bool(jnp.issubdtype(dtype, jnp.bool_)),
  )


def _check_array(name: str, array: Any) -> np.dtype:
  if not hasattr(array, "shape") or not hasattr(array, "dtype"):
    raise ValueError(
      f"{name} must be an array of shape [rows, ...]; got"
      f" {type(array).__name__}."
    )
  if not array.shape or 0 in array.shape:
    raise ValueError(
      f"{name} must have shape [rows, ...] and not be empty; got"
      f" {tuple(array.shape)}."
    )
  return _check_dtype(name, array.dtype)


def _check_layout(
  table: Any, indices: Any, axes: Axes, num_examples: int | None
) -> tuple[int, int]:
  """The number of devices, and that of entries that an index can name."""
  _check_array("table", table)
  if not hasattr(indices, "shape") or not hasattr(indices, "dtype"):
    raise ValueError(
      f"indices must be an array of shape [n]; got {type(indices).__name__}."
    )
  if len(indices.shape) != 1:
    raise ValueError(
      f"indices must have shape [n]; got {tuple(indices.shape)}."
    )
  if not jnp.issubdtype(indices.dtype, jnp.integer):
    raise ValueError(f"indices must be integers; got {indices.dtype}.")
  devices = collectives.axis_size(axes)
  rows = table.shape[0]
  # Rows past the end are named too, one for each entry of the batch.
  if devices * (rows + indices.shape[0]) > _MAX_INDEX:
    raise ValueError(
      f"table and batch must have at most {_MAX_INDEX} rows in all, as indices"
      f" are 32 bits wide; got {rows} + {indices.shape[0]} on each of {devices}"
      " devices."
    )
  if num_examples is None:
    return devices, devices * rows
  expected = table_rows(num_examples, devices)
  if rows != expected:
    raise ValueError(
      f"table must have {expected} rows on each of {devices} devices to hold"
      f" {num_examples} examples; got {rows}."
    )
  return devices, num_examples


def _check_values(table: Any, indices: Any, values: Any) -> None:
  expected = (*indices.shape, *table.shape[1:])
  came = getattr(values, "shape", type(values).__name__)
  if came != expected:
    raise ValueError(
      "values must have the shape of indices and of a table's entry,"
      f" {expected}; got {came}."
    )
  if not any(_kind(values.dtype)) or _kind(values.dtype) > _kind(table.dtype):
    raise ValueError(
      f"values must be of a type that the table's, {table.dtype}, can stand"
      f" for; got {values.dtype}."
    )


def _check_rule(duplicates: Any, dtype: Any) -> None:
  if not isinstance(duplicates, str) or duplicates not in _RULES:
    raise ValueError(
      f'duplicates must be "last", "mean" or "max"; got {duplicates!r}.'
    )
  if duplicates == "mean" and not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f'duplicates="mean" must have a floating table; got {dtype}.'
    )
