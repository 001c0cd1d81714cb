"""Sharded tables against a plain array, to the bit on any number of devices."""

import functools
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from contrastive_jax.ops import tables

# By name: how the code is mapped, the sizes of its axes.
LAYOUTS = {
  "none": ("none", ()),
  "1": ("shard_map", (1,)),
  "2": ("shard_map", (2,)),
  "4": ("shard_map", (4,)),
  "8": ("shard_map", (8,)),
  "2x4": ("shard_map", (2, 4)),
  "4x2": ("shard_map", (4, 2)),
  "vmap 4": ("vmap", (4,)),
  "vmap 2x4": ("vmap", (2, 4)),
  "pmap 8": ("pmap", (8,)),
}
GRID = ("row", "col")
NUM_EXAMPLES = 13
BATCH = 16


def _axes(sizes):
  return {0: None, 1: "data", 2: GRID}[len(sizes)]


def _devices(layout):
  return int(np.prod(LAYOUTS[layout][1], dtype=int))


def _mesh(sizes):
  axes = _axes(sizes)
  names = (axes,) if isinstance(axes, str) else axes
  kinds = (jax.sharding.AxisType.Auto,) * len(sizes)
  devices = jax.devices()[: int(np.prod(sizes))]
  return jax.make_mesh(sizes, names, axis_types=kinds, devices=devices)


@functools.cache
def _mapped(layout, operation, **options):
  """A jitted function of stacked shards and global batches."""
  kind, sizes = LAYOUTS[layout]
  axes = _axes(sizes)
  function = functools.partial(getattr(tables, operation), axes=axes, **options)
  if kind == "none":
    return jax.jit(function)
  if kind == "shard_map":
    mesh, spec = _mesh(sizes), P(axes)
    mapped = jax.shard_map(
      function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=True
    )
    return jax.jit(mapped)
  if kind == "pmap":
    inner = jax.pmap(function, axis_name="data")
  else:
    inner = function
    for name in reversed((axes,) if isinstance(axes, str) else axes):
      inner = jax.vmap(inner, axis_name=name)
    inner = jax.jit(inner)

  def split(*arrays):
    arrays = [jnp.asarray(x) for x in arrays]
    arrays = [x.reshape(*sizes, -1, *x.shape[1:]) for x in arrays]
    out = inner(*arrays)
    return out.reshape(-1, *out.shape[len(sizes) + 1 :])

  return split


class Model:
  """The same table as one NumPy array and loops."""

  def __init__(self, table):
    self.table = np.array(table)

  def read(self, indices):
    fill = np.nan if jnp.issubdtype(self.table.dtype, jnp.floating) else 0
    out = np.full((len(indices), *self.table.shape[1:]), fill)
    out = out.astype(self.table.dtype)
    for at, index in enumerate(indices):
      if 0 <= index < len(self.table):
        out[at] = self.table[index]
    return out

  def update(self, indices, values, duplicates):
    for index in set(indices.tolist()):
      if not 0 <= index < len(self.table):
        continue
      found = values[indices == index]
      if duplicates == "last":
        self.table[index] = found[-1]
      elif duplicates == "max":
        self.table[index] = found.max(0)
      else:
        self.table[index] = found.astype(np.float64).mean(0)


def _bits(x):
  """Bits to be compared; any NaN is as good as another."""
  x = np.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return x
  bits = x.view(f"uint{8 * x.dtype.itemsize}").copy()
  bits[np.isnan(x.astype(np.float32))] = 1
  return bits


def _assert_same(got, want):
  assert got.dtype == want.dtype
  np.testing.assert_array_equal(_bits(got), _bits(want))


def _fresh(layout, dtype, shape=(), num_examples=NUM_EXAMPLES):
  return tables.create(num_examples, _devices(layout), dtype=dtype, shape=shape)


def _whole(table, layout, num_examples=NUM_EXAMPLES):
  table = np.asarray(table)
  return tables.from_sharded(table, num_examples, _devices(layout))


INDICES = st.one_of(
  st.integers(0, NUM_EXAMPLES - 1),
  st.integers(0, 2),  # Many of the same.
  st.sampled_from([-1, -NUM_EXAMPLES, NUM_EXAMPLES, 15, 16, 2**31 - 1]),
)
# Sums of up to 16 are exact, whatever their order.
NUMBERS = st.one_of(
  st.integers(-(2**10), 2**10).map(lambda x: x / 4),
  st.sampled_from([np.nan, -0.0, 0.0, np.inf]),
)
COUNTS = st.integers(-(2**31), 2**31 - 1)


