r"""Contrastive losses: InfoNCE and its relatives.

Every function is pure, takes arrays first and hyper-parameters by keyword, and
returns one float32 value an anchor; the caller takes the mean. Features are
expected to have unit norm (`contrastive_jax.ops.l2_normalize`); this is not
checked, and the formulas hold without it.

Arguments that all of them share:

* `group_ids`: [N] integers. Rows of the same group are positives of each other
  (the same caption, the same product or the same class twice in a batch), not
  negatives; the target is uniform over an anchor's positives, as in the
  supervised contrastive loss. None means that each row is its own group.
* `axes`: the name or names of the mapped axes (`shard_map`, `pmap` or
  `vmap(axis_name=...)`) over which the batch is split. The loss is always the
  one of the *global* batch, in value and in gradient; a device receives the
  values of its own rows. None means that the arrays hold the whole batch. With
  two names the devices form a grid, which sends far less: see `ops`.
* `block_size`: side of the tiles in which the similarity matrix is formed, and
  formed again in the backward pass. None forms and keeps it whole, "auto" does
  so while it is small. It changes memory and speed, not the result.

Logits, log-sum-exp and their gradients are float32 whatever the input type.
Float32 features are multiplied at full precision; bfloat16 features take one
pass of a TPU's matrix unit, and half of the bytes between devices.
All raise `ValueError`, naming the argument, on wrong shapes, types or ranges.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from contrastive_jax import ops
from contrastive_jax._types import Axes, BlockSize, Scalar
from contrastive_jax.losses import _shared


def info_nce(
  queries: jax.Array,
  keys: jax.Array,
  *,
  temperature: Scalar,
  group_ids: jax.Array | None = None,
  label_smoothing: float = 0.0,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""InfoNCE: the positive key against all keys of the batch.

  .. math::
    \ell_i = -\frac{1}{|P_i|} \sum_{p \in P_i} s_{ip}
             + \log \sum_{j=1}^{N} \exp(s_{ij}),
    \qquad s_{ij} = \langle q_i, k_j \rangle / \tau

  with :math:`P_i = \{i\}`, or the rows of i's group. Label smoothing
  :math:`\epsilon` mixes the target with the uniform one: the first term becomes
  :math:`-\frac{1 - \epsilon}{|P_i|} \sum_{p \in P_i} s_{ip}
  - \frac{\epsilon}{N} \sum_j s_{ij}`.

  Args:
    queries: [N, d] unit-norm anchors.
    keys: [N, d] unit-norm keys; row i is the positive of query i.
    temperature: tau > 0, a number or a traced scalar.
    group_ids: see the module's docstring.
    label_smoothing: epsilon in [0, 1).
    axes: see the module's docstring.
    block_size: see the module's docstring.

  Returns:
    [N] float32, one loss an anchor.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    van den Oord et al., "Representation learning with contrastive predictive
    coding", 2018, eq. 4; several positives: Khosla et al., "Supervised
    contrastive learning", 2020, eq. 2.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(4)
  >>> [round(v, 4) for v in info_nce(x, x, temperature=0.5).tolist()]
  [0.3408, 0.3408, 0.3408, 0.3408]
  """
  ops.check_features(queries=queries, keys=keys)
  (queries, keys), dtype = _shared.widen(queries, keys)
  ops.check_positive("temperature", temperature)
  _check_label_smoothing(label_smoothing)
  (loss,) = _shared.cross_entropy(
    queries,
    keys,
    1.0 / temperature,
    group_ids,
    dtype,
    axes,
    block_size,
    label_smoothing=label_smoothing,
  )
  return loss


