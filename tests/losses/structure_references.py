"""Float64 NumPy references of the structure losses, with hand derivatives.

Written from the published double sums over pairs (j, k), as N x N matrices:
no Gram matrices, no differences of features, no JAX.
"""

from __future__ import annotations

import numpy as np

from tests.losses import references
from tests.losses.rounding import (
  Gradients,
  Reference,
  float64,
  of_terms,
  total,
  weights_of,
)

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
) -> Reference:
  """Rows of the loss, and gradients of sum_j weights_j row_j.

  With S(a, b)_jk = <a_j, b_k>, row j is the sum over k of

      intra     (S(v, v)_jk - S(t, t)_jk)^2
      inter     (S(v, t)_jk - S(v, t)_kj)^2
      augmented (S(v, v)_jk - S(va, va)_jk)^2 + (S(t, t)_jk - S(ta, ta)_jk)^2

  plus paired (S(v, t)_jj - S(va, ta)_jj)^2.
  """
  given = [image, text, image_augmented, text_augmented]
  given = float64(*(x for x in given if x is not None))
  factors = {
    "intra": intra,
    "inter": inter,
    "augmented": augmented,
    "paired": paired,
  }
  w = weights_of(weights, len(given[0]))
  rows, found = _consistency(given, factors, w, -1.0)
  # All terms are products: absolute values, with a plus for each minus.
  sizes = _consistency([np.abs(x) for x in given], factors, np.abs(w), 1.0)
  return of_terms(
    rows, sizes[0], **{k: (found[k], size) for k, size in sizes[1].items()}
  )


def _consistency(given, factors, w, minus):
  """Rows, and gradients by name; `minus` is -1."""
  v, t = given[:2]
  gradients = [np.zeros_like(x) for x in given]
  terms = {k: np.zeros(len(v)) for k in factors}

  def in_modal(a, b, name):
    """Pairs of array number a against pairs of array number b."""
    difference = given[a] @ given[a].T + minus * given[b] @ given[b].T
    upstream = 2.0 * factors[name] * w[:, None] * difference
    both = upstream + upstream.T
    gradients[a] += both @ given[a]
    gradients[b] += minus * both @ given[b]
    terms[name] += np.sum(difference**2, axis=1)

  in_modal(0, 1, "intra")

  similarity = v @ t.T
  difference = similarity + minus * similarity.T
  upstream = 2.0 * factors["inter"] * w[:, None] * difference
  both = upstream + minus * upstream.T  # of the similarity: it occurs twice
  gradients[0] += both @ t
  gradients[1] += both.T @ v
  terms["inter"] += np.sum(difference**2, axis=1)

  if len(given) == 4:
    va, ta = given[2:]
    in_modal(0, 2, "augmented")
    in_modal(1, 3, "augmented")
    change = np.sum(v * t, axis=1) + minus * np.sum(va * ta, axis=1)
    upstream = (2.0 * factors["paired"] * w * change)[:, None]
    gradients[0] += upstream * t
    gradients[1] += upstream * v
    gradients[2] += minus * upstream * ta
    gradients[3] += minus * upstream * va
    terms["paired"] += change**2
  rows = sum(factors[k] * term for k, term in terms.items())
  named = dict(zip(ARRAYS, gradients))
  return rows, named | {k: np.sum(w * term) for k, term in terms.items()}


def uniformity(image, text=None, *others, t, weights=None) -> Reference:
  """Log of the mean Gaussian potential of unit-norm features."""
  given = {"image": image, "text": text}
  given |= {f"other_{i}": x for i, x in enumerate(others)}
  given = {k: float64(x)[0] for k, x in given.items() if x is not None}
  t, (w,) = float(t), weights_of(weights, 1)
  logits = {k: 2.0 * t * (x @ x.T - 1.0) for k, x in given.items()}
  top = max(s.max() for s in logits.values())
  value = top + np.log(sum(np.exp(s - top).sum() for s in logits.values()))
  parts = []
  for name, x in given.items():
    p = w * np.exp(logits[name] - value)
    out = Gradients(rows=x, columns=x, t=0.0)
    # -t |x - y|^2 is a difference of two logits.
    errors = 1.0 + 2.0 * t * (np.abs(x @ x.T) + 1.0)
    out.through_logits(
      (p,),
      ("rows", x),
      ("columns", x),
      2.0 * t,
      ("t", 2.0),
      errors=errors,
      exact=0,
    )
    grown = (np.abs(p) * errors).sum()
    out.add("t", -2.0 * p.sum(), 2.0 * np.abs(p).sum(), 2.0 * grown)
    parts.append(out.reference(p).renamed(rows=name, columns=name))
  mean = np.array([value - np.log(len(image))])
  found = total(*parts, per_example=mean)
  found.sizes[""] = max(part.sizes[""] for part in parts)
  return found


