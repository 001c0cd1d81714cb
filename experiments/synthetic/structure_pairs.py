r"""Fixed pairs of two modalities with clusters, a private attribute, and nuisance.

A thing has a shared latent of 8 numbers, around the centre of one of 16 clusters, and
an attribute of 8 classes that the image alone shows. Each modality sees linear codes
of these, and 16 numbers of nuisance, which say nothing. Unlike the bits of `worlds`,
the training pairs are few and seen many times, so that a nuisance can be learned by
heart; a changed view draws a part of it anew, as an augmentation does.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from contrastive_jax import losses, ops

MODALITIES = ("image", "text")
# Losses without a regulariser. The last takes as many inputs a step as the four terms
# and the regularisers do, which see every input in two views.
TWO_TERMS, FOUR_TERMS, TWO_BATCHES = "two terms", "four terms", "two batches"
BASES = (TWO_TERMS, FOUR_TERMS, TWO_BATCHES)
REGULARISERS = (
  "separation",
  "bridge",
  "consistency",
  "CyCLIP",
  "CUA",
  "ModGap",
)
OUTCOMES = (
  "retrieval",
  "zero-shot",
  "4-shot",
  "private, both heads",
  "private, first head",
)
VALIDATION = "validation"


@dataclasses.dataclass(frozen=True)
class PairSizes:
  """Sizes of a run.

  Attributes:
    inputs: numbers that a modality shows of a thing.
    hidden: width of an encoder's hidden layer.
    dim: d, of the features of each head.
    largest: training pairs that are drawn; a run takes the first of them.
    validation: pairs by which settings are chosen.
    probe: pairs that classifiers of the frozen features are fitted to.
    test: pairs that judge.
    batch: pairs of a step.
    steps: of the encoders.
    temperature: of all contrasts.
    changed: share of the nuisance's variance that a changed view draws anew.
  """

  inputs: int = 48
  hidden: int = 48
  dim: int = 16
  largest: int = 3_072
  validation: int = 512
  probe: int = 1_024
  test: int = 1_024
  batch: int = 32
  steps: int = 400
  temperature: float = 0.1
  changed: float = 0.5


_LATENT, _CLUSTERS, _CLASSES, _NUISANCE, _SHOTS = 8, 16, 8, 16, 4
_RIDGE = 1e-2


@dataclasses.dataclass(frozen=True)
class Run:
  """Numbers of a run; arrays, so that runs are mapped over.

  Attributes:
    seed: of the world and the encoders.
    nuisance: its standard deviation beside the codes.
    first: share of the first view's nuisance drawn anew; 0 is the plain view.
    rate: the highest learning rate.
    weights: of the regularisers, by name.
    index: [steps, batch] the pairs of each step.
  """

  seed: Any
  nuisance: Any
  first: Any
  rate: Any
  weights: dict[str, Any]
  index: Any


jax.tree_util.register_dataclass(
  Run,
  data_fields=["seed", "nuisance", "first", "rate", "weights", "index"],
  meta_fields=[],
)


def batches(pairs: int, seed: int, sizes: PairSizes) -> np.ndarray:
  """Pairs of each step: every one once an epoch, in a new order; [steps, batch]."""
  rng = np.random.default_rng(seed)
  each = pairs // sizes.batch
  epochs = -(-sizes.steps // each)
  order = [rng.permutation(pairs)[: each * sizes.batch] for _ in range(epochs)]
  found = np.concatenate(order).reshape(-1, sizes.batch)
  return found[: sizes.steps].astype(np.int32)


def train(
  base: str, regularisers: Sequence[str], run: Run, sizes: PairSizes
) -> dict[str, jax.Array]:
  """Trains both encoders; scores of the frozen features.

  Args:
    base: one of `BASES`.
    regularisers: names of `REGULARISERS`, each weighted by `run.weights`.
    run: its numbers.
    sizes: of the world and the training.

  Returns:
    Scalars: `VALIDATION`, R@1 of both directions among validation pairs, and each
    of `OUTCOMES`, shares of the test pairs.
  """
  key = jax.random.fold_in(jax.random.key(7), run.seed)
  world_key, init_key, view_key = jax.random.split(key, 3)
  world = _World(world_key, run.nuisance, sizes)
  pairs = world.draw(0, sizes.largest)
  params = {
    side: _init(jax.random.fold_in(init_key, i), sizes)
    for i, side in enumerate(MODALITIES)
  }

  def loss(params, index, number):
    keys = jax.random.split(jax.random.fold_in(view_key, number), 3)
    things = jax.tree.map(lambda x: x[index], pairs)
    plain = _features(params, world.view(things, keys[0], run.first))
    if base == TWO_BATCHES:
      # That of the next step: every pair is seen twice, as in two views.
      after = run.index[(number + 1) % sizes.steps]
      other = jax.tree.map(lambda x: x[after], pairs)
      second = _features(params, world.view(other, keys[2], run.first))
      return 0.5 * (_clip(plain, sizes) + _clip(second, sizes))
    changed = None
    if base == FOUR_TERMS or {*regularisers} - {"CUA", "ModGap", "CyCLIP"}:
      views = world.view(things, keys[1], sizes.changed)
      changed = _features(params, views)
    total = (
      _clip(plain, sizes)
      if base == TWO_TERMS
      else _four_terms(plain, changed, sizes)
    )
    for name in regularisers:
      total += run.weights[name] * _REGULARISER[name](plain, changed, sizes)
    return total

  optimizer = optax.adamw(
    lambda count: (
      run.rate * optax.cosine_decay_schedule(1.0, sizes.steps)(count)
    ),
    weight_decay=1e-2,
  )

  def step(carry, inputs):
    params, state = carry
    updates, state = optimizer.update(
      jax.grad(loss)(params, *inputs), state, params
    )
    return (optax.apply_updates(params, updates), state), None

  steps = run.index, jnp.arange(sizes.steps)
  carry = params, optimizer.init(params)
  (params, _), _ = jax.lax.scan(step, carry, steps)
  return _scores(params, world, sizes)


class _World:
  """Codes of things, and views of them."""

  def __init__(self, key: jax.Array, nuisance: Any, sizes: PairSizes):
    self._key, self._nuisance = jax.random.split(key)[0], nuisance
    keys = jax.random.split(key, 7)[1:]
    wide = sizes.inputs

    def matrix(key, rows, norm):
      return jax.random.normal(key, (rows, wide)) * norm

    self._shared = {
      side: matrix(k, _LATENT, _LATENT**-0.5)
      for side, k in zip(MODALITIES, keys[:2])
    }
    self._own = matrix(keys[2], _CLASSES, 0.5)
    self._noise = {
      side: matrix(k, _NUISANCE, _NUISANCE**-0.5)
      for side, k in zip(MODALITIES, keys[3:5])
    }
    self._centres = jax.random.normal(keys[5], (_CLUSTERS, _LATENT))

  def draw(self, number: int, count: int) -> dict[str, jax.Array]:
    """Things: codes and nuisance of both sides, cluster, and private class."""
    key = jax.random.fold_in(self._key, number)
    keys = jax.random.split(key, 5)
    cluster = jax.random.randint(keys[0], (count,), 0, _CLUSTERS)
    own = jax.random.randint(keys[1], (count,), 0, _CLASSES)
    latent = self._centres[cluster]
    latent += 0.5 * jax.random.normal(keys[2], latent.shape)
    found = {"cluster": cluster, "private": own}
    for side, k in zip(MODALITIES, keys[3:]):
      found[side] = latent @ self._shared[side]
      found[f"{side}_noise"] = jax.random.normal(k, (count, _NUISANCE))
    found["image"] += self._own[own]
    return found

  def view(
    self, things: Mapping[str, jax.Array], key: jax.Array, changed: Any
  ) -> dict[str, jax.Array]:
    """Inputs [n, inputs] of both sides; `changed` of the nuisance is drawn anew."""
    found = {}
    for side, k in zip(MODALITIES, jax.random.split(key)):
      kept = things[f"{side}_noise"]
      noise = jnp.sqrt(1.0 - changed) * kept
      noise += jnp.sqrt(changed) * jax.random.normal(k, kept.shape)
      found[side] = things[side] + self._nuisance * noise @ self._noise[side]
    return found


def _init(key: jax.Array, sizes: PairSizes) -> dict[str, jax.Array]:
  keys = jax.random.split(key, 3)
  shapes = {
    "layer": (sizes.inputs, sizes.hidden),
    "head": (sizes.hidden, sizes.dim),
    "second": (sizes.hidden, sizes.dim),
  }
  return {
    name: jax.random.normal(k, shape) * shape[0] ** -0.5
    for k, (name, shape) in zip(keys, shapes.items())
  }


def _features(
  params: Mapping[str, Any], inputs: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """Unit-norm features [n, d] by side, and of the second heads."""
  found = {}
  for side, x in inputs.items():
    hidden = jax.nn.gelu(x @ params[side]["layer"])
    found[side] = ops.l2_normalize(hidden @ params[side]["head"])
    found[f"{side}_second"] = ops.l2_normalize(hidden @ params[side]["second"])
  return found


def _sides(z: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
  return z["image"], z["text"]


def _clip(z, sizes):
  scale = 1.0 / sizes.temperature
  return jnp.mean(losses.clip(*_sides(z), logit_scale=scale))


def _four_terms(z, changed, sizes):
  scale = 1.0 / sizes.temperature
  return jnp.mean(
    losses.clip_four_term(*_sides(z), *_sides(changed), logit_scale=scale)
  )


def _separation(z, changed, sizes):
  parts = losses.deep_feature_separation(
    *_sides(z),
    *(z[f"{side}_second"] for side in MODALITIES),
    *(changed[f"{side}_second"] for side in MODALITIES),
    temperature=sizes.temperature,
  )
  return sum(jnp.mean(part) for part in parts.values())


def _bridge(z, changed, sizes):
  return jnp.mean(losses.brownian_bridge(*_sides(z), changed["image"]))


def _consistency(z, changed, sizes):
  found = losses.geometric_consistency(*_sides(z), *_sides(changed))
  return jnp.mean(found)


def _cyclip(z, changed, sizes):
  return jnp.mean(losses.geometric_consistency(*_sides(z)))


def _cua(z, changed, sizes):
  image, text = _sides(z)
  apart = 0.5 * (losses.uniformity(image) + losses.uniformity(text))
  apart += losses.cross_uniformity(image, text)
  return apart + jnp.mean(losses.paired_distance(image, text))


def _modgap(z, changed, sizes):
  found = losses.centroid_uniformity(*_sides(z))
  return found + jnp.mean(losses.paired_distance(*_sides(z)))


_REGULARISER = dict(
  zip(
    REGULARISERS,
    (_separation, _bridge, _consistency, _cyclip, _cua, _modgap),
    strict=True,
  )
)


def _scores(params, world, sizes):
  """Scores of frozen encoders, all of plain views."""

  def embed(number, count):
    things = world.draw(number, count)
    inputs = world.view(things, jax.random.key(0), 0.0)
    return _features(params, inputs), things

  held_out, _ = embed(1, sizes.validation)
  fitted, known = embed(2, sizes.probe)
  z, truth = embed(3, sizes.test)

  def both_heads(z):
    return jnp.concatenate([z["image"], z["image_second"]], axis=1)

  classes = jax.nn.one_hot(known["cluster"], _CLUSTERS)
  few = classes * (jnp.cumsum(classes, axis=0) <= _SHOTS)

  def nearest(prototypes):
    prototypes = ops.l2_normalize(prototypes)
    guess = jnp.argmax(z["image"] @ prototypes.T, axis=1)
    return jnp.mean(guess == truth["cluster"])

  def private(read):
    return _probe(
      read(fitted), known["private"], read(z), truth["private"], _CLASSES
    )

  return {
    VALIDATION: _recall(held_out),
    "retrieval": _recall(jax.tree.map(lambda x: x[: sizes.validation], z)),
    "zero-shot": nearest(classes.T @ fitted["text"]),
    "4-shot": nearest(few.T @ fitted["image"]),
    "private, both heads": private(both_heads),
    "private, first head": private(lambda z: z["image"]),
  }


def _recall(z) -> jax.Array:
  """R@1, the mean of both directions."""
  similarity = z["image"] @ z["text"].T
  own = jnp.diagonal(similarity)
  found = [jnp.mean(own >= similarity.max(axis)) for axis in (0, 1)]
  return 0.5 * (found[0] + found[1])


def _probe(x, y, new, truth, classes) -> jax.Array:
  """Accuracy of ridge regression on classes."""
  x, new = (jnp.pad(a, ((0, 0), (0, 1)), constant_values=1.0) for a in (x, new))
  gram = x.T @ x / len(x) + _RIDGE * jnp.eye(x.shape[1])
  weights = jnp.linalg.solve(gram, x.T @ jax.nn.one_hot(y, classes) / len(x))
  return jnp.mean(jnp.argmax(new @ weights, axis=1) == truth)
