r"""Deep feature separation: a second feature for what modalities do not share.

Each tower has, beside its shared feature z, an independent one z' that is kept
orthogonal to it (`orthogonality`), tells examples apart (`independent_contrast`)
and spreads over the sphere (`uniformity`). Every function is pure; features are
expected to have unit norm, which is not checked. Everything is computed in
float32 whatever the input type.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from contrastive_jax import ops
from contrastive_jax._types import Axes, BlockSize, Scalar
from contrastive_jax.losses import _shared
from contrastive_jax.losses.structure import uniformity

Positive = Literal["augmented", "original"]

_POSITIVES = ("augmented", "original")


def orthogonality(shared: jax.Array, independent: jax.Array) -> jax.Array:
  r"""Squared cosine of an example's shared and independent feature.

  .. math:: \ell_i = \langle z_i, z'_i \rangle^2

  of one modality; the published loss adds both.

  Args:
    shared: [N, d] z, unit norm.
    independent: [N, d] z', unit norm. Gradients flow to both.

  Returns:
    [N] float32, in [0, 1].

  Raises:
    ValueError: on wrong or different shapes or types, naming the argument.

  References:
    Jiang et al., "Understanding and constructing latent modality structures in
    multi-modal representation learning", 2023, L_Ortho.

  >>> import jax.numpy as jnp
  >>> z = jnp.array([[0.6, 0.8], [0.6, 0.8]])
  >>> other = jnp.array([[-0.8, 0.6], [1.0, 0.0]])
  >>> [round(x, 4) for x in orthogonality(z, other).tolist()]
  [0.0, 0.36]
  """
  ops.check_features(shared=shared, independent=independent)
  (shared, independent), _ = _shared.widen(shared, independent)
  return jnp.square(_shared.paired(shared, independent))


def independent_contrast(
  image: jax.Array,
  text: jax.Array,
  image_augmented: jax.Array | None = None,
  text_augmented: jax.Array | None = None,
  *,
  temperature: Scalar,
  positive: Positive = "augmented",
  group_ids: jax.Array | None = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""In-modal InfoNCE of both modalities' independent features.

  .. math:: \ell_i = \ell_i(v', v'^a) + \ell_i(t', t'^a)

  with :math:`\ell_i(q, k)` the InfoNCE of query i among the keys k, and the
  independent features of another view as keys.

  The paper prints z'_i in both slots of the numerator and the original rows in
  the denominator, :math:`\ell_i = -1/\tau + \log \sum_k \exp(\langle z'_i, z'_k
  \rangle / \tau)`: no view is needed, and what is left is a pure uniformity loss.
  That is `positive="original"`.

  Args:
    image: [N, d] independent features v' of the images, unit norm.
    text: [N, d] independent features t' of the texts, unit norm.
    image_augmented: [N, d] v'^a, of another view of the images; needed unless
      `positive="original"`.
    text_augmented: [N, d] t'^a, of another caption; likewise.
    temperature: tau > 0, a number or a traced scalar.
    positive: "augmented", or "original" for the printed form.
    group_ids: see `losses.contrastive`.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.

  Returns:
    [N] float32, one loss a pair.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Jiang et al., "Understanding and constructing latent modality structures in
    multi-modal representation learning", 2023, L_Con^i.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(4)
  >>> loss = independent_contrast(x, x, x, x, temperature=0.5)
  >>> [round(v, 4) for v in loss.tolist()]
  [0.6815, 0.6815, 0.6815, 0.6815]
  """
  image_keys, text_keys = _keys(
    positive, image, text, image_augmented, text_augmented
  )
  ops.check_features(
    image=image,
    text=text,
    image_augmented=image_keys,
    text_augmented=text_keys,
  )
  ops.check_positive("temperature", temperature)
  (image, text, *views), dtype = _shared.widen(
    image, text, *_views(positive, image_keys, text_keys)
  )
  return _contrast(
    (image, text),
    views or (image, text),
    1.0 / temperature,
    group_ids,
    dtype,
    axes,
    block_size,
  )


