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

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

FLOAT32_EPSILON = 2.0**-23

# The array and the scalar arguments of each loss, in the order of its
# signature; the tests run over these tables.
ARRAYS: Mapping[str, tuple[str, ...]] = {
  "info_nce": ("queries", "keys"),
  "nt_xent": ("first_view", "second_view"),
  "clip": ("image", "text"),
  "clip_four_term": (
    "image",
    "text",
    "image_augmented",
    "text_augmented",
  ),
  "moco_v3": ("queries", "momentum_keys"),
  "decoupled": ("queries", "keys"),
  "sigmoid": ("image", "text"),
}
SCALARS: Mapping[str, tuple[str, ...]] = {
  "info_nce": ("temperature",),
  "nt_xent": ("temperature",),
  "clip": ("logit_scale",),
  "clip_four_term": ("logit_scale",),
  "moco_v3": ("temperature",),
  "decoupled": ("temperature",),
  "sigmoid": ("logit_scale", "logit_bias"),
}


@dataclasses.dataclass
class Reference:
  """A loss and its gradients.

  Attributes:
    per_example: losses, [N] ([2N] for `nt_xent`).
    gradients: of the weighted sum, by argument name.
    magnitudes: by argument name, the sum of absolute values of the terms
      whose sum the gradient is (its largest entry): what rounding errors are
      relative to.
    max_logit: the largest |logit|. A float32 logit s carries an error of
      about `FLOAT32_EPSILON * |s|`, which is the *relative* error of exp(s).
    unit: what a loss of one is multiplied by (2 T for MoCo v3).
  """

  per_example: np.ndarray
  gradients: dict[str, np.ndarray]
  magnitudes: dict[str, float]
  max_logit: float
  unit: float = 1.0

  def assert_values(self, actual: np.ndarray, *, rtol: float = 1e-6) -> None:
    """Per-example losses agree: `rtol`, and the rounding of the logits."""
    actual = np.asarray(actual, np.float64)
    assert actual.shape == self.per_example.shape, actual.shape
    # A loss is a sum of logits, whatever of them cancels.
    bound = rtol * np.abs(self.per_example).max()
    bound += FLOAT32_EPSILON * (1.0 + self.max_logit) * self.unit
    error = np.abs(actual - self.per_example).max()
    assert error <= bound, f"loss: error {error:.3g}, bound {bound:.3g}"

  def assert_gradient(
    self, name: str, actual: np.ndarray, *, rtol: float = 1e-6
  ) -> None:
    """The gradient of `name` agrees to `rtol * max|gradient|`.

    To which is added what float32 cannot avoid: logits that are rounded
    perturb the softmax by `FLOAT32_EPSILON * max_logit`, relatively.
    """
    actual = np.asarray(actual, np.float64)
    expected = self.gradients[name]
    assert actual.shape == expected.shape, (name, actual.shape)
    bound = rtol * np.abs(expected).max()
    bound += FLOAT32_EPSILON * (1.0 + self.max_logit) * self.magnitudes[name]
    error = np.abs(actual - expected).max()
    assert error <= bound, f"{name}: error {error:.3g}, bound {bound:.3g}"


