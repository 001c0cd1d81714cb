r"""Hard-negative reweighting: HN-NCE of two modalities, HCL of two views.

A small batch has few negatives that are hard. Each negative is weighted by how near
it is to the anchor, with weights of mean 1 over the batch's negatives:

.. math::
  \ell_i = -\frac{1}{|P_i|} \sum_{p \in P_i} s_{ip}
    + \log \Big( \alpha \sum_{p \in P_i} e^{s_{ip}} + G_i \Big), \qquad
  G_i = \max\Big( \frac{R_i - \tau^+ |N_i| \, \bar p_i}{1 - \tau^+}, \;
    |N_i| e^{-1/\tau} \Big)

.. math::
  R_i = \sum_{j \in N_i} w_{ij} e^{s_{ij}}
    = |N_i| \frac{\sum_{j \in N_i} e^{(1 + \beta) s_{ij}}}
        {\sum_{j \in N_i} e^{\beta s_{ij}}}, \qquad
  w_{ij} = \frac{|N_i| e^{\beta s_{ij}}}{\sum_{k \in N_i} e^{\beta s_{ik}}}

with P_i an anchor's positives, N_i its negatives and p-bar the mean of
:math:`e^{s_{ip}}` over the positives. beta >= 0 says how much the hard ones count,
alpha what the positive counts in the denominator, and tau+ is the share of
negatives that are of the anchor's own class without a label saying so, which is
taken off them (debiasing). HN-NCE has tau+ = 0, HCL alpha = 1; with beta = 0,
alpha = 1 and tau+ = 0 it is InfoNCE.

The gradient flows through the weights: the loss is differentiated as it is printed.
So does HCL's published code, where the importance weights stay in the graph;
HN-NCE's was not published. R is two log-sum-exps at the temperatures
:math:`\tau / (1 + \beta)` and :math:`\tau / \beta`, so no array of N x N elements is
formed with blocks, and value and gradient take eight products of N x N x d where
InfoNCE takes four; with groups, whose positives are summed up apart, twelve.

`group_ids`, `axes` and `block_size` are those of `losses.contrastive`. With tau+ = 0,
a Python number, the bound of G is left out: features of unit norm never reach it. An
anchor without negatives (N = 1, or all rows of one group) has G = 0; with alpha = 0
as well its loss is 0.

References:
  Radenovic et al., "Filtering, distillation, and hard negatives for vision-language
  pre-training", 2023 (HN-NCE); Robinson et al., "Contrastive learning
  with hard negative samples", 2021 (HCL), and its code, whose bound of G
  this is; Chuang et al., "Debiased contrastive learning", 2020 (tau+).
"""

import math

import jax
import jax.numpy as jnp

from contrastive_jax import ops
from contrastive_jax._types import Axes, BlockSize, Scalar
from contrastive_jax.losses import _shared


