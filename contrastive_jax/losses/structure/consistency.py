"""Geometric consistency: similarities that agree between modalities.

Features are expected to have unit norm, which is not checked and which the
formula does not need. Everything is computed in float32, at full precision,
whatever the input type.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import ops
from contrastive_jax._types import Axes, Scalar

Form = Literal["auto", "gram", "direct"]

_FORMS = ("auto", "gram", "direct")


def geometric_consistency(
  image: jax.Array,
  text: jax.Array,
  image_augmented: jax.Array | None = None,
  text_augmented: jax.Array | None = None,
  *,
  intra: Scalar = 1.0,
  inter: Scalar = 1.0,
  augmented: Scalar = 1.0,
  paired: Scalar = 1.0,
  axes: Axes = None,
  form: Form = "auto",
) -> jax.Array:
  r"""Similarities that agree between modalities and under augmentation.

  .. math::
    \ell_j =& \; \alpha_{\mathrm{intra}} \sum_{k=1}^N \big(
        \langle v_j, v_k \rangle - \langle t_j, t_k \rangle \big)^2
      + \alpha_{\mathrm{inter}} \sum_{k=1}^N \big(
        \langle v_j, t_k \rangle - \langle v_k, t_j \rangle \big)^2 \\
      &+ \alpha_{\mathrm{augmented}} \sum_{k=1}^N \big[ \big(
        \langle v_j, v_k \rangle - \langle v^a_j, v^a_k \rangle \big)^2
      + \big( \langle t_j, t_k \rangle - \langle t^a_j, t^a_k \rangle
        \big)^2 \big] \\
      &+ \alpha_{\mathrm{paired}} \big(
        \langle v_j, t_j \rangle - \langle v^a_j, t^a_j \rangle \big)^2

  The similarities are plain cosines, without temperature. A row is a *sum* over
  the global batch, so that the mean of the rows is :math:`1/N` times the sum
  over all :math:`N^2` pairs, as published. CyCLIP's losses have the same
  normalisation: the mean of the rows with `intra=a, inter=b` and no augmented
  arrays is `a` times its in-modal and `b` times its cross-modal cyclic loss (it
  takes a = b = 0.25).

  No matrix of pairs is needed. With :math:`D = V - T` and :math:`M = V + T`,

  .. math::
    VV^\top - TT^\top = \tfrac12 (D M^\top + M D^\top), \qquad
    VT^\top - TV^\top = \tfrac12 (D M^\top - M D^\top),

  hence both sums over k are quadratic forms of row j in d x d matrices:

  .. math::
    \tfrac14 \big[ D_j (M^\top M) D_j^\top + M_j (D^\top D) M_j^\top \big]
    \pm \tfrac12 D_j (M^\top D) M_j^\top .

  Only these matrices are summed over devices. For the sake of float32,
  differences are taken before products, so that the result is accurate where
  the modalities nearly coincide, and the means of D and M are split off the
  matrices, so that it stays so where all features point to one side. (The mean
  over j of :math:`D_j (M^\top M) D_j^\top` alone is that of the first two terms
  at equal weights, but its rows are not theirs.)

  Args:
    image: [N, d] v, unit norm.
    text: [N, d] t, unit norm; row i describes image i.
    image_augmented: [N, d] v^a, unit norm, features of another view of the
      images; None leaves out the last two terms.
    text_augmented: [N, d] t^a, unit norm, features of another caption; given
      together with `image_augmented`.
    intra: weight >= 0 of the in-modal term: a number or a traced scalar, as the
      others. A term whose weight is the number 0 is not computed.
    inter: weight of the cross-modal term.
    augmented: weight of both in-modal terms under augmentation.
    paired: weight of the term of each pair under augmentation.
    axes: name or names of the mapped axes (`shard_map`, `pmap` or
      `vmap(axis_name=...)`) over which the batch is split. The sums run over
      the global batch; gradients are those of the sum of all devices' values.
      None means that the arrays hold the whole batch.
    form: "gram" computes the quadratic forms above: O(N d^2) operations and
      O(N d) memory, and sends d x d sums. "direct" forms the [n, N] matrices of
      the n rows of this device with all rows, which it gathers. "auto" is
      "gram" if the global batch has more rows than columns. The results are
      the same up to rounding.

  Returns:
    [N] float32, one loss a pair (on several devices: of this device's pairs).

  Raises:
    ValueError: naming the argument, on arrays of wrong or different shapes or
      types, a weight that is negative or no finite scalar, one augmented array
      without the other when a term needs both, an unknown `form`, or `axes`
      that are not mapped.

  References:
    Jiang et al., "Understanding and constructing latent modality structures in
    multi-modal representation learning", 2023, the losses L_GC (the first two
    terms) and L_GC^a (the others); L_GC is the sum of the in-modal and the
    cross-modal consistency of Goel et al., "CyCLIP: cyclic contrastive
    language-image pretraining", 2022.

  >>> import jax.numpy as jnp
  >>> v, t = jnp.eye(2), jnp.array([[0.6, 0.8], [0.0, 1.0]])
  >>> [round(x, 4) for x in geometric_consistency(v, t).tolist()]
  [1.28, 1.28]
  >>> loss = geometric_consistency(v, t, t, t, intra=0.0, inter=0.0)
  >>> [round(x, 4) for x in loss.tolist()]
  [0.8, 0.64]
  """
  given = {
    name: array
    for name, array in (
      ("image_augmented", image_augmented),
      ("text_augmented", text_augmented),
    )
    if array is not None
  }
  ops.check_features(image=image, text=text, **given)
  intra = _check_weight("intra", intra)
  inter = _check_weight("inter", inter)
  augmented = _check_weight("augmented", augmented)
  paired = _check_weight("paired", paired)
  if len(given) == 1 and not (_is_zero(augmented) and _is_zero(paired)):
    missing = "text" if "image_augmented" in given else "image"
    raise ValueError(
      "image_augmented and text_augmented must be given together, unless"
      f" augmented and paired are 0; got {missing}_augmented=None."
    )
  if form not in _FORMS:
    raise ValueError(f"form must be one of {_FORMS}; got {form!r}.")
  num_rows, num_columns = image.shape
  size = num_rows * ops.axis_size(axes)
  gram = form == "gram" or (form == "auto" and size > num_columns)
  row_sums = _gram_row_sums if gram else _direct_row_sums

  # Once, before they are used: the gradients of all uses are then added in
  # float32 and rounded to the input's type only at the end.
  v, t = image.astype(jnp.float32), text.astype(jnp.float32)
  total = jnp.zeros((num_rows,), jnp.float32)
  if not (_is_zero(intra) and _is_zero(inter)):
    total += row_sums(v, t, intra, inter, axes)
  if image_augmented is None or text_augmented is None:
    return total
  va = image_augmented.astype(jnp.float32)
  ta = text_augmented.astype(jnp.float32)
  if not _is_zero(augmented):
    total += row_sums(v, va, augmented, 0.0, axes)
    total += row_sums(t, ta, augmented, 0.0, axes)
  if not _is_zero(paired):
    # <v, t> - <va, ta>, with the differences taken before the products.
    change = 0.5 * jnp.sum((v - va) * (t + ta) + (v + va) * (t - ta), axis=1)
    total += paired * jnp.square(change)
  return total


def _gram_row_sums(
  first: jax.Array, second: jax.Array, same: Scalar, cross: Scalar, axes: Axes
) -> jax.Array:
  """Row sums of `same` (FF' - SS')^2 + `cross` (FS' - SF')^2: [n]."""
  d, m = first - second, first + second
  # Features lie in a cone: products with their mean would drown the rest. It
  # is taken out of the Gram matrices, to which it adds a multiple of its own
  # square and nothing else.
  size = d.shape[0] * ops.axis_size(axes)
  means = jnp.stack([jnp.sum(d, axis=0), jnp.sum(m, axis=0)])
  mean_d, mean_m = ops.sum_over(means, axes) / size
  d_k, m_k = d - mean_d, m - mean_m
  dm, md = _matmul(d, mean_m), _matmul(m, mean_d)
  rows = same * jnp.square(dm + md) + cross * jnp.square(dm - md)
  rows *= 0.25 * size
  squares = _quadratic(d, ops.sum_over(_gram(m_k), axes))
  squares += _quadratic(m, ops.sum_over(_gram(d_k), axes))
  rows += 0.25 * (same + cross) * squares
  if isinstance(same, float) and same == cross:
    return rows
  mixed = _matmul(d, ops.sum_over(_matmul(m_k.T, d_k), axes))
  return rows + 0.5 * (same - cross) * jnp.sum(mixed * m, axis=1)


def _direct_row_sums(
  first: jax.Array, second: jax.Array, same: Scalar, cross: Scalar, axes: Axes
) -> jax.Array:
  """The sums of `_gram_row_sums`, from the similarities themselves."""
  d, m = first - second, first + second
  # [n, N] both; the second is the first's transpose on one device alone.
  dm = _matmul(d, ops.gather_rows(m, axes).T)
  md = _matmul(m, ops.gather_rows(d, axes).T)
  rows = jnp.zeros(d.shape[:1], jnp.float32)
  if not _is_zero(same):
    rows += 0.25 * same * jnp.sum(jnp.square(dm + md), axis=1)
  if not _is_zero(cross):
    rows += 0.25 * cross * jnp.sum(jnp.square(dm - md), axis=1)
  return rows


# Plain autodiff knows nothing of symmetry and would take twice the products.


@jax.custom_jvp
def _gram(x: jax.Array) -> jax.Array:
  """Inner products of columns: [n, d] -> [d, d]."""
  return _matmul(x.T, x)


@_gram.defjvp
def _gram_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  half = _matmul(x.T, dx)
  return _gram(x), half + half.T


@jax.custom_jvp
def _quadratic(x: jax.Array, gram: jax.Array) -> jax.Array:
  """x_j G x_j of each row, G symmetric: [n, d], [d, d] -> [n]."""
  return jnp.sum(_matmul(x, gram) * x, axis=1)


@_quadratic.defjvp
def _quadratic_jvp(primals, tangents):
  (x, gram), (dx, dgram) = primals, tangents
  product = _matmul(x, gram)
  tangent = 2.0 * jnp.sum(product * dx, axis=1)
  tangent += jnp.sum(_matmul(x, dgram) * x, axis=1)
  return jnp.sum(product * x, axis=1), tangent


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _check_weight(name: str, value: Scalar) -> Scalar:
  """The weight, as a float if its value is known."""
  if np.shape(value) != ():
    raise ValueError(f"{name} must be a scalar; got shape {np.shape(value)}.")
  if isinstance(value, jax.core.Tracer):
    return value.astype(jnp.float32)
  number = float(value)
  if not (number >= 0 and np.isfinite(number)):
    raise ValueError(f"{name} must be a finite number >= 0; got {number}.")
  return number


def _is_zero(weight: Scalar) -> bool:
  """Whether it is known to be zero."""
  return isinstance(weight, float) and weight == 0.0
