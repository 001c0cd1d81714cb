"""Float64 NumPy references of the gamma-augmented losses.

Written from the formulas, with whole matrices and hand derivatives:

    D_ij  = c_ij / tau_i - c_ii / tau_i,          c = Q K^T
    Z_i   = c0 + kappa / |N_i| sum_{j in N_i} exp(D_ij)
    loss_i = u_i c0 + kappa / |N_i| sum_{j in N_i} phi(D_ij + log u_i)

with phi = exp, continued by its tangent above the cap. The gradient of
sum_i g_i loss_i with respect to D_ij is W_ij = g_i kappa / |N_i| phi'(.).
"""

from __future__ import annotations

import dataclasses

import numpy as np

EPSILON = 2.0**-23


def negatives(group_ids, n: int) -> np.ndarray:
  ids = np.arange(n) if group_ids is None else np.asarray(group_ids)
  return ids[:, None] != ids[None, :]


def log_partition(
  queries, keys, *, temperature, c0=0.0, kappa=1.0, mask=None, positive=None
):
  """Log Z-hat of every row; -inf where nothing is summed."""
  q, k = np.float64(queries), np.float64(keys)
  n = len(q)
  mask = negatives(None, n) if mask is None else mask
  tau = np.broadcast_to(np.float64(temperature), n)
  cosine = q @ k.T
  positive = np.diag(cosine) if positive is None else positive
  margin = (cosine - positive[:, None]) / tau[:, None]
  with np.errstate(divide="ignore", invalid="ignore"):
    total = np.where(mask, np.exp(margin), 0.0).sum(1)
    count = np.maximum(mask.sum(1), 1)
    return np.log(c0 + kappa * total / count)


@dataclasses.dataclass
class Reference:
  """Losses, gradients of their weighted sum, and what rounding is relative to.

  `rounding` is the relative error that float32 logits leave in exp of them.
  """

  per_example: np.ndarray
  gradients: dict[str, np.ndarray]
  magnitudes: dict[str, float]
  largest: float
  rounding: float

  def check(self, per_example, gradients, rtol=1e-6):
    bound = (rtol + self.rounding) * self.largest
    error = np.abs(np.float64(per_example) - self.per_example).max()
    assert error <= bound, f"loss: error {error:.3g}, bound {bound:.3g}"
    for name, actual in gradients.items():
      expected = self.gradients[name]
      actual = np.asarray(actual, np.float64)
      assert actual.shape == expected.shape, (name, actual.shape)
      bound = rtol * np.abs(expected).max()
      bound += (1e-6 + self.rounding) * self.magnitudes[name]
      error = np.abs(actual - expected).max()
      assert error <= bound, f"{name}: error {error:.3g}, bound {bound:.3g}"


def _direction(a, b, log_u, tau, mask, positives, c0, kappa, cap, weights):
  """One direction: losses and the derivatives of every cosine and tau.

  `positives` is an index: the column that is row i's positive.
  """
  n = len(a)
  rows = np.arange(n)
  cosine = a @ b.T
  own = cosine[rows, positives]
  margin = (cosine - own[:, None]) / tau[:, None]
  count = np.maximum(mask.sum(1, keepdims=True), 1)
  x = margin + log_u[:, None]
  cap = np.inf if cap is None else cap
  with np.errstate(over="ignore", invalid="ignore"):
    slope = np.exp(np.minimum(x, cap))
    value = slope * (1 + np.where(x > cap, x - cap, 0.0))
  slope = np.where(mask, kappa * slope / count, 0.0)
  value = np.where(mask, kappa * value / count, 0.0)
  loss = c0 * np.exp(log_u) + value.sum(1)
  w = weights[:, None] * slope
  # d loss / d c: each entry, and minus their sum on the positive.
  of_cosine = w / tau[:, None]
  absolute = np.abs(of_cosine)
  of_cosine[rows, positives] -= of_cosine.sum(1)
  absolute[rows, positives] += absolute.sum(1)
  of_tau = -(w * margin).sum(1) / tau
  tau_absolute = (
    np.abs(w) * (np.abs(cosine) + np.abs(own[:, None])) / tau[:, None] ** 2
  ).sum(1)
  size = (np.abs(cosine).max() / tau.min()) * 3 + np.abs(
    log_u[np.isfinite(log_u)]
  ).max(initial=0)
  return loss, of_cosine, absolute, of_tau, tau_absolute, size


def augmented(
  queries,
  keys,
  log_u,
  *,
  temperature,
  c0=0.0,
  kappa=1.0,
  group_ids=None,
  cap=None,
  weights=None,
  mask=None,
  positives=None,
  names=("queries", "keys"),
) -> Reference:
  q, k, log_u = np.float64(queries), np.float64(keys), np.float64(log_u)
  n = len(q)
  weights = np.full(n, 1.0 / n) if weights is None else np.float64(weights)
  tau = np.broadcast_to(np.float64(temperature), n)
  mask = negatives(group_ids, n) if mask is None else mask
  positives = np.arange(n) if positives is None else positives
  loss, g, g_abs, of_tau, tau_abs, size = _direction(
    q, k, log_u, tau, mask, positives, c0, kappa, cap, weights
  )
  total = np.shape(temperature) == ()
  return Reference(
    loss,
    {
      names[0]: g @ k,
      names[1]: g.T @ q,
      "temperature": of_tau.sum() if total else of_tau,
    },
    {
      names[0]: (g_abs @ np.abs(k)).max(),
      names[1]: (g_abs.T @ np.abs(q)).max(),
      "temperature": tau_abs.sum() if total else tau_abs.max(),
    },
    np.abs(loss).max(),
    EPSILON * (1 + size),
  )