def _keys(positive, image, text, image_augmented, text_augmented):
  """The keys of both modalities: their other views, or themselves."""
  if positive not in _POSITIVES:
    raise ValueError(f"positive must be one of {_POSITIVES}; got {positive!r}.")
  if positive == "original":
    return image, text
  if image_augmented is None or text_augmented is None:
    missing = "image" if image_augmented is None else "text"
    raise ValueError(
      f'{missing}_augmented must be given, unless positive is "original"; got'
      " None."
    )
  return image_augmented, text_augmented


def _views(positive, *keys):
  """The keys, if they are arrays of their own."""
  return () if positive == "original" else keys


def _contrast(
  queries, keys, scale, group_ids, dtype, axes, block_size
) -> jax.Array:
  """The sum over modalities of InfoNCE, of features in float32."""
  total = jnp.float32(0)
  for rows, columns in zip(queries, keys):
    total += _shared.cross_entropy(
      rows, columns, scale, group_ids, dtype, axes, block_size
    )[0]
  return total


def deep_feature_separation(
  image: jax.Array,
  text: jax.Array,
  image_independent: jax.Array,
  text_independent: jax.Array,
  image_independent_augmented: jax.Array | None = None,
  text_independent_augmented: jax.Array | None = None,
  *,
  temperature: Scalar,
  t: Scalar = 2.0,
  positive: Positive = "augmented",
  group_ids: jax.Array | None = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> dict[str, jax.Array]:
  r"""The three terms of deep feature separation, by name.

  .. math:: L_\mathrm{Sep} = \frac1N \sum_i \big(
      \langle v_i, v'_i \rangle^2 + \langle t_i, t'_i \rangle^2 \big)
    + \frac1N \sum_i \big( \ell_i(v', v'^a) + \ell_i(t', t'^a) \big)
    + \log \frac1N \sum_{j, k} \big( G_t(v'_j, v'_k) + G_t(t'_j, t'_k) \big)

  with :math:`G_t(x, y) = \exp(-t |x - y|^2)`: the sum of the means of the three
  entries.

  Args:
    image: [N, d] shared features v, unit norm.
    text: [N, d] shared features t, unit norm.
    image_independent: [N, d] v', unit norm.
    text_independent: [N, d] t', unit norm.
    image_independent_augmented: [N, d] v'^a; see `independent_contrast`.
    text_independent_augmented: [N, d] t'^a; see `independent_contrast`.
    temperature: tau > 0 of the contrast.
    t: t > 0 of the Gaussian potential.
    positive: see `independent_contrast`.
    group_ids: see `losses.contrastive`.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.

  Returns:
    "orthogonality" and "contrast", [N] float32 each, and "uniformity", a float32
    scalar of the whole batch.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Jiang et al., "Understanding and constructing latent modality structures in
    multi-modal representation learning", 2023, L_Sep.

  >>> import jax.numpy as jnp
  >>> z, other = jnp.eye(4), jnp.eye(4)[::-1]
  >>> terms = deep_feature_separation(
  ...   z, z, other, other, other, other, temperature=0.5)
  >>> {name: round(float(x.mean()), 4) for name, x in terms.items()}
  {'orthogonality': 0.0, 'contrast': 0.6815, 'uniformity': 0.7466}
  """
  image_keys, text_keys = _keys(
    positive,
    image_independent,
    text_independent,
    image_independent_augmented,
    text_independent_augmented,
  )
  ops.check_features(
    image=image,
    text=text,
    image_independent=image_independent,
    text_independent=text_independent,
    image_independent_augmented=image_keys,
    text_independent_augmented=text_keys,
  )
  ops.check_positive("temperature", temperature)
  ops.check_positive("t", t)
  # Once for all terms: their gradients are added before they are rounded.
  (image, text, *rest), dtype = _shared.widen(
    image,
    text,
    image_independent,
    text_independent,
    *_views(positive, image_keys, text_keys),
  )
  own, views = rest[:2], rest[2:]
  return {
    "orthogonality": orthogonality(image, own[0]) + orthogonality(text, own[1]),
    "contrast": _contrast(
      own,
      views or own,
      1.0 / temperature,
      group_ids,
      dtype,
      axes,
      block_size,
    ),
    "uniformity": uniformity.log_mean_potential(
      own, t, dtype, axes, block_size
    ),
  }
