"""Float64 NumPy references of losses with a frozen model, from the formula.

With similarities c = Q K^T of the model and r = R_q R_k^T of the frozen one

    D_ij   = ((c_ij - c_ii) - (r_ij - r_ii)) / tau_i
    Z_i    = kappa / |N_i| sum_{j in N_i} exp(D_ij)
    loss_i = u_i Z_i, or log Z_i

Gradients are derived by hand; second derivatives are central differences of them,
which float64 gives to about ten digits.
"""

import numpy as np

STEP = 1e-5


def _direction(anchors, tau, mask, positives, u, g, kappa):
  """Losses of one direction, and the gradient of sum_i g_i loss_i.

  Args:
    anchors: (Q, K, R_q, R_k).
    tau: temperature.
    mask: [N, M] negatives.
    positives: [N] columns of the positives.
    u: [N] weights, or None for the log-partition.
    g: [N] cotangents.
    kappa: mass of the negatives.
  """
  q, k, rq, rk = anchors
  rows = np.arange(len(q))
  c, r = q @ k.T, rq @ rk.T
  own, known = c[rows, positives][:, None], r[rows, positives][:, None]
  margin = ((c - own) - (r - known)) / tau
  power = np.where(mask, np.exp(margin), 0.0) * kappa
  power /= mask.sum(1, keepdims=True)
  z = power.sum(1)
  value = np.log(z) if u is None else u * z
  w = (g * (1.0 / z if u is None else u))[:, None] * power
  of_tau = -(w * margin).sum() / tau
  of_c = w / tau
  of_c[rows, positives] -= of_c.sum(1)
  return value, of_c @ k, of_c.T @ q, of_tau


def evaluate(name, arrays, known, tau, log_u, g, kappa, ids):
  """Values, and gradients by both arrays and the temperature.

  Args:
    name: contrastive, clip, nt_xent or moco_v3.
    arrays: both sides, float64 [N, d].
    known: both sides of the frozen model, [N, e].
    tau: temperature.
    log_u: log-weights of each side, or None for the log-partition.
    g: cotangents of all values.
    kappa: mass of the negatives.
    ids: [N] groups.
  """
  (x, y), (rx, ry), n = arrays, known, len(arrays[0])
  mask, rows = ids[:, None] != ids[None, :], np.arange(n)
  u = [None, None] if log_u is None else [np.exp(v) for v in log_u]
  if name == "nt_xent":
    z, rz = np.concatenate([x, y]), np.concatenate([rx, ry])
    value, of_q, of_k, of_tau = _direction(
      (z, z, rz, rz),
      tau,
      np.tile(mask, (2, 2)),
      np.roll(np.arange(2 * n), n),
      None if log_u is None else np.concatenate(u),
      g,
      kappa,
    )
    of_z = of_q + of_k
    return value, of_z[:n], of_z[n:], of_tau
  if name == "clip":
    # The loss is the mean of both; log-partitions are two arrays.
    first, second = (g[:n], g[n:]) if log_u is None else (0.5 * g, 0.5 * g)
    a = _direction((x, y, rx, ry), tau, mask, rows, u[0], first, kappa)
    b = _direction((y, x, ry, rx), tau, mask, rows, u[1], second, kappa)
    value = np.concatenate([a[0], b[0]])
    if log_u is not None:
      value = 0.5 * (a[0] + b[0])
    return value, a[1] + b[2], a[2] + b[1], a[3] + b[3]
  factor = 2.0 * tau if name == "moco_v3" else 1.0
  value, of_x, of_y, of_tau = _direction(
    (x, y, rx, ry), tau, mask, rows, u[0], factor * g, kappa
  )
  if name == "moco_v3":
    of_y = 0.0 * of_y
  return factor * value, of_x, of_y, of_tau


def second(name, arrays, directions, *rest):
  """The Hessian's product with directions of both arrays."""
  there, back = (
    evaluate(
      name,
      [x + sign * STEP * v for x, v in zip(arrays, directions)],
      *rest,
    )
    for sign in (1.0, -1.0)
  )
  return [(a - b) / (2.0 * STEP) for a, b in zip(there[1:3], back[1:3])]
