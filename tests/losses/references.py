"""Float64 NumPy references of the contrastive losses, with hand derivatives.

Each function returns the loss of every example and the gradient of
`sum_i weights_i loss_i` (by default the mean) with respect to every array and
every scalar. Nothing here is shared with the library: whole matrices, no
blocks, no JAX.

All the softmax losses are of one shape. With logits s, targets t (uniform
over the positives of a row) and a set of columns D(i) in the denominator,

    loss_i = -sum_j t_ij s_ij + log sum_{j in D(i)} exp(s_ij)
    d loss_i / d s_ij = p_ij - t_ij,   p = softmax of s over D(i)

and s = factor <a_i, b_j> gives d/da = factor G b, d/db = factor G^T a,
d/dfactor = sum G_ij <a_i, b_j> for G = d(weighted sum)/ds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

import numpy as np

from tests.losses.hard_negative_references import (
  hard_negative_clip as hard_negative_clip,
)
from tests.losses.hard_negative_references import (
  hard_negative_nt_xent as hard_negative_nt_xent,
)
from tests.losses.rounding import (
  Gradients,
  Reference,
  cross_entropy,
  float64,
  positives_of,
  total,
  weights_of,
)


def info_nce(
  queries: np.ndarray,
  keys: np.ndarray,
  *,
  temperature: float,
  group_ids: np.ndarray | None = None,
  label_smoothing: float = 0.0,
  weights: np.ndarray | None = None,
) -> Reference:
  """-sum_j t_ij s_ij + logsumexp_j s_ij, s = <q_i, k_j> / T."""
  q, k = float64(queries, keys)
  n = len(q)
  s = q @ k.T / temperature
  loss, *parts = cross_entropy(
    s,
    s,
    positives_of(group_ids, n),
    np.ones((n, n), bool),
    weights_of(weights, n),
    label_smoothing,
  )
  out = Gradients(queries=q, keys=k, temperature=0.0)
  out.through_logits(
    tuple(parts),
    ("queries", q),
    ("keys", k),
    1.0 / temperature,
    ("temperature", -1.0 / temperature**2),
  )
  return out.reference(loss)


def nt_xent(
  first_view: np.ndarray,
  second_view: np.ndarray,
  *,
  temperature: float,
  group_ids: np.ndarray | None = None,
  weights: np.ndarray | None = None,
) -> Reference:
  """SimCLR's loss over 2N rows; a row is neither its positive nor negative."""
  first, second = float64(first_view, second_view)
  n = len(first)
  z = np.concatenate([first, second])
  other = ~np.eye(2 * n, dtype=bool)
  ids = np.arange(n) if group_ids is None else np.asarray(group_ids)
  s = z @ z.T / temperature
  loss, *parts = cross_entropy(
    s,
    s,
    positives_of(np.concatenate([ids, ids]), 2 * n) & other,
    other,
    weights_of(weights, 2 * n),
  )
  # z stands on both sides: its gradient is the sum of the two.
  both = Gradients(rows=z, columns=z, temperature=0.0)
  both.through_logits(
    tuple(parts),
    ("rows", z),
    ("columns", z),
    1.0 / temperature,
    ("temperature", -1.0 / temperature**2),
    # A row's product with itself is computed, then left out: not a logit.
    errors=1.0 + np.abs(np.where(other, s, 0.0)).max(1, keepdims=True),
  )
  sides = both.terms.pop("rows"), both.terms.pop("columns")
  sums = [x + y for x, y in zip(*sides)]
  both.terms["first_view"] = [x[:n] for x in sums]
  both.terms["second_view"] = [x[n:] for x in sums]
  return both.reference(loss)


def _directions(
  out: Gradients,
  pairs: tuple[tuple[str, str], ...],
  arrays: dict[str, np.ndarray],
  logit_scale: float,
  positives: np.ndarray,
  weights: np.ndarray,
  label_smoothing: float = 0.0,
) -> np.ndarray:
  """Mean over (queries, keys) pairs of the cross-entropy of rows."""
  n = len(weights)
  total = np.zeros(n)
  for rows, columns in pairs:
    s = logit_scale * arrays[rows] @ arrays[columns].T
    loss, *parts = cross_entropy(
      s,
      s,
      positives,
      np.ones((n, n), bool),
      weights / len(pairs),
      label_smoothing,
    )
    total += loss / len(pairs)
    out.through_logits(
      tuple(parts),
      (rows, arrays[rows]),
      (columns, arrays[columns]),
      logit_scale,
      ("logit_scale", 1.0),
    )
  return total