def _steps(numbers):
  batch = st.tuples(
    st.lists(INDICES, min_size=BATCH, max_size=BATCH),
    st.lists(numbers, min_size=BATCH, max_size=BATCH),
  )
  return st.lists(batch, min_size=1, max_size=3)


def _check_steps(layout, steps, duplicates, dtype):
  options = {"num_examples": NUM_EXAMPLES}
  update = _mapped(layout, "update", duplicates=duplicates, **options)
  read = _mapped(layout, "read", **options)
  table = _fresh(layout, dtype)
  model = Model(_whole(table, layout))
  for indices, values in steps:
    indices, values = np.array(indices, np.int32), np.array(values, dtype)
    if duplicates == "max":
      values = values + np.array(0, dtype)  # Either of -0 and 0 is the largest.
    table = update(table, indices, values)
    model.update(indices, values, duplicates)
    _assert_same(_whole(table, layout), model.table)
    _assert_same(read(table, indices), model.read(indices))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("duplicates", ["last", "mean", "max"])
@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
@hypothesis.given(steps=_steps(NUMBERS))
def test_equals_an_array_of_floats(layout, duplicates, steps):
  with np.errstate(invalid="ignore"):
    _check_steps(layout, steps, duplicates, np.float32)


@pytest.mark.parametrize("layout", ["none", "8", "2x4", "vmap 2x4"])
@pytest.mark.parametrize("duplicates", ["last", "max"])
@hypothesis.settings(max_examples=10, deadline=None, derandomize=True)
@hypothesis.given(steps=_steps(COUNTS))
def test_equals_an_array_of_integers(layout, duplicates, steps):
  _check_steps(layout, steps, duplicates, np.int32)


def _random_batch(seed, dtype, shape=(), num_examples=NUM_EXAMPLES, n=BATCH):
  rng = np.random.default_rng(seed)
  indices = rng.integers(-2, num_examples + 2, n).astype(np.int32)
  values = 100 * rng.standard_normal((n, *shape))
  if dtype == np.bool_:
    return indices, values > 0
  if jnp.issubdtype(dtype, jnp.unsignedinteger):
    values = abs(values)
  return indices, values.astype(dtype)


@pytest.mark.parametrize(
  ("dtype", "shape"),
  [("float32", (3,)), ("float32", (2, 1)), ("bfloat16", ()), ("float16", (3,))]
  + [("int8", ()), ("uint32", (2, 1)), ("bool", (3,))],
)
def test_types_and_entries_of_any_shape(dtype, shape):
  dtype, floating = jnp.dtype(dtype), jnp.issubdtype(dtype, jnp.floating)
  indices, values = _random_batch(0, dtype, shape)
  for duplicates in ("last", "max", "mean") if floating else ("last", "max"):
    model = Model(np.asarray(tables.create(13, shape=shape, dtype=dtype)))
    model.update(indices, values, duplicates)
    for layout in ("none", "2x4", "vmap 2x4"):
      options = {"num_examples": NUM_EXAMPLES}
      read = _mapped(layout, "read", **options)
      update = _mapped(layout, "update", duplicates=duplicates, **options)
      table = update(_fresh(layout, dtype, shape), indices, values)
      got = _whole(table, layout)
      if duplicates == "mean" and layout == "none":
        # Rounded to the type once.
        wide = [np.asarray(x, np.float32) for x in (got, model.table)]
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(*wide, rtol=eps, atol=1e-5)
        model.table = got
      _assert_same(got, model.table)
      _assert_same(read(table, indices), model.read(indices))


@pytest.mark.parametrize("seed", range(5))
def test_mean_is_the_same_on_any_number_of_devices_to_the_bit(seed):
  n, examples = 128, 10  # Runs of 9 on average, whose sums are rounded.
  indices, values = _random_batch(seed, np.float32, (), examples, n)
  model = Model(np.full(examples, np.nan, np.float32))
  model.update(indices, values, "mean")
  results = {}
  for layout in LAYOUTS:
    update = _mapped(layout, "update", duplicates="mean", num_examples=examples)
    table = _fresh(layout, np.float32, num_examples=examples)
    results[layout] = _whole(update(table, indices, values), layout, examples)
  np.testing.assert_allclose(results["none"], model.table, rtol=1e-5, atol=1e-4)
  for layout, result in results.items():
    assert result.tobytes() == results["none"].tobytes(), layout


