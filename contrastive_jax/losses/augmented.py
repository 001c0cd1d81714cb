r"""The gamma-augmented contrastive loss: the M-step.

A minibatch's InfoNCE is the logarithm of a sum over the batch, so its gradient
is biased. With an auxiliary variable u for each anchor, by the identity

.. math:: Z^{-a} = \frac{1}{\Gamma(a)} \int_0^\infty u^{a-1} e^{-uZ} du ,

the loss a log Z becomes linear in Z, the mean over all negatives of exp(D), and
any sample of negatives gives an unbiased gradient: given u (the E-step, see
`losses.e_step_rules`), the losses here are

.. math::
  \ell_i = u_i \hat Z_i, \qquad
  \hat Z_i = c_0 + \frac{\kappa}{|N_i|} \sum_{j \in N_i} \exp(D_{ij}), \qquad
  D_{ij} = s_{ij} - s_{ii}, \quad s_{ij} = \langle q_i, k_j \rangle / \tau_i .

Their gradient is u_i times that of Z-hat; u has none. The value hovers around 1
and says how well u is known, not how good the features are: log the mean of the
log-partition for that. With u = 1 / Z-hat of the same batch the gradient is
that of InfoNCE (c_0 = 1, kappa = N - 1) or DCL (c_0 = 0); with a moving average
SogCLR's and FastCLIP's; with the conjugate posterior SCENT's; with a network's
prediction NeuCLIP's; with a gamma draw the stochastic EM of the paper. Margins
D, not logits, are weighted: a stale u then scales pull and push alike.

Arguments that all of them share:

* `temperature`: tau > 0, a scalar or one for each anchor [N] (iSogCLR), learned
  or not; its gradient is that of u Z-hat, see `scale_by_temperature`.
* `include_positive` and `negative_mass`: c_0 as a bool, and kappa > 0.
* `group_ids`: [N] integers; rows of one group are no negatives of each other.
  An anchor's positive is its own key alone.
* `reference`: features of a frozen model for the same rows, as a pair of both
  sides, whose margins are subtracted (DRRho-CLIP); see `losses.partition`.
* `log_weight_cap`: bounds the log-weights D_ij + log u_i: above it exp goes on
  as its tangent, in value and in gradient. It bounds what one stale u can do, at
  the price of a bias wherever it bites (see `augmented_diagnostics`). None
  leaves 50, for float32's sake alone.
* `fused`: whether value and gradient are one pass over tiles, three products
  of N x N x d instead of four. It holds for cotangents that are the same for
  all anchors, as those of a mean or a sum are. Others are right too, but take
  six; so fold weights w_i into log u_i (the loss is linear in u), or pass False.
* `axes` and `block_size`: see `losses.contrastive`. No array of N x N elements
  is formed with blocks.

An anchor without negatives, or with log u = -inf, adds no gradient.
All raise `ValueError`, naming the argument, on wrong shapes, types or ranges.

References:
  Chen et al., "Why do we need large batch sizes in contrastive learning? A
  gradient-bias perspective", 2022: auxiliary variables, stochastic EM. The
  formulas here follow from the identity; c_0, kappa, the margin and the
  estimates of Z are choices of this library.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contrastive_jax import ops
from contrastive_jax._types import Axes, BlockSize, Reference, Scalar
from contrastive_jax.losses import _shared, partition


def augmented_contrastive(
  queries: jax.Array,
  keys: jax.Array,
  log_auxiliary: jax.Array,
  *,
  temperature: Scalar,
  include_positive: bool = False,
  negative_mass: Scalar = 1.0,
  group_ids: jax.Array | None = None,
  reference: Reference = None,
  log_weight_cap: Scalar | None = None,
  fused: bool = True,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""u_i Z-hat_i of queries among keys; see the module's docstring.

  Where log u was not made from this batch (a lagged table, a network), nothing
  else is needed for the E-step: log Z-hat is log loss - log u.

  Args:
    queries: [N, d] unit-norm anchors.
    keys: [N, d] unit-norm keys; row i is the positive of query i.
    log_auxiliary: [N] floating, log u, without gradient: see `draw_auxiliary`.
    temperature: see the module's docstring, as for all that follow.
    include_positive: c_0; adds u_i to the value, nothing to the gradient.
    negative_mass: kappa.
    group_ids: [N] integers, or None.
    reference: [N, e] features of a frozen model, or None.
    log_weight_cap: bound of the log-weights, or None.
    fused: one pass for value and gradient.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.

  Returns:
    [N] float32, one loss an anchor.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(4)
  >>> log_u = jnp.full(4, 2.0)  # 1 / Z.
  >>> augmented_contrastive(x, x, log_u, temperature=0.5).tolist()
  [1.0, 1.0, 1.0, 1.0]
  """
  queries, keys = _shared.steered(reference, queries=queries, keys=keys)
  n = queries.shape[0]
  (queries, keys), dtype = _shared.widen(queries, keys)
  _shared.check_row("log_auxiliary", log_auxiliary, n)
  temperature = _shared.check_temperature("temperature", temperature, n)
  ops.check_group_ids(group_ids, n)
  common = _Common(
    include_positive, negative_mass, log_weight_cap, fused, axes, block_size
  )
  (loss,) = _losses(
    queries,
    keys,
    [(log_auxiliary, temperature)],
    _shared.paired(queries, keys),
    group_ids,
    dtype,
    common,
  )
  return loss