class _Gradients:
  """Adds up gradients and the magnitudes of their terms."""

  def __init__(self, **arguments: np.ndarray | float):
    self.values = {k: np.zeros(np.shape(v)) for k, v in arguments.items()}
    self.absolute = {k: np.zeros(np.shape(v)) for k, v in arguments.items()}
    self.max_logit = 0.0

  def add(self, name: str, value: np.ndarray, absolute: np.ndarray) -> None:
    self.values[name] = self.values[name] + value
    self.absolute[name] = self.absolute[name] + absolute

  def through_logits(
    self,
    parts: tuple[np.ndarray, ...],
    a: tuple[str, np.ndarray],
    b: tuple[str, np.ndarray],
    factor: float,
    factor_gradient: tuple[str, float],
  ) -> None:
    """Backpropagates G = sum(parts) through s = factor <a_i, b_j>."""
    g, g_abs = sum(parts), sum(np.abs(part) for part in parts)
    (a_name, a_rows), (b_name, b_rows) = a, b
    cosine = a_rows @ b_rows.T
    self.max_logit = max(self.max_logit, np.abs(factor * cosine).max())
    self.add(a_name, factor * g @ b_rows, factor * g_abs @ np.abs(b_rows))
    self.add(b_name, factor * g.T @ a_rows, factor * g_abs.T @ np.abs(a_rows))
    name, derivative = factor_gradient  # d factor / d argument
    self.add(
      name,
      derivative * np.sum(g * cosine),
      abs(derivative) * np.sum(g_abs * np.abs(cosine)),
    )

  def reference(self, per_example: np.ndarray) -> Reference:
    return Reference(
      per_example=per_example,
      gradients={k: np.asarray(v) for k, v in self.values.items()},
      magnitudes={k: float(np.max(v)) for k, v in self.absolute.items()},
      max_logit=float(self.max_logit),
    )


def _float64(*arrays: np.ndarray) -> list[np.ndarray]:
  return [np.asarray(array).astype(np.float64) for array in arrays]


def _weights(weights: np.ndarray | None, n: int) -> np.ndarray:
  return np.full(n, 1.0 / n) if weights is None else _float64(weights)[0]


def _positives(group_ids: np.ndarray | None, n: int) -> np.ndarray:
  ids = np.arange(n) if group_ids is None else np.asarray(group_ids)
  return ids[:, None] == ids[None, :]


