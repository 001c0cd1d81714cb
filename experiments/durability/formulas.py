"""Every public loss by its definition, as whole matrices of float64.

A formula takes the arrays and scalars of a loss as nodes of `tape`, what has no
gradient (group ids, log-weights) as arrays, and the options; it returns the values
of all examples, one after the other.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.durability import tape
from experiments.durability.tape import Node

Nodes = Mapping[str, Node]
Known = Mapping[str, Any]
Formula = Callable[[Nodes, Known], Node]

# Exponents above this are continued by their tangent; see `losses.augmented`.
_CAP = 50.0


def _positives(known: Known, n: int) -> np.ndarray:
  ids = known.get("group_ids")
  ids = np.arange(n) if ids is None else np.asarray(ids)
  return ids[:, None] == ids[None, :]


def _paired(a: Node, b: Node) -> Node:
  return (a * b).sum(1)


def _entropy(
  numerator: Node,
  denominator: Node,
  positives: np.ndarray,
  allowed: Any = True,
  smoothing: float = 0.0,
) -> Node:
  """-sum_j t_ij s_ij + logsumexp_j s_ij, t uniform over a row's positives."""
  targets = positives / np.maximum(positives.sum(1, keepdims=True), 1)
  targets = (1 - smoothing) * targets + smoothing / targets.shape[1]
  return tape.logsumexp(denominator, allowed) - (numerator * targets).sum(1)


def _info(q: Node, k: Node, scale: Node, known: Known) -> Node:
  s = scale * (q @ k.T)
  smoothing = known.get("label_smoothing", 0.0)
  return _entropy(s, s, _positives(known, len(s.value)), True, smoothing)


def info_nce(x: Nodes, known: Known) -> Node:
  """Softmax over all keys."""
  return _info(x["queries"], x["keys"], 1 / x["temperature"], known)