def test_last_is_by_position_in_the_global_batch():
  # Example 3 is on each device of 2x4; example 5 twice on one.
  indices = np.array([3, 0, 3, 1, 5, 5, 3, 2] + [3, -1] * 4, np.int32)
  values = np.arange(16, dtype=np.float32)
  for layout in LAYOUTS:
    table = _mapped(layout, "update")(
      _fresh(layout, "float32"), indices, values
    )
    got = _whole(table, layout)[[0, 1, 2, 3, 5]]
    assert got.tolist() == [1, 3, 7, 14, 5], layout


def test_nan_reaches_its_reader_alone():
  values = np.full(NUM_EXAMPLES, 1.0, np.float32)
  values[4], values[5], values[6] = np.nan, np.inf, -0.0
  indices = np.array([4, 0, 5, 6] + [1] * 12, np.int32)
  for layout in LAYOUTS:
    table = tables.to_sharded(values, _devices(layout))
    got = np.asarray(_mapped(layout, "read")(table, indices))
    _assert_same(got, values[indices])
    assert np.signbit(got[3]), layout


class TestOutOfRange:
  INDICES = np.array([-1, 12, 13, 15, 16, -13, 2**31 - 1, 0] * 2, np.int32)

  @pytest.mark.parametrize("layout", LAYOUTS)
  def test_reads_fill_and_writes_nothing(self, layout):
    options = {"num_examples": NUM_EXAMPLES}
    values = np.arange(NUM_EXAMPLES, dtype=np.float32)
    table = tables.to_sharded(values, _devices(layout))
    got = _mapped(layout, "read", **options)(table, self.INDICES)
    np.testing.assert_array_equal(
      got, [np.nan, 12, *[np.nan] * 5, 0] * 2, err_msg=layout
    )
    got = _mapped(layout, "read", fill_value=-7, **options)(table, self.INDICES)
    np.testing.assert_array_equal(got, [-7, 12, *[-7] * 5, 0] * 2)
    new = _mapped(layout, "update", **options)(
      table, self.INDICES, np.full(BATCH, -1, np.float32)
    )
    values[[0, 12]] = -1
    _assert_same(_whole(new, layout), values)
    # The padding as well.
    assert np.sum(np.asarray(new) == -1) == 2

  def test_integers_give_zero(self):
    got = tables.read(jnp.full(13, 3), self.INDICES, num_examples=13)
    np.testing.assert_array_equal(got, [0, 3, 0, 0, 0, 0, 0, 3] * 2)

  def test_narrow_and_wide_index_types(self):
    table = jnp.arange(300.0)
    read = functools.partial(tables.read, table)
    assert read(jnp.array([-1, 127], jnp.int8)).tolist()[1] == 127
    assert read(jnp.array([255], jnp.uint8)).tolist() == [255]
    assert np.isnan(read(jnp.array([2**32 - 1], jnp.uint32)))
    assert np.isnan(read(np.array([2**32], np.int64)))
    assert np.isnan(read(np.array([2**64 - 1], np.uint64)))

  @pytest.mark.parametrize("layout", ["none", "8", "2x4"])
  def test_an_empty_batch(self, layout):
    table = _fresh(layout, "float32", (2,))
    indices, values = np.zeros(0, np.int32), np.zeros((0, 2), np.float32)
    assert _mapped(layout, "read")(table, indices).shape == (0, 2)
    for rule in ("last", "mean", "max"):
      new = _mapped(layout, "update", duplicates=rule)(table, indices, values)
      _assert_same(new, table)