def hard_negative_clip(
  image: jax.Array,
  text: jax.Array,
  *,
  logit_scale: Scalar,
  beta: Scalar,
  alpha: Scalar = 1.0,
  tau_plus: Scalar = 0.0,
  group_ids: jax.Array | None = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""HN-NCE: hard-negative InfoNCE of image and text, both directions averaged.

  The formula is the module's, of images among the texts and of texts among the
  images, with :math:`s_{ij} = \langle v_i, t_j \rangle / \tau` and
  :math:`1 / \tau` the logit scale.

  Args:
    image: [N, d] unit norm.
    text: [N, d] unit norm; row i describes image i.
    logit_scale: 1 / tau > 0, a number or a traced scalar.
    beta: >= 0, a number or a traced scalar; 0 weights all negatives alike.
    alpha: >= 0, a number, or a traced scalar > 0.
    tau_plus: in [0, 1), a number, or a traced scalar in (0, 1).
    group_ids: see `losses.contrastive`.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.

  Returns:
    [N] float32, one loss a pair.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Radenovic et al., "Filtering, distillation, and hard negatives for
    vision-language pre-training", 2023.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(4)
  >>> loss = hard_negative_clip(x, x, logit_scale=2.0, beta=0.5)
  >>> [round(v, 4) for v in loss.tolist()]  # All negatives are as hard.
  [0.3408, 0.3408, 0.3408, 0.3408]
  """
  ops.check_features(image=image, text=text)
  (image, text), dtype = _shared.widen(image, text)
  ops.check_positive("logit_scale", logit_scale)
  _check_scalars(beta, alpha, tau_plus)
  n = image.shape[0]
  ops.check_group_ids(group_ids, n)

  def sums(factor, exclude, positives="none"):
    found = ops.row_column_sums(
      image,
      text,
      scale=factor * logit_scale,
      group_ids=group_ids,
      exclude=exclude,
      positives=positives,
      columns=True,
      dtype=dtype,
      axes=axes,
      block_size=block_size,
    )
    return (found.rows, found.row_positive), (
      found.columns,
      found.column_positive,
    )

  count = _shared.num_negatives(group_ids, n, axes)
  hard = sums(1.0 + beta, "group")
  easy = [(jnp.log(jnp.maximum(count, 1.0)), None)] * 2
  if not _is_zero(beta):
    easy = sums(beta, "group")
  if group_ids is None:
    positive = logit_scale * _shared.paired(image, text)
    positives, size = [(positive, positive)] * 2, jnp.ones(n, jnp.float32)
  else:
    positives = sums(1.0, "not_group", "group")
    size = n * ops.axis_size(axes) - count
  to_text, to_image = (
    _loss(h, e, p, mean, count, size, logit_scale, alpha, tau_plus)
    for (h, _), (e, _), (p, mean) in zip(hard, easy, positives)
  )
  return 0.5 * (to_text + to_image)


def hard_negative_nt_xent(
  first_view: jax.Array,
  second_view: jax.Array,
  *,
  temperature: Scalar,
  beta: Scalar,
  alpha: Scalar = 1.0,
  tau_plus: Scalar = 0.0,
  group_ids: jax.Array | None = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""HCL: hard-negative NT-Xent of two views, debiased.

  The formula is the module's, of each of the 2N rows of both views among the
  others, with :math:`s_{ij} = \langle z_i, z_j \rangle / \tau`. The positive is the
  other view, the negatives are the 2(N - 1) rows of the other examples; with groups
  the positives are all other rows of the anchor's group.

  Args:
    first_view: [N, d] unit norm.
    second_view: [N, d] unit norm; row i shows the same example.
    temperature: tau > 0, a number or a traced scalar.
    beta: >= 0, a number or a traced scalar; 0 weights all negatives alike.
    alpha: >= 0, a number, or a traced scalar > 0; HCL has 1.
    tau_plus: in [0, 1), a number, or a traced scalar in (0, 1): the share of
      negatives of the anchor's class.
    group_ids: see `losses.contrastive`.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.

  Returns:
    [2N] float32: N values of the first view, then N of the second. (On several
    devices: the local rows of the first view, then those of the second.)

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Robinson et al., "Contrastive learning with hard negative samples", 2021.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(2)
  >>> loss = hard_negative_nt_xent(x, x, temperature=1.0, beta=1.0)
  >>> [round(v, 4) for v in loss.tolist()]  # All negatives are as hard.
  [0.5514, 0.5514, 0.5514, 0.5514]
  """
  ops.check_features(first_view=first_view, second_view=second_view)
  (first_view, second_view), dtype = _shared.widen(first_view, second_view)
  ops.check_positive("temperature", temperature)
  _check_scalars(beta, alpha, tau_plus)
  n = first_view.shape[0]
  ops.check_group_ids(group_ids, n)
  scale = 1.0 / temperature
  z = jnp.concatenate([first_view, second_view])
  ids = jnp.tile(_shared.example_ids(group_ids, n, axes), 2)

  def sums(factor, exclude, positives="none"):
    return ops.row_column_sums(
      z,
      z,
      scale=factor * scale,
      group_ids=ids,
      exclude=exclude,
      positives=positives,
      dtype=dtype,
      axes=axes,
      block_size=block_size,
    )

  total = 2 * n * ops.axis_size(axes)
  if group_ids is None:
    count = jnp.full(2 * n, total - 2.0, jnp.float32)
    positive = jnp.tile(scale * _shared.paired(first_view, second_view), 2)
    mean, size = positive, jnp.ones(2 * n, jnp.float32)
  else:
    count = _shared.num_negatives(ids, 2 * n, axes)
    positive, _, mean, _ = sums(1.0, "not_others", "others")
    size = total - 1.0 - count
  hard = sums(1.0 + beta, "group").rows
  easy = jnp.log(jnp.maximum(count, 1.0))
  if not _is_zero(beta):
    easy = sums(beta, "group").rows
  return _loss(hard, easy, positive, mean, count, size, scale, alpha, tau_plus)


def _loss(hard, easy, positive, mean, count, size, scale, alpha, tau_plus):
  """One direction's losses [n].

  Args:
    hard: [n] log-sum-exp of (1 + beta) s over the negatives, -inf without any.
    easy: [n] that of beta s.
    positive: [n] log-sum-exp of s over the positives.
    mean: [n] mean of s over the positives.
    count: [n] number of negatives.
    size: [n] number of positives.
    scale: 1 / tau.
    alpha: see the module's docstring.
    tau_plus: see the module's docstring.
  """
  empty = count < 0.5
  log_count = jnp.log(jnp.maximum(count, 1.0))
  # Replaced before it is used: an empty sum has no gradient.
  negative = jnp.where(empty, 0.0, hard) + (
    log_count - jnp.where(empty, 0.0, easy)
  )
  if not _is_zero(tau_plus):
    taken = _log(tau_plus) + log_count + positive - jnp.log(size)
    gap, least = taken - negative, log_count - scale
    negative -= jnp.log1p(-jnp.asarray(tau_plus, jnp.float32))
    # The slope of log(1 - e^gap) has no bound where G is at its own.
    left = jnp.log(-jnp.expm1(jnp.where(gap < 0.0, gap, -1.0)))
    above = (gap < 0.0) & (negative + left > least)
    left = jnp.log(-jnp.expm1(jnp.where(above, gap, -1.0)))
    negative = jnp.where(above, negative + left, least)
  if _is_zero(alpha):
    return jnp.where(empty, 0.0, negative - mean)
  weighted = _log(alpha) + positive
  negative = jnp.where(empty, weighted, negative)
  total = jnp.where(empty, weighted, jnp.logaddexp(weighted, negative))
  return total - mean


def _log(value: Scalar) -> jax.Array:
  return jnp.log(jnp.asarray(value, jnp.float32))


def _is_zero(value: Scalar) -> bool:
  """Whether it is known to be 0."""
  return _shared.is_number(value) and float(value) == 0.0


def _check_scalars(beta: Scalar, alpha: Scalar, tau_plus: Scalar) -> None:
  """Checks what is known of them; traced values are checked for shape only."""
  for name, value, expected, high in (
    ("beta", beta, "a finite number >= 0", math.inf),
    ("alpha", alpha, "a finite number >= 0", math.inf),
    ("tau_plus", tau_plus, "in [0, 1)", 1.0),
  ):
    if jnp.shape(value) != ():
      raise ValueError(
        f"{name} must be a scalar; got shape {jnp.shape(value)}."
      )
    known = value
    if hasattr(value, "dtype") and not isinstance(value, jax.core.Tracer):
      known = float(value)
    _shared.check_range(
      name, known, expected, lambda x, high=high: 0 <= x < high
    )