def _potential_of_others(first, second, t, w):
  """Log of the potential's sum over j != k; gradients of `rows`, `columns`, `t`."""
  cosine = first @ second.T
  logits = np.where(
    np.eye(len(first), dtype=bool), -np.inf, 2 * t * (cosine - 1)
  )
  top = logits.max()
  value = top + np.log(np.exp(logits - top).sum())
  p = w * np.exp(logits - value)
  out = Gradients(rows=first, columns=second, t=0.0)
  # -t |x - y|^2 is a difference of two logits.
  errors = 1.0 + 2.0 * t * (np.abs(cosine) + 1.0)
  out.through_logits(
    (p,),
    ("rows", first),
    ("columns", second),
    2.0 * t,
    ("t", 2.0),
    errors=errors,
    exact=0,
  )
  grown = (np.abs(p) * errors).sum()
  out.add("t", -2.0 * p.sum(), 2.0 * np.abs(p).sum(), 2.0 * grown)
  return value, out


def _nothing_apart(**arguments) -> Reference:
  """Reference of a batch of one, which is constant."""
  zeros = {k: np.zeros(np.shape(v)) for k, v in arguments.items()}
  return of_terms(
    np.zeros(1), np.zeros(1), **{k: (z, z) for k, z in zeros.items()}
  )


def cross_uniformity(image, text, *, t, weights=None) -> Reference:
  """Log of the Gaussian potential between rows of both that are no pair."""
  (x, y), t = float64(image, text), float(t)
  if len(x) == 1:
    return _nothing_apart(image=x, text=y, t=0.0)
  value, out = _potential_of_others(x, y, t, weights_of(weights, 1)[0])
  found = out.reference(np.array([value - np.log(len(x))]))
  return found.renamed(rows="image", columns="text")


def centroid_uniformity(image, text, *, t, weights=None) -> Reference:
  """Log of the mean Gaussian potential of pairs' normalised sums."""
  (x, y), t = float64(image, text), float(t)
  n = len(x)
  if n == 1:
    return _nothing_apart(image=x, text=y, t=0.0)
  norm = np.linalg.norm(x + y, axis=1, keepdims=True)
  c = (x + y) / np.maximum(norm, 1e-3)
  value, out = _potential_of_others(c, c, t, weights_of(weights, 1)[0])
  by_c, absolute, size = (
    a + b for a, b in zip(out.terms.pop("rows"), out.terms.pop("columns"))
  )
  # Where the norm is bounded, it is a constant.
  along = np.where(norm >= 1e-3, c, 0.0)

  def through(g, minus, c):
    inner = (g * c).sum(1, keepdims=True)
    return (g + minus * c * inner) / np.maximum(norm, 1e-3)

  terms = (
    through(by_c, -1.0, along),
    through(absolute, 1.0, np.abs(along)),
    # The rows themselves are rounded.
    3.0 * through(size, 1.0, np.abs(along)),
  )
  out.terms |= {"image": terms, "text": terms}
  return out.reference(np.array([value - np.log(n * (n - 1))]))


def paired_distance(image, text, *, weights=None) -> Reference:
  """Squared distance of each pair."""
  x, y = float64(image, text)
  change = x - y
  slope = 2.0 * weights_of(weights, len(x))[:, None] * change
  return of_terms(
    (change**2).sum(1),
    (change**2).sum(1),
    image=(slope, np.abs(slope)),
    text=(-slope, np.abs(slope)),
  )


def _paired(a, b):
  """Products of rows with each other, and of their absolute values."""
  return (a * b).sum(1), np.abs(a * b).sum(1)


def orthogonality(shared, independent, *, weights=None) -> Reference:
  """Squared cosine of both features."""
  a, b = float64(shared, independent)
  cosine, size = _paired(a, b)
  slope = 2.0 * weights_of(weights, len(a))[:, None]
  by, absolute = slope * cosine[:, None], np.abs(slope) * size[:, None]
  return of_terms(
    cosine**2,
    size**2,
    shared=(by * b, absolute * np.abs(b)),
    independent=(by * a, absolute * np.abs(a)),
  )


def independent_contrast(
  image,
  text,
  image_augmented=None,
  text_augmented=None,
  *,
  temperature: float,
  positive="augmented",
  group_ids=None,
  weights=None,
) -> Reference:
  """InfoNCE in both modalities, among other views or the same rows."""
  parts = []
  for name, own, view in (
    ("image", image, image_augmented),
    ("text", text, text_augmented),
  ):
    original = positive == "original"
    found = references.info_nce(
      own,
      own if original else view,
      temperature=float(temperature),
      group_ids=group_ids,
      weights=weights,
    ).renamed(queries=name, keys=name if original else f"{name}_augmented")
    if original and view is not None:
      found = found.with_constants(**{f"{name}_augmented": view})
    parts.append(found)
  return total(*parts)


