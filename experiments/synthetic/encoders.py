r"""Two linear encoders, a batch of eight, and the optimum of the whole data.

A pair is two noisy views of one latent vector: x = A (l + sigma e), y = B (l +
sigma e'), and the encoders are linear maps with unit-norm output. The data set
is so small that the loss over all of its negatives, and the encoders that
minimise it, are known. A method is judged by that loss on pairs that it has not
seen, and by the angle between its similarities and those of the optimum (a
rotation of both encoders changes neither).
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from contrastive_jax import losses, ops
from experiments.synthetic.noise_methods import DCL, INFO_NCE, METHODS


@dataclasses.dataclass(frozen=True)
class EncoderSizes:
  """Sizes of a run.

  Attributes:
    pairs: of each of the training, validation and test sets.
    latent: dimensions of what both views share.
    inputs: dimensions of a view.
    dim: d, of the embeddings.
    temperature: tau.
    batch: pairs of a step.
    steps: of Adam with cosine decay, rounded up to whole epochs.
    full_steps: of the optimum's, over all pairs at once.
  """

  pairs: int = 512
  latent: int = 16
  inputs: int = 32
  dim: int = 16
  temperature: float = 0.07
  batch: int = 8
  steps: int = 12_800
  full_steps: int = 4_000


def make_pairs(key: jax.Array, sigma: float, settings: EncoderSizes) -> Any:
  """Training, validation and test pairs: [3, pairs, inputs] of either view."""
  mixing, latent, *noise = jax.random.split(key, 4)
  maps = jax.random.normal(mixing, (2, settings.latent, settings.inputs))
  shape = (3, settings.pairs, settings.latent)
  shared = jax.random.normal(latent, shape)
  return tuple(
    (shared + sigma * jax.random.normal(k, shape))
    @ maps[i]
    / math.sqrt(settings.latent)
    for i, k in enumerate(noise)
  )


def embed(params: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
  """Unit-norm embeddings of both views."""
  return (ops.l2_normalize(x @ params["x"]), ops.l2_normalize(y @ params["y"]))


def full_loss(params: Any, x: Any, y: Any, temperature: float) -> jax.Array:
  """Mean over both directions of log E_negatives exp(D), over all pairs."""
  log_z = losses.log_partition_clip(
    *embed(params, x, y), temperature=temperature
  )
  return jnp.mean(jnp.concatenate(log_z))


def initial(key: jax.Array, settings: EncoderSizes) -> Any:
  """Random encoders."""
  draw = jax.random.normal(key, (2, settings.inputs, settings.dim))
  return {"x": draw[0] / 6.0, "y": draw[1] / 6.0}


@functools.partial(jax.jit, static_argnames=("settings",))
def optimum(
  key: jax.Array, x: jax.Array, y: jax.Array, settings: EncoderSizes
) -> Any:
  """Encoders that minimise the loss over all training pairs."""
  optimizer = optax.adam(optax.cosine_decay_schedule(0.01, settings.full_steps))
  params = initial(key, settings)

  def step(state, _):
    params, opt = state
    grads = jax.grad(full_loss)(params, x, y, settings.temperature)
    updates, opt = optimizer.update(grads, opt)
    return (optax.apply_updates(params, updates), opt), None

  state, _ = jax.lax.scan(
    step, (params, optimizer.init(params)), length=settings.full_steps
  )
  return state[0]


def train(
  method: str,
  key: jax.Array,
  x: jax.Array,
  y: jax.Array,
  learning_rate: Any,
  settings: EncoderSizes,
) -> Any:
  """Encoders trained on small batches by one of the methods.

  Args:
    method: a name in `METHODS` whose weights are not exact.
    key: of everything random; the initial encoders are `optimum`'s.
    x: [pairs, inputs] training views.
    y: the other ones.
    learning_rate: the peak, a number or a traced scalar.
    settings: sizes.
  """
  batches = settings.pairs // settings.batch
  optimizer = optax.adam(
    lambda count: (
      learning_rate * optax.cosine_decay_schedule(1.0, settings.steps)(count)
    )
  )
  params = initial(key, settings)

  def loss(params, state, index, key):
    pair = embed(params, x[index], y[index])
    tau = settings.temperature
    if method == INFO_NCE:
      return jnp.mean(losses.clip(*pair, logit_scale=1.0 / tau)), state
    step = losses.em_clip(
      *pair, state, index=index, key=key, temperature=tau, **METHODS[method]
    )
    return jnp.mean(step.loss), step.state

  def step(carry, inputs):
    params, opt, state = carry
    grads, state = jax.grad(loss, has_aux=True)(params, state, *inputs)
    updates, opt = optimizer.update(grads, opt)
    return (optax.apply_updates(params, updates), opt, state), None

  def epoch(carry, number):
    """All pairs once, in a new order."""
    pick, draws = jax.random.split(jax.random.fold_in(key, number))
    order = jax.random.permutation(pick, settings.pairs)
    index = order[: batches * settings.batch].reshape(batches, -1)
    keys = jax.random.split(draws, batches)
    return jax.lax.scan(step, carry, (index, keys))

  state = losses.em_init(0 if method in (INFO_NCE, DCL) else settings.pairs)
  epochs = jnp.arange(-(-settings.steps // batches))
  carry = params, optimizer.init(params), state
  return jax.lax.scan(epoch, carry, epochs)[0][0]


def angle(params: Any, reference: Any, x: jax.Array, y: jax.Array) -> Any:
  """Degrees between two models' similarity matrices, means taken off."""

  def similarities(p):
    a, b = embed(p, x, y)
    s = a @ b.T
    return (s - jnp.mean(s)).reshape(-1)

  a, b = similarities(params), similarities(reference)
  cosine = jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
  return jnp.degrees(jnp.arccos(jnp.clip(cosine, -1.0, 1.0)))