def clip(
  image: np.ndarray,
  text: np.ndarray,
  *,
  logit_scale: float,
  group_ids: np.ndarray | None = None,
  label_smoothing: float = 0.0,
  weights: np.ndarray | None = None,
) -> Reference:
  """1/2 (image -> text + text -> image), s = logit_scale <., .>."""
  v, t = float64(image, text)
  n = len(v)
  out = Gradients(image=v, text=t, logit_scale=0.0)
  loss = _directions(
    out,
    (("image", "text"), ("text", "image")),
    {"image": v, "text": t},
    logit_scale,
    positives_of(group_ids, n),
    weights_of(weights, n),
    label_smoothing,
  )
  return out.reference(loss)


def clip_four_term(
  image: np.ndarray,
  text: np.ndarray,
  image_augmented: np.ndarray,
  text_augmented: np.ndarray,
  *,
  logit_scale: float,
  group_ids: np.ndarray | None = None,
  in_modal_denominator: str = "augmented",
  weights: np.ndarray | None = None,
) -> Reference:
  """1/4 (V2T + T2V + V2V + T2T); see papers' section 3.3 for "original"."""
  names = ("image", "text", "image_augmented", "text_augmented")
  rows = float64(image, text, image_augmented, text_augmented)
  arrays = dict(zip(names, rows, strict=True))
  n = len(rows[0])
  positives = positives_of(group_ids, n)
  w = weights_of(weights, n)
  out = Gradients(**arrays, logit_scale=0.0)
  if in_modal_denominator == "augmented":
    pairs = (
      ("image", "text"),
      ("text", "image"),
      ("image", "image_augmented"),
      ("text", "text_augmented"),
    )
    loss = _directions(out, pairs, arrays, logit_scale, positives, w)
    return out.reference(loss)

  pairs = (("image", "text"), ("text", "image"))
  loss = 0.5 * _directions(out, pairs, arrays, logit_scale, positives, 0.5 * w)
  for name in ("image", "text"):
    z, z_augmented = arrays[name], arrays[f"{name}_augmented"]
    in_modal, pull, push = cross_entropy(
      logit_scale * z @ z_augmented.T,
      logit_scale * z @ z.T,
      positives,
      np.ones((n, n), bool),
      0.25 * w,
    )
    loss += 0.25 * in_modal
    scale = ("logit_scale", 1.0)
    columns = (f"{name}_augmented", z_augmented)
    out.through_logits((pull,), (name, z), columns, logit_scale, scale)
    rows = (name, z)
    out.through_logits((push,), rows, rows, logit_scale, scale, exact=0)
  return out.reference(loss)


def moco_v3(
  queries: np.ndarray,
  momentum_keys: np.ndarray,
  *,
  temperature: float,
  group_ids: np.ndarray | None = None,
  weights: np.ndarray | None = None,
) -> Reference:
  """2 T InfoNCE(queries, keys); no gradient reaches the keys."""
  inner = info_nce(
    queries,
    momentum_keys,
    temperature=temperature,
    group_ids=group_ids,
    weights=weights,
  )
  mean = np.sum(weights_of(weights, len(queries)) * inner.per_example)
  factor = 2.0 * temperature
  scaled = total(inner, factor=factor).renamed(keys="momentum_keys")
  # d(2 T L(T)) / dT = 2 L + 2 T L'.
  scaled.gradients["temperature"] += 2.0 * mean
  scaled.magnitudes["temperature"] += 2.0 * abs(mean)
  scaled.sizes["temperature"] += 2.0 * abs(mean) * inner.sizes[""]
  return scaled.with_constants(momentum_keys=momentum_keys)


