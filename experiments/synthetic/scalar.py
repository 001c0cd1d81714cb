r"""One parameter, infinitely many negatives, and a known optimum.

An anchor's positive scores theta p with p = 1 + sigma^2, its negatives theta z
with z ~ N(0, 1 + sigma^2), drawn anew at every step. Then

.. math:: \log E[e^{\theta z}] = \theta^2 (1 + \sigma^2) / 2, \qquad
  L(\theta) = -\theta p + \theta^2 (1 + \sigma^2) / 2

has its minimum at theta = 1 whatever sigma is. A minibatch's InfoNCE has not.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import losses


@dataclasses.dataclass(frozen=True)
class ScalarSizes:
  """Sizes of a run.

  Attributes:
    anchors: examples, each with an entry in the table.
    batch: anchors of a step.
    negatives: of each anchor of a step.
    steps: of stochastic gradient descent, without clipping.
    learning_rate: at step t it is `learning_rate (1 + t / 500)^-0.75`.
    decay: of the E-step's moving average: rate (visits + 1)^-decay.
    points: how often theta is recorded.
  """

  anchors: int = 16
  batch: int = 8
  negatives: int = 8
  steps: int = 80_000
  learning_rate: float = 0.005
  decay: float = 0.9
  points: int = 200


# Concentration of the auxiliary variable; the others have none.
METHODS: dict[str, float | None] = {
  "InfoNCE": None,
  "InfoNCE without the positive": None,
  "augmented, mean": math.inf,
  "augmented, concentration 8": 8.0,
  "augmented, concentration 1": 1.0,
}


def run(
  method: str,
  sigma: float | jax.Array,
  initial: jax.Array,
  seed: int,
  settings: ScalarSizes = ScalarSizes(),
) -> tuple[jax.Array, jax.Array]:
  """Runs from several initial values, each with draws of its own.

  Args:
    method: a name in `METHODS`.
    sigma: the noise, one for all or [R].
    initial: [R] initial values of theta.
    seed: of all draws.
    settings: sizes.

  Returns:
    theta after every `steps / points` steps [R, points], and its average over
    the second half of the steps [R].
  """
  keys = jax.random.split(jax.random.key(seed), len(initial))
  noise = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), initial.shape)
  one = functools.partial(_trajectory, method, settings)
  return jax.jit(jax.vmap(one))(keys, initial, noise)


def _trajectory(
  method: str, settings: ScalarSizes, key: jax.Array, theta: Any, sigma: Any
) -> tuple[jax.Array, jax.Array]:
  positive = 1.0 + sigma**2
  spread = jnp.sqrt(positive)
  rule = losses.MovingAverage(rate=1.0, decay=settings.decay)

  concentration = METHODS[method]

  def draws(key, steps):
    """Random numbers of some steps at once: anchors, negatives, log u."""
    pick, draw, gamma = jax.random.split(key, 3)
    anchors = jnp.tile(jnp.arange(settings.anchors), (steps, 1))
    index = jax.random.permutation(pick, anchors, axis=1, independent=True)
    shape = (steps, settings.batch, settings.negatives)
    z = spread * jax.random.normal(draw, shape)
    # Drawn for log Z = 0: the value known at a step only scales u.
    log_u = losses.draw_auxiliary(
      gamma,
      jnp.zeros(steps * settings.batch),
      concentration=math.inf if concentration is None else concentration,
    )
    return index[:, : settings.batch], z, log_u.reshape(shape[:2])

  def gradient(theta, table, visits, index, z, log_u):
    if concentration is None:
      loss = _info_nce if method == "InfoNCE" else _decoupled
      grad = jax.grad(lambda t: jnp.mean(loss(t * z, t * positive)))(theta)
      return grad, table, visits
    margins = theta * (z - positive)
    batch = jax.nn.logsumexp(margins, axis=1) - math.log(settings.negatives)
    known = losses.e_step(rule, table[index], batch, visits[index])
    log_u -= known
    grad = jax.grad(
      lambda t: jnp.mean(jnp.exp(log_u[:, None] + t * (z - positive)))
    )(theta)
    return grad, table.at[index].set(known), visits.at[index].add(1)

  def step(state, inputs):
    theta, table, visits, total = state
    t, *drawn = inputs
    grad, table, visits = gradient(theta, table, visits, *drawn)
    rate = settings.learning_rate * (1.0 + t / 500.0) ** -0.75
    theta = theta - rate * grad
    total += jnp.where(t >= settings.steps // 2, theta, 0.0)
    return (theta, table, visits, total), None

  def stretch(state, first):
    length = settings.steps // settings.points
    drawn = draws(jax.random.fold_in(key, first), length)
    state, _ = jax.lax.scan(step, state, (first + jnp.arange(length), *drawn))
    return state, state[0]

  state = (
    theta,
    jnp.full(settings.anchors, jnp.nan),
    jnp.zeros(settings.anchors, jnp.int32),
    jnp.float32(0),
  )
  firsts = jnp.arange(settings.points) * (settings.steps // settings.points)
  state, path = jax.lax.scan(stretch, state, firsts)
  return path, state[3] / (settings.steps - settings.steps // 2)


def _info_nce(scores: jax.Array, positive: jax.Array) -> jax.Array:
  """-s+ + log(exp(s+) + sum_j exp(s_j)), each row."""
  return jnp.logaddexp(jax.nn.logsumexp(scores, axis=1), positive) - positive


def _decoupled(scores: jax.Array, positive: jax.Array) -> jax.Array:
  """-s+ + log sum_j exp(s_j), each row."""
  return jax.nn.logsumexp(scores, axis=1) - positive
