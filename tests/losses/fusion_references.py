"""Float64 NumPy references of the losses of queues and of fusion models.

Written from the formulas, with whole matrices and hand derivatives, as
`references`. All are cross-entropies of logits z against targets t that no
gradient reaches, so d loss / dz = p - t.
"""

from __future__ import annotations

import numpy as np

from tests.losses.rounding import (
  Gradients,
  Reference,
  cross_entropy,
  float64,
  of_terms,
  weights_of,
)


def softmax(z: np.ndarray) -> np.ndarray:
  """Over the last axis."""
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def _spread(soft, z):
  """Distances of logits from their mean: relative errors of targets do that."""
  away = np.abs(z - (soft * z).sum(-1, keepdims=True))
  return (soft * away).sum(-1)


def _among_keys(
  q, keys, tau, targets, allowed, weights, exact=1, logits=0.0
) -> Reference:
  """Queries against keys that are constant; targets of logits, if any."""
  s = q @ keys.T / tau
  loss, *parts = cross_entropy(s, s, targets, allowed, weights)
  largest = np.maximum(np.abs(np.where(allowed, s, 0.0)), np.abs(logits))
  out = Gradients(queries=q, keys=keys, temperature=0.0)
  out.through_logits(
    tuple(parts),
    ("queries", q),
    ("keys", keys),
    1.0 / tau,
    ("temperature", -1.0 / tau**2),
    errors=1.0 + largest.max(1, keepdims=True),
    exact=exact,
  )
  del out.terms["keys"]
  return out.reference(loss)


def moco_v2(
  queries, momentum_keys, queue, *, temperature, weights=None
) -> Reference:
  """The own momentum key against those of a queue."""
  q, k, queue = float64(queries, momentum_keys, queue)
  n = len(q)
  keys = np.concatenate([k, queue])
  own = np.eye(n, len(keys), dtype=bool)
  allowed = own | (np.arange(len(keys)) >= n)
  return _among_keys(
    q, keys, float(temperature), own, allowed, weights_of(weights, n)
  ).with_constants(momentum_keys=k, queue=queue)


def soft_target_contrastive(
  queries,
  momentum_queries,
  momentum_keys,
  queue,
  *,
  temperature,
  alpha,
  group_ids=None,
  queue_ids=None,
  weights=None,
) -> Reference:
  """Against alpha times the momentum encoder's softmax, and the own id."""
  q, qm, k, queue = float64(queries, momentum_queries, momentum_keys, queue)
  n, tau, alpha = len(q), float(temperature), float(alpha)
  keys = np.concatenate([k, queue])
  hard = np.eye(n, len(keys))
  if group_ids is not None:
    every = np.concatenate([group_ids, queue_ids])
    hard = (np.asarray(group_ids)[:, None] == every[None]).astype(np.float64)
    hard /= hard.sum(1, keepdims=True)
  soft = softmax(qm @ keys.T / tau)
  target = alpha * soft + (1.0 - alpha) * hard
  # The library multiplies queries by means of keys, whatever of those cancels.
  terms = (np.abs(q) + np.abs(qm)) @ np.abs(keys).T / tau
  found = _among_keys(
    q,
    keys,
    tau,
    target,
    np.ones(target.shape, bool),
    weights_of(weights, n),
    exact=0,
    logits=terms,
  )
  spread = _spread(soft, q @ keys.T / tau)
  found.sizes[""] += alpha * (terms.max(1) * spread).max()
  return found.with_constants(
    momentum_queries=qm, momentum_keys=k, queue=queue, alpha=alpha
  )


def _classes(logits, targets, weights, counts, teacher=0.0) -> Reference:
  """Cross-entropy of the last axis, 0 where it does not count."""
  (z,) = float64(logits)
  rows, t = z.reshape(-1, z.shape[-1]), targets.reshape(-1, z.shape[-1])
  w = weights_of(weights, len(rows)) * counts
  loss, pull, push = cross_entropy(rows, rows, t, np.ones(t.shape, bool), w)
  largest = np.maximum(np.abs(z), np.abs(teacher)).reshape(rows.shape)
  size = 1.0 + largest.max(1, keepdims=True)
  soft = size[:, 0] * _spread(t, rows) if np.ndim(teacher) else 0.0
  g, absolute = pull + push, np.abs(pull) + np.abs(push)
  return of_terms(
    counts * loss,
    counts * (size[:, 0] + soft),
    logits=(g.reshape(z.shape), absolute, size * absolute),
  )


def image_text_matching(
  logits, *, matches, valid=None, weights=None
) -> Reference:
  """Two classes."""
  targets = np.eye(2)[np.asarray(matches, int)]
  valid = np.ones(len(targets)) if valid is None else np.float64(valid)
  return _classes(logits, targets, weights, valid)


def distillation(logits, teacher_logits, *, weights=None) -> Reference:
  """Against a teacher's softmax."""
  (teacher,) = float64(teacher_logits)
  return _classes(
    logits, softmax(teacher), weights, 1.0, teacher
  ).with_constants(teacher_logits=teacher)


def masked_language_modeling(
  logits, teacher_logits, *, tokens, chosen, alpha, weights=None
) -> Reference:
  """Against 1 - alpha times the word and alpha times a teacher's softmax."""
  z, teacher = float64(logits, teacher_logits)
  words, soft = np.eye(z.shape[-1])[np.asarray(tokens)], softmax(teacher)
  alpha, counts = float(alpha), np.float64(chosen).ravel()
  target = (1.0 - alpha) * words + alpha * soft
  found = _classes(z, target, weights, counts, teacher)
  w = weights_of(weights, len(counts)) * counts
  by_alpha = w @ ((words - soft) * z).sum(-1).ravel()
  found.gradients["alpha"] = np.asarray(by_alpha)
  found.magnitudes["alpha"] = np.abs(w).sum()
  # A difference of two losses.
  size = 1.0 + np.maximum(np.abs(z), np.abs(teacher)).max(-1).ravel()
  found.sizes["alpha"] = np.abs(w) @ (size + np.log(z.shape[-1]))
  return found.with_constants(teacher_logits=teacher)


LOSSES = {
  loss.__name__: loss
  for loss in (
    moco_v2,
    soft_target_contrastive,
    image_text_matching,
    distillation,
    masked_language_modeling,
  )
}
