r"""Estimates of an anchor's log-partition over its negatives.

.. math::
  Z_i = c_0 + \kappa \, E_{x^-} \exp(D_i(x^-)), \qquad
  D_i(x^-) = \big( \langle q_i, x^- \rangle - \langle q_i, k_i \rangle \big)
    / \tau_i

over all negatives of the data: `log_partition` and its relatives estimate it
from one batch, `prototype_log_partition` is a network that predicts it, and
`amortized_loss` fits such a network.

`group_ids`, `axes` and `block_size` are those of `losses.contrastive`, except
that an anchor's only positive is its own key: Z_i has to be a property of the
example, whatever else is in the batch, or it could not be stored. Other rows of
its group are left out.

With the features `reference` = (r_q, r_k) of a frozen model for the same rows, of
any width, margins are those of both models' differences (DRRho-CLIP):

.. math:: D_{ij} = \big( (s_{ij} - s_{ii}) - (r_{ij} - r_{ii}) \big) / \tau_i,
  \qquad r_{ij} = \langle r_{q,i}, r_{k,j} \rangle

so a negative weighs much where the model ranks it above the reference. The
reference has no gradient. Wei et al., "Model steering: learning with a reference
model improves generalization bounds and scaling laws", 2025.

Values are float32. All functions raise `ValueError`,
naming the argument, on wrong shapes, types or ranges.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from contrastive_jax import ops
from contrastive_jax._types import Axes, BlockSize, Reference, Scalar
from contrastive_jax.losses import _shared


def log_partition(
  queries: jax.Array,
  keys: jax.Array,
  *,
  temperature: Scalar,
  include_positive: bool = False,
  negative_mass: Scalar = 1.0,
  group_ids: jax.Array | None = None,
  reference: Reference = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""Each anchor's log-partition as the batch estimates it.

  .. math::
    \log \hat Z_i = \log \Big( c_0 + \frac{\kappa}{|N_i|} \sum_{j \in N_i}
      \exp(D_{ij}) \Big), \qquad
    D_{ij} = \langle q_i, k_j \rangle / \tau_i - \langle q_i, k_i \rangle /
      \tau_i

  with N_i the keys of all other groups. Z-hat is an unbiased estimate of Z, the
  mean over all negatives of the data; its logarithm is not of log Z, by about
  :math:`-\mathrm{Var}(e^D) / (2 |N_i| Z^2)`, which is why small batches need
  more than this. It is differentiable: its gradient is that of `decoupled`, and
  that of `info_nce` for c_0 = 1 and kappa = N - 1.

  Args:
    queries: [N, d] unit-norm anchors.
    keys: [N, d] unit-norm keys; row i is the positive of query i.
    temperature: tau > 0, a scalar or one for each anchor, [N].
    include_positive: whether c_0 is 1 or 0.
    negative_mass: kappa > 0, the weight of the mean over negatives.
    group_ids: [N] integers; rows of one group are no negatives of each other.
    reference: features of a frozen model for the same rows, [N, e] queries and
      keys, or None; see the module's docstring.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.

  Returns:
    [N] float32. Of an anchor without negatives (N = 1, or one group) it is
    log c_0: 0, or -inf for "nothing seen"; without gradient.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    The global contrastive loss: Yuan et al., "Provable stochastic optimization
    for global contrastive learning", 2022, eq. 3; the bias of small batches:
    Chen et al., "Why do we need large batch sizes in contrastive learning? A
    gradient-bias perspective", 2022.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(4)
  >>> [round(v, 4) for v in log_partition(x, x, temperature=0.5).tolist()]
  [-2.0, -2.0, -2.0, -2.0]
  """
  queries, keys = _shared.steered(reference, queries=queries, keys=keys)
  (queries, keys), dtype = _shared.widen(queries, keys)
  n = queries.shape[0]
  temperature = _shared.check_temperature("temperature", temperature, n)
  _shared.check_negative_mass(negative_mass)
  ops.check_group_ids(group_ids, n)
  rows = _sums(
    queries, keys, temperature, group_ids, dtype, axes, block_size
  ).rows
  return _finish(
    rows,
    _shared.paired(queries, keys) / temperature,
    _shared.num_negatives(group_ids, n, axes),
    include_positive,
    negative_mass,
  )


