r"""Stochastic EM in one call: E-step, draw and M-step, the memory explicit.

A batch has few of an anchor's negatives; what all of them add up to is known from
earlier steps. `em_init` makes that memory, and each `em_*` function returns the
loss and the memory after it:

    state = losses.em_init(num_examples)

    def objective(params, state, batch, key):
      image, text = encode(params, batch)
      step = losses.em_clip(image, text, state, index=batch["index"], key=key,
                            temperature=0.07, concentration=8.0)
      return step.loss.mean(), step.state

    (_, state), gradients = jax.value_and_grad(objective, has_aux=True)(...)

The state is a pytree of arrays: it goes through `jit`, `scan`, `shard_map` and
`on_mesh`, may be donated, and is saved like parameters.

**What is remembered.** The weight of an anchor is u_i = 1 / Z_i with the mean Z_i
over all negatives of exp(s_ij - s_ii). Most of what changes log Z_i from one visit
to the next is the positive's own s_ii, which every step knows exactly. So an entry
holds the rest, which hardly moves:

.. math:: \log A_i = \log Z_i + s_{ii}
    = \log \operatorname{mean}_j \exp(\langle q_i, k_j \rangle / \tau_i)

and today's s_ii is taken from it when the weight is made. An entry is kept as
tau log A, a similarity, and divided by the temperature of the step that reads it:
log A grows about in proportion to 1 / tau, as it is 0 at 1 / tau = 0, so that a
learned temperature makes no entry wrong by more than the share by which it moved,
times the Kullback-Leibler divergence of the softmax over negatives from uniform.
`margins=True` keeps log Z itself, the published form (SogCLR, FastCLIP, SCENT).

**Level.** One encoder makes all entries, so all of them drift together. Entries are
kept relative to a scalar a direction, which moves at each step by `level_rate` times
the mean difference (of at most 3 nats) between the batch's estimates and what was
remembered: entries that were not visited for an epoch follow all the same.

Arguments that all of them share:

* `state`: from `em_init`, of as many directions.
* `index`: [N] integers, the examples' places in the data set, or [N, V] for V views
  or captions of a row that are different examples.
* `key`: a PRNG key, another one at each step; None if `concentration` is infinite.
* `options`: of the E-step, see `EMOptions`.
* the rest: see `losses.augmented` and `losses.contrastive`.

All return `EMStep`. All raise `ValueError`, naming the argument, on wrong shapes,
types or ranges.

References:
  Chen et al., "Why do we need large batch sizes in contrastive learning? A
  gradient-bias perspective", 2022. Entries free of the positive and the level are
  this project's own.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from contrastive_jax import ops
from contrastive_jax._types import Axes, BlockSize, Scalar
from contrastive_jax.losses import _shared, augmented, e_step_rules, partition

LEVEL_RATE = 0.1
_RULE = e_step_rules.MovingAverage(0.5)
# Nats by which one example can ask the level to move.
_LARGEST_STEP = 3.0


class EMState(NamedTuple):
  """The memory of stochastic EM, of S directions.

  Attributes:
    tables: one entry an example, laid out by `ops.tables`: `entries` [rows, S]
      float32 (NaN before the first visit), `visits` and `last` [rows, 1] int32,
      the number of visits and the step of the last one. Empty where nothing is
      kept.
    level: [S] float32, what all entries have in common.
    count: [] int32, steps made.
  """

  tables: dict[str, jax.Array]
  level: jax.Array
  count: jax.Array

  def specs(self, axes: Axes) -> "EMState":
    """`PartitionSpec`s for a mesh: tables split by owner, the rest replicated."""
    split, whole = PartitionSpec(axes), PartitionSpec()
    return EMState(dict.fromkeys(self.tables, split), whole, whole)


class EMOptions(TypedDict, total=False):
  """Keyword arguments of the E-step that all `em_*` functions take.

  Attributes:
    rule: how an estimate is folded into what is known, see `e_step`;
      `MovingAverage(0.5)` by default.
    concentration: of the draws, see `draw_auxiliary`; `math.inf`, the posterior
      mean, by default.
    prior: of the draws, or None.
    prediction: [N, V, S] floating, for `Amortized`: a network's log Z, with
      kappa = 1 and without c_0, of V views and S directions.
    weights: [N] or [N, S] floating > 0, multiplies each anchor's u, such as the
      tau_i of iSogCLR.
    lagged: whether weights come from before this batch wherever something was
      known: no estimate is part of its own weight then, but all are an epoch old,
      and no bound of a rule holds.
    margins: whether entries are log Z instead of tau log A.
    level_rate: rate of the level, in [0, 1]; 0 keeps none.
  """

  rule: e_step_rules.Rule
  concentration: Scalar
  prior: tuple[float, float] | None
  prediction: jax.Array | None
  weights: jax.Array | None
  lagged: bool
  margins: bool
  level_rate: Scalar


class EMStep(NamedTuple):
  """What a step of stochastic EM returns, for N rows, V views, S directions.

  Attributes:
    loss: [N] float32, one loss an example, u Z-hat. It is about 1 whatever the
      features are; `details["log_partition"]` says how good they are.
    state: the memory after the step.
    details: arrays by name, without gradient: `log_auxiliary`, `log_partition` (after
      the E-step) and `batch_log_partition` [N, V, S]; `age` [N, V], steps since an
      example was last seen, NaN if it never was; where each anchor has a
      temperature, `slope` [N, S], the derivative of `batch_log_partition` by it,
      the mean of the views.
  """

  loss: jax.Array
  state: EMState
  details: dict[str, jax.Array]


def em_init(
  num_examples: int,
  *,
  sides: int = 2,
  num_devices: int = 1,
  sharding: jax.sharding.Sharding | None = None,
) -> EMState:
  """The memory before the first step.

  Args:
    num_examples: of the data set; 0 keeps no entries, for `BatchEstimate` and
      `Amortized`.
    sides: directions that have an entry of their own: 2 for `em_clip`, 1 for the
      others.
    num_devices: devices that the batch is split over.
    sharding: where the tables go, such as `NamedSharding(mesh, P(axes))`.

  Returns:
    An `EMState`.

  Raises:
    ValueError: if a number is not an integer of its range.

  >>> em_init(3).tables["entries"].shape
  (3, 2)
  """
  tables = {}
  if num_examples:
    for name, width, dtype in (
      ("entries", sides, jnp.float32),
      ("visits", 1, jnp.int32),
      ("last", 1, jnp.int32),
    ):
      tables[name] = ops.tables.create(
        num_examples,
        num_devices,
        shape=(width,),
        dtype=dtype,
        sharding=sharding,
      )
  return EMState(
    tables, jnp.zeros(sides, jnp.float32), jnp.zeros((), jnp.int32)
  )


def em_contrastive(
  queries: jax.Array,
  keys: jax.Array,
  state: EMState,
  *,
  index: jax.Array,
  temperature: Scalar,
  key: jax.Array | None = None,
  include_positive: bool = False,
  negative_mass: Scalar = 1.0,
  group_ids: jax.Array | None = None,
  log_weight_cap: Scalar | None = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
  **options: Unpack[EMOptions],
) -> EMStep:
  """Queries among keys: `augmented_contrastive` in one call.

  Args:
    queries: [N, d] unit-norm anchors.
    keys: [N, d] unit-norm keys; row i is the positive of query i.
    state: of one side; see the module's docstring, as for all that follow.
    index: [N] integers, the examples.
    temperature: tau > 0, a scalar or one for each anchor, [N].
    key: a PRNG key, or None.
    include_positive: c_0.
    negative_mass: kappa.
    group_ids: [N] integers, or None.
    log_weight_cap: bound of the log-weights, or None.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.
    **options: of the E-step, see `EMOptions`.

  Returns:
    `EMStep`, of one view and one direction.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  >>> import jax.numpy as jnp
  >>> x, state = jnp.eye(4), em_init(4, sides=1)
  >>> step = em_contrastive(x, x, state, index=jnp.arange(4), temperature=0.5)
  >>> step.loss.tolist()
  [1.0, 1.0, 1.0, 1.0]
  >>> step.state.tables["visits"][:, 0].tolist()
  [1, 1, 1, 1]
  """
  common = {"group_ids": group_ids, "axes": axes, "block_size": block_size}
  terms = {"include_positive": include_positive, "negative_mass": negative_mass}
  fixed = jax.lax.stop_gradient((queries, keys))

  def estimate(taus):
    found = partition.log_partition(*fixed, **taus, **common)
    return found[:, None, None]

  log_u, state, details = _e_step(
    state,
    estimate,
    [fixed],
    {"temperature": temperature},
    index=index,
    key=key,
    axes=axes,
    **terms,
    **options,
  )
  loss = augmented.augmented_contrastive(
    queries,
    keys,
    log_u[:, 0, 0],
    temperature=temperature,
    log_weight_cap=log_weight_cap,
    **terms,
    **common,
  )
  return EMStep(loss, state, details)


def em_clip(
  image: jax.Array,
  text: jax.Array,
  state: EMState,
  *,
  index: jax.Array,
  temperature: Scalar,
  text_temperature: Scalar | None = None,
  key: jax.Array | None = None,
  include_positive: bool = False,
  negative_mass: Scalar = 1.0,
  group_ids: jax.Array | None = None,
  log_weight_cap: Scalar | None = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
  **options: Unpack[EMOptions],
) -> EMStep:
  """Images among texts and texts among images: `augmented_clip` in one call.

  Args:
    image: [N, d] unit norm.
    text: [N, d] unit norm, row i describes image i; or [N, V, d], V captions of
      each image, which share an entry and are each contrasted among the others of
      their place.
    state: of two sides; see the module's docstring, as for all that follow.
    index: [N] integers, the examples.
    temperature: tau > 0, a scalar or one for each image, [N].
    text_temperature: those of the texts; None is `temperature`.
    key: a PRNG key, or None.
    include_positive: c_0.
    negative_mass: kappa.
    group_ids: [N] integers, or None.
    log_weight_cap: bound of the log-weights, or None.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.
    **options: of the E-step, see `EMOptions`.

  Returns:
    `EMStep`, of V views and two directions, images first.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  >>> import jax.numpy as jnp
  >>> x, state = jnp.eye(4), em_init(100)
  >>> index = jnp.array([7, 3, 99, 0])
  >>> step = em_clip(x, x, state, index=index, temperature=0.5)
  >>> [round(v, 4) for v in step.loss.tolist()]
  [1.0, 1.0, 1.0, 1.0]
  """
  common = {"group_ids": group_ids, "axes": axes, "block_size": block_size}
  terms = {"include_positive": include_positive, "negative_mass": negative_mass}
  taus = {"temperature": temperature}
  if text_temperature is not None:
    taus["text_temperature"] = text_temperature
  texts = [text] if jnp.ndim(text) == 2 else list(jnp.unstack(text, axis=1))
  fixed = [jax.lax.stop_gradient((image, each)) for each in texts]

  def estimate(taus):
    found = [
      partition.log_partition_clip(*pair, **taus, **common) for pair in fixed
    ]
    return jnp.stack([jnp.stack(pair, axis=1) for pair in found], axis=1)

  log_u, state, details = _e_step(
    state,
    estimate,
    fixed,
    taus,
    sides=2,
    index=index,
    key=key,
    axes=axes,
    **terms,
    **options,
  )
  losses = [
    augmented.augmented_clip(
      image,
      each,
      *log_u[:, v].T,
      log_weight_cap=log_weight_cap,
      **taus,
      **terms,
      **common,
    )
    for v, each in enumerate(texts)
  ]
  return EMStep(sum(losses[1:], losses[0]) / len(losses), state, details)


def em_nt_xent(
  first_view: jax.Array,
  second_view: jax.Array,
  state: EMState,
  *,
  index: jax.Array,
  temperature: Scalar,
  key: jax.Array | None = None,
  include_positive: bool = False,
  negative_mass: Scalar = 1.0,
  group_ids: jax.Array | None = None,
  log_weight_cap: Scalar | None = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
  **options: Unpack[EMOptions],
) -> EMStep:
  """Two views among each other (SimCLR): `augmented_nt_xent` in one call.

  Args:
    first_view: [N, d] unit norm.
    second_view: [N, d] unit norm; row i shows the same example.
    state: of one side; see the module's docstring, as for all that follow.
    index: [N] integers, the examples, or [N, 2].
    temperature: tau > 0, a scalar or one for each example, [N].
    key: a PRNG key, or None.
    include_positive: c_0.
    negative_mass: kappa.
    group_ids: [N] integers, or None.
    log_weight_cap: bound of the log-weights, or None.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.
    **options: of the E-step, see `EMOptions`.

  Returns:
    `EMStep`, of two views, which share an entry, and one direction; the loss is
    the mean of both views.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  >>> import jax.numpy as jnp
  >>> x, state = jnp.eye(2), em_init(2, sides=1)
  >>> step = em_nt_xent(x, x, state, index=jnp.arange(2), temperature=1.0)
  >>> step.loss.tolist()
  [1.0, 1.0]
  """
  common = {"group_ids": group_ids, "axes": axes, "block_size": block_size}
  terms = {"include_positive": include_positive, "negative_mass": negative_mass}
  fixed = jax.lax.stop_gradient((first_view, second_view))

  def estimate(taus):
    found = partition.log_partition_nt_xent(*fixed, **taus, **common)
    return jnp.stack(found, axis=1)[:, :, None]

  log_u, state, details = _e_step(
    state,
    estimate,
    [fixed, fixed],
    {"temperature": temperature},
    index=index,
    key=key,
    axes=axes,
    **terms,
    **options,
  )
  loss = augmented.augmented_nt_xent(
    first_view,
    second_view,
    *log_u[:, :, 0].T,
    temperature=temperature,
    log_weight_cap=log_weight_cap,
    **terms,
    **common,
  )
  return EMStep(loss.reshape(2, -1).mean(0), state, details)


def em_moco_v3(
  first_queries: jax.Array,
  second_queries: jax.Array,
  first_keys: jax.Array,
  second_keys: jax.Array,
  state: EMState,
  *,
  index: jax.Array,
  temperature: float,
  key: jax.Array | None = None,
  include_positive: bool = False,
  negative_mass: Scalar = 1.0,
  group_ids: jax.Array | None = None,
  log_weight_cap: Scalar | None = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
  **options: Unpack[EMOptions],
) -> EMStep:
  """Each view's queries among the other's momentum keys, in one call.

  Args:
    first_queries: [N, d] unit norm, predictions of the first view.
    second_queries: [N, d] unit norm, those of the second view.
    first_keys: [N, d] unit norm, the momentum encoder's of the first view.
    second_keys: [N, d] unit norm, those of the second view.
    state: of one side; see the module's docstring, as for all that follow.
    index: [N] integers, the examples, or [N, 2].
    temperature: tau > 0, a scalar.
    key: a PRNG key, or None.
    include_positive: c_0.
    negative_mass: kappa.
    group_ids: [N] integers, or None.
    log_weight_cap: bound of the log-weights, or None.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.
    **options: of the E-step, see `EMOptions`.

  Returns:
    `EMStep`, of two views, which share an entry, and one direction; the loss is
    the sum of both, each 2 tau u Z-hat (`augmented_moco_v3`).

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  >>> import jax.numpy as jnp
  >>> x, state = jnp.eye(2), em_init(2, sides=1)
  >>> step = em_moco_v3(x, x, x, x, state, index=jnp.arange(2), temperature=0.25)
  >>> step.loss.tolist()
  [1.0, 1.0]
  """
  common = {"group_ids": group_ids, "axes": axes, "block_size": block_size}
  terms = {"include_positive": include_positive, "negative_mass": negative_mass}
  pairs = [(first_queries, second_keys), (second_queries, first_keys)]
  fixed = [jax.lax.stop_gradient(pair) for pair in pairs]

  def estimate(taus):
    found = [partition.log_partition(*pair, **taus, **common) for pair in fixed]
    return jnp.stack(found, axis=1)[:, :, None]

  log_u, state, details = _e_step(
    state,
    estimate,
    fixed,
    {"temperature": temperature},
    index=index,
    key=key,
    axes=axes,
    **terms,
    **options,
  )
  losses = [
    augmented.augmented_moco_v3(
      *pair,
      log_u[:, v, 0],
      temperature=temperature,
      log_weight_cap=log_weight_cap,
      **terms,
      **common,
    )
    for v, pair in enumerate(pairs)
  ]
  return EMStep(losses[0] + losses[1], state, details)


# --- What the functions share ---------------------------------------------------


def _e_step(
  state: EMState,
  estimate: Callable[[dict[str, Scalar]], jax.Array],
  pairs: list[tuple[jax.Array, jax.Array]],
  taus: dict[str, Scalar],
  *,
  sides: int = 1,
  index: jax.Array,
  key: jax.Array | None,
  axes: Axes,
  include_positive: bool,
  negative_mass: Scalar,
  rule: e_step_rules.Rule = _RULE,
  concentration: Scalar = math.inf,
  prior: tuple[float, float] | None = None,
  prediction: jax.Array | None = None,
  weights: jax.Array | None = None,
  lagged: bool = False,
  margins: bool = False,
  level_rate: Scalar = LEVEL_RATE,
) -> tuple[jax.Array, EMState, dict[str, jax.Array]]:
  """Log u [N, V, S], the state after the step, and `EMStep.details`.

  Args:
    state: the memory.
    estimate: temperatures -> log Z-hat [N, V, S] of this batch, of c_0 = 0 and
      kappa = 1, without gradient by the features.
    pairs: V pairs of anchors and their positives, [N, d] each, without gradient.
    taus: `temperature`, and `text_temperature` where it is another one.
    sides: S.
    index: see the module's docstring, as for all that follow.
    key: of the draws.
    axes: names of the mapped axes.
    include_positive: c_0.
    negative_mass: kappa.
    rule: see `EMOptions`, as for all that follow.
    concentration: of the draws.
    prior: of the draws.
    prediction: of a network.
    weights: of the anchors.
    lagged: whether weights come from before this batch.
    margins: whether entries are log Z.
    level_rate: of the level.
  """
  n, views = pairs[0][0].shape[0], len(pairs)
  shape = (n, views, sides)
  index = _check(state, index, shape, prediction, weights, level_rate)
  taus = {k: jax.lax.stop_gradient(v) for k, v in taus.items()}
  details: dict[str, jax.Array] = {}
  if any(jnp.ndim(tau) for tau in taus.values()):
    batch, back = jax.vjp(estimate, taus)
    (slopes,) = back(jnp.full_like(batch, 1.0 / views))
    details["slope"] = jnp.stack(
      [jnp.broadcast_to(x, (n,)) for x in slopes.values()], axis=1
    )
  else:
    batch = estimate(taus)

  # What the entries leave out, and the unit in which they are kept.
  scales = [jnp.broadcast_to(tau, (n,)) for tau in taus.values()]
  unit = jnp.stack((scales * sides)[:sides], axis=1)[:, None].astype(
    jnp.float32
  )
  cosine = jnp.stack(
    [_shared.paired(*_shared.widen(*pair)[0]) for pair in pairs], axis=1
  )[:, :, None]
  positive = cosine / unit
  if margins:
    unit, positive = jnp.ones_like(unit), jnp.zeros_like(positive)
  unit, positive = (jnp.broadcast_to(x, shape) for x in (unit, positive))

  flat, rows = (n * views, sides), index.reshape(-1)
  level, visits = state.level, None
  before = jnp.full(shape, jnp.nan) if prediction is None else prediction
  if state.tables:
    entries, visits, last = (
      ops.tables.read(state.tables[name], rows, axes=axes)
      for name in ("entries", "visits", "last")
    )
    visits, last = visits[:, 0], last[:, 0]
    seen = visits > 0
    details["age"] = jnp.where(seen, state.count - last, jnp.nan).reshape(n, -1)
    entries = jnp.where(seen[:, None], entries, jnp.nan).reshape(shape)
    level = _moved(
      level,
      (batch + positive) - (entries + level) / unit,
      unit,
      level_rate,
      axes,
    )
    before = (entries + level) / unit - positive
  mass = jnp.log(jax.lax.stop_gradient(jnp.asarray(negative_mass, jnp.float32)))
  after = jnp.stack(
    [
      e_step_rules.e_step(rule, previous + mass, now + mass, visits)
      for previous, now in zip(
        before.reshape(flat).T, batch.reshape(flat).T, strict=True
      )
    ],
    axis=1,
  ).reshape(shape)

  def whole(log_z):
    return jnp.logaddexp(log_z, 0.0) if include_positive else log_z

  used = after
  if hasattr(rule, "weigh"):
    used = jnp.where(
      jnp.isfinite(batch), rule.weigh(after, batch + mass), after
    )
  if lagged:
    used = jnp.where(jnp.isfinite(before), before + mass, after)
  places = ops.global_row_ids(n, axes)[:, None] + jnp.arange(views) * (
    n * ops.axis_size(axes)
  )
  log_u = jnp.stack(
    [
      e_step_rules.draw_auxiliary(
        None if key is None else jax.random.fold_in(key, side),
        whole(used[:, :, side]).reshape(-1),
        concentration=concentration,
        prior=prior,
        index=places.reshape(-1).astype(jnp.int32),
      )
      for side in range(sides)
    ],
    axis=1,
  ).reshape(shape)
  if weights is not None:
    log_u += jnp.log(weights.reshape(n, 1, -1))

  tables = dict(state.tables)
  if state.tables:
    kept = (after - mass + positive) * unit - level
    for name, values, duplicates in (
      ("entries", kept.reshape(flat), "mean"),  # Views share their example's.
      ("visits", visits[:, None] + 1, "last"),
      ("last", jnp.full((n * views, 1), state.count), "last"),
    ):
      tables[name] = ops.tables.update(
        tables[name], rows, values, axes=axes, duplicates=duplicates
      )
  details |= {
    "log_auxiliary": log_u,
    "log_partition": whole(after),
    "batch_log_partition": whole(batch + mass),
  }
  state = EMState(tables, level, state.count + 1)
  return jax.lax.stop_gradient((log_u, state, details))


def _moved(level, difference, unit, rate, axes):
  """The level after a step, from differences [N, V, S] in nats."""
  says = jnp.isfinite(difference)
  difference = jnp.clip(difference, -_LARGEST_STEP, _LARGEST_STEP) * unit
  n = difference.shape[0]
  rows = ops.global_row_ids(n, axes)

  def total_of(x):
    # Every device adds up the rows of all in one order, so that the bits do not
    # depend on how many there are.
    every = jnp.zeros((n * ops.axis_size(axes), *x.shape[1:]), x.dtype)
    return jnp.sum(ops.sum_over(every.at[rows].set(x), axes), axis=(0, 1))

  total = total_of(jnp.where(says, difference, 0.0))
  count = total_of(says.astype(jnp.float32))
  return level + rate * total / jnp.maximum(count, 1.0)


def _check(state, index, shape, prediction, weights, level_rate) -> jax.Array:
  """Raises on what no other function looks at; the index as [N, V]."""
  n, views, sides = shape
  if not isinstance(state, EMState):
    raise ValueError(
      f"state must be an EMState, see em_init; got {type(state).__name__}."
    )
  if state.level.shape != (sides,):
    raise ValueError(
      f"state must have {sides} sides, see em_init; got {state.level.shape[0]}."
    )
  came = getattr(index, "shape", type(index).__name__)
  if came not in ((n,), (n, views)) or not jnp.issubdtype(
    index.dtype, jnp.integer
  ):
    raise ValueError(
      f"index must be integers of shape ({n},) or ({n}, {views}); got"
      f" {getattr(index, 'dtype', '')} {came}."
    )
  if prediction is not None and jnp.shape(prediction) != shape:
    raise ValueError(
      f"prediction must have shape {shape}; got {jnp.shape(prediction)}."
    )
  if weights is not None and jnp.shape(weights) not in ((n,), (n, sides)):
    raise ValueError(
      f"weights must have shape ({n},) or ({n}, {sides}); got"
      f" {jnp.shape(weights)}."
    )
  _shared.check_range(
    "level_rate", level_rate, "in [0, 1]", lambda x: 0 <= x <= 1
  )
  return jnp.broadcast_to(index.reshape(n, -1), (n, views))
