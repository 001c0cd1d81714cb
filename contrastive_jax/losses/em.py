r"""Stochastic EM in one call: E-step, draw and M-step, the memory explicit.

A batch has few of an anchor's negatives; what all of them add up to is known from
earlier steps. `em_init` makes that memory, and each `em_*` function returns the
loss and the memory after it::

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
learned temperature makes log A wrong by at most the share by which it moved,
abs(tau_old / tau_new - 1), times the Kullback-Leibler divergence from uniform of the
softmax over negatives at the lower of both temperatures.
`margins=True` keeps log Z itself, the published form (SogCLR, FastCLIP, SCENT).
With a `reference` of similarities r_ij, s - r stands for s: the entry is

.. math:: \tau_i \log A_i = \tau_i \log Z_i + s_{ii} - r_{ii}
    = \tau_i \log \operatorname{mean}_j \exp \big( (s_{ij} - r_{ij}) / \tau_i \big)

with s and r without the temperature. It knows of one reference, so a memory goes
with the same model from its first step on.

**Level.** One encoder makes all entries, so all of them drift together. Entries are
kept relative to a scalar a direction, the level, so that those that were not visited
for an epoch follow all the same. At each step it moves by `level_rate` times the log
of the batch's mean Z-hat / Z, each ratio within e^3: where the entries' weights would
not add up to 1 on average, all of them are corrected.

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

from typing import Unpack

import jax
import jax.numpy as jnp

from contrastive_jax._types import Axes, BlockSize, Reference, Scalar
from contrastive_jax.losses import _shared, augmented, em_state, partition
from contrastive_jax.losses.em_state import EMOptions, EMState, EMStep


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
  reference: Reference = None,
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
    reference: [N, e] features of a frozen model, queries and keys, or None.
    log_weight_cap: bound of the log-weights, or None.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.
    **options: of the E-step, see `EMOptions`.

  Returns:
    `EMStep`, of one view and one direction.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  >>> import jax.numpy as jnp
  >>> from contrastive_jax.losses import em_init
  >>> x, state = jnp.eye(4), em_init(4, sides=1)
  >>> step = em_contrastive(x, x, state, index=jnp.arange(4), temperature=0.5)
  >>> step.loss.tolist()
  [1.0, 1.0, 1.0, 1.0]
  >>> step.state.tables["visits"][:, 0].tolist()
  [1, 1, 1, 1]
  """
  common = {"group_ids": group_ids, "axes": axes, "block_size": block_size}
  terms = {"include_positive": include_positive, "negative_mass": negative_mass}
  queries, keys = _shared.steered(reference, queries=queries, keys=keys)
  fixed = jax.lax.stop_gradient((queries, keys))

  def estimate(taus):
    found = partition.log_partition(*fixed, **taus, **common)
    return found[:, None, None]

  log_u, state, details = em_state.e_step(
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
  reference: Reference = None,
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
    reference: (image [N, e], text [N, e] or [N, V, e]) of a frozen model, or None.
    log_weight_cap: bound of the log-weights, or None.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.
    **options: of the E-step, see `EMOptions`.

  Returns:
    `EMStep`, of V views and two directions, images first.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  >>> import jax.numpy as jnp
  >>> from contrastive_jax.losses import em_init
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
  pairs = [
    _shared.steered(known, image=image, text=each)
    for each, known in zip(texts, _by_caption(reference, text))
  ]
  fixed = [jax.lax.stop_gradient(pair) for pair in pairs]

  def estimate(taus):
    found = [
      partition.log_partition_clip(*pair, **taus, **common) for pair in fixed
    ]
    return jnp.stack([jnp.stack(pair, axis=1) for pair in found], axis=1)

  log_u, state, details = em_state.e_step(
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
      *pair,
      *log_u[:, v].T,
      log_weight_cap=log_weight_cap,
      **taus,
      **terms,
      **common,
    )
    for v, pair in enumerate(pairs)
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
  reference: Reference = None,
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
    reference: [N, e] features of a frozen model, first and second view, or None.
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
  >>> from contrastive_jax.losses import em_init
  >>> x, state = jnp.eye(2), em_init(2, sides=1)
  >>> step = em_nt_xent(x, x, state, index=jnp.arange(2), temperature=1.0)
  >>> step.loss.tolist()
  [1.0, 1.0]
  """
  common = {"group_ids": group_ids, "axes": axes, "block_size": block_size}
  frozen = {"reference": reference}
  terms = {"include_positive": include_positive, "negative_mass": negative_mass}
  steered = _shared.steered(
    reference, first_view=first_view, second_view=second_view
  )
  fixed = jax.lax.stop_gradient((first_view, second_view))

  def estimate(taus):
    found = partition.log_partition_nt_xent(*fixed, **taus, **common, **frozen)
    return jnp.stack(found, axis=1)[:, :, None]

  log_u, state, details = em_state.e_step(
    state,
    estimate,
    [jax.lax.stop_gradient(steered)] * 2,
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
    **frozen,
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
  reference: Reference = None,
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
    reference: [N, e] features of a frozen model, first and second view, or None.
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
  >>> from contrastive_jax.losses import em_init
  >>> x, state = jnp.eye(2), em_init(2, sides=1)
  >>> step = em_moco_v3(x, x, x, x, state, index=jnp.arange(2), temperature=0.25)
  >>> step.loss.tolist()
  [1.0, 1.0]
  """
  common = {"group_ids": group_ids, "axes": axes, "block_size": block_size}
  terms = {"include_positive": include_positive, "negative_mass": negative_mass}
  pairs = [
    _shared.steered(
      reference, first_queries=first_queries, second_keys=second_keys
    ),
    _shared.steered(
      reference and reference[::-1],
      second_queries=second_queries,
      first_keys=first_keys,
    ),
  ]
  fixed = [jax.lax.stop_gradient(pair) for pair in pairs]

  def estimate(taus):
    found = [partition.log_partition(*pair, **taus, **common) for pair in fixed]
    return jnp.stack(found, axis=1)[:, :, None]

  log_u, state, details = em_state.e_step(
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


def _by_caption(reference: Reference, text: jax.Array) -> list[Reference]:
  """The reference of each caption: of one [N, d], or of V in [N, V, d]."""
  if jnp.ndim(text) == 2 or reference is None:
    return [reference] * (1 if jnp.ndim(text) == 2 else text.shape[1])
  pair = reference if isinstance(reference, tuple | list) else ()
  shapes = [jnp.shape(x) for x in pair]
  n, views = text.shape[:2]
  if [x[:-1] for x in shapes] != [(n,), (n, views)]:
    raise ValueError(
      f"reference must have shapes [{n}, e] and [{n}, {views}, e]; got"
      f" {' and '.join(map(str, shapes)) or type(reference).__name__}."
    )
  image, texts = reference
  return [(image, each) for each in jnp.unstack(texts, axis=1)]