def nt_xent(
  first_view: jax.Array,
  second_view: jax.Array,
  *,
  temperature: Scalar,
  group_ids: jax.Array | None = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""NT-Xent (SimCLR): two views, each against all 2N - 1 other rows.

  With z the 2N rows of both views and i' the other view of row i,

  .. math::
    \ell_i = -s_{ii'} + \log \sum_{j \ne i} \exp(s_{ij}),
    \qquad s_{ij} = \langle z_i, z_j \rangle / \tau .

  With groups, the positive term is the mean over all other rows of i's group.

  Args:
    first_view: [N, d] unit norm.
    second_view: [N, d] unit norm; row i shows the same example.
    temperature: tau > 0, a number or a traced scalar.
    group_ids: see the module's docstring.
    axes: see the module's docstring.
    block_size: see the module's docstring.

  Returns:
    [2N] float32: N values of the first view, then N of the second. (On several
    devices: the local rows of the first view, then those of the second.)

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Chen et al., "A simple framework for contrastive learning of visual
    representations", 2020, eq. 1.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(2)
  >>> [round(v, 4) for v in nt_xent(x, x, temperature=1.0).tolist()]
  [0.5514, 0.5514, 0.5514, 0.5514]
  """
  ops.check_features(first_view=first_view, second_view=second_view)
  (first_view, second_view), dtype = _shared.widen(first_view, second_view)
  ops.check_positive("temperature", temperature)
  n = first_view.shape[0]
  ops.check_group_ids(group_ids, n)
  scale = 1.0 / temperature
  rows = jnp.concatenate([first_view, second_view])
  twice = None if group_ids is None else jnp.concatenate([group_ids] * 2)
  sums = ops.row_column_sums(
    rows,
    rows,
    scale=scale,
    group_ids=twice,
    exclude="self",
    positives="none" if twice is None else "others",
    dtype=dtype,
    axes=axes,
    block_size=block_size,
  )
  if twice is None:
    positive = jnp.tile(scale * _shared.paired(first_view, second_view), 2)
  else:
    positive = sums.row_positive
  return sums.rows - positive


def clip(
  image: jax.Array,
  text: jax.Array,
  *,
  logit_scale: Scalar,
  group_ids: jax.Array | None = None,
  label_smoothing: float = 0.0,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""CLIP: InfoNCE from image to text and from text to image, averaged.

  .. math::
    \ell_i = \tfrac12 \big[ \ell^{\mathrm{InfoNCE}}_i(v, t)
                          + \ell^{\mathrm{InfoNCE}}_i(t, v) \big],
    \qquad s_{ij} = \alpha \langle v_i, t_j \rangle

  Args:
    image: [N, d] unit norm.
    text: [N, d] unit norm; row i describes image i.
    logit_scale: alpha = 1 / tau > 0, a number or a traced scalar (a learnable
      one is exp(parameter), see `clamp_logit_scale`).
    group_ids: see the module's docstring.
    label_smoothing: in [0, 1), as in `info_nce`.
    axes: see the module's docstring.
    block_size: see the module's docstring.

  Returns:
    [N] float32, one loss a pair.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Radford et al., "Learning transferable visual models from natural language
    supervision", 2021, figure 3.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(4)
  >>> [round(v, 4) for v in clip(x, x, logit_scale=2.0).tolist()]
  [0.3408, 0.3408, 0.3408, 0.3408]
  """
  ops.check_features(image=image, text=text)
  (image, text), dtype = _shared.widen(image, text)
  ops.check_positive("logit_scale", logit_scale)
  _check_label_smoothing(label_smoothing)
  to_text, to_image = _shared.cross_entropy(
    image,
    text,
    logit_scale,
    group_ids,
    dtype,
    axes,
    block_size,
    label_smoothing=label_smoothing,
    both=True,
  )
  return 0.5 * (to_text + to_image)


def clip_four_term(
  image: jax.Array,
  text: jax.Array,
  image_augmented: jax.Array,
  text_augmented: jax.Array,
  *,
  logit_scale: Scalar,
  group_ids: jax.Array | None = None,
  in_modal_denominator: Literal["augmented", "original"] = "augmented",
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""Cross-modal and in-modal InfoNCE: the base loss of the CVPR 2023 paper.

  .. math::
    \ell_i = \tfrac14 \big[ \ell_i(v, t) + \ell_i(t, v)
                          + \ell_i(v, v^a) + \ell_i(t, t^a) \big]

  with :math:`\ell_i(q, k)` the InfoNCE of query i among the keys k.

  The paper prints the denominator of the in-modal terms over the original rows,
  :math:`\sum_k \exp(\alpha \langle v_i, v_k \rangle)` with k = i included; the
  code that it builds on (CyCLIP) takes the augmented rows, as an InfoNCE does.
  The latter is the default, `in_modal_denominator="original"` the printed form.

  Args:
    image: [N, d] unit norm.
    text: [N, d] unit norm; row i describes image i.
    image_augmented: [N, d] unit norm, features of another view of the images.
    text_augmented: [N, d] unit norm, features of another caption.
    logit_scale: alpha = 1 / tau > 0, a number or a traced scalar.
    group_ids: see the module's docstring.
    in_modal_denominator: "augmented" or "original", see above.
    axes: see the module's docstring.
    block_size: see the module's docstring.

  Returns:
    [N] float32, one loss a pair.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Jiang et al., "Understanding and constructing latent modality structures in
    multi-modal representation learning", 2023, section 3.2; Goel et al.,
    "CyCLIP: cyclic contrastive language-image pretraining", 2022.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(4)
  >>> loss = clip_four_term(x, x, x, x, logit_scale=2.0)
  >>> [round(v, 4) for v in loss.tolist()]
  [0.3408, 0.3408, 0.3408, 0.3408]
  """
  ops.check_features(
    image=image,
    text=text,
    image_augmented=image_augmented,
    text_augmented=text_augmented,
  )
  (image, text, image_augmented, text_augmented), dtype = _shared.widen(
    image, text, image_augmented, text_augmented
  )
  ops.check_positive("logit_scale", logit_scale)
  if in_modal_denominator not in ("augmented", "original"):
    raise ValueError(
      'in_modal_denominator must be "augmented" or "original"; got'
      f" {in_modal_denominator!r}."
    )
  args = (logit_scale, group_ids, dtype, axes, block_size)
  to_text, to_image = _shared.cross_entropy(image, text, *args, both=True)
  total = to_text + to_image
  for original, augmented in ((image, image_augmented), (text, text_augmented)):
    if in_modal_denominator == "augmented":
      total += _shared.cross_entropy(original, augmented, *args)[0]
    else:
      options = {"dtype": dtype, "axes": axes, "block_size": block_size}
      total += ops.row_column_sums(
        original, original, scale=logit_scale, **options
      ).rows
      if group_ids is None:
        total -= logit_scale * _shared.paired(original, augmented)
      else:
        total -= ops.row_column_sums(
          original,
          augmented,
          scale=logit_scale,
          group_ids=group_ids,
          positives="group",
          **options,
        ).row_positive
  return 0.25 * total


def decoupled(
  queries: jax.Array,
  keys: jax.Array,
  *,
  temperature: Scalar,
  group_ids: jax.Array | None = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""DCL: InfoNCE without the positives in the denominator.

  .. math::
    \ell_i = -\frac{1}{|P_i|} \sum_{p \in P_i} s_{ip}
             + \log \sum_{j \notin P_i} \exp(s_{ij})

  An anchor that has no negative in the batch (N = 1, or all rows of one group)
  has nothing to be contrasted with: its loss and gradient are exactly 0.

  Args:
    queries: [N, d] unit-norm anchors.
    keys: [N, d] unit-norm keys; row i is the positive of query i.
    temperature: tau > 0, a number or a traced scalar.
    group_ids: see the module's docstring.
    axes: see the module's docstring.
    block_size: see the module's docstring.

  Returns:
    [N] float32, one loss an anchor; it may be negative.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Yeh et al., "Decoupled contrastive learning", 2022, eq. 6.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(4)
  >>> [round(v, 4) for v in decoupled(x, x, temperature=0.5).tolist()]
  [-0.9014, -0.9014, -0.9014, -0.9014]
  """
  ops.check_features(queries=queries, keys=keys)
  (queries, keys), dtype = _shared.widen(queries, keys)
  ops.check_positive("temperature", temperature)

  ops.check_group_ids(group_ids, queries.shape[0])
  scale = 1.0 / temperature
  sums = ops.row_column_sums(
    queries,
    keys,
    scale=scale,
    group_ids=group_ids,
    exclude="group",
    positives="none" if group_ids is None else "group",
    dtype=dtype,
    axes=axes,
    block_size=block_size,
  )
  positive = sums.row_positive
  if positive is None:
    positive = scale * _shared.paired(queries, keys)
  alone = jnp.isneginf(sums.rows)
  return jnp.where(alone, 0.0, jnp.where(alone, 0.0, sums.rows) - positive)


def sigmoid(
  image: jax.Array,
  text: jax.Array,
  *,
  logit_scale: Scalar,
  logit_bias: Scalar,
  group_ids: jax.Array | None = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""SigLIP: every pair of the batch is a binary classification.

  .. math::
    \ell_i = -\sum_{j=1}^{N} \log \sigma\big( y_{ij}
             (\alpha \langle v_i, t_j \rangle + b) \big)

  with y = 1 for a positive pair (j = i, or of i's group) and -1 otherwise. The
  mean over i is the published loss.

  Args:
    image: [N, d] unit norm.
    text: [N, d] unit norm; row i describes image i.
    logit_scale: alpha > 0, a number or a traced scalar (initially 10).
    logit_bias: b, a number or a traced scalar (initially -10).
    group_ids: see the module's docstring.
    axes: see the module's docstring.
    block_size: see the module's docstring.

  Returns:
    [N] float32, one loss an image.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Zhai et al., "Sigmoid loss for language image pre-training", 2023,
    algorithm 1.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(2)
  >>> loss = sigmoid(x, x, logit_scale=10.0, logit_bias=-5.0)
  >>> [round(v, 4) for v in loss.tolist()]
  [0.0134, 0.0134]
  """
  ops.check_features(image=image, text=text)
  (image, text), dtype = _shared.widen(image, text)
  ops.check_positive("logit_scale", logit_scale)
  if jnp.shape(logit_bias) != ():
    raise ValueError(
      f"logit_bias must be a scalar; got shape {jnp.shape(logit_bias)}."
    )

  ops.check_group_ids(group_ids, image.shape[0])
  return ops.row_column_sums(
    image,
    text,
    scale=logit_scale,
    bias=logit_bias,
    group_ids=group_ids,
    reduce="softplus",
    positives="group",
    dtype=dtype,
    axes=axes,
    block_size=block_size,
  ).rows


def _check_label_smoothing(value: float) -> None:
  if not 0.0 <= value < 1.0:
    raise ValueError(f"label_smoothing must be in [0, 1); got {value}.")