def augmented_clip(
  image: jax.Array,
  text: jax.Array,
  image_log_auxiliary: jax.Array,
  text_log_auxiliary: jax.Array,
  *,
  temperature: Scalar,
  text_temperature: Scalar | None = None,
  include_positive: bool = False,
  negative_mass: Scalar = 1.0,
  group_ids: jax.Array | None = None,
  reference: Reference = None,
  log_weight_cap: Scalar | None = None,
  fused: bool = True,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  """Mean of both directions, image among texts and text among images.

  One pass over the similarities serves both directions: three products.

  Args:
    image: [N, d] unit norm.
    text: [N, d] unit norm; row i describes image i.
    image_log_auxiliary: [N] floating, log u of images among the texts.
    text_log_auxiliary: [N] floating, log u of texts among the images.
    temperature: tau > 0, a scalar or one for each image, [N].
    text_temperature: those of the texts; None is `temperature`.
    include_positive: see the module's docstring, as for all that follow.
    negative_mass: kappa.
    group_ids: [N] integers, or None.
    reference: [N, e] features of a frozen model, or None.
    log_weight_cap: bound of the log-weights, or None.
    fused: one pass for value and gradient.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.

  Returns:
    [N] float32, one loss a pair.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  >>> import jax.numpy as jnp
  >>> x, log_u = jnp.eye(4), jnp.full(4, 2.0)
  >>> loss = augmented_clip(x, x, log_u, log_u, temperature=0.5)
  >>> [round(v, 4) for v in loss.tolist()]
  [1.0, 1.0, 1.0, 1.0]
  """
  image, text = _shared.steered(reference, image=image, text=text)
  n = image.shape[0]
  (image, text), dtype = _shared.widen(image, text)
  _shared.check_row("image_log_auxiliary", image_log_auxiliary, n)
  _shared.check_row("text_log_auxiliary", text_log_auxiliary, n)
  of_image = _shared.check_temperature("temperature", temperature, n)
  of_text = of_image
  if text_temperature is not None:
    of_text = _shared.check_temperature("text_temperature", text_temperature, n)
  ops.check_group_ids(group_ids, n)
  common = _Common(
    include_positive, negative_mass, log_weight_cap, fused, axes, block_size
  )
  to_text, to_image = _losses(
    image,
    text,
    [(image_log_auxiliary, of_image), (text_log_auxiliary, of_text)],
    _shared.paired(image, text),
    group_ids,
    dtype,
    common,
  )
  return 0.5 * (to_text + to_image)


def augmented_nt_xent(
  first_view: jax.Array,
  second_view: jax.Array,
  first_log_auxiliary: jax.Array,
  second_log_auxiliary: jax.Array,
  *,
  temperature: Scalar,
  include_positive: bool = False,
  negative_mass: Scalar = 1.0,
  group_ids: jax.Array | None = None,
  reference: Reference = None,
  log_weight_cap: Scalar | None = None,
  fused: bool = True,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  """Two views, each anchor among both views of all other examples (SimCLR).

  Args:
    first_view: [N, d] unit norm.
    second_view: [N, d] unit norm; row i shows the same example.
    first_log_auxiliary: [N] floating, log u of the rows of the first view.
    second_log_auxiliary: [N] floating, those of the second; the same where a
      table has one entry an example.
    temperature: tau > 0, a scalar or one for each example, [N].
    include_positive: see the module's docstring, as for all that follow.
    negative_mass: kappa, the weight of the mean over 2(N - 1) negatives.
    group_ids: [N] integers, or None.
    reference: [N, e] features of a frozen model, or None.
    log_weight_cap: bound of the log-weights, or None.
    fused: one pass for value and gradient.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.

  Returns:
    [2N] float32, in the order of `nt_xent`.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  >>> import jax.numpy as jnp
  >>> x, log_u = jnp.eye(2), jnp.ones(2)
  >>> augmented_nt_xent(x, x, log_u, log_u, temperature=1.0).tolist()
  [1.0, 1.0, 1.0, 1.0]
  """
  first_view, second_view = _shared.steered(
    reference, first_view=first_view, second_view=second_view
  )
  n = first_view.shape[0]
  (first_view, second_view), dtype = _shared.widen(first_view, second_view)
  _shared.check_row("first_log_auxiliary", first_log_auxiliary, n)
  _shared.check_row("second_log_auxiliary", second_log_auxiliary, n)
  log_u = jnp.concatenate([first_log_auxiliary, second_log_auxiliary])
  temperature = _shared.check_temperature("temperature", temperature, n)
  if jnp.ndim(temperature):
    temperature = jnp.tile(temperature, 2)
  ops.check_group_ids(group_ids, n)
  # Both views of an example are one group, so neither is its negative.
  ids = jnp.tile(_shared.example_ids(group_ids, n, axes), 2)
  anchors, keys = _shared.of_views(first_view, second_view, reference)
  common = _Common(
    include_positive, negative_mass, log_weight_cap, fused, axes, block_size
  )
  (loss,) = _losses(
    anchors,
    keys,
    [(log_u, temperature)],
    jnp.tile(_shared.paired(first_view, second_view), 2),
    ids,
    dtype,
    common,
  )
  return loss


def augmented_moco_v3(
  queries: jax.Array,
  momentum_keys: jax.Array,
  log_auxiliary: jax.Array,
  *,
  temperature: float,
  include_positive: bool = False,
  negative_mass: Scalar = 1.0,
  group_ids: jax.Array | None = None,
  reference: Reference = None,
  log_weight_cap: Scalar | None = None,
  fused: bool = True,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  """2 tau u Z-hat of queries among the momentum encoder's keys (MoCo v3).

  No gradient reaches the keys, which saves a product. The temperature is a
  fixed one: its gradient is that of `augmented_contrastive`, times 2 tau.

  Args:
    queries: [N, d] unit norm, from the encoder and predictor.
    momentum_keys: [N, d] unit norm, from the momentum encoder.
    log_auxiliary: [N] floating, log u.
    temperature: tau > 0, a scalar.
    include_positive: see the module's docstring, as for all that follow.
    negative_mass: kappa.
    group_ids: [N] integers, or None.
    reference: [N, e] features of a frozen model, or None.
    log_weight_cap: bound of the log-weights, or None.
    fused: one pass for value and gradient.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.

  Returns:
    [N] float32, one loss a query.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  >>> import jax.numpy as jnp
  >>> x, log_u = jnp.eye(4), jnp.full(4, 2.0)
  >>> augmented_moco_v3(x, x, log_u, temperature=0.5).tolist()
  [1.0, 1.0, 1.0, 1.0]
  """
  queries, momentum_keys = _shared.steered(
    reference, queries=queries, momentum_keys=momentum_keys
  )
  n = queries.shape[0]
  (queries, keys), dtype = _shared.widen(queries, momentum_keys)
  keys = jax.lax.stop_gradient(keys)
  _shared.check_row("log_auxiliary", log_auxiliary, n)
  ops.check_positive("temperature", temperature)
  ops.check_group_ids(group_ids, n)
  common = _Common(
    include_positive, negative_mass, log_weight_cap, fused, axes, block_size
  )
  (loss,) = _losses(
    queries,
    keys,
    [(log_auxiliary, temperature)],
    _shared.paired(queries, keys),
    group_ids,
    dtype,
    common,
    key_gradient=False,
  )
  return 2.0 * jax.lax.stop_gradient(temperature) * loss


def scale_by_temperature(
  loss: jax.Array,
  log_partition: jax.Array,
  *,
  temperature: Scalar,
  rho: Scalar = 0.0,
) -> jax.Array:
  r"""The objective of a learned temperature: tau (log Z + rho).

  .. math:: \frac{d}{d\tau} \tau (\log Z + \rho) = \log Z + \rho
    + \tau \, u \, \frac{\partial Z}{\partial \tau}, \qquad u = 1 / Z

  The loss alone has no more than the last derivative, and would drive tau up
  without end: the first part needs the value of log Z, which comes from the
  E-step. The result has that value, tau (log Z + rho), and as gradients the
  above and tau times that of the loss. Apply it to each direction, with a
  temperature for all (FastCLIP) or for each anchor (iSogCLR), the same array
  that the loss was given.

  Args:
    loss: [N] floating, an augmented loss of this temperature.
    log_partition: [N] floating, log Z after the E-step, without gradient. Where
      it is not finite the result and its gradient are 0.
    temperature: tau > 0, a scalar or one for each anchor, [N]. (With the latter
      pass `fused=False` to the loss, as its cotangents differ.)
    rho: the constraint's multiplier, a scalar: larger is a smaller tau.

  Returns:
    [N] float32.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Wei et al., "FastCLIP: a suite of optimization techniques to accelerate CLIP
    training with limited resources", 2024, RGCL-g; Qiu et al., "Not all
    semantics are created equal" (iSogCLR), 2023.

  >>> import jax.numpy as jnp
  >>> loss, log_z = jnp.ones(2), jnp.array([-2.0, -3.0])
  >>> scale_by_temperature(loss, log_z, temperature=0.5, rho=5.0).tolist()
  [1.5, 1.0]
  """
  _shared.check_row("loss", loss, None)
  n = loss.shape[0]
  _shared.check_row("log_partition", log_partition, n)
  temperature = _shared.check_temperature("temperature", temperature, n)
  if jnp.shape(rho) != ():
    raise ValueError(f"rho must be a scalar; got shape {jnp.shape(rho)}.")
  log_z = jax.lax.stop_gradient(jnp.asarray(log_partition, jnp.float32))
  seen = jnp.isfinite(log_z)
  # Zero in value; the loss itself would add its own, which says nothing.
  slope = jax.lax.stop_gradient(temperature) * (
    loss - jax.lax.stop_gradient(loss)
  )
  value = temperature * (jnp.where(seen, log_z, 0.0) + rho)
  return jnp.where(seen, value + slope, 0.0)


def augmented_diagnostics(
  queries: jax.Array,
  keys: jax.Array,
  log_auxiliary: jax.Array,
  *,
  temperature: Scalar,
  negative_mass: Scalar = 1.0,
  group_ids: jax.Array | None = None,
  reference: Reference = None,
  log_weight_cap: Scalar | None = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> dict[str, jax.Array]:
  r"""How the weights :math:`W_{ij} = u_i \kappa e^{D_{ij}} / |N_i|` are spread.

  For logging at times: three passes over the similarities, no gradient.

  Args:
    queries: [N, d] unit-norm anchors.
    keys: [N, d] unit-norm keys; row i is the positive of query i.
    log_auxiliary: [N] floating, log u.
    temperature: see the module's docstring, as for all that follow.
    negative_mass: kappa.
    group_ids: [N] integers, or None.
    reference: [N, e] features of a frozen model, or None.
    log_weight_cap: the cap of the loss, or None for its 50.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.

  Returns:
    Three arrays [N] float32 by name. "weight_sum" is the sum of an anchor's
    weights, capped ones as they are applied: around 1 if u is up to date.
    "effective_sample_size" is (sum W)^2 / sum W^2, before the cap: between 1, a
    single negative makes up the gradient, and their number. "capped_share" is
    the share of an anchor's negatives whose weight is capped. All are 0
    for an anchor without negatives.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  >>> import jax.numpy as jnp
  >>> x, log_u = jnp.eye(4), jnp.full(4, 2.0)
  >>> found = augmented_diagnostics(x, x, log_u, temperature=0.5)
  >>> {k: round(float(v[0]), 4) for k, v in found.items()}
  {'weight_sum': 1.0, 'effective_sample_size': 3.0, 'capped_share': 0.0}
  """
  queries, keys = _shared.steered(reference, queries=queries, keys=keys)
  n = queries.shape[0]
  queries, keys = jax.lax.stop_gradient((queries, keys))
  (queries, keys), dtype = _shared.widen(queries, keys)
  _shared.check_row("log_auxiliary", log_auxiliary, n)
  temperature = _shared.check_temperature("temperature", temperature, n)
  temperature = jax.lax.stop_gradient(temperature)
  ops.check_group_ids(group_ids, n)
  options: dict[str, Any] = {
    "group_ids": group_ids,
    "axes": axes,
    "block_size": block_size,
  }
  # Log-partitions of exp and of its square.
  once, twice = (
    partition.log_partition(
      queries, keys, temperature=temperature / k, **options
    )
    for k in (1.0, 2.0)
  )
  count = _shared.num_negatives(group_ids, n, axes)
  some = count > 0
  common = _Common(
    False, negative_mass, log_weight_cap, False, axes, block_size
  )
  cosine = _shared.paired(queries, keys)
  (sums,) = ops.similarity.weighted_sums(
    queries,
    keys,
    [_anchors(log_auxiliary, temperature, cosine, common, count)],
    _shared.example_ids(group_ids, n, axes),
    dtype,
    cap=_cap(log_weight_cap),
    statistics=True,
    axes=axes,
    block_size=block_size,
  )
  ratio = 2.0 * jnp.where(some, once, 0.0) - jnp.where(some, twice, 0.0)
  found = {
    "weight_sum": sums[:, 1],
    "effective_sample_size": count * jnp.exp(ratio),
    "capped_share": sums[:, 3] / jnp.maximum(count, 1.0),
  }
  return {k: jnp.where(some, v, 0.0) for k, v in found.items()}


# --- What the losses share ------------------------------------------------------


class _Common(NamedTuple):
  """Arguments that the losses share."""

  include_positive: bool
  negative_mass: Scalar
  log_weight_cap: Scalar | None
  fused: bool
  axes: Axes
  block_size: BlockSize


def _losses(
  queries, keys, sides, cosine, group_ids, dtype, common, key_gradient=True
) -> list[jax.Array]:
  """Losses of the queries among the keys and, of two sides, the reverse."""
  n = queries.shape[0]
  count = _shared.num_negatives(group_ids, n, common.axes)
  cap = _cap(common.log_weight_cap)
  totals = ops.similarity.weighted_sums(
    queries,
    keys,
    [_anchors(log_u, tau, cosine, common, count) for log_u, tau in sides],
    _shared.example_ids(group_ids, n, common.axes),
    dtype,
    cap=cap,
    fused=common.fused,
    key_gradient=key_gradient,
    axes=common.axes,
    block_size=common.block_size,
  )
  if common.include_positive:
    own = [
      ops.similarity.capped_exp(jax.lax.stop_gradient(x), cap) for x, _ in sides
    ]
    totals = [total + constant for total, constant in zip(totals, own)]
  return totals


def _anchors(
  log_u, temperature, cosine, common, count
) -> ops.similarity.Anchors:
  _shared.check_negative_mass(common.negative_mass)
  scale = jnp.broadcast_to(
    1.0 / jnp.asarray(temperature, jnp.float32), count.shape
  )
  log_u = jax.lax.stop_gradient(jnp.asarray(log_u, jnp.float32))
  mass = jax.lax.stop_gradient(jnp.asarray(common.negative_mass, jnp.float32))
  factor = jnp.where(count > 0, mass / jnp.maximum(count, 1.0), 0.0)
  return ops.similarity.Anchors(scale, log_u - scale * cosine, factor)


def _cap(value: Scalar | None) -> jax.Array:
  """The log-weight from which on exp is continued by its tangent."""
  if value is None:
    return jnp.float32(ops.similarity.LARGEST_LOG)
  if jnp.shape(value) != ():
    raise ValueError(
      f"log_weight_cap must be a scalar; got shape {jnp.shape(value)}."
    )
  if not isinstance(value, jax.core.Tracer) and not math.isfinite(value):
    raise ValueError(
      f"log_weight_cap must be a finite number or None; got {value}."
    )
  cap = jax.lax.stop_gradient(jnp.asarray(value, jnp.float32))
  return jnp.minimum(cap, ops.similarity.LARGEST_LOG)
