"""Second derivatives of contrastive losses, against plain formulas in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from tests.meshes import make_mesh

N, D, TAU = 8, 6, 0.3
# One row of the last case has no negatives in it.
GROUPS = {
  "none": None,
  "some": np.array([0, 1, 2, 1, 3, 4, 5, 0]),
  "one": np.zeros(N, np.int64),
}


def ids_of(groups):
  return np.arange(N) if groups is None else groups


def log_mean(a, b, ids, positives=None):
  """Log-partition of the rows of a among those of b."""
  rows = jnp.arange(len(a))
  s = a @ b.T / TAU
  margin = s - s[rows, rows if positives is None else positives][:, None]
  mask = ids[:, None] != ids[None, :]
  some = mask.any(1)
  safe = jnp.where(mask, margin, -jnp.inf)
  safe = jnp.where(some[:, None], safe, 0.0)
  found = jax.nn.logsumexp(safe, axis=1) - np.log(np.maximum(mask.sum(1), 1))
  return jnp.where(some, found, 0.0)


def info_nce(a, b, ids):
  s, same = a @ b.T / TAU, ids[:, None] == ids[None, :]
  return jax.nn.logsumexp(s, axis=1) - (s * same).sum(1) / same.sum(1)


def clip(x, y, ids):
  return 0.5 * (info_nce(x, y, ids) + info_nce(y, x, ids))


def nt_xent(x, y, ids):
  """One positive a row; rows of a group are left out but for it."""
  z, own = jnp.concatenate([x, y]), np.roll(np.arange(2 * N), N)
  s, rows = z @ z.T / TAU, np.arange(2 * N)
  kept = jnp.where(np.eye(2 * N, dtype=bool), -jnp.inf, s)
  return jax.nn.logsumexp(kept, axis=1) - s[rows, own]


def sigmoid(x, y, ids):
  s, same = x @ y.T / TAU - 1.0, ids[:, None] == ids[None, :]
  return -jax.nn.log_sigmoid(jnp.where(same, s, -s)).sum(1)


PLAIN = {
  "log_partition": log_mean,
  "decoupled": log_mean,
  "info_nce": info_nce,
  "clip": clip,
  "nt_xent": nt_xent,
  "sigmoid": sigmoid,
}
OPTIONS = {
  "clip": {"logit_scale": 1 / TAU},
  "sigmoid": {"logit_scale": 1 / TAU, "logit_bias": -1.0},
}


def problem(name):
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(2, N, D))
  x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
  g = rng.normal(size=2 * N if name == "nt_xent" else N)
  return (x, y), rng.normal(size=(2, N, D)), g


def curvature(values, arrays, directions, g):
  """The Hessian of sum_i g_i loss_i times a direction, reverse over reverse."""

  def slope(arrays):
    def total(arrays):
      found = values(*arrays)
      return jnp.sum(jnp.where(jnp.isfinite(found), g * found, 0.0))

    first = jax.grad(total)(arrays)
    return sum(jnp.vdot(a, b) for a, b in zip(first, directions, strict=True))

  return jax.jit(jax.grad(slope))(arrays)


@functools.cache
def expected(name, group):
  arrays, directions, g = problem(name)
  with jax.enable_x64(True):
    found = curvature(
      functools.partial(PLAIN[name], ids=ids_of(GROUPS[group])),
      tuple(map(jnp.asarray, arrays)),
      jnp.asarray(directions),
      jnp.asarray(g),
    )
    return jax.device_get(found)


def check(name, group, wrap=lambda loss: loss, **options):
  loss, ids = wrap(getattr(losses, name)), GROUPS[group]
  arrays, directions, g = problem(name)
  found = curvature(
    functools.partial(
      loss,
      group_ids=None if ids is None else jnp.asarray(ids),
      **OPTIONS.get(name, {"temperature": TAU}),
      **options,
    ),
    tuple(map(jnp.float32, arrays)),
    jnp.float32(directions),
    jnp.float32(g),
  )
  for a, b in zip(found, expected(name, group), strict=True):
    np.testing.assert_allclose(a, b, atol=3e-6 * (1.0 + np.abs(b).max()))


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize(
  "name, group",
  [
    ("log_partition", "none"),
    ("log_partition", "some"),
    ("log_partition", "one"),
    ("decoupled", "none"),
  ],
)
def test_of_negatives_alone(name, group, block_size):
  check(name, group, block_size=block_size)


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize(
  "name, group",
  [
    ("info_nce", "none"),
    ("info_nce", "some"),
    ("clip", "none"),
    ("clip", "some"),
    ("sigmoid", "some"),
  ],
)
def test_with_positives(name, group, block_size):
  check(name, group, block_size=block_size)


def test_of_views_among_each_other():
  check("nt_xent", "none", block_size=None)
  with pytest.raises(ValueError, match="Reverse-mode"):  # Forward-mode can.
    check("nt_xent", "none", block_size=3)


@pytest.mark.parametrize("sizes", [{"data": 2}, {"row": 2, "col": 2}], ids=str)
@pytest.mark.parametrize("name", ["log_partition", "clip"])
def test_on_a_mesh(name, sizes):
  wrap = functools.partial(losses.on_mesh, mesh=make_mesh(**sizes))
  check(name, "some", wrap, block_size=3)
