r"""One parameter, infinitely many negatives, and a known optimum.

An anchor's positive scores theta p with p = 1 + sigma^2, its negatives theta z
with z ~ N(0, 1 + sigma^2), drawn anew at every step. Then

.. math:: \log E[e^{\theta z}] = \theta^2 (1 + \sigma^2) / 2, \qquad
  L(\theta) = -\theta p + \theta^2 (1 + \sigma^2) / 2

has its minimum at theta = 1 whatever sigma is. A minibatch's InfoNCE has not.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import losses
from experiments.synthetic.noise_methods import DCL, EXACT, INFO_NCE, METHODS

_DRAWS = 2**22  # Negatives of an expectation.
_HALVINGS = 24


@dataclasses.dataclass(frozen=True)
class ScalarSizes:
  """Sizes of a run.

  Attributes:
    anchors: examples, each with an entry in the table.
    batch: anchors of a step; each has batch - 1 negatives.
    steps: of stochastic gradient descent, without clipping.
    learning_rate: at step t it is `learning_rate (1 + t / 500)^-0.75`.
    points: how often theta is recorded, at distances that grow.
  """

  anchors: int = 18
  batch: int = 9
  steps: int = 20_000
  learning_rate: float = 0.005
  points: int = 120

  def recorded(self) -> np.ndarray:
    """The numbers of steps after which theta is recorded, from 0 to all."""
    shape = np.geomspace(1, self.steps + 1, self.points)
    return np.unique(np.round(shape).astype(int)) - 1


def run(
  method: str,
  sigma: float | jax.Array,
  initial: jax.Array,
  seed: int,
  settings: ScalarSizes = ScalarSizes(),
) -> tuple[np.ndarray, np.ndarray]:
  """Runs from several initial values, each with draws of its own.

  Args:
    method: a name in `METHODS`.
    sigma: the noise, one for all or [R].
    initial: [R] initial values of theta.
    seed: of all draws.
    settings: sizes.

  Returns:
    theta after `settings.recorded()` steps [R, points], and its average over the
    second half of the steps [R].
  """
  keys = jax.random.split(jax.random.key(seed), len(initial))
  noise = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), initial.shape)
  one = functools.partial(_trajectory, method, settings)
  path = np.asarray(jax.jit(jax.vmap(one))(keys, initial, noise))
  final = path[:, settings.steps // 2 :].mean(1, dtype=np.float64)
  whole = np.concatenate([np.asarray(initial)[:, None], path], axis=1)
  return whole[:, settings.recorded()], final


def _trajectory(
  method: str, settings: ScalarSizes, key: jax.Array, theta: Any, sigma: Any
) -> jax.Array:
  """Returns theta after each step, [steps]."""
  positive = 1.0 + sigma**2
  n = settings.batch
  batches = settings.anchors // n

  def loss(theta, state, index, keys, key):
    # Anchor i is theta e_i, so that its scores are theta times row i of `keys`.
    features = theta * jnp.eye(n), keys.T
    if method == INFO_NCE:
      return jnp.mean(losses.info_nce(*features, temperature=1.0)), state
    if method == EXACT:
      log_z = theta**2 * positive / 2.0 - theta * positive
      log_u = jnp.full(n, -jax.lax.stop_gradient(log_z))
      found = losses.augmented_contrastive(*features, log_u, temperature=1.0)
      return jnp.mean(found), state
    step = losses.em_contrastive(
      *features,
      state,
      index=index,
      key=key,
      temperature=1.0,
      **METHODS[method],
    )
    return jnp.mean(step.loss), step.state

  def step(carry, t):
    theta, state = carry
    draw, gamma = jax.random.split(jax.random.fold_in(key, t))
    epoch = jax.random.fold_in(key, settings.steps + t // batches)
    order = jax.random.permutation(epoch, settings.anchors)
    index = jax.lax.dynamic_slice(order, (t % batches * n,), (n,))
    z = jnp.sqrt(positive) * jax.random.normal(draw, (n, n))
    scores = jnp.where(jnp.eye(n, dtype=bool), positive, z)
    grad, state = jax.grad(loss, has_aux=True)(
      theta, state, index, scores, gamma
    )
    rate = settings.learning_rate * (1.0 + t / 500.0) ** -0.75
    theta -= rate * grad
    return (theta, state), theta

  kept = 0 if method in (INFO_NCE, DCL, EXACT) else settings.anchors
  state = losses.em_init(kept, sides=1)
  _, path = jax.lax.scan(step, (theta, state), jnp.arange(settings.steps))
  return path


@functools.partial(jax.jit, static_argnames=("negatives", "include_positive"))
def optimum(
  key: jax.Array, sigma: Any, negatives: int, *, include_positive: bool
) -> jax.Array:
  """The theta where the expected gradient of a minibatch's loss is 0.

  Args:
    key: of the draws over which the expectation is taken.
    sigma: the noise.
    negatives: of each anchor.
    include_positive: InfoNCE; without it, DCL.
  """
  positive = 1.0 + sigma**2
  shape = (_DRAWS // negatives, negatives)
  z = jnp.sqrt(positive) * jax.random.normal(key, shape)
  if include_positive:
    z = jnp.concatenate([z, jnp.full((len(z), 1), positive)], axis=1)

  def halve(_, bounds):
    low, high = bounds
    theta = (low + high) / 2.0
    mean = jnp.sum(jax.nn.softmax(theta * z, axis=1) * z, axis=1)
    above = jnp.mean(mean) > positive
    return jnp.where(above, low, theta), jnp.where(above, theta, high)

  bounds = jnp.float32(0.0), jnp.float32(64.0)
  low, high = jax.lax.fori_loop(0, _HALVINGS, halve, bounds)
  return (low + high) / 2.0
