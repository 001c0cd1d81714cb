r"""Minibatch gradients of contrastive losses on frozen embeddings.

Parameters are two d x d linear maps, one a modality, at the identity: the
embeddings are normalise(x A) and normalise(y B), so a gradient is one of real
parameters, and so cheap that its mean over thousands of batches is known.

Two objectives over all n examples, each the mean over both directions,

.. math::
  L = \frac1n \sum_i \log \frac{1}{n - 1} \sum_{j \ne i} e^{D_{ij}}, \qquad
  L^{NCE} = \frac1n \sum_i \log \Big( 1 + \sum_{j \ne i} e^{D_{ij}} \Big) ,

the global contrastive loss, which every method without the positive in the
denominator aims at, and the InfoNCE of the whole data, InfoNCE's own aim.

What the E-step remembers is drawn from its steady state: chains of table updates
(or of fits of NeuCLIP's prototypes) on the frozen embeddings, at the same batch
size. A draw takes a random snapshot and a random batch, folds the batch's
estimate in as training does, and weights that batch with the result.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from contrastive_jax import losses, ops
from experiments.synthetic import gradient_methods as methods
from experiments.synthetic import gradient_statistics as statistics_lib

# Prototypes of each modality, far fewer than examples; AdaGrad's rate; and the
# most fits that make up for a table's epoch.
PROTOTYPES = 128
PROTOTYPE_RATE = 0.1
PROTOTYPE_FITS = 12


class Data(NamedTuple):
  """A stage's embeddings, as arrays of a compiled program.

  Attributes:
    image: [n, d].
    text: [n, d].
    temperature: tau, a scalar.
  """

  image: jax.Array
  text: jax.Array
  temperature: jax.Array


@dataclasses.dataclass(frozen=True)
class Memory:
  """How much of the E-step's steady state is sampled, for one seed.

  Attributes:
    chains: independent runs.
    burn_in: epochs of a run before its first snapshot (of prototypes: blocks of
      at most `PROTOTYPE_FITS` batches).
    snapshots: of a run, one an epoch (or block).
  """

  chains: int = 2
  burn_in: int = 32
  snapshots: int = 32


@jax.jit
def references(data: Data) -> dict[str, dict[str, jax.Array]]:
  """Gradients over all examples of "global" and "info_nce"; see `gradient`."""

  def global_loss(params):
    image, text = _embed(params, data)
    log_z = losses.log_partition_clip(image, text, temperature=data.temperature)
    return jnp.mean(jnp.concatenate(log_z))

  def info_nce(params):
    image, text = _embed(params, data)
    return jnp.mean(
      losses.clip(image, text, logit_scale=1.0 / data.temperature)
    )

  maps = _identity(data)
  return {
    "global": jax.grad(global_loss)(maps),
    "info_nce": jax.grad(info_nce)(maps),
  }


@jax.jit
def log_partitions(data: Data) -> jax.Array:
  """[2, n] log Z of both directions over all examples."""
  image, text = _embed(_identity(data), data)
  return jnp.stack(
    losses.log_partition_clip(image, text, temperature=data.temperature)
  )


@jax.jit
def squared_variations(data: Data) -> jax.Array:
  """[2, n] CV^2 = Var_j(exp(D_ij)) / Z_i^2 over all other examples."""
  half = data._replace(temperature=data.temperature / 2.0)
  return jnp.expm1(log_partitions(half) - 2.0 * log_partitions(data))


def steady_state(
  method: methods.Method,
  data: Data,
  key: jax.Array,
  *,
  batch: int,
  memory: Memory,
) -> Any:
  """Snapshots of what a method remembers at a batch size from 2 to n.

  Returns:
    A pytree whose leaves have one row a snapshot; for a table [K, 2, n] log Z.

  Raises:
    ValueError: if `batch` is out of range.
  """
  n = data.image.shape[0]
  if not 2 <= batch <= n:
    raise ValueError(f"batch must be in [2, {n}]; got {batch}.")
  prototypes = method.kind == "prototypes"
  if not prototypes and isinstance(method.rule, losses.BatchEstimate):
    # As many rows as of other methods: the same compiled programs serve it.
    rows = memory.chains * memory.snapshots
    return jnp.broadcast_to(log_partitions(data), (rows, 2, n))
  keys = jax.random.split(key, memory.chains)
  kept = _chains(methods.numbers(method), data, keys, prototypes, batch, memory)
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), kept)


def statistics(
  method: methods.Method,
  data: Data,
  state: Any,
  reference: Any,
  key: jax.Array,
  *,
  batch: int,
  draws: int,
) -> statistics_lib.GradientStatistics:
  """Bias and variance of a method's gradient at a batch size.

  Args:
    method: the method.
    data: the embeddings.
    state: of `steady_state`.
    reference: a gradient over all examples.
    key: of batches, snapshots and gamma draws.
    batch: B.
    draws: number of gradients.
  """
  finite = None if math.isinf(method.concentration) else method.concentration
  kind = "table" if method.kind == "exact" else method.kind
  return _statistics(
    *(kind, methods.numbers(method), finite, data),
    *(state, reference, key, batch, draws),
  )


def gradient(
  kind: str,
  rule: methods.Rule,
  concentration: Any,
  data: Data,
  state: Any,
  index: jax.Array,
  key: jax.Array,
) -> dict[str, jax.Array]:
  """The gradient of one batch.

  Args:
    kind: "info_nce", "table" or "prototypes".
    rule: of the table.
    concentration: a finite one, or None for the mean.
    data: the embeddings.
    state: one snapshot.
    index: [B] distinct examples.
    key: of the gamma draws.

  Returns:
    {"image": [d, d], "text": [d, d]}.
  """
  tau = data.temperature

  def loss(params):
    image, text = _embed(params, data, index)
    if kind == "info_nce":
      return jnp.mean(losses.clip(image, text, logit_scale=1.0 / tau))
    if kind == "prototypes":
      known = _predict(_fit(state, image, text, tau), image, text, tau)
    else:
      before = state[:, index]
      after = _fold(rule, before, image, text, tau)
      known = jnp.where(rule.lagged, before, after)
    log_u = [
      losses.draw_auxiliary(
        k, z, concentration=math.inf if concentration is None else concentration
      )
      for k, z in zip(jax.random.split(key), known)
    ]
    return jnp.mean(losses.augmented_clip(image, text, *log_u, temperature=tau))

  return jax.grad(loss)(_identity(data))


def distinct(key: jax.Array, total: int, count: int) -> jax.Array:
  """[count] distinct numbers below `total`: a uniform subset, in no order.

  By Floyd's algorithm, which for few numbers takes a small part of the time
  that sorting all of them does.

  >>> sorted(distinct(jax.random.key(0), 5, 5).tolist())
  [0, 1, 2, 3, 4]
  """
  if count > 64:
    return jax.random.permutation(key, total)[:count]
  last = total - count + jnp.arange(count)
  drawn = jax.random.randint(key, (count,), 0, last + 1)

  def step(i, chosen):
    taken = jnp.any(chosen == drawn[i])
    return chosen.at[i].set(jnp.where(taken, last[i], drawn[i]))

  return jax.lax.fori_loop(0, count, step, jnp.full(count, -1, drawn.dtype))


@functools.partial(jax.jit, static_argnames=("kind", "batch", "draws"))
def _statistics(
  kind, rule, concentration, data, state, reference, key, batch, draws
):
  n = data.image.shape[0]

  def estimate(key):
    pick, which, gamma = jax.random.split(key, 3)
    index = distinct(pick, n, batch)
    rows = jax.tree.leaves(state)[0].shape[0]
    chosen = jax.random.randint(which, (), 0, rows)
    own = jax.tree.map(lambda x: x[chosen], state)
    return gradient(kind, rule, concentration, data, own, index, gamma)

  # As many at once as keep a few tens of megabytes.
  chunk = max(1, min(64, 2048 // batch))
  return statistics_lib.gradient_statistics(
    estimate, reference, key, draws=draws, chunk=chunk
  )


@functools.partial(jax.jit, static_argnames=("prototypes", "batch", "memory"))
def _chains(rule, data, keys, prototypes, batch, memory):
  """Leaves [chains, snapshots, ...]."""
  n = data.image.shape[0]
  image, text = _embed(_identity(data), data)
  tau = data.temperature
  # Where it begins is forgotten; from the truth it takes the fewest epochs.
  truth = log_partitions(data)
  steps = min(n // batch, PROTOTYPE_FITS) if prototypes else n // batch

  def update(state, index):
    x, y = image[index], text[index]
    if prototypes:
      return _fit(state, x, y, tau), None
    known = _fold(rule, state[:, index], x, y, tau)
    return state.at[:, index].set(known), None

  def epoch(state, key):
    order = jax.random.permutation(key, n)[: steps * batch]
    state, _ = jax.lax.scan(update, state, order.reshape(-1, batch))
    return state

  def chain(key):
    first, before, after = jax.random.split(key, 3)
    state: Any = truth
    if prototypes:
      # Prototypes of the images' direction are texts, and the reverse.
      rows = jax.random.permutation(first, n)[: min(PROTOTYPES, n)]
      state = _adagrad_state({"image": text[rows], "text": image[rows]})
    burn_in = jax.random.split(before, memory.burn_in)
    state, _ = jax.lax.scan(lambda s, k: (epoch(s, k), None), state, burn_in)
    snapshots = jax.random.split(after, memory.snapshots)
    return jax.lax.scan(lambda s, k: (epoch(s, k),) * 2, state, snapshots)[1]

  return jax.vmap(chain)(keys)


def _identity(data: Data) -> dict[str, jax.Array]:
  eye = jnp.eye(data.image.shape[1])
  return {"image": eye, "text": eye}


def _embed(params, data: Data, index: Any = slice(None)):
  return (
    ops.l2_normalize(data.image[index] @ params["image"]),
    ops.l2_normalize(data.text[index] @ params["text"]),
  )


def _fold(rule: methods.Rule, before, image, text, tau) -> jax.Array:
  """[2, B] log Z of a batch's examples after the E-step."""
  batch = losses.log_partition_clip(image, text, temperature=tau)

  def after(kind):
    return jnp.stack(
      [losses.e_step(kind, old, new) for old, new in zip(before, batch)]
    )

  return jnp.where(
    rule.conjugate,
    after(losses.Conjugate(rule.log_alpha, min_rate=0.0)),
    after(losses.MovingAverage(rule.rate)),
  )


def _adagrad_state(prototypes):
  params = {k: {"prototypes": v} for k, v in prototypes.items()}
  return params, optax.adagrad(PROTOTYPE_RATE).init(params)


def _predict(state, image, text, tau) -> jax.Array:
  """[2, B] log Z by the prototypes."""
  params, _ = state
  sides = (("image", image, text), ("text", text, image))
  return jnp.stack(
    [
      losses.prototype_log_partition(params[side], *pair, temperature=tau)
      for side, *pair in sides
    ]
  )


def _fit(state, image, text, tau):
  """One step of the prototypes on a batch."""
  params, adagrad = state
  image, text = jax.lax.stop_gradient((image, text))
  batch = losses.log_partition_clip(image, text, temperature=tau)

  def objective(params):
    found = _predict((params, adagrad), image, text, tau)
    return sum(
      jnp.mean(losses.amortized_loss(nu, z)) for nu, z in zip(found, batch)
    )

  slope = jax.grad(objective)(params)
  updates, adagrad = optax.adagrad(PROTOTYPE_RATE).update(
    slope, adagrad, params
  )
  return optax.apply_updates(params, updates), adagrad