def deep_feature_separation(
  image,
  text,
  image_independent,
  text_independent,
  image_independent_augmented=None,
  text_independent_augmented=None,
  *,
  temperature: float,
  t=2.0,
  positive="augmented",
  group_ids=None,
  weights=None,
) -> Reference:
  """Contrast, orthogonality and uniformity, one after the other: [2N + 1]."""
  n = len(image)
  w = weights_of(weights, 2 * n + 1)
  own = {k: f"{k}_independent" for k in ("image", "text")}
  contrast = independent_contrast(
    image_independent,
    text_independent,
    image_independent_augmented,
    text_independent_augmented,
    temperature=temperature,
    positive=positive,
    group_ids=group_ids,
    weights=w[:n],
  ).renamed(
    **own, **{f"{k}_augmented": f"{v}_augmented" for k, v in own.items()}
  )
  squares = total(
    *(
      orthogonality(a, b, weights=w[n : 2 * n]).renamed(
        shared=name, independent=own[name]
      )
      for name, a, b in (
        ("image", image, image_independent),
        ("text", text, text_independent),
      )
    )
  )
  spread = uniformity(
    image_independent, text_independent, t=t, weights=w[-1:]
  ).renamed(**own)
  parts = contrast, squares, spread
  return total(
    *parts, per_example=np.concatenate([x.per_example for x in parts])
  )


class Unit:
  """Rows of unit norm, and what rounding errors of them are relative to."""

  def __init__(self, x, size):
    square = (x * x).sum(-1, keepdims=True)
    # Where the norm is clipped it is a constant.
    self._sphere = square > 1e-24
    self._norm = np.sqrt(np.maximum(square, 1e-24))
    self._grown = self._sphere * (np.abs(x) * size).sum(-1, keepdims=True)
    self._grown /= self._norm**2
    self.value = x / self._norm
    self.size = size / self._norm + np.abs(self.value) * self._grown

  def gradient(self, g, size):
    """By what was normalised, and its size, from those by the unit rows."""
    u, absolute = self.value, self.size
    dot = self._sphere * (g * u).sum(-1, keepdims=True)
    dots = size * np.abs(u) + np.abs(g) * absolute
    dots = self._sphere * dots.sum(-1, keepdims=True)
    found = (g - dot * u) / self._norm
    sizes = (size + dots * np.abs(u) + np.abs(dot) * absolute) / self._norm
    return found, sizes + np.abs(found) * self._grown


def brownian_bridge(
  start, end, bridged, *, t, weighted=False, weights=None
) -> Reference:
  """Squared distance of views from the normalised point of the path."""
  s, e, z, times = float64(start, end, bridged, t)
  views = z.reshape(-1, *s.shape)
  time = np.broadcast_to(times, len(s))[:, None]
  mean = Unit(
    time * s + (1.0 - time) * e, time * np.abs(s) + (1.0 - time) * np.abs(e)
  )
  away, far = views - mean.value, np.abs(views) + mean.size
  scale = 1.0 / (time * (1.0 - time)) if weighted else np.ones_like(time)
  rows = (away**2).sum(2).mean(0) * scale[:, 0]
  size = (far**2).sum(2).mean(0) * scale[:, 0]
  w = weights_of(weights, len(s))[:, None]
  by_view = 2.0 * w * scale * away / len(views)
  by_far = 2.0 * np.abs(w) * scale * far / len(views)
  by, absolute = mean.gradient(-by_view.sum(0), by_far.sum(0))
  by_t = (by * (s - e)).sum(1)
  by_t_abs = (absolute * (np.abs(s) + np.abs(e))).sum(1)
  if weighted:
    slope = ((2.0 * time - 1.0) * scale * w)[:, 0]
    by_t, by_t_abs = by_t + slope * rows, by_t_abs + np.abs(slope) * size
  if not times.ndim:
    by_t, by_t_abs = by_t.sum(), by_t_abs.sum()
  return of_terms(
    rows,
    size,
    start=(time * by, time * absolute),
    end=((1.0 - time) * by, (1.0 - time) * absolute),
    bridged=(by_view.reshape(z.shape), by_far),
    t=(by_t, by_t_abs),
  )


def alignment(image, text, *, epsilon=1e-3, weights=None) -> Reference:
  """1 / (cosine^2 + epsilon)."""
  v, t = float64(image, text)
  cosine, size = _paired(v, t)
  value = 1.0 / (cosine**2 + epsilon)
  # The relative error of the value.
  grown = value * (size**2 + epsilon)
  slope = 2.0 * weights_of(weights, len(v)) * value**2
  by = (-slope * cosine)[:, None]
  absolute = (np.abs(slope) * size * (1.0 + 2.0 * grown))[:, None]
  return of_terms(
    value,
    value * (1.0 + grown),
    image=(by * t, absolute * np.abs(t)),
    text=(by * v, absolute * np.abs(v)),
  )


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