def log_partition_clip(
  image: jax.Array,
  text: jax.Array,
  *,
  temperature: Scalar,
  text_temperature: Scalar | None = None,
  include_positive: bool = False,
  negative_mass: Scalar = 1.0,
  group_ids: jax.Array | None = None,
  reference: Reference = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> tuple[jax.Array, jax.Array]:
  """`log_partition` from image to text and from text to image.

  One pass over the similarities serves both, unless temperatures differ.

  Args:
    image: [N, d] unit norm.
    text: [N, d] unit norm; row i describes image i.
    temperature: tau > 0, a scalar or one for each image, [N].
    text_temperature: those of the texts; None is `temperature`.
    include_positive: see `log_partition`.
    negative_mass: see `log_partition`.
    group_ids: see `log_partition`.
    reference: see `log_partition`; of both sides.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.

  Returns:
    Two arrays [N] float32: of the images among the texts, of the texts among
    the images.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  >>> import jax.numpy as jnp
  >>> x, y = jnp.eye(2), jnp.array([[0.6, 0.8], [0.0, 1.0]])
  >>> to_text, to_image = log_partition_clip(x, y, temperature=1.0)
  >>> [round(v, 4) for v in (*to_text.tolist(), *to_image.tolist())]
  [-0.6, -0.2, 0.2, -1.0]
  """
  image, text = _shared.steered(reference, image=image, text=text)
  (image, text), dtype = _shared.widen(image, text)
  n = image.shape[0]
  of_image = _shared.check_temperature("temperature", temperature, n)
  of_text = of_image
  if text_temperature is not None:
    of_text = _shared.check_temperature("text_temperature", text_temperature, n)
  _shared.check_negative_mass(negative_mass)
  ops.check_group_ids(group_ids, n)
  options = (group_ids, dtype, axes, block_size)
  if text_temperature is None and jnp.ndim(of_image) == 0:
    sums = _sums(image, text, of_image, *options, columns=True)
    to_text, to_image = sums.rows, sums.columns
  else:
    to_text = _sums(image, text, of_image, *options).rows
    to_image = _sums(text, image, of_text, *options).rows
  cosine = _shared.paired(image, text)
  count = _shared.num_negatives(group_ids, n, axes)
  return (
    _finish(to_text, cosine / of_image, count, include_positive, negative_mass),
    _finish(to_image, cosine / of_text, count, include_positive, negative_mass),
  )


def log_partition_nt_xent(
  first_view: jax.Array,
  second_view: jax.Array,
  *,
  temperature: Scalar,
  include_positive: bool = False,
  negative_mass: Scalar = 1.0,
  group_ids: jax.Array | None = None,
  reference: Reference = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> tuple[jax.Array, jax.Array]:
  """`log_partition` of two views, each among both views of all other rows.

  An anchor's positive is the other view of its example, its negatives the
  2(N - 1) rows of the other examples.

  Args:
    first_view: [N, d] unit norm.
    second_view: [N, d] unit norm; row i shows the same example.
    temperature: tau > 0, a scalar or one for each example, [N].
    include_positive: see `log_partition`.
    negative_mass: see `log_partition`.
    group_ids: see `log_partition`.
    reference: see `log_partition`; of both sides.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.

  Returns:
    Two arrays [N] float32: of the first view's rows, of the second's. A table of
    one entry an example keeps the log of the mean of both Z-hat (SogCLR).

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(2)
  >>> first, second = log_partition_nt_xent(x, x, temperature=1.0)
  >>> (first.tolist(), second.tolist())
  ([-1.0, -1.0], [-1.0, -1.0])
  """
  first_view, second_view = _shared.steered(
    reference, first_view=first_view, second_view=second_view
  )
  (first_view, second_view), dtype = _shared.widen(first_view, second_view)
  n = first_view.shape[0]
  temperature = _shared.check_temperature("temperature", temperature, n)
  _shared.check_negative_mass(negative_mass)
  ops.check_group_ids(group_ids, n)
  if jnp.ndim(temperature):
    temperature = jnp.tile(temperature, 2)
  ids = jnp.tile(_shared.example_ids(group_ids, n, axes), 2)
  anchors, keys = _shared.of_views(first_view, second_view, reference)
  rows = _sums(anchors, keys, temperature, ids, dtype, axes, block_size).rows
  positive = jnp.tile(_shared.paired(first_view, second_view), 2) / temperature
  count = _shared.num_negatives(ids, 2 * n, axes)
  found = _finish(rows, positive, count, include_positive, negative_mass)
  return found[:n], found[n:]


def amortized_loss(
  prediction: jax.Array,
  log_partition: jax.Array,
  *,
  objective: Literal["linear", "l2", "kl"] = "linear",
  target: jax.Array | None = None,
) -> jax.Array:
  r"""Fits a network's nu to the log-partition.

  With the batch's estimate Z-hat, and a target T that is Z-hat if none is given:

  .. math::
    \text{linear} &: \quad e^{-\nu_i} \hat Z_i + \nu_i - 1 \ge \log \hat Z_i \\
    \text{l2} &: \quad (\nu_i - \log T_i)^2 \\
    \text{kl} &: \quad e^{-\nu_i} \hat Z_i (\log T_i - \nu_i - 1)
      + \hat Z_i / T_i

  "linear" (NeuCLIP) is linear in Z-hat: its mean over batches is least at nu =
  log Z, where regressing log Z-hat would end at the biased E[log Z-hat]. The least
  value is log Z itself, which makes it the deterministic twin of the augmented loss.

  "l2" and "kl" are AmorLIP's. "kl" is the divergence of an anchor's weights under
  the network, exp(s - nu), from those under the target, exp(s) / T, both of which
  are no distributions, so that their masses count; it is least at nu = log T.
  The published code leaves both masses out, e^-nu Z-hat (log T - nu), which is
  least at log T + 1, divides by N once more, and adds 0.1 times "l2".

  Args:
    prediction: [N] floating, nu. The gradient flows here alone; stop it at the
      features, which `prototype_log_partition` does.
    log_partition: [N] floating, log Z-hat of the batch. Where it is not finite
      the loss is 0.
    objective: "linear", "l2" or "kl".
    target: [N] floating, log T, such as a mean of Z-hat and what an average of the
      network over earlier steps predicts; finite where `log_partition` is. None is
      `log_partition`. "linear" has none.

  Returns:
    [N] float32. Beyond log Z-hat - nu = 50 the exponential is continued by its
    tangent, so that it stays finite.

  Raises:
    ValueError: on wrong shapes, types or an unknown objective, naming the argument.

  References:
    "NeuCLIP: efficient large-scale CLIP training with neural normalizer
    optimization", 2025; Sun et al., "AmorLIP: efficient language-image pretraining
    via amortization", 2025, and its code (`LambdaLoss`).

  >>> import jax.numpy as jnp
  >>> amortized_loss(jnp.array([0.5, -1.0]), jnp.array([0.5, -1.0])).tolist()
  [0.5, -1.0]
  >>> nu, log_z = jnp.array([1.0]), jnp.array([0.5])
  >>> amortized_loss(nu, log_z, objective="l2").tolist()
  [0.25]
  """
  _shared.check_row("prediction", prediction, None)
  n = prediction.shape[0]
  _shared.check_row("log_partition", log_partition, n)
  if objective not in ("linear", "l2", "kl"):
    raise ValueError(f"objective must be linear, l2 or kl; got {objective!r}.")
  if target is None:
    target = log_partition
  elif objective == "linear":
    raise ValueError("target must be None for the linear objective.")
  _shared.check_row("target", target, n)
  prediction, batch, target = (
    jnp.asarray(x, jnp.float32) for x in (prediction, log_partition, target)
  )
  batch, target = jax.lax.stop_gradient((batch, target))
  seen = jnp.isfinite(batch)
  known = jnp.where(seen, target, 0.0)
  if objective == "l2":
    return jnp.where(seen, (prediction - known) ** 2, 0.0)
  gap = jnp.where(seen, batch - prediction, 0.0)
  exponential = ops.similarity.capped_exp(gap, ops.similarity.LARGEST_LOG)
  if objective == "linear":
    return jnp.where(seen, exponential + prediction - 1.0, 0.0)
  mass = ops.similarity.capped_exp(
    jnp.where(seen, batch - known, 0.0), ops.similarity.LARGEST_LOG
  )
  apart = exponential * (known - prediction - 1.0) + mass
  return jnp.where(seen, apart, 0.0)


def init_prototypes(
  key: jax.Array, num_prototypes: int, dim: int
) -> dict[str, jax.Array]:
  """Parameters of `prototype_log_partition`: random unit prototypes.

  NeuCLIP takes 4096 for each modality, and starts them anew every 500 steps
  from keys of a batch: `{"prototypes": keys}` is that.

  Args:
    key: a PRNG key.
    num_prototypes: m >= 1.
    dim: d >= 1, the features' dimension.

  Returns:
    {"prototypes": [m, d] float32}.

  Raises:
    ValueError: if a number is not an integer >= 1.

  >>> import jax
  >>> init_prototypes(jax.random.key(0), 3, 2)["prototypes"].shape
  (3, 2)
  """
  for name, value in (("num_prototypes", num_prototypes), ("dim", dim)):
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
      raise ValueError(f"{name} must be an integer >= 1; got {value!r}.")
  rows = jax.random.normal(key, (num_prototypes, dim))
  return {"prototypes": ops.l2_normalize(rows)}


def prototype_log_partition(
  params: dict[str, jax.Array],
  queries: jax.Array,
  keys: jax.Array,
  *,
  temperature: Scalar,
  include_positive: bool = False,
  negative_mass: Scalar = 1.0,
  eps: float = 1e-14,
) -> jax.Array:
  r"""Predicts the log-partition from learned prototypes of the negatives.

  .. math:: \nu_i = \log \Big( \epsilon + c_0 + \frac{\kappa}{m}
    \sum_{j=1}^m \exp\big( (\cos(q_i, W_j) - \langle q_i, k_i \rangle) / \tau_i
    \big) \Big)

  A network with the form of what it predicts, and one state for all examples,
  so nothing gets stale between an example's visits. No gradient reaches the
  features or the temperature.

  Args:
    params: {"prototypes": [m, d]}, see `init_prototypes`; of any norm.
    queries: [N, d] unit-norm anchors.
    keys: [N, d] unit-norm keys; row i is the positive of query i.
    temperature: tau > 0, a scalar or one for each anchor, [N].
    include_positive: whether c_0 is 1 or 0.
    negative_mass: kappa > 0.
    eps: epsilon > 0, which bounds the prediction from below.

  Returns:
    [N] float32: rows of this device; it needs nothing of other devices.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    "NeuCLIP: efficient large-scale CLIP training with neural normalizer
    optimization", 2025.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(2)
  >>> params = {"prototypes": jnp.array([[-2.0, 0.0]])}
  >>> prototype_log_partition(params, x, x, temperature=1.0).tolist()
  [-2.0, -1.0]
  """
  ops.check_features(queries=queries, keys=keys)
  (queries, keys), _ = _shared.widen(queries, keys)
  n, dim = queries.shape
  temperature = _shared.check_temperature("temperature", temperature, n)
  _shared.check_negative_mass(negative_mass)
  _shared.check_range("eps", eps, "a finite number > 0", lambda x: x > 0)
  prototypes = params["prototypes"]
  if prototypes.ndim != 2 or prototypes.shape[1] != dim:
    raise ValueError(
      f"params['prototypes'] must have shape [m, {dim}]; got"
      f" {tuple(prototypes.shape)}."
    )
  queries, keys, temperature = jax.lax.stop_gradient(
    (queries, keys, jnp.asarray(temperature, jnp.float32))
  )
  directions = ops.l2_normalize(prototypes.astype(jnp.float32))
  cosine = jnp.dot(queries, directions.T, precision=jax.lax.Precision.HIGHEST)
  margin = cosine - _shared.paired(queries, keys)[:, None]
  margin /= jnp.broadcast_to(temperature, (n,))[:, None]
  mean = jax.nn.logsumexp(margin, axis=1) - math.log(prototypes.shape[0])
  floor = math.log(eps + (1.0 if include_positive else 0.0))
  return jnp.logaddexp(mean + jnp.log(negative_mass), jnp.float32(floor))


def _sums(
  queries, keys, temperature, group_ids, dtype, axes, block_size, columns=False
):
  """Log-sum-exp of the logits of negatives."""
  scale = 1.0 / temperature
  if jnp.ndim(temperature):
    # Rows with a factor of their own are not of the features' type any more.
    queries, dtype = queries * scale[:, None], jnp.dtype(jnp.float32)
    scale = 1.0
  return ops.row_column_sums(
    queries,
    keys,
    scale=scale,
    group_ids=group_ids,
    exclude="group",
    columns=columns,
    dtype=dtype,
    axes=axes,
    block_size=block_size,
  )


def _finish(rows, positive, count, include_positive, negative_mass):
  """log(c0 + kappa / count * exp(rows - positive)), -inf where that is 0."""
  empty = jnp.isneginf(rows)
  log_mean = jnp.where(empty, 0.0, rows) - positive
  log_mean += jnp.log(negative_mass) - jnp.log(jnp.maximum(count, 1.0))
  if include_positive:
    return jnp.where(empty, 0.0, jnp.logaddexp(log_mean, 0.0))
  return jnp.where(empty, -jnp.inf, log_mean)
