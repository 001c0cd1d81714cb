"""Contestants of the loss benchmark: ours, the textbook, the peers, the floor.

Every contestant is a loss of two [N, d] float32 arrays of unit norm, called for
its value and its gradients with respect to both arrays and the scale.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from contrastive_jax import losses
from experiments.benchmarks import peers

Call = Callable[[], Any]
SCALE = 14.3
# Log-weight in the augmented loss, about as its E-step gives for such pairs.
LOG_WEIGHT = 9.0

CONTESTANTS = ("ours", "floor", "textbook", "optax", "open_clip")
# Products of the size N x N x d that value and gradient need: the similarity,
# again in the backward pass, and one for each array that has a gradient.
# With the weights known, the similarity is needed once.
PRODUCTS = {
  "augmented_clip": 3,
  "clip": 4,
  "clip_four_term": 12,
  "decoupled": 4,
  "info_nce": 4,
  "moco_v3": 3,
  "nt_xent": 16,
  "sigmoid": 4,
}


def inputs(size: int, dim: int) -> tuple[np.ndarray, ...]:
  """Pairs that are similar, as half-trained encoders give them."""
  rng = np.random.default_rng(0)
  first = rng.normal(size=(size, dim)).astype(np.float32)
  second = first + rng.normal(size=(size, dim)).astype(np.float32)

  unit = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
  return tuple(unit)


def _ours(name: str, first, second, scale):
  extra = {}
  if name in ("clip", "clip_four_term", "sigmoid"):
    extra["logit_scale"] = scale
  else:
    extra["temperature"] = 1.0 / scale
  if name == "sigmoid":
    extra["logit_bias"] = -10.0
  arrays = (first, second)
  if name == "augmented_clip":
    arrays += (jnp.full(len(first), LOG_WEIGHT),) * 2
  if name == "clip_four_term":
    # Other views: rolled features cost what other features do.
    arrays += tuple(jnp.roll(x, 1, axis=1) for x in arrays)
  return jnp.mean(getattr(losses, name)(*arrays, **extra))


def _dense(name: str, first, second, scale):
  """The loss as a textbook has it: whole matrices, autodiff."""
  n = len(first)

  def dot(a, b):
    return scale * jnp.dot(a, b.T, precision=jax.lax.Precision.HIGHEST)

  if name == "nt_xent":
    z = jnp.concatenate([first, second])
    logits = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, dot(z, z))
    labels = (jnp.arange(2 * n) + n) % (2 * n)
    picked = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - picked)
  if name == "augmented_clip":
    logits = dot(first, second)
    total = 0.0
    for own in (logits, logits.T):
      margins = own - jnp.diagonal(own)[:, None]
      weighted = jnp.exp(margins + LOG_WEIGHT) * (1.0 - jnp.eye(n))
      total += 0.5 * jnp.mean(jnp.sum(weighted, axis=1)) / (n - 1)
    return total
  if name == "clip":
    logits = dot(first, second)
    return -0.5 * jnp.mean(
      jnp.diagonal(jax.nn.log_softmax(logits, axis=1))
      + jnp.diagonal(jax.nn.log_softmax(logits, axis=0))
    )
  if name == "clip_four_term":
    third, fourth = (jnp.roll(x, 1, axis=1) for x in (first, second))
    return 0.5 * _dense("clip", first, second, scale) + 0.25 * sum(
      _dense("info_nce", a, b, scale)
      for a, b in ((first, third), (second, fourth))
    )
  if name == "sigmoid":
    signs = 2.0 * jnp.eye(n) - 1.0
    logits = dot(first, second) - 10.0
    return -jnp.sum(jax.nn.log_sigmoid(signs * logits)) / n
  if name == "moco_v3":
    second = jax.lax.stop_gradient(second)
  logits = dot(first, second)
  positive = jnp.diagonal(logits)
  if name == "decoupled":
    logits = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, logits)
  factor = 2.0 / scale if name == "moco_v3" else 1.0
  return factor * jnp.mean(jax.nn.logsumexp(logits, axis=1) - positive)


def _optax(name: str, first, second, scale):
  if name != "nt_xent":
    return None
  labels = jnp.tile(jnp.arange(len(first)), 2)
  rows = jnp.concatenate([first, second])
  return optax.losses.ntxent(rows, labels, temperature=1.0 / scale)


def _open_clip(name: str, size: int, dim: int) -> Call | None:
  """`ClipLoss` and `SigLipLoss` in torch; None where they are not there."""
  if name not in ("clip", "sigmoid"):
    return None
  found = peers.open_clip()
  if found is None:
    return None
  open_clip, torch = found
  loss = (
    open_clip.loss.ClipLoss() if name == "clip" else open_clip.loss.SigLipLoss()
  )
  arrays = [torch.tensor(x, requires_grad=True) for x in inputs(size, dim)]
  scale = torch.tensor(SCALE, requires_grad=True)
  bias = () if name == "clip" else (torch.tensor(-10.0),)

  def call():
    for x in (*arrays, scale):
      x.grad = None
    value = loss(*arrays, scale, *bias)
    value.backward()
    return value.item()

  return call


def floor(name: str, size: int, dim: int, *, tile: int = 1024) -> Any:
  """A jitted function of two [N, d] arrays that makes the products of a loss
  alone, tile by tile; of each only a sum is kept.
  """
  side = min(tile, size)
  count = PRODUCTS[name]
  precision = jax.lax.Precision.HIGHEST

  @jax.jit
  def run(q, k):
    rows, columns = (x.reshape(-1, side, dim) for x in (q, k))

    def outer(total, row):
      def inner(total, column):
        tile = jnp.zeros((side, side))
        for product in range(count):
          # Each depends on the sum so far: none is merged with another.
          a = row + 1e-30 * total
          if product % 2 == 0:
            tile = out = jnp.dot(a, column.T, precision=precision)
          elif product % 4 == 1:
            out = jnp.dot(tile, column, precision=precision)
          else:
            out = jnp.dot(tile.T, a, precision=precision)
          total += jnp.sum(out)
        return total, None

      return jax.lax.scan(inner, total, columns)[0], None

    return jax.lax.scan(outer, jnp.float32(0), rows)[0]

  return run


def make(contestant: str, name: str, size: int, dim: int) -> Call | None:
  """A call that computes value and gradients of a loss; None if one of
  `CONTESTANTS` has none.
  """
  if contestant == "floor":
    arrays = tuple(map(jnp.asarray, inputs(size, dim)))
    run = floor(name, size, dim)
    return lambda: jax.block_until_ready(run(*arrays))
  if contestant == "open_clip":
    return _open_clip(name, size, dim)
  loss = {"ours": _ours, "textbook": _dense, "optax": _optax}[contestant]
  loss = functools.partial(loss, name)
  first, second = map(jnp.asarray, inputs(size, dim))
  scale = jnp.float32(SCALE)
  if jax.eval_shape(loss, first, second, scale) is None:
    return None
  run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
  return lambda: jax.block_until_ready(run(first, second, scale))