def nt_xent(x: Nodes, known: Known) -> Node:
  """Softmax over all other rows of both views."""
  z = tape.concatenate([x["first_view"], x["second_view"]])
  other = ~np.eye(len(z.value), dtype=bool)
  positives = np.tile(_positives(known, len(z.value) // 2), (2, 2))
  s = (z @ z.T) / x["temperature"]
  return _entropy(s, s, positives & other, other)


def clip(x: Nodes, known: Known) -> Node:
  """Mean of both directions."""
  v, t, scale = x["image"], x["text"], x["logit_scale"]
  return 0.5 * (_info(v, t, scale, known) + _info(t, v, scale, known))


def clip_four_term(x: Nodes, known: Known) -> Node:
  """Both directions, and both modalities with their other views."""
  scale = x["logit_scale"]
  total = 2.0 * clip(x, known)
  for name in ("image", "text"):
    z, view = x[name], x[f"{name}_augmented"]
    over = view if known["in_modal_denominator"] == "augmented" else z
    total += _entropy(
      scale * (z @ view.T),
      scale * (z @ over.T),
      _positives(known, len(z.value)),
    )
  return 0.25 * total


def moco_v3(x: Nodes, known: Known) -> Node:
  """2 tau InfoNCE, keys constant."""
  tau, keys = x["temperature"], tape.constant(x["momentum_keys"])
  return 2.0 * tau * _info(x["queries"], keys, 1 / tau, known)


def decoupled(x: Nodes, known: Known) -> Node:
  """InfoNCE without positives in the denominator, 0 without negatives."""
  s = (x["queries"] @ x["keys"].T) / x["temperature"]
  positives = _positives(known, len(s.value))
  live = np.asarray(~positives.all(1))
  # A row without negatives is summed over its positives, and left out.
  allowed = np.where(live[:, None], ~positives, positives)
  return live * _entropy(s, s, positives, allowed)


def sigmoid(x: Nodes, known: Known) -> Node:
  """Softplus of the wrong sign, summed over all pairs."""
  v, t = x["image"], x["text"]
  s = x["logit_scale"] * (v @ t.T) + x["logit_bias"]
  y = np.where(_positives(known, len(v.value)), 1.0, -1.0)
  return tape.softplus(s * -y).sum(1)


def moco_v2(x: Nodes, known: Known) -> Node:
  """The own momentum key against a queue."""
  del known
  q, tau = x["queries"], x["temperature"]
  keys, queue = (tape.constant(x[k]) for k in ("momentum_keys", "queue"))
  own = _paired(q, keys) / tau
  rest = (q @ queue.T) / tau
  both = tape.concatenate([own.reshape(1, -1), rest.T]).T
  return tape.logsumexp(both) - own


def soft_target_contrastive(x: Nodes, known: Known) -> Node:
  """Cross-entropy against the momentum encoder's softmax and the own key."""
  q, tau = x["queries"], x["temperature"]
  momentum = tape.constant(x["momentum_queries"])
  parts = [tape.constant(x["momentum_keys"]), tape.constant(x["queue"])]
  keys = tape.concatenate(parts)
  s = (q @ keys.T) / tau
  ids = np.arange(len(keys.value))
  if known.get("group_ids") is not None:
    ids = np.concatenate([known["group_ids"], known["queue_ids"]])
  positives = ids[: len(q.value), None] == ids[None, :]
  hard = positives / positives.sum(1, keepdims=True)
  soft = _softmax((momentum @ keys.T) / tape.constant(tau))
  alpha = tape.constant(x["alpha"])
  target = alpha * soft + (1.0 - alpha) * hard
  return tape.logsumexp(s) - (target * s).sum(1)


def _softmax(z: Node) -> Node:
  """Softmax over the last axis, without gradient."""
  log_p = z - tape.logsumexp(z).reshape(*z.shape[:-1], 1)
  p = np.exp(log_p.value)
  return Node(p, p * (1.0 + log_p.size))


def image_text_matching(x: Nodes, known: Known) -> Node:
  """Cross-entropy of two classes."""
  z = x["logits"]
  target = np.eye(2)[np.asarray(known["matches"], int)]
  return np.asarray(known["valid"]) * _entropy(z, z, target)


def distillation(x: Nodes, known: Known) -> Node:
  """Cross-entropy against a teacher's softmax."""
  del known
  z = x["logits"]
  soft = _softmax(tape.constant(x["teacher_logits"]))
  loss = tape.logsumexp(z) - (soft * z).sum(-1)
  return loss.reshape(-1)


def masked_language_modeling(x: Nodes, known: Known) -> Node:
  """Cross-entropy against the words, and a teacher."""
  z, alpha = x["logits"], x["alpha"]
  words = np.eye(z.shape[-1])[np.asarray(known["tokens"])]
  hard = (tape.logsumexp(z) - (z * words).sum(-1)).reshape(-1)
  loss = (1.0 - alpha) * hard + alpha * distillation(x, known)
  return np.asarray(known["chosen"], float).reshape(-1) * loss


def _margins(a: Node, b: Node, own: Node, tau: Node) -> Node:
  """Logits less the positive's: [N, M]."""
  tau = tau.reshape(-1, 1)
  return (a @ b.T) / tau - own.reshape(-1, 1) / tau


def _partition(
  a: Node, b: Node, own: Node, tau: Node, allowed: np.ndarray, known: Known
) -> Node:
  """log(c0 + kappa / count * sum of exp of the margins)."""
  count = allowed.sum(1)
  empty = count == 0
  kappa = known["negative_mass"]
  # A row of none is summed over everything, and left out.
  allowed = allowed | empty[:, None]
  mean = tape.logsumexp(_margins(a, b, own, tau), allowed) + (
    math.log(kappa) - np.log(np.maximum(count, 1))
  )
  positive = known["include_positive"]
  if positive:
    mean = tape.logsumexp(
      tape.concatenate([mean.reshape(1, -1), _zeros(mean)]).T
    )
  found = mean * ~empty
  return found if positive else found + np.where(empty, -np.inf, 0.0)


def _zeros(row: Node) -> Node:
  return Node(np.zeros((1, *row.shape)))


def log_partition(x: Nodes, known: Known) -> Node:
  """Of queries among the keys of other groups."""
  q, k = x["queries"], x["keys"]
  allowed = ~_positives(known, len(q.value))
  return _partition(q, k, _paired(q, k), x["temperature"], allowed, known)


def log_partition_clip(x: Nodes, known: Known) -> Node:
  """Both directions, one after the other."""
  v, t = x["image"], x["text"]
  allowed, own = ~_positives(known, len(v.value)), _paired(v, t)
  taus = x["temperature"], x.get("text_temperature", x["temperature"])
  return tape.concatenate(
    [
      _partition(a, b, own, tau, allowed, known)
      for a, b, tau in ((v, t, taus[0]), (t, v, taus[1]))
    ]
  )


def _two_views(x: Nodes, known: Known) -> tuple[Node, Node, Node, np.ndarray]:
  """All rows, the positives' cosines, temperatures, and who is a negative."""
  first, second = x["first_view"], x["second_view"]
  own, tau = _paired(first, second), x["temperature"]
  return (
    tape.concatenate([first, second]),
    tape.concatenate([own, own]),
    tape.concatenate([tau, tau]) if tau.shape else tau,
    ~np.tile(_positives(known, len(first.value)), (2, 2)),
  )


def log_partition_nt_xent(x: Nodes, known: Known) -> Node:
  """Two views among both views of all other examples."""
  z, own, tau, allowed = _two_views(x, known)
  return _partition(z, z, own, tau, allowed, known)


def _augmented(
  a: Node,
  b: Node,
  own: Node,
  tau: Node,
  log_u: Any,
  allowed: np.ndarray,
  known: Known,
) -> Node:
  """The sum u c0 + kappa / count * sum of exp(margin + log u)."""
  log_u = np.asarray(log_u, np.float64)
  seen = np.isfinite(log_u)  # Where nothing is known the weight is 0.
  log_u = np.where(seen, log_u, 0.0)
  cap = min(known.get("log_weight_cap") or _CAP, _CAP)
  factor = allowed * known["negative_mass"] * seen[:, None]
  factor = factor / np.maximum(allowed.sum(1, keepdims=True), 1)
  weights = tape.capped_exp(_margins(a, b, own, tau) + log_u[:, None], cap)
  loss = (weights * factor).sum(1)
  if known["include_positive"]:
    loss += seen * tape.capped_exp(Node(log_u), cap)
  return loss


def augmented_contrastive(x: Nodes, known: Known) -> Node:
  """Of queries among the keys of other groups."""
  q, k = x["queries"], x["keys"]
  return _augmented(
    q,
    k,
    _paired(q, k),
    x["temperature"],
    known["log_auxiliary"],
    ~_positives(known, len(q.value)),
    known,
  )


def augmented_clip(x: Nodes, known: Known) -> Node:
  """Mean of both directions."""
  v, t = x["image"], x["text"]
  allowed, own = ~_positives(known, len(v.value)), _paired(v, t)
  taus = x["temperature"], x.get("text_temperature", x["temperature"])
  there = _augmented(
    v, t, own, taus[0], known["image_log_auxiliary"], allowed, known
  )
  back = _augmented(
    t, v, own, taus[1], known["text_log_auxiliary"], allowed, known
  )
  return 0.5 * (there + back)


def augmented_nt_xent(x: Nodes, known: Known) -> Node:
  """Two views among both views of all other examples."""
  z, own, tau, allowed = _two_views(x, known)
  log_u = [known[f"{k}_log_auxiliary"] for k in ("first", "second")]
  return _augmented(z, z, own, tau, np.concatenate(log_u), allowed, known)


def augmented_moco_v3(x: Nodes, known: Known) -> Node:
  """2 tau the loss; keys, and the factor, are constant."""
  tau = x["temperature"]
  arrays = {**x, "keys": tape.constant(x["momentum_keys"])}
  return 2.0 * tape.constant(tau) * augmented_contrastive(arrays, known)


def amortized_loss(x: Nodes, known: Known) -> Node:
  """exp(log Z - nu) + nu - 1 where log Z is finite."""
  batch = np.asarray(known["log_partition"], np.float64)
  seen = np.isfinite(batch)
  gap = np.where(seen, batch, 0.0) - x["prediction"]
  return seen * (tape.capped_exp(gap, _CAP) + x["prediction"] - 1.0)


def prototype_log_partition(x: Nodes, known: Known) -> Node:
  """Prototypes' directions for the negatives; gradient of these alone."""
  w = x["prototypes"]
  q, k, tau = (
    tape.constant(x[name]) for name in ("queries", "keys", "temperature")
  )
  margins = _margins(q, _unit(w), _paired(q, k), tau)
  mean = tape.logsumexp(margins) + math.log(
    known["negative_mass"] / len(w.value)
  )
  floor = math.log(known["eps"] + bool(known["include_positive"]))
  low = _zeros(mean) + floor
  return tape.logsumexp(tape.concatenate([mean.reshape(1, -1), low]).T)


def _unit(x: Node) -> Node:
  """Rows of unit norm, or less where it is below 1e-12."""
  square = (x * x).sum(-1)
  small = square.value < 1e-24
  square = square * ~small + 1e-24 * small
  return x * tape.power(square, -0.5).reshape(*x.shape[:-1], 1)


def scale_by_temperature(x: Nodes, known: Known) -> Node:
  """The objective tau (log Z + rho), with tau times the gradient of the loss."""
  batch = np.asarray(known["log_partition"], np.float64)
  seen = np.isfinite(batch)
  tau, loss = x["temperature"], x["loss"]
  slope = tape.constant(tau) * (loss - tape.constant(loss))
  return seen * (tau * (np.where(seen, batch, 0.0) + x["rho"]) + slope)


def uniformity(x: Nodes, known: Known) -> Node:
  """Log of the mean Gaussian potential of unit-norm rows."""
  del known
  t, sets = x["t"], [z for name, z in x.items() if name != "t"]
  logits = [(2.0 * t * (z @ z.T) - 2.0 * t).reshape(-1) for z in sets]
  count = math.log(len(sets[0].value))
  return (tape.logsumexp(tape.concatenate(logits)) - count).reshape(1)


def geometric_consistency(x: Nodes, known: Known) -> Node:
  """Squared differences of similarities, summed over a row."""
  del known
  v, t, va, ta = (
    x[k] for k in ("image", "text", "image_augmented", "text_augmented")
  )

  def square(difference: Node) -> Node:
    return (difference * difference).sum(1)

  cross = v @ t.T
  change = _paired(v, t) - _paired(va, ta)
  return (
    x["intra"] * square(v @ v.T - t @ t.T)
    + x["inter"] * square(cross - cross.T)
    + x["augmented"] * square(v @ v.T - va @ va.T)
    + x["augmented"] * square(t @ t.T - ta @ ta.T)
    + x["paired"] * (change * change)
  )


def orthogonality(x: Nodes, known: Known) -> Node:
  """Squared cosine of both features."""
  del known
  cosine = _paired(x["shared"], x["independent"])
  return cosine * cosine


def independent_contrast(x: Nodes, known: Known) -> Node:
  """InfoNCE in both modalities."""
  scale, total = 1 / x["temperature"], Node(0.0)
  for name in ("image", "text"):
    own = known["positive"] == "original"
    keys = x[name if own else f"{name}_augmented"]
    total = total + _info(x[name], keys, scale, known)
  return total


def deep_feature_separation(x: Nodes, known: Known) -> Node:
  """Contrast, orthogonality and uniformity, in the order of their names."""
  inner = {
    "temperature": x["temperature"],
    "image": x["image_independent"],
    "text": x["text_independent"],
  }
  if known["positive"] == "augmented":
    inner["image_augmented"] = x["image_independent_augmented"]
    inner["text_augmented"] = x["text_independent_augmented"]
  cosines = [_paired(x[k], x[f"{k}_independent"]) for k in ("image", "text")]
  sets = {"t": x["t"], "first": inner["image"], "second": inner["text"]}
  return tape.concatenate(
    [
      independent_contrast(inner, known),
      cosines[0] * cosines[0] + cosines[1] * cosines[1],
      uniformity(sets, known),
    ]
  )


def brownian_bridge(x: Nodes, known: Known) -> Node:
  """Squared distance from the normalised point of the path."""
  t, views = x["t"], x["bridged"]
  share = t.reshape(-1, 1)
  mean = _unit(share * x["start"] + (1.0 - share) * x["end"])
  away = views - mean
  loss = (away * away).sum(-1).sum(0) * (1.0 / len(views.value))
  return loss / (t * (1.0 - t)) if known["weighted"] else loss


def alignment(x: Nodes, known: Known) -> Node:
  """1 / (cosine^2 + epsilon)."""
  cosine = _paired(x["image"], x["text"])
  return 1 / (cosine * cosine + known["epsilon"])
