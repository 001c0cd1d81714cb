"""Two maps on fixed inputs, linear or with a hidden layer, many runs in one program.

A run maps images and names to the same few dimensions. One method at one batch size
is one compiled program: runs of all seeds and learning rates side by side, epochs
and steps in loops. Runs of a seed begin with the same maps and see the same batches
and drawings whatever the method, so that differences are paired.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from contrastive_jax import losses, ops
from experiments.frozen import features

Params = dict[str, jax.Array]
CATALOGUE = ("catalogue, image to name", "catalogue, name to image")


@dataclasses.dataclass(frozen=True)
class MapSettings:
  """Settings that all runs of a study share."""

  dim: int = 32
  hidden: int = 0  # Width of a hidden layer with GELU; 0 is none.
  temperature: float = 0.05
  weight_decay: float = 1e-3
  warm_up: float = 0.02  # Share of the steps.


DEFAULTS = MapSettings()


@dataclasses.dataclass(frozen=True)
class Method:
  """A loss, and how it knows the negatives that are not in the batch.

  Attributes:
    loss: "clip", "decoupled", "sigmoid", "em" or "exact". The last is the control:
      weights 1/Z of today's maps over the whole catalogue.
    rule: of "em", as all that follow; see `losses.EMOptions`.
    margins: whether entries hold the positive.
    level_rate: of the level.
    concentration: of the draws.
  """

  loss: str
  rule: Any = None
  margins: bool = False
  level_rate: float = 0.0
  concentration: float = math.inf


class Found(NamedTuple):
  """Results of R runs.

  Attributes:
    ranks: uint16 [R, M] by task: how many others an item's own one was not
      nearer than. Ties count against it, and so does what is not finite.
    weight_sum: [R, epochs], mean u Z-hat; NaN for losses without weights.
    weight_max: [R], the largest u Z-hat of an anchor in any step; NaN likewise.
    table_error: [R, probes], root mean square of known - true log Z in nats.
  """

  ranks: dict[str, np.ndarray]
  weight_sum: np.ndarray
  weight_max: np.ndarray
  table_error: np.ndarray


class _Carry(NamedTuple):
  params: Params
  optimizer: Any
  memory: losses.EMState


def train(
  method: Method,
  inputs: features.Inputs,
  *,
  batch: int,
  epochs: int,
  seeds: Sequence[int],
  rates: Sequence[float],
  probes: Sequence[int] = (),
  temperatures: Sequence[float] = (),
  settings: MapSettings = DEFAULTS,
) -> Found:
  """Trains R runs of a method.

  Args:
    method: of all runs.
    inputs: what they train on.
    batch: pairs a step; those that fill no batch are left out of an epoch.
    epochs: visits of each thing.
    seeds: one a run.
    rates: peak learning rate of each run.
    probes: epochs, from 1, after which the tables of "em" are compared with the
      truth.
    temperatures: of each run, if not that of the settings.
    settings: the rest.
  """
  things = len(inputs.text)
  if not 2 <= batch <= things:
    raise ValueError(f"batch must be in [2, {things}]; got {batch}.")
  if len(seeds) != len(rates):
    raise ValueError(f"{len(seeds)} seeds, but {len(rates)} learning rates.")
  taus = temperatures or [settings.temperature] * len(seeds)
  if len(taus) != len(seeds):
    raise ValueError(f"{len(seeds)} seeds, but {len(taus)} temperatures.")
  arrays = {
    "image": inputs.image,
    "text": inputs.text,
    "drawings": inputs.drawings,
    "tasks": {name: tuple(task) for name, task in inputs.tasks.items()},
  }
  found = _program(
    jax.tree.map(jnp.asarray, arrays),
    jnp.asarray(seeds, jnp.uint32),
    jnp.asarray(rates, jnp.float32),
    jnp.asarray(taus, jnp.float32),
    method=method,
    batch=batch,
    epochs=epochs,
    probes=tuple(probes),
    settings=settings,
  )
  ranks, weight_sum, weight_max, error = jax.tree.map(np.asarray, found)
  return Found(ranks, weight_sum, weight_max, error)


@functools.partial(
  jax.jit, static_argnames=("method", "batch", "epochs", "probes", "settings")
)
def _program(
  arrays, seeds, rates, taus, *, method, batch, epochs, probes, settings
):
  things = arrays["text"].shape[0]
  steps = things // batch
  total = steps * epochs
  probed = jnp.isin(jnp.arange(1, epochs + 1), jnp.asarray(probes or (0,)))

  def run(seed, rate, temperature):
    key = jax.random.key(seed)
    own = dataclasses.replace(settings, temperature=temperature)
    optimizer = optimizer_of(rate, total, settings)
    params = initial(
      jax.random.fold_in(key, 0),
      arrays["image"].shape[1],
      arrays["text"].shape[1],
      method,
      settings,
    )
    begin = _Carry(
      params,
      optimizer.init(params),
      losses.em_init(things if method.loss == "em" else 0),
    )

    def epoch(carry, now):
      number, probe = now
      chosen, drawn, key_of_steps = jax.random.split(
        jax.random.fold_in(key, number), 3
      )
      order = jax.random.permutation(chosen, things)[: steps * batch]
      pick = jax.random.randint(
        drawn, (things,), 0, arrays["drawings"].shape[1]
      )
      # Each thing in one drawing, another one in the next epoch.
      image = arrays["image"][arrays["drawings"][jnp.arange(things), pick]]
      visible = image, arrays["text"]

      def one(carry, inputs):
        return _step(method, optimizer, own, carry, visible, *inputs)

      carry, (weight, largest) = jax.lax.scan(
        one,
        carry,
        (
          order.reshape(steps, batch),
          jax.random.split(key_of_steps, steps),
        ),
      )
      error = jnp.float32(jnp.nan)
      if method.loss == "em":
        error = jax.lax.cond(
          probe,
          lambda: table_error(method, own, carry, visible),
          lambda: error,
        )
      return carry, (jnp.mean(weight), jnp.max(largest), error)

    end, (weights, largest, errors) = jax.lax.scan(
      epoch, begin, (jnp.arange(1, epochs + 1), probed)
    )
    chosen = jnp.asarray([p - 1 for p in probes], jnp.int32)
    ranks = _all_ranks(end.params, arrays)
    return ranks, weights, jnp.max(largest), errors[chosen]

  return jax.vmap(run)(seeds, rates, taus)


def initial(
  key: jax.Array, image: int, text: int, method: Method, settings: MapSettings
) -> Params:
  """The maps before the first step; with the sigmoid's scale and bias."""

  def matrix(key, width, out):
    return jax.random.normal(key, (width, out)) / math.sqrt(width)

  params = {}
  for name, width, k in zip(
    ("image", "text"), (image, text), jax.random.split(key)
  ):
    if hidden := settings.hidden:
      params[f"{name}_hidden"] = matrix(jax.random.fold_in(k, 1), width, hidden)
      width = hidden
    params[name] = matrix(k, width, settings.dim)
  if method.loss == "sigmoid":
    params |= {"log_scale": jnp.log(10.0), "bias": jnp.float32(-10.0)}
  return params