def decoupled(
  queries: np.ndarray,
  keys: np.ndarray,
  *,
  temperature: float,
  group_ids: np.ndarray | None = None,
  weights: np.ndarray | None = None,
) -> Reference:
  """InfoNCE without positives in the denominator; 0 without negatives."""
  q, k = float64(queries, keys)
  n = len(q)
  s = q @ k.T / temperature
  positives = positives_of(group_ids, n)
  loss, *parts = cross_entropy(
    s, s, positives, ~positives, weights_of(weights, n)
  )
  out = Gradients(queries=q, keys=k, temperature=0.0)
  out.through_logits(
    tuple(parts),
    ("queries", q),
    ("keys", k),
    1.0 / temperature,
    ("temperature", -1.0 / temperature**2),
  )
  return out.reference(loss, unit=float(not positives.all()))


def sigmoid(
  image: np.ndarray,
  text: np.ndarray,
  *,
  logit_scale: float,
  logit_bias: float,
  group_ids: np.ndarray | None = None,
  weights: np.ndarray | None = None,
) -> Reference:
  """Row i: sum_j softplus(-y_ij (scale <v_i, t_j> + bias)), y = +-1."""
  v, t = float64(image, text)
  n = len(v)
  y = np.where(positives_of(group_ids, n), 1.0, -1.0)
  x = logit_scale * v @ t.T + logit_bias
  loss = np.logaddexp(0.0, -y * x).sum(axis=1)
  # d softplus(-yx)/dx = -y sigmoid(-yx) = -y exp(-softplus(yx)).
  slope = np.exp(-np.logaddexp(0.0, y * x))
  g = weights_of(weights, n)[:, None] * -y * slope
  size = np.abs(x) + abs(logit_bias)
  out = Gradients(image=v, text=t, logit_scale=0.0, logit_bias=0.0)
  out.through_logits(
    (g,),
    ("image", v),
    ("text", t),
    logit_scale,
    ("logit_scale", 1.0),
    errors=1.0 + size,
    exact=0,
  )
  absolute = np.abs(g)
  out.add(
    "logit_bias", g.sum(), absolute.sum(), ((1.0 + size) * absolute).sum()
  )
  found = out.reference(loss)
  # All of it may be far less than one.
  terms = (np.logaddexp(0.0, -y * x) + slope * size).sum(1)
  found.sizes[""] = min(found.sizes[""], terms.max())
  return found


LOSSES: Mapping[str, Callable[..., Reference]] = {
  loss.__name__: loss
  for loss in (
    info_nce,
    nt_xent,
    clip,
    clip_four_term,
    moco_v3,
    decoupled,
    sigmoid,
    hard_negative_clip,
    hard_negative_nt_xent,
  )
}
# Losses of 2N values, of the first views and then of the second.
TWO_VIEWS = ("nt_xent", "hard_negative_nt_xent")
# The array and the scalar arguments of each loss, in the order of its
# signature; the tests run over these tables.
ARRAYS, SCALARS = (
  {
    name: tuple(
      argument.name
      for argument in inspect.signature(loss).parameters.values()
      if argument.kind is kind and argument.default is argument.empty
    )
    for name, loss in LOSSES.items()
  }
  for kind in (
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
  )
)


def make_inputs(
  name: str,
  n: int,
  d: int,
  *,
  seed: int = 0,
  noise: float = 0.7,
  dtype: np.dtype | type = np.float32,
) -> dict[str, np.ndarray]:
  """Unit rows for the loss `name`; rows of one index resemble each other."""
  rng = np.random.default_rng(seed)
  shared = rng.normal(size=(n, d))
  arrays = {}
  for argument in ARRAYS[name]:
    rows = shared + noise * rng.normal(size=(n, d))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    arrays[argument] = rows.astype(dtype)
  return arrays


def make_scalars(name: str, logit_scale: float) -> dict[str, float]:
  """The scalar arguments of the loss `name` at one sharpness."""
  values = {
    "temperature": 1.0 / logit_scale,
    "logit_scale": logit_scale,
    "logit_bias": -3.0,
    "beta": 0.5,
    "alpha": 0.7,
    "tau_plus": 0.05,
  }
  return {argument: values[argument] for argument in SCALARS[name]}
