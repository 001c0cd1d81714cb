"""Float64 NumPy references of log-partitions, and of what predicts them.

Written from the formulas, as `augmented_references`, whose u Z-hat has the gradient
of log Z-hat where u = 1 / Z-hat.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tests.losses.augmented_references import (
  LARGEST_LOG,
  augmented_contrastive,
  both,
  capped_exp,
  directions,
  log_z,
  negatives,
  of_views,
  twice,
  views,
)
from tests.losses.rounding import Reference, float64, of_terms, weights_of
from tests.losses.structure_references import Unit


def log_partition(
  queries,
  keys,
  *,
  temperature: float | np.ndarray,
  include_positive=False,
  negative_mass=1.0,
  group_ids=None,
  weights=None,
  mask=None,
  positives=None,
) -> Reference:
  """Log Z-hat, with the gradient of u Z-hat at u = 1 / Z-hat."""
  q, k = float64(queries, keys)
  n = len(q)
  mask = negatives(group_ids, n) if mask is None else mask
  positives = np.arange(n) if positives is None else positives
  own = (q * k[positives]).sum(1)
  live = mask.any(1)
  value = log_z(
    q,
    k,
    temperature=temperature,
    include_positive=include_positive,
    negative_mass=negative_mass,
    mask=mask,
    positive=own,
  )
  found = augmented_contrastive(
    q,
    k,
    np.where(live, -value, -np.inf),
    temperature=temperature,
    negative_mass=negative_mass,
    weights=weights_of(weights, n),
    mask=mask,
    positives=positives,
  )
  terms = np.abs(q) @ np.abs(k).T
  size = 1.0 + (terms.max(1) + (np.abs(q * k[positives])).sum(1)) / temperature
  # The log of a sum, and that of how many there are.
  size += np.abs(value) + np.log(np.maximum(mask.sum(1), 1))
  found.sizes[""] = np.where(live, size, 0.0).max()
  return dataclasses.replace(found, per_example=value)


def log_partition_clip(
  image,
  text,
  *,
  temperature: float | np.ndarray,
  text_temperature=None,
  weights=None,
  **options,
) -> Reference:
  """Images among the texts, then texts among the images."""
  weights = np.split(weights_of(weights, 2 * len(image)), 2)
  there, back = (
    log_partition(*rows, temperature=tau, weights=w, **options)
    for (rows, tau), w in zip(
      directions((image, text), (text, image), temperature, text_temperature),
      weights,
    )
  )
  found = both(there, back, text_temperature)
  found.per_example = np.concatenate([there.per_example, back.per_example])
  return found


def log_partition_nt_xent(
  first_view,
  second_view,
  *,
  temperature: float | np.ndarray,
  group_ids=None,
  **options,
) -> Reference:
  """Rows of both views among all rows of other examples."""
  n = len(first_view)
  found = log_partition(
    *views(first_view, second_view),
    temperature=twice(temperature),
    mask=np.tile(negatives(group_ids, n), (2, 2)),
    positives=np.roll(np.arange(2 * n), n),
    **options,
  )
  return of_views(found, n)


def amortized_loss(
  prediction, *, log_partition, objective="linear", target=None, weights=None
) -> Reference:
  """One of three objectives where log Z is finite, with R = exp(log Z - nu):

  R + nu - 1, (nu - log T)^2, or R (log T - nu - 1) + Z / T.
  """
  nu, batch = float64(prediction, log_partition)
  known = batch if target is None else np.float64(target)
  seen = np.isfinite(batch)
  w, batch = weights_of(weights, len(nu)) * seen, np.where(seen, batch, nu)
  known = np.where(seen, known, nu)
  size = np.abs(batch) + np.abs(nu)
  gap, reach = known - nu, np.abs(known) + np.abs(nu)
  if objective == "l2":
    return of_terms(
      seen * gap**2,
      seen * 2.0 * np.abs(gap) * reach + gap**2,
      prediction=(-2.0 * w * gap, 2.0 * np.abs(w) * reach),
    )
  value, slope, value_size, slope_size = capped_exp(
    batch - nu, LARGEST_LOG, size
  )
  if objective == "kl":
    mass, _, mass_size, _ = capped_exp(
      batch - known, LARGEST_LOG, np.abs(batch) + np.abs(known)
    )
    return of_terms(
      seen * (value * (gap - 1.0) + mass),
      seen * (value_size * (np.abs(gap) + 1.0) + value * reach + mass_size),
      prediction=(
        -w * (slope * (gap - 1.0) + value),
        np.abs(w) * (slope * (np.abs(gap) + 1.0) + value),
        np.abs(w)
        * (slope_size * (np.abs(gap) + 1.0) + slope * reach + value_size),
      ),
    )
  return of_terms(
    seen * (value + nu - 1.0),
    seen * (value_size + np.abs(nu) + 1.0),
    prediction=(w * (1.0 - slope), np.abs(w) * (1.0 + slope_size)),
  )


def prototype_log_partition(
  queries,
  keys,
  prototypes,
  *,
  temperature: float | np.ndarray,
  include_positive=False,
  negative_mass=1.0,
  eps=1e-14,
  weights=None,
) -> Reference:
  """Unit prototypes for the negatives; a gradient reaches them alone."""
  q, k, rows = float64(queries, keys, prototypes)
  n, m = len(q), len(rows)
  tau = np.broadcast_to(np.float64(temperature), n)[:, None]
  unit = Unit(rows, np.abs(rows))
  own = (q * k).sum(1, keepdims=True)
  cosine = q @ unit.value.T
  margin = (cosine - own) / tau + np.log(negative_mass / m)
  log_sum = np.logaddexp.reduce(margin, axis=1)
  value = np.logaddexp(log_sum, np.log(eps + bool(include_positive)))
  size = np.abs(cosine).max(1, keepdims=True) + np.abs(own)
  size = 1.0 + size / tau
  g = weights_of(weights, n)[:, None] * np.exp(margin - value[:, None]) / tau
  return of_terms(
    value,
    size[:, 0] + np.abs(value) + np.log(m),
    prototypes=unit.gradient(g.T @ q, (size * np.abs(g)).T @ np.abs(q)),
  ).with_constants(queries=q, keys=k, temperature=temperature)