def optimizer_of(
  rate: jax.Array, total: int, settings: MapSettings
) -> optax.GradientTransformation:
  """Adam with decoupled weight decay of the maps, and a cosine schedule."""
  shape = optax.warmup_cosine_decay_schedule(
    0.0, 1.0, max(1, round(settings.warm_up * total)), max(total, 2)
  )
  return optax.adamw(
    lambda count: rate * shape(count),
    weight_decay=settings.weight_decay,
    mask=lambda params: jax.tree.map(lambda p: jnp.ndim(p) == 2, params),
  )


def embed(
  params: Params, image: jax.Array, text: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Unit-norm features of images and of names."""

  def mapped(name, x):
    hidden = params.get(f"{name}_hidden")
    x = x if hidden is None else jax.nn.gelu(x @ hidden)
    return ops.l2_normalize(x @ params[name])

  return mapped("image", image), mapped("text", text)


def _step(method, optimizer, settings, carry, visible, index, key):
  """One step; the new carry, and the mean and the largest weight sum."""

  def objective(params):
    pair = embed(params, *(x[index] for x in visible))
    known = None
    if method.loss == "exact":
      every = embed(jax.lax.stop_gradient(params), *visible)
      known = exact_log_partition(pair, every, index, settings.temperature)
    return loss_of(
      method, params, pair, carry.memory, index, key, known, settings
    )

  grads, (memory, weights) = jax.grad(objective, has_aux=True)(carry.params)
  updates, state = optimizer.update(grads, carry.optimizer, carry.params)
  params: Any = optax.apply_updates(carry.params, updates)
  return _Carry(params, state, memory), weights


def loss_of(
  method: Method,
  params: Params,
  pair: tuple[jax.Array, jax.Array],
  memory: losses.EMState,
  index: jax.Array,
  key: jax.Array,
  known: tuple[jax.Array, jax.Array] | None,
  settings: MapSettings,
) -> tuple[jax.Array, tuple[losses.EMState, tuple[jax.Array, jax.Array]]]:
  """A batch's mean loss, the memory after it, and its mean and largest weight sum.

  `known` is log Z of images and names, for the control.
  """
  tau, none = settings.temperature, jnp.float32(jnp.nan)
  if method.loss == "em":
    step = losses.em_clip(
      *pair,
      memory,
      index=index,
      temperature=tau,
      key=key,
      rule=method.rule,
      margins=method.margins,
      level_rate=method.level_rate,
      concentration=method.concentration,
    )
    mean, details = jnp.mean(step.loss), step.details
    sums = jnp.exp(details["log_auxiliary"] + details["batch_log_partition"])
    return mean, (step.state, (mean, jnp.max(sums)))
  if known is not None:
    log_u = (-log_z for log_z in known)
    sums = losses.augmented_clip(*pair, *log_u, temperature=tau)
    return jnp.mean(sums), (memory, (jnp.mean(sums), jnp.max(sums)))
  if method.loss == "clip":
    value = losses.clip(*pair, logit_scale=1.0 / tau)
  elif method.loss == "decoupled":
    image, text = pair
    value, none = jnp.float32(0.5), jnp.float32(1.0)
    value *= losses.decoupled(image, text, temperature=tau) + losses.decoupled(
      text, image, temperature=tau
    )
  elif method.loss == "sigmoid":
    value = losses.sigmoid(
      *pair,
      logit_scale=jnp.exp(params["log_scale"]),
      logit_bias=params["bias"],
    )
  else:
    raise ValueError(
      "loss must be clip, decoupled, sigmoid, em or exact; got"
      f" {method.loss!r}."
    )
  return jnp.mean(value), (memory, (none, none))


def exact_log_partition(
  pair: tuple[jax.Array, jax.Array],
  every: tuple[jax.Array, jax.Array],
  index: jax.Array,
  temperature: float,
) -> tuple[jax.Array, jax.Array]:
  """The rows `index` of `losses.log_partition_clip` over everything.

  Those rows alone: all of them would cost the square of the catalogue a step.
  """
  things = every[0].shape[0]
  own = jnp.arange(things) == index[:, None]
  image, text = jax.lax.stop_gradient(pair)
  positive = jnp.sum(image * text, axis=1) / temperature

  def among(anchors, others):
    s = jnp.where(own, -jnp.inf, anchors @ others.T / temperature)
    return jax.nn.logsumexp(s, axis=1) - math.log(things - 1) - positive

  return among(image, every[1]), among(text, every[0])


def table_error(
  method: Method,
  settings: MapSettings,
  carry: Any,
  visible: tuple[jax.Array, jax.Array],
) -> jax.Array:
  """Root mean square of what the tables say minus log Z, of things seen."""
  image, text = embed(carry.params, *visible)
  truth = jnp.stack(
    losses.log_partition_clip(image, text, temperature=settings.temperature),
    axis=1,
  )
  memory = carry.memory
  table, visits = (
    ops.tables.from_sharded(memory.tables[name], len(text), 1)
    for name in ("entries", "visits")
  )
  known = table + memory.level
  if not method.margins:
    positive = jnp.sum(image * text, axis=1)[:, None]
    known = (known - positive) / settings.temperature
  seen = jnp.broadcast_to(visits > 0, known.shape)
  return jnp.sqrt(jnp.mean(jnp.square(known - truth), where=seen))


def _all_ranks(params: Params, arrays: Mapping[str, Any]):
  """Ranks by task; the catalogue is each training thing's first drawing."""
  first = arrays["image"][arrays["drawings"][:, 0]]
  image, text = embed(params, first, arrays["text"])
  places = jnp.arange(image.shape[0])
  found = {
    CATALOGUE[0]: _ranks(image, text, places),
    CATALOGUE[1]: _ranks(text, image, places),
  }
  for name, (image, text, own) in arrays["tasks"].items():
    found[name] = _ranks(*embed(params, image, text), own)
  return found


def _ranks(queries, among, own):
  similarity = jnp.dot(queries, among.T, precision=jax.lax.Precision.HIGHEST)
  best = jnp.take_along_axis(similarity, own[:, None], axis=1)
  return (jnp.sum(~(similarity < best), axis=1) - 1).astype(jnp.uint16)
