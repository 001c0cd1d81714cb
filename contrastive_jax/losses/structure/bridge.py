r"""Paths between modalities: the Brownian bridge, and plain alignment.

Every function is pure and returns one float32 value a pair. Features are expected
to have unit norm, which is not checked. Everything is computed in float32
whatever the input type. No function looks at other rows: a batch that is split
over devices needs no axis name.
"""

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import ops
from contrastive_jax._types import Scalar
from contrastive_jax.losses import _shared


def brownian_bridge(
  start: jax.Array,
  end: jax.Array,
  bridged: jax.Array,
  *,
  t: Scalar = 0.25,
  weighted: bool = False,
) -> jax.Array:
  r"""Distance of an augmented view from the path between two modalities.

  .. math:: \ell_i = \frac1K \sum_{k=1}^K \big| z^a_{ki} - \mu_i \big|^2, \qquad
    \mu_i = \frac{t \, s_i + (1 - t) \, e_i}{| t \, s_i + (1 - t) \, e_i |}

  the negative log-likelihood of a Brownian bridge from s to e at time t, without
  its constants. The paper bridges images: s = image, e = text, z^a = features of
  another view of the image; texts are bridged by
  `brownian_bridge(text, image, text_augmented)`. Its t = 0.25 puts the mean near
  the other modality's end.

  Erratum: the paper prints a second line as equal to the first,
  :math:`\frac1N \sum [t \langle s, z^a \rangle + (1-t) \langle e, z^a \rangle] /
  [t^2 + (1-t)^2 + 2 t (1-t) \langle s, e \rangle]`. For unit vectors

  .. math:: |z^a - \mu|^2 = 2 - 2 \, \frac{t \langle s, z^a \rangle
      + (1-t) \langle e, z^a \rangle}
      {\sqrt{t^2 + (1-t)^2 + 2 t (1-t) \langle s, e \rangle}}

  so the printed line lacks the square root, the constant and the minus sign, and
  minimising it would push the wrong way. This is the first line.

  Args:
    start: [N, d] s, unit norm: where t = 1.
    end: [N, d] e, unit norm: where t = 0.
    bridged: [N, d] z^a, or [K, N, d] for K views, unit norm.
    t: in [0, 1]: a number, a traced scalar, or [N] (`draw_bridge_time`). Traced
      values are not checked.
    weighted: divide by the variance t (1 - t) of the bridge; then t must be
      inside of (0, 1).

  Returns:
    [N] float32, in [0, 4] unless `weighted`.

  Raises:
    ValueError: on wrong or different shapes or types or ranges, naming the
      argument.

  References:
    Jiang et al., "Understanding and constructing latent modality structures in
    multi-modal representation learning", 2023, L_Br.

  >>> import jax.numpy as jnp
  >>> image, text = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
  >>> round(float(brownian_bridge(image, text, text, t=0.5)[0]), 4)
  0.5858
  """
  views = bridged[None] if jnp.ndim(bridged) == 2 else bridged
  if jnp.ndim(views) != 3 or views.shape[0] < 1:
    raise ValueError(
      "bridged must have shape [N, d] or [K, N, d] with K >= 1; got"
      f" {jnp.shape(bridged)}."
    )
  ops.check_features(start=start, end=end, bridged=views[0])
  _check_time(t, start.shape[0], inside=weighted)
  (start, end, views), _ = _shared.widen(start, end, views)
  t = jnp.asarray(t, jnp.float32)
  share = t if t.ndim == 0 else t[:, None]
  mean = ops.l2_normalize(share * start + (1.0 - share) * end)
  rows = jnp.mean(jnp.sum(jnp.square(views - mean), axis=2), axis=0)
  return rows / (t * (1.0 - t)) if weighted else rows


def draw_bridge_time(
  key: jax.Array,
  index: jax.Array,
  *,
  low: float = 0.0,
  high: float = 1.0,
) -> jax.Array:
  r"""Times of a bridge, t ~ U[low, high), one an example.

  Each row draws from a key of its own, `fold_in(key, index)`, so a batch may be
  split over any number of devices. Take another key at each step.

  Args:
    key: a PRNG key.
    index: [N] integers, global positions (`ops.global_row_ids`) or the examples'
      indices.
    low: least time, >= 0.
    high: largest time, <= 1 and > low.

  Returns:
    [N] float32.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  >>> import jax
  >>> t = draw_bridge_time(jax.random.key(0), jax.numpy.arange(3), low=0.5)
  >>> bool((t >= 0.5).all() and (t < 1).all())
  True
  """
  _shared.check_row("index", index, None, jnp.integer)
  if not 0.0 <= low < high <= 1.0:
    raise ValueError(
      f"low and high must be in [0, 1], low < high; got {low} and {high}."
    )
  keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
  return jax.vmap(lambda k: jax.random.uniform(k, (), jnp.float32, low, high))(
    keys
  )


def alignment(
  image: jax.Array, text: jax.Array, *, epsilon: float = 1e-3
) -> jax.Array:
  r"""Closes the gap of the modalities, however much that loses.

  .. math:: \ell_i = \frac{1}{\langle v_i, t_i \rangle^2 + \epsilon}

  The paper, which shows by it that the gap is not what retrieval depends on,
  prints no epsilon. Without one, features that are orthogonal, as most are before
  training, have an infinite gradient.

  Args:
    image: [N, d] v, unit norm.
    text: [N, d] t, unit norm.
    epsilon: >= 0; 0 is the printed form.

  Returns:
    [N] float32, at least 1 / (1 + epsilon).

  Raises:
    ValueError: on wrong or different shapes or types or ranges, naming the
      argument.

  References:
    Jiang et al., "Understanding and constructing latent modality structures in
    multi-modal representation learning", 2023, L_Align of figure 2.

  >>> import jax.numpy as jnp
  >>> x, y = jnp.array([[1.0, 0.0]]), jnp.array([[0.5, 0.75**0.5]])
  >>> round(float(alignment(x, y, epsilon=0.0)[0]), 4)
  4.0
  """
  ops.check_features(image=image, text=text)
  if not (np.isfinite(epsilon) and epsilon >= 0):
    raise ValueError(f"epsilon must be a finite number >= 0; got {epsilon}.")
  (image, text), _ = _shared.widen(image, text)
  return 1.0 / (jnp.square(_shared.paired(image, text)) + epsilon)


def _check_time(t: Scalar, n: int, *, inside: bool) -> None:
  """Times are a scalar or [N], in [0, 1], or inside of it."""
  if jnp.shape(t) not in ((), (n,)):
    raise ValueError(
      f"t must be a scalar or have shape ({n},); got {jnp.shape(t)}."
    )
  if isinstance(t, jax.core.Tracer):
    return
  values = np.asarray(t, np.float64).ravel()
  good = (
    (values > 0) & (values < 1) if inside else (values >= 0) & (values <= 1)
  )
  if not good.all():
    where = "(0, 1) when weighted" if inside else "[0, 1]"
    raise ValueError(f"t must be in {where}; got {values[~good][0]}.")
