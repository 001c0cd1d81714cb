"""Float64 NumPy references of the gamma-augmented losses.

Written from the formulas, with whole matrices and hand derivatives:

    D_ij  = c_ij / tau_i - c_ii / tau_i,          c = Q K^T
    Z_i   = c0 + kappa / |N_i| sum_{j in N_i} exp(D_ij)
    loss_i = u_i c0 + kappa / |N_i| sum_{j in N_i} phi(D_ij + log u_i)

with phi = exp, continued by its tangent above the cap. The gradient of
sum_i g_i loss_i with respect to D_ij is W_ij = g_i kappa / |N_i| phi'(.).
"""

from __future__ import annotations

import numpy as np

from tests.losses.rounding import (
  BOUND,
  FLOAT32_EPSILON,
  Reference,
  float64,
  of_terms,
  total,
  weights_of,
)

# Exponents above this are continued by their tangent, for float32's sake.
LARGEST_LOG = 50.0


def negatives(group_ids, n: int) -> np.ndarray:
  ids = np.arange(n) if group_ids is None else np.asarray(group_ids)
  return ids[:, None] != ids[None, :]


def log_z(
  queries,
  keys,
  *,
  temperature,
  include_positive=False,
  negative_mass=1.0,
  mask=None,
  positive=None,
):
  """Log Z-hat of every row; -inf where nothing is summed."""
  q, k = float64(queries, keys)
  n = len(q)
  mask = negatives(None, n) if mask is None else mask
  tau = np.broadcast_to(np.float64(temperature), n)
  cosine = q @ k.T
  positive = np.diag(cosine) if positive is None else positive
  margin = np.where(mask, (cosine - positive[:, None]) / tau[:, None], -np.inf)
  log_mass = np.log(negative_mass / np.maximum(mask.sum(1), 1))
  found = np.logaddexp.reduce(margin, axis=1) + log_mass
  return np.logaddexp(found, 0.0) if include_positive else found


def capped_exp(x, cap, size):
  """Exp and its slope, above the cap its tangent; with the sizes of both.

  `size` is that of x, which exp takes to a relative error.
  """
  slope = np.exp(np.minimum(x, cap))
  value = slope * (1.0 + np.maximum(x - cap, 0.0))
  grown = np.expm1(np.minimum(BOUND * FLOAT32_EPSILON * size, 100.0))
  grown /= BOUND * FLOAT32_EPSILON
  # Far above the cap it is a line, whatever the error.
  line = x - cap > 2.0 * BOUND * FLOAT32_EPSILON * size
  grown = np.where(line, size, grown)
  return value, slope, value + slope * grown, slope * (1.0 + grown)


def _direction(a, b, log_u, tau, mask, positives, c0, kappa, cap, weights):
  """One direction: losses and the derivatives of every cosine and tau.

  `positives` is an index: the column that is row i's positive. Losses come with
  their sizes, derivatives with those and with their magnitudes.
  """
  n = len(a)
  rows = np.arange(n)
  cosine = a @ b.T
  own = cosine[rows, positives]
  margin = (cosine - own[:, None]) / tau[:, None]
  # Products are sums: errors of a cosine are relative to those of its terms.
  terms = np.abs(a) @ np.abs(b).T
  own_terms = terms[rows, positives]
  known = np.where(np.isfinite(log_u), np.abs(log_u), 0.0)
  size = (terms.max(1) + 2.0 * own_terms) / tau + known
  share = np.where(mask, kappa / np.maximum(mask.sum(1, keepdims=True), 1), 0.0)
  value, slope, grown, grown_slope = (
    share * x for x in capped_exp(margin + log_u[:, None], cap, size[:, None])
  )
  constant = c0 * capped_exp(log_u, cap, 0.0)[0]
  losses = [constant + x.sum(1) for x in (value, grown)]
  w, w_abs, w_size = (
    factor[:, None] * x
    for factor, x in (
      (weights, slope),
      (np.abs(weights), slope),
      (np.abs(weights), grown_slope),
    )
  )
  # d loss / d c: each entry, and minus their sum on the positive.
  of_cosine = [x / tau[:, None] for x in (w, w_abs, w_size)]
  for sign, found in zip((-1.0, 1.0, 1.0), of_cosine):
    found[rows, positives] += sign * found.sum(1)
  both = np.abs(cosine) + np.abs(own[:, None])
  of_tau = [
    -(w * margin).sum(1) / tau,
    (w_abs * both).sum(1) / tau**2,
    (w_size * both + w_abs * (terms + own_terms[:, None])).sum(1) / tau**2,
  ]
  return losses, of_cosine, of_tau


def augmented_contrastive(
  queries,
  keys,
  log_auxiliary,
  *,
  temperature: float | np.ndarray,
  include_positive=False,
  negative_mass=1.0,
  group_ids=None,
  log_weight_cap=None,
  weights=None,
  mask=None,
  positives=None,
  names=("queries", "keys"),
) -> Reference:
  q, k, log_u = float64(queries, keys, log_auxiliary)
  n = len(q)
  tau = np.broadcast_to(np.float64(temperature), n)
  losses, of_cosine, of_tau = _direction(
    q,
    k,
    log_u,
    tau,
    negatives(group_ids, n) if mask is None else mask,
    np.arange(n) if positives is None else positives,
    float(include_positive),
    negative_mass,
    LARGEST_LOG if log_weight_cap is None else log_weight_cap,
    weights_of(weights, n),
  )
  if np.shape(temperature) == ():
    of_tau = [x.sum() for x in of_tau]
  of_k, of_q = ((x, np.abs(x), np.abs(x)) for x in (k, q))
  gradients = {
    names[0]: [g @ x for g, x in zip(of_cosine, of_k)],
    names[1]: [g.T @ x for g, x in zip(of_cosine, of_q)],
    "temperature": of_tau,
  }
  return of_terms(*losses, **gradients)