def clip(
  image, text, image_log_u, text_log_u, *, temperature, weights=None, **options
) -> Reference:
  """Mean of both directions, by two calls."""
  n = len(image)
  weights = np.full(n, 1.0 / n) if weights is None else np.float64(weights)
  options = options | {"temperature": temperature, "weights": 0.5 * weights}
  names = ("image", "text")
  there = augmented(image, text, image_log_u, names=names, **options)
  back = augmented(text, image, text_log_u, names=names[::-1], **options)
  gradients = {k: v + back.gradients[k] for k, v in there.gradients.items()}
  sizes = {k: v + back.magnitudes[k] for k, v in there.magnitudes.items()}
  return Reference(
    0.5 * (there.per_example + back.per_example),
    gradients,
    sizes,
    there.largest + back.largest,
    max(there.rounding, back.rounding),
  )


def nt_xent(
  first_view,
  second_view,
  first_log_u,
  second_log_u,
  *,
  temperature,
  group_ids=None,
  **options,
) -> Reference:
  """Rows of both views among all rows of other examples."""
  n = len(first_view)
  z = np.concatenate([np.float64(first_view), np.float64(second_view)])
  ids = np.arange(n) if group_ids is None else np.asarray(group_ids)
  tau = np.float64(temperature)
  each = tau.ndim > 0
  found = augmented(
    z,
    z,
    np.concatenate([first_log_u, second_log_u]),
    temperature=np.tile(tau, 2) if each else tau,
    mask=negatives(np.tile(ids, 2), 2 * n),
    positives=np.roll(np.arange(2 * n), n),
    **options,
  )
  rows = found.gradients["queries"] + found.gradients["keys"]
  of_tau = found.gradients["temperature"]
  found.gradients = {
    "first_view": rows[:n],
    "second_view": rows[n:],
    "temperature": of_tau.reshape(2, n).sum(0) if each else of_tau,
  }
  size = found.magnitudes["queries"] + found.magnitudes["keys"]
  found.magnitudes |= {"first_view": size, "second_view": size}
  return found


def moco_v3(
  queries, momentum_keys, log_u, *, temperature, weights=None, **options
) -> Reference:
  """2 tau times the loss; keys and the factor are held constant."""
  n = len(queries)
  weights = np.full(n, 1.0 / n) if weights is None else np.float64(weights)
  factor = 2 * float(temperature)
  found = augmented(
    queries,
    momentum_keys,
    log_u,
    temperature=temperature,
    weights=factor * weights,
    names=("queries", "momentum_keys"),
    **options,
  )
  found.gradients["momentum_keys"] = np.zeros_like(np.float64(momentum_keys))
  found.per_example = factor * found.per_example
  found.largest *= factor
  return found


LOSSES = {
  "augmented_contrastive": augmented,
  "augmented_clip": clip,
  "augmented_nt_xent": nt_xent,
  "augmented_moco_v3": moco_v3,
}
ARRAYS = {
  "augmented_contrastive": ("queries", "keys"),
  "augmented_clip": ("image", "text"),
  "augmented_nt_xent": ("first_view", "second_view"),
  "augmented_moco_v3": ("queries", "momentum_keys"),
}


def rows_of(name: str, n: int) -> int:
  return 2 * n if name == "augmented_nt_xent" else n


def make_inputs(name, n, d, *, seed=0, noise=0.7, dtype=np.float32):
  """Two arrays of unit rows; rows of one index resemble each other."""
  rng = np.random.default_rng(seed)
  shared = rng.normal(size=(n, d))
  arrays = {}
  for argument in ARRAYS[name]:
    rows = shared + noise * rng.normal(size=(n, d))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    arrays[argument] = rows.astype(dtype)
  return arrays


def make_log_u(name, arrays, temperature, *, seed=0, spread=1.0):
  """Log-weights around -log Z, as a table has them: one or two arrays [n]."""
  rng = np.random.default_rng(seed + 1)
  a, b = (np.float64(x) for x in arrays.values())
  if name == "augmented_nt_xent":
    a, b = np.concatenate([a, b]), np.concatenate([b, a])
    if np.ndim(temperature):
      temperature = np.tile(temperature, 2)
  pairs = [(a, b), (b, a)] if name == "augmented_clip" else [(a, b)]
  found = []
  for x, y in pairs:
    log_z = log_partition(x, y, temperature=temperature)
    log_z = np.where(np.isfinite(log_z), log_z, 0.0)
    found.append(np.float32(-log_z + spread * rng.normal(size=len(x))))
  if name == "augmented_nt_xent":
    found = np.split(found[0], 2)
  return tuple(found)
