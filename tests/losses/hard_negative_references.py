"""Float64 NumPy references of the hard-negative losses, with hand derivatives.

Written from the printed sums, weight by weight, and not from the log-sum-exps that
the library takes: see `losses.hard_negative` for the formula. With t the target,
a the share of alpha sum e^s in the denominator and r that of the rest R,

    d loss / d s_ij = -t_ij + a softmax_P(s)_ij
      + r [(1 + beta) h_ij - beta g_ij],   h = softmax_N((1 + beta) s), g = softmax_N(beta s)

and debiasing takes tau+ |N| / |P| times the positives' exponentials off R.
"""

from __future__ import annotations

import numpy as np

from tests.losses.rounding import (
  Gradients,
  Reference,
  float64,
  positives_of,
  weights_of,
)


def _softmax(s, among):
  """Over the entries among which there are any; else zeros."""
  kept = np.where(among, s, -np.inf)
  top = np.where(among.any(1), kept.max(1), 0.0)[:, None]
  e = np.exp(kept - top)
  return np.divide(
    e, e.sum(1, keepdims=True), out=e * 0, where=e.any(1)[:, None]
  )


def _rows(s, positives, negatives, scale, beta, alpha, tau_plus, weights):
  """Losses, parts of the gradients, and what rounding is relative to.

  Of the parts of d / d logits the first is exact. Each scalar's derivative comes
  with the sum of absolute values of its terms.
  """
  n_pos, n_neg = positives.sum(1), negatives.sum(1)
  live = n_neg > 0
  # All exponentials are relative to the row's largest logit.
  kept = np.where(positives | negatives, s, -np.inf)
  top = kept.max(1, keepdims=True)
  e = np.exp(np.where(np.isfinite(kept), kept - top, -np.inf))
  g = _softmax(beta * s, negatives)
  h = _softmax((1.0 + beta) * s, negatives)
  hard = n_neg * (g * e).sum(1)
  taken = tau_plus * n_neg * (positives * e).sum(1) / n_pos
  debiased = (hard - taken) / (1.0 - tau_plus)
  with np.errstate(over="ignore"):
    least = n_neg * np.exp(-scale - top[:, 0])
  bound = (tau_plus > 0) & (debiased <= least)
  negative = np.where(bound, least, debiased)
  pull = alpha * (positives * e).sum(1)
  total = pull + negative
  empty = total == 0.0  # Neither negatives nor a positive that counts.
  safe = np.where(empty, 1.0, total)
  target = positives / n_pos[:, None]
  loss = top[:, 0] + np.log(safe) - (target * np.where(positives, s, 0)).sum(1)
  loss = np.where(empty, 0.0, loss)
  w = np.where(empty, 0.0, weights)
  inner = np.where(bound | ~live, 0.0, w / safe / (1.0 - tau_plus))
  soft = _softmax(s, positives)
  parts = (
    -w[:, None] * target,
    (w * pull / safe)[:, None] * soft,
    (inner * hard * (1.0 + beta))[:, None] * h,
    -(inner * hard * beta)[:, None] * g,
    -(inner * taken)[:, None] * soft,
  )
  # d log R / d beta is the difference of the mean logits under h and g.
  drift = [
    inner * hard * (x * np.where(negatives, s, 0)).sum(1) for x in (h, -g)
  ]
  of_tau = [-inner * taken / max(tau_plus, 1e-300)]
  of_tau.append(inner * (hard - taken) / (1.0 - tau_plus))
  # The bound's own: of exp(-scale) by the scale.
  of_scale = -np.where(bound, w * least / safe, 0.0)
  scalars = {
    "beta": drift,
    "alpha": [w * pull / safe / alpha if alpha else 0.0 * w],
    "tau_plus": of_tau,
  }
  largest = np.abs(np.where(positives | negatives, s, 0.0)).max(1)
  # The logarithms of numbers that G is multiplied by are rounded as logits are.
  largest += np.log(np.maximum(n_neg, 1.0))
  if tau_plus:
    largest += abs(np.log(tau_plus))
  # R is of two sums, and a difference of them where it is debiased.
  lost = np.where(bound, 0.0, (hard + taken) / (1.0 - tau_plus) / safe)
  size = 1.0 + (1.0 + 2.0 * beta) * largest * np.maximum(1.0, lost)
  if tau_plus:
    # Rounding may choose the other side of the bound, with another slope.
    near = np.abs(debiased - least) <= 1e-4 * np.maximum(hard + taken, least)
    size = np.where(near & live, size + 1e7, size)
  return loss, parts, scalars, of_scale, size