class TestLayout:
  @pytest.mark.parametrize("num_examples", [1, 2, 7, 8, 9, 64, 100])
  @pytest.mark.parametrize("num_devices", [1, 2, 3, 8])
  @pytest.mark.parametrize("xp", [np, jnp])
  def test_round_trip(self, num_examples, num_devices, xp):
    rng = np.random.default_rng(0)
    for dtype, shape in [("float32", ()), ("int32", (2,)), ("bool", (2, 3))]:
      values = 9 * rng.standard_normal((num_examples, *shape))
      values = xp.asarray(values.astype(dtype))
      rows = tables.table_rows(num_examples, num_devices)
      table = tables.to_sharded(values, num_devices)
      assert isinstance(table, type(values))
      assert table.shape == (rows * num_devices, *shape)
      i = np.arange(num_examples)
      at = i % num_devices * rows + i // num_devices
      np.testing.assert_array_equal(np.asarray(table)[at], values)
      back = tables.from_sharded(table, num_examples, num_devices)
      assert isinstance(back, type(values))
      _assert_same(back, values)

  def test_padding_is_the_fill(self):
    table = tables.to_sharded(np.ones(3, np.float32), 2)
    np.testing.assert_array_equal(table, [1, 1, 1, np.nan])
    table = tables.to_sharded(np.ones(3, np.int8), 2, fill_value=-5)
    np.testing.assert_array_equal(table, [1, 1, 1, -5])

  def test_restored_onto_another_number_of_devices(self):
    indices, values = _random_batch(3, np.float32)
    update = functools.partial(_mapped, operation="update", num_examples=13)
    table = update("8")(_fresh("8", "float32"), indices, values)
    table = tables.to_sharded(_whole(table, "8"), 2)
    table = update("2")(table, indices[::-1].copy(), values)
    want = update("none")(_fresh("none", "float32"), indices, values)
    want = update("none")(want, indices[::-1].copy(), values)
    _assert_same(_whole(table, "2"), want)

  def test_conversion_under_jit_with_shardings(self):
    values = np.random.default_rng(0).standard_normal(13).astype(np.float32)
    sharding = NamedSharding(_mesh((2, 4)), P(GRID))
    convert = functools.partial(tables.to_sharded, num_devices=8)
    table = jax.jit(convert, out_shardings=sharding)(values)
    assert table.sharding == sharding
    _assert_same(table, tables.to_sharded(values, 8))
    back = jax.jit(tables.from_sharded, static_argnums=(1, 2))(table, 13, 8)
    _assert_same(back, values)

  def test_create(self):
    table = tables.create(13, 8, fill_value=2.5, shape=(3,))
    assert table.shape == (16, 3) and table.dtype == jnp.float32
    np.testing.assert_array_equal(table, 2.5)
    assert np.all(np.isnan(tables.create(3)))
    assert tables.create(3, dtype=jnp.int32).tolist() == [0, 0, 0]
    assert tables.create(1, fill_value=True, dtype=bool).tolist() == [True]
    sharding = NamedSharding(_mesh((2, 4)), P(GRID))
    table = tables.create(13, 8, sharding=sharding)
    assert table.sharding == sharding and table.shape == (16,)


def _step(table, visits, indices, values):
  """The part of a train step that uses two tables."""
  previous = tables.read(table, indices, axes=GRID)
  new = jnp.where(jnp.isnan(previous), values, 0.9 * previous + values)
  count = tables.read(visits, indices, axes=GRID)
  table = tables.update(table, indices, new, axes=GRID, duplicates="mean")
  visits = tables.update(visits, indices, count + 1, axes=GRID)
  return table, visits, previous