def augmented_clip(
  image,
  text,
  image_log_auxiliary,
  text_log_auxiliary,
  *,
  temperature: float | np.ndarray,
  text_temperature=None,
  weights=None,
  **options,
) -> Reference:
  """Mean of both directions, by two calls."""
  weights = 0.5 * weights_of(weights, len(image))
  there, back = (
    augmented_contrastive(*rows, temperature=tau, weights=weights, **options)
    for rows, tau in directions(
      (image, text, image_log_auxiliary),
      (text, image, text_log_auxiliary),
      temperature,
      text_temperature,
    )
  )
  found = both(there, back, text_temperature)
  found.per_example = 0.5 * found.per_example
  found.sizes[""] *= 0.5
  return found


def directions(there, back, temperature, text_temperature):
  """Arguments of image to text and of text to image, and temperatures."""
  other = temperature if text_temperature is None else text_temperature
  return (there, temperature), (back, other)


def both(there, back, text_temperature) -> Reference:
  """The sum of image to text and text to image."""
  back = back.renamed(queries="text", keys="image")
  if text_temperature is not None:
    back = back.renamed(temperature="text_temperature")
  return total(there.renamed(queries="image", keys="text"), back)


def augmented_nt_xent(
  first_view,
  second_view,
  first_log_auxiliary,
  second_log_auxiliary,
  *,
  temperature: float | np.ndarray,
  group_ids=None,
  **options,
) -> Reference:
  """Rows of both views among all rows of other examples."""
  n = len(first_view)
  found = augmented_contrastive(
    *views(first_view, second_view),
    np.concatenate([first_log_auxiliary, second_log_auxiliary]),
    temperature=twice(temperature),
    mask=np.tile(negatives(group_ids, n), (2, 2)),
    positives=np.roll(np.arange(2 * n), n),
    **options,
  )
  return of_views(found, n)


def views(first, second):
  """All rows, twice."""
  return (np.concatenate(float64(first, second)),) * 2


def twice(temperature):
  """For the rows of both views."""
  return np.tile(temperature, 2) if np.ndim(temperature) else temperature


def of_views(found, n) -> Reference:
  """Gradients by the views: their rows are queries and keys."""
  rows = found.gradients["queries"] + found.gradients["keys"]
  of_tau = found.gradients["temperature"]
  found.gradients = {
    "first_view": rows[:n],
    "second_view": rows[n:],
    "temperature": of_tau.reshape(2, n).sum(0) if of_tau.ndim else of_tau,
  }
  for sizes in (found.magnitudes, found.sizes):
    size = sizes["queries"] + sizes["keys"]
    sizes |= {"first_view": size, "second_view": size}
  return found


def augmented_moco_v3(
  queries,
  momentum_keys,
  log_auxiliary,
  *,
  temperature: float,
  weights=None,
  **options,
) -> Reference:
  """2 tau times the loss; keys and the factor are held constant."""
  factor = 2 * float(temperature)
  found = augmented_contrastive(
    queries,
    momentum_keys,
    log_auxiliary,
    temperature=temperature,
    weights=factor * weights_of(weights, len(queries)),
    names=("queries", "momentum_keys"),
    **options,
  ).with_constants(momentum_keys=momentum_keys)
  found.per_example = factor * found.per_example
  found.sizes[""] *= factor
  return found


def scale_by_temperature(
  loss, *, log_partition, temperature: float | np.ndarray, rho, weights=None
) -> Reference:
  """The objective tau (log Z + rho), with tau times the loss's slope."""
  batch, tau = float64(log_partition, temperature)
  seen = np.isfinite(batch)
  w, batch = weights_of(weights, len(batch)) * seen, np.where(seen, batch, 0.0)
  size = np.abs(batch) + abs(rho)
  by_tau, by_tau_abs = w * (batch + rho), np.abs(w) * size
  if not tau.ndim:
    by_tau, by_tau_abs = by_tau.sum(), by_tau_abs.sum()
  return of_terms(
    seen * tau * (batch + rho),
    tau * size,
    loss=(w * tau, np.abs(w * tau)),
    temperature=(by_tau, by_tau_abs),
    rho=((w * tau).sum(), np.abs(w * tau).sum()),
  )


LOSSES = {
  loss.__name__: loss
  for loss in (
    augmented_contrastive,
    augmented_clip,
    augmented_nt_xent,
    augmented_moco_v3,
  )
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


def make_log_u(
  name, arrays, temperature, text_temperature=None, *, seed=0, spread=1.0
):
  """Log-weights around -log Z, as a table has them: one or two arrays [n]."""
  rng = np.random.default_rng(seed + 1)
  a, b = (np.float64(x) for x in arrays.values())
  if name == "augmented_nt_xent":
    a, b = np.concatenate([a, b]), np.concatenate([b, a])
    temperature = twice(temperature)
  pairs = directions((a, b), (b, a), temperature, text_temperature)
  found = []
  for (x, y), tau in pairs[: 1 + (name == "augmented_clip")]:
    known = log_z(x, y, temperature=tau)
    known = np.where(np.isfinite(known), known, 0.0)
    found.append(np.float32(-known + spread * rng.normal(size=len(x))))
  if name == "augmented_nt_xent":
    found = np.split(found[0], 2)
  return tuple(found)