def _cross_entropy(
  numerator_logits: np.ndarray,
  denominator_logits: np.ndarray,
  positives: np.ndarray,
  in_denominator: np.ndarray,
  weights: np.ndarray,
  label_smoothing: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Rows' losses, and the gradient's two parts: -w t (numerator), w p."""
  live = in_denominator.any(axis=1)
  targets = positives / positives.sum(axis=1, keepdims=True)
  targets = (1 - label_smoothing) * targets + label_smoothing / len(targets)
  masked = np.where(in_denominator, denominator_logits, -np.inf)
  peak = np.where(live, masked.max(axis=1), 0.0)
  exponentials = np.exp(masked - peak[:, None])
  total = np.where(live, exponentials.sum(axis=1), 1.0)
  loss = peak + np.log(total) - (targets * numerator_logits).sum(axis=1)
  scaled = np.where(live, weights, 0.0)[:, None]
  return (
    np.where(live, loss, 0.0),
    -scaled * targets,
    scaled * exponentials / total[:, None],
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
  q, k = _float64(queries, keys)
  n = len(q)
  s = q @ k.T / temperature
  loss, *parts = _cross_entropy(
    s,
    s,
    _positives(group_ids, n),
    np.ones((n, n), bool),
    _weights(weights, n),
    label_smoothing,
  )
  out = _Gradients(queries=q, keys=k, temperature=0.0)
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
  first, second = _float64(first_view, second_view)
  n = len(first)
  z = np.concatenate([first, second])
  other = ~np.eye(2 * n, dtype=bool)
  ids = np.arange(n) if group_ids is None else np.asarray(group_ids)
  s = z @ z.T / temperature
  loss, *parts = _cross_entropy(
    s,
    s,
    _positives(np.concatenate([ids, ids]), 2 * n) & other,
    other,
    _weights(weights, 2 * n),
  )
  # z stands on both sides: its gradient is the sum of the two.
  both = _Gradients(rows=z, columns=z, temperature=0.0)
  both.through_logits(
    tuple(parts),
    ("rows", z),
    ("columns", z),
    1.0 / temperature,
    ("temperature", -1.0 / temperature**2),
  )
  out = _Gradients(first_view=first, second_view=second, temperature=0.0)
  value = both.values["rows"] + both.values["columns"]
  absolute = both.absolute["rows"] + both.absolute["columns"]
  out.add("first_view", value[:n], absolute[:n])
  out.add("second_view", value[n:], absolute[n:])
  out.add(
    "temperature",
    both.values["temperature"],
    both.absolute["temperature"],
  )
  # A row's product with itself is computed, then left out: not a logit.
  out.max_logit = np.abs(np.where(other, s, 0.0)).max()
  return out.reference(loss)


def _directions(
  out: _Gradients,
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
    loss, *parts = _cross_entropy(
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
  v, t = _float64(image, text)
  n = len(v)
  out = _Gradients(image=v, text=t, logit_scale=0.0)
  loss = _directions(
    out,
    (("image", "text"), ("text", "image")),
    {"image": v, "text": t},
    logit_scale,
    _positives(group_ids, n),
    _weights(weights, n),
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
  names = ARRAYS["clip_four_term"]
  rows = _float64(image, text, image_augmented, text_augmented)
  arrays = dict(zip(names, rows, strict=True))
  n = len(rows[0])
  positives = _positives(group_ids, n)
  w = _weights(weights, n)
  out = _Gradients(**arrays, logit_scale=0.0)
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
    in_modal, pull, push = _cross_entropy(
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
    out.through_logits((push,), (name, z), (name, z), logit_scale, scale)
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
  total = float(np.sum(_weights(weights, len(queries)) * inner.per_example))
  factor = 2.0 * temperature
  gradients, magnitudes = inner.gradients, inner.magnitudes
  return Reference(
    per_example=factor * inner.per_example,
    gradients={
      "queries": factor * gradients["queries"],
      "momentum_keys": np.zeros_like(gradients["keys"]),
      # d(2 T L(T)) / dT = 2 L + 2 T L'.
      "temperature": np.asarray(
        2.0 * total + factor * gradients["temperature"]
      ),
    },
    magnitudes={
      "queries": factor * magnitudes["queries"],
      "momentum_keys": 0.0,
      "temperature": 2.0 * abs(total) + factor * magnitudes["temperature"],
    },
    max_logit=inner.max_logit,
    unit=factor,
  )


def decoupled(
  queries: np.ndarray,
  keys: np.ndarray,
  *,
  temperature: float,
  group_ids: np.ndarray | None = None,
  weights: np.ndarray | None = None,
) -> Reference:
  """InfoNCE without positives in the denominator; 0 without negatives."""
  q, k = _float64(queries, keys)
  n = len(q)
  s = q @ k.T / temperature
  positives = _positives(group_ids, n)
  loss, *parts = _cross_entropy(
    s, s, positives, ~positives, _weights(weights, n)
  )
  out = _Gradients(queries=q, keys=k, temperature=0.0)
  out.through_logits(
    tuple(parts),
    ("queries", q),
    ("keys", k),
    1.0 / temperature,
    ("temperature", -1.0 / temperature**2),
  )
  return out.reference(loss)


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
  v, t = _float64(image, text)
  n = len(v)
  y = np.where(_positives(group_ids, n), 1.0, -1.0)
  x = logit_scale * v @ t.T + logit_bias
  loss = np.logaddexp(0.0, -y * x).sum(axis=1)
  # d softplus(-yx)/dx = -y sigmoid(-yx) = -y exp(-softplus(yx)).
  g = -y * np.exp(-np.logaddexp(0.0, y * x))
  g = _weights(weights, n)[:, None] * g
  out = _Gradients(image=v, text=t, logit_scale=0.0, logit_bias=0.0)
  out.through_logits(
    (g,), ("image", v), ("text", t), logit_scale, ("logit_scale", 1.0)
  )
  out.add("logit_bias", g.sum(), np.abs(g).sum())
  out.max_logit = np.abs(x).max() + abs(logit_bias)
  return out.reference(loss)


LOSSES: Mapping[str, Callable[..., Reference]] = {
  "info_nce": info_nce,
  "nt_xent": nt_xent,
  "clip": clip,
  "clip_four_term": clip_four_term,
  "moco_v3": moco_v3,
  "decoupled": decoupled,
  "sigmoid": sigmoid,
}


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
  }
  return {argument: values[argument] for argument in SCALARS[name]}