class TestCompiled:
  NUM_EXAMPLES = 80_000

  def _compiled(self):
    mesh, spec = _mesh((2, 4)), P(GRID)
    sharding = NamedSharding(mesh, spec)
    tabs = [
      tables.create(self.NUM_EXAMPLES, 8, dtype=dtype, sharding=sharding)
      for dtype in (jnp.float32, jnp.int32)
    ]
    batch = _random_batch(0, np.float32, (), self.NUM_EXAMPLES, 64)
    batch = jax.device_put(batch, sharding)
    mapped = jax.shard_map(_step, mesh=mesh, in_specs=spec, out_specs=spec)
    step = jax.jit(mapped, donate_argnums=(0, 1))
    return step.lower(*tabs, *batch).compile(), tabs, batch

  def test_sends_no_more_than_the_global_batch(self):
    compiled, _, _ = self._compiled()
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    pattern = rf"= (.*?) ({kinds})(?:-start)?\((.*)"
    found = re.findall(pattern, compiled.as_text())
    assert len(found) >= 4
    for result, kind, operands in found:
      for dims in re.findall(r"\w\d+\[([\d,]*)\]", result + operands):
        size = np.prod([int(x) for x in dims.split(",") if x], dtype=int)
        assert size <= 64, (kind, result)

  def test_reads_and_updates_of_a_step_gather_the_indices_once(self):
    compiled, _, _ = self._compiled()
    gathers = re.findall(r"= (\w+)\[64\]\S* all-gather\(", compiled.as_text())
    # The indices, and each table's values.
    assert sorted(gathers) == ["f32", "s32", "s32"]

  def test_donated_tables_are_updated_in_place(self):
    compiled, tabs, batch = self._compiled()
    memory = compiled.memory_analysis()
    shard = 4 * self.NUM_EXAMPLES // 8
    assert memory.alias_size_in_bytes == 2 * shard
    assert memory.temp_size_in_bytes < shard
    new, visits, previous = compiled(*tabs, *batch)
    assert all(table.is_deleted() for table in tabs)
    assert np.all(np.isnan(previous))
    model = Model(np.full(self.NUM_EXAMPLES, np.nan, np.float32))
    model.update(*map(np.asarray, batch), "mean")
    whole = tables.from_sharded(np.asarray(new), self.NUM_EXAMPLES, 8)
    np.testing.assert_allclose(whole, model.table, rtol=1e-6)
    assert np.sum(visits) == np.sum(~np.isnan(model.table))

  def test_a_mesh_with_another_axis(self):
    # Tables are split over "row" alone, and the same along "col".
    values = np.arange(NUM_EXAMPLES, dtype=np.float32)
    table = tables.to_sharded(values, 2)
    indices = np.array([12, 3, 3, 0], np.int32)

    def step(table, indices):
      got = tables.read(table, indices, axes="row")
      return got, tables.update(table, indices, -got, axes="row")

    mesh, spec = _mesh((2, 4)), P("row")
    mapped = jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=spec)
    got, new = jax.jit(mapped)(table, indices)
    _assert_same(got, values[indices])
    values[[12, 3, 0]] *= -1
    _assert_same(tables.from_sharded(np.asarray(new), 13, 2), values)

  def test_indices_that_are_the_same_on_all_devices(self):
    mesh, spec = _mesh((2, 4)), P(GRID)
    table = tables.to_sharded(np.arange(16.0, dtype=np.float32), 8)

    def step(table):
      indices, values = np.array([9, 2]), np.array([-1, -2], np.float32)
      got = tables.read(table, indices, axes=GRID)
      return got, tables.update(table, indices, values, axes=GRID)

    mapped = jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=spec)
    got, new = jax.jit(mapped)(table)
    assert got.tolist() == [9, 2] * 8
    new = tables.from_sharded(np.asarray(new), 16, 8)
    assert (new[9], new[2], new.sum()) == (-1, -2, 120 - 14)

  def test_a_large_batch_takes_no_quadratic_memory(self):
    batch = 16_384
    table, values = jnp.zeros(1000), jnp.zeros(batch)
    update = jax.jit(functools.partial(tables.update, duplicates="mean"))
    lowered = update.lower(table, values.astype(jnp.int32), values)
    memory = lowered.compile().memory_analysis()
    assert memory.temp_size_in_bytes < 40 * 4 * batch


@pytest.mark.parametrize("layout", ["none", "2x4"])
def test_no_gradient(layout):
  indices, values = _random_batch(0, np.float32)
  read, update = _mapped(layout, "read"), _mapped(layout, "update")

  def loss(table, values):
    table = update(2.0 * table, indices, 3.0 * values)
    return jnp.sum(jnp.nan_to_num(read(table, indices))) + jnp.nansum(table)

  table = jnp.zeros_like(_fresh(layout, "float32"))
  for gradient in jax.grad(loss, argnums=(0, 1))(table, jnp.asarray(values)):
    np.testing.assert_array_equal(gradient, 0)


