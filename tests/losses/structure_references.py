"""Float64 NumPy references of the structure losses, with hand derivatives.

Written from the published double sums over pairs (j, k), as N x N matrices:
no Gram matrices, no differences of features, no JAX.
"""

from __future__ import annotations

import numpy as np

ARRAYS = ("image", "text", "image_augmented", "text_augmented")


def geometric_consistency(
  image,
  text,
  image_augmented=None,
  text_augmented=None,
  *,
  intra=1.0,
  inter=1.0,
  augmented=1.0,
  paired=1.0,
  weights=None,
):
  """Rows of the loss, and gradients of sum_j weights_j row_j.

  With S(a, b)_jk = <a_j, b_k>, row j is the sum over k of

      intra     (S(v, v)_jk - S(t, t)_jk)^2
      inter     (S(v, t)_jk - S(v, t)_kj)^2
      augmented (S(v, v)_jk - S(va, va)_jk)^2 + (S(t, t)_jk - S(ta, ta)_jk)^2

  plus paired (S(v, t)_jj - S(va, ta)_jj)^2.

  Returns:
    [N] rows, and the gradients (by default of the mean) in the order of
    `ARRAYS`, as many as there are arrays.
  """
  given = [image, text, image_augmented, text_augmented]
  given = [np.asarray(x).astype(np.float64) for x in given if x is not None]
  v, t = given[:2]
  n = len(v)
  w = np.full(n, 1.0 / n) if weights is None else np.asarray(weights, float)
  gradients = [np.zeros_like(x) for x in given]
  rows = np.zeros(n)

  def in_modal(a, b, factor):
    """Pairs of array number a against pairs of array number b."""
    difference = given[a] @ given[a].T - given[b] @ given[b].T
    upstream = 2.0 * factor * w[:, None] * difference
    both = upstream + upstream.T
    gradients[a] += both @ given[a]
    gradients[b] -= both @ given[b]
    return factor * np.sum(difference**2, axis=1)

  rows += in_modal(0, 1, intra)

  similarity = v @ t.T
  difference = similarity - similarity.T
  upstream = 2.0 * inter * w[:, None] * difference
  both = upstream - upstream.T  # of the similarity: it occurs twice
  gradients[0] += both @ t
  gradients[1] += both.T @ v
  rows += inter * np.sum(difference**2, axis=1)

  if len(given) == 4:
    va, ta = given[2:]
    rows += in_modal(0, 2, augmented)
    rows += in_modal(1, 3, augmented)
    change = np.diag(v @ t.T) - np.diag(va @ ta.T)
    upstream = (2.0 * paired * w * change)[:, None]
    gradients[0] += upstream * t
    gradients[1] += upstream * v
    gradients[2] -= upstream * ta
    gradients[3] -= upstream * va
    rows += paired * change**2
  return rows, gradients


def cyclip(image, text, logit_scale):
  """CyCLIP's in-modal and cross-modal cyclic losses, as its code has them."""
  image, text = np.float64(image), np.float64(text)
  batch_size = len(image)
  image_text = logit_scale * image @ text.T
  text_image = image_text.T
  image_image = logit_scale * image @ image.T
  text_text = logit_scale * text @ text.T
  in_modal = np.square(image_image - text_text).mean()
  cross_modal = np.square(image_text - text_image).mean()
  scale = logit_scale**2
  return in_modal / scale * batch_size, cross_modal / scale * batch_size


def make_inputs(n, d, *, arrays=4, noise=None, seed=0, dtype=np.float32):
  """Unit-norm arrays; all within about `noise` of the first, if given."""
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(arrays, n, d))
  features /= np.linalg.norm(features, axis=-1, keepdims=True)
  if noise is not None:
    features[1:] = features[0] + noise * features[1:]
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
  return tuple(features.astype(dtype))


def uniformity(features, t):
  """Value, gradients by the features and by t, from distances in float64."""
  total, by_features, by_t = 0.0, [], 0.0
  for x in features:
    x = np.asarray(x, np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    squares = np.sum((x[:, None] - x[None]) ** 2, axis=-1)
    g = np.exp(-t * squares)
    total += g.sum()
    # On the sphere only: of 2 - 2 <x, y>, each pair counts twice.
    by_features.append(4.0 * t * g @ x)
    by_t -= np.sum(g * squares)
  value = np.log(total / len(features[0]))
  return value, [g / total for g in by_features], by_t / total