def hard_negative_clip(
  image: np.ndarray,
  text: np.ndarray,
  *,
  logit_scale: float,
  beta: float,
  alpha: float,
  tau_plus: float,
  group_ids: np.ndarray | None = None,
  weights: np.ndarray | None = None,
) -> Reference:
  """1/2 (image -> text + text -> image), s = logit_scale <., .>."""
  v, t = float64(image, text)
  n = len(v)
  positives = positives_of(group_ids, n)
  out = Gradients(
    image=v, text=t, logit_scale=0.0, beta=0.0, alpha=0.0, tau_plus=0.0
  )
  loss = np.zeros(n)
  for a, b in ((("image", v), ("text", t)), (("text", t), ("image", v))):
    loss += 0.5 * _direction(
      out,
      a,
      b,
      ("logit_scale", logit_scale, 1.0),
      positives,
      ~positives,
      (beta, alpha, tau_plus),
      0.5 * weights_of(weights, n),
    )
  return out.reference(loss)


def hard_negative_nt_xent(
  first_view: np.ndarray,
  second_view: np.ndarray,
  *,
  temperature: float,
  beta: float,
  alpha: float,
  tau_plus: float,
  group_ids: np.ndarray | None = None,
  weights: np.ndarray | None = None,
) -> Reference:
  """Each of 2N rows among the others of both views, s = <., .> / T."""
  first, second = float64(first_view, second_view)
  n = len(first)
  z = np.concatenate([first, second])
  ids = np.arange(n) if group_ids is None else np.asarray(group_ids)
  same = positives_of(np.concatenate([ids, ids]), 2 * n)
  both = Gradients(
    rows=z, columns=z, temperature=0.0, beta=0.0, alpha=0.0, tau_plus=0.0
  )
  loss = _direction(
    both,
    ("rows", z),
    ("columns", z),
    ("temperature", 1.0 / temperature, -1.0 / temperature**2),
    same & ~np.eye(2 * n, dtype=bool),
    ~same,
    (beta, alpha, tau_plus),
    weights_of(weights, 2 * n),
  )
  # z stands on both sides: its gradient is the sum of the two.
  sides = both.terms.pop("rows"), both.terms.pop("columns")
  sums = [x + y for x, y in zip(*sides)]
  both.terms["first_view"] = [x[:n] for x in sums]
  both.terms["second_view"] = [x[n:] for x in sums]
  return both.reference(loss)


def _direction(out, a, b, factor, positives, negatives, scalars, weights):
  """Losses of rows a among b; adds what their gradients are made of."""
  name, scale, slope = factor
  s = scale * a[1] @ b[1].T
  loss, parts, own, of_scale, size = _rows(
    s, positives, negatives, scale, *scalars, weights
  )
  out.through_logits(
    parts, a, b, scale, (name, slope), errors=size[:, None], exact=1
  )
  out.add(
    name,
    slope * of_scale.sum(),
    abs(slope) * np.abs(of_scale).sum(),
    abs(slope) * (size * np.abs(of_scale)).sum(),
  )
  for scalar, terms in own.items():
    absolute = sum(np.abs(x) for x in terms)
    out.add(
      scalar,
      sum(x.sum() for x in terms),
      absolute.sum(),
      (size * absolute).sum(),
    )
  return loss