class TestBadInput:
  TABLE = jnp.zeros((5, 2))
  INDICES = jnp.zeros(3, jnp.int32)
  VALUES = jnp.zeros((3, 2))

  @pytest.mark.parametrize(
    ("changes", "message"),
    [
      ({"table": jnp.zeros(())}, r"\btable\b.*got \(\)"),
      ({"table": jnp.zeros((0, 2))}, r"\btable\b.*got \(0, 2\)"),
      ({"table": [0.0]}, r"\btable\b.*got list"),
      ({"table": jnp.zeros(5, complex)}, r"\btable\b.*got complex64"),
      (
        {"table": jax.random.split(jax.random.key(0))},
        r"\btable\b.*got key<fry>",
      ),
      ({"indices": [0]}, r"\bindices\b.*got list"),
      ({"indices": jnp.zeros(3)}, r"\bindices\b.*got float32"),
      ({"indices": jnp.zeros(3, bool)}, r"\bindices\b.*got bool"),
      ({"indices": jnp.zeros((3, 1), int)}, r"\bindices\b.*got \(3, 1\)"),
      ({"values": jnp.zeros(3)}, r"values .*\(3, 2\); got \(3,\)"),
      ({"values": jnp.zeros((4, 2))}, r"values .*\(3, 2\); got \(4, 2\)"),
      ({"values": 1.0}, r"values .*\(3, 2\); got float"),
      ({"values": jnp.zeros((3, 2), complex)}, "values .*float32.*complex"),
      ({"duplicates": "first"}, r"\bduplicates\b.*got 'first'"),
      ({"duplicates": None}, r"\bduplicates\b.*got None"),
      ({"num_examples": 6}, r"\btable\b.* 6 rows.*got 5"),
      ({"num_examples": 0}, r"\bnum_examples\b.*\b1\b.*got 0"),
      ({"num_examples": 5.0}, r"\bnum_examples\b.*\b1\b.*got 5\.0"),
      ({"axes": "data"}, r"\baxes\b.*'data'"),
      ({"table": jnp.zeros((5, 2), int)}, "values .*int32, .*got float32"),
    ],
  )
  @pytest.mark.parametrize("jit", [False, True])
  def test_update(self, changes, message, jit):
    static = {"duplicates": "last", "num_examples": None, "axes": None}
    arrays = dict(table=self.TABLE, indices=self.INDICES, values=self.VALUES)
    for name, value in changes.items():
      (static if name in static else arrays)[name] = value
    update = functools.partial(tables.update, **static)
    if jit and all(hasattr(x, "dtype") for x in arrays.values()):
      update = jax.jit(update)
    with pytest.raises(ValueError, match=message):
      update(**arrays)
    if "values" not in message and "duplicates" not in message:
      static.pop("duplicates")
      with pytest.raises(ValueError, match=message):
        tables.read(arrays["table"], arrays["indices"], **static)

  def test_mean_of_integers(self):
    table, values = self.TABLE.astype("int32"), self.VALUES.astype("int32")
    with pytest.raises(ValueError, match='duplicates="mean" .*got int32'):
      tables.update(table, self.INDICES, values, duplicates="mean")

  def test_a_table_of_another_number_of_devices(self):
    table = tables.create(NUM_EXAMPLES, 2)  # 14 rows: 2 on each of 7 devices.
    read = functools.partial(tables.read, axes="data", num_examples=13)
    mapped = jax.vmap(read, axis_name="data")
    message = r"\btable\b.* 2 rows.* 13 .*got 7"
    with pytest.raises(ValueError, match=message):
      mapped(jnp.stack([table[:7]] * 7), jnp.zeros((7, 1), jnp.int32))

  def test_a_table_too_large_for_its_indices(self):
    table = jax.ShapeDtypeStruct((2**31 - 3,), jnp.int8)
    indices = jax.ShapeDtypeStruct((3,), jnp.int32)
    with pytest.raises(
      ValueError, match=r"\btable\b.* 2147483647 .*got 2147483645"
    ):
      jax.eval_shape(tables.read, table, indices)
    with pytest.raises(ValueError, match="num_examples .*got 2147483648"):
      tables.table_rows(2**31, 2)

  @pytest.mark.parametrize(
    "fill", [np.nan, np.inf, 0.5, 128, -129, np.zeros(2), "a"]
  )
  def test_a_fill_that_the_type_does_not_hold(self, fill):
    message = r"\bfill_value\b"
    with pytest.raises(ValueError, match=message):
      tables.create(3, dtype=jnp.int8, fill_value=fill)

  @pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
      (tables.create, (0,), "num_examples .*got 0"),
      (tables.create, (3, -2), "num_devices .*got -2"),
      (tables.create, (3, True), "num_devices .*got True"),
      (tables.to_sharded, ([1.0], 2), r"\bvalues\b.*got list"),
      (tables.to_sharded, (np.zeros(0), 2), r"\bvalues\b.*got \(0,\)"),
      (tables.to_sharded, (np.zeros(3), 0), r"\bnum_devices\b.*got 0"),
      (tables.from_sharded, (np.zeros(16), 13, 2), "table .*14 .*13 .*got 16"),
    ],
  )
  def test_making_and_converting(self, function, arguments, message):
    with pytest.raises(ValueError, match=message):
      function(*arguments)
