r"""Two-tower encoders on two modalities whose information is known.

A thing is three numbers of a few bits: one that both modalities see, one that only
the image shows (or, erased, does not) and one that only the text tells. Inputs are
the sum of random codes of these numbers with some noise; another view has other
noise. Encoders are trained without labels and frozen; what they kept is what a
classifier of the whole thing, trained on both modalities' features, can tell.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from contrastive_jax import losses, ops

SHARED = 3  # Bits.
_MOST_IMAGE, _MOST_TEXT = 3, 1
CLASSES = 2 ** (SHARED + _MOST_IMAGE + _MOST_TEXT)


@dataclasses.dataclass(frozen=True)
class WorldSizes:
  """Sizes of a run.

  Attributes:
    inputs: dimensions of an input.
    hidden: width of an encoder's hidden layer.
    dim: d, of the features.
    noise: standard deviation of the inputs' noise, of codes of norm 1.
    temperature: of all contrasts.
    batch: pairs of a step.
    steps: of the encoders, and of the classifier.
    precision: standard deviation of the noise with which features of norm 1 are
      read. Without any, a classifier would read what is left of a difference that
      alignment has made a thousand times smaller.
    test: things that the classifier is judged by.
  """

  inputs: int = 24
  hidden: int = 64
  dim: int = 16
  noise: float = 0.05
  temperature: float = 0.1
  batch: int = 128
  steps: int = 800
  precision: float = 0.15
  test: int = 16_384


@dataclasses.dataclass(frozen=True)
class World:
  """Bits that one modality alone sees; arrays, so that worlds are mapped over.

  Attributes:
    image: bits of the image alone.
    text: bits of the text alone.
    erased: probability that an image shows none of its own bits.
  """

  image: Any
  text: Any
  erased: Any


jax.tree_util.register_dataclass(
  World, data_fields=["image", "text", "erased"], meta_fields=[]
)

# Weights of the terms beside CLIP's loss, or of the image's contrast alone.
METHODS: dict[str, Mapping[str, float]] = {
  "CLIP": {"clip": 1.0},
  # The control of separation, which is read through a second head as well.
  "CLIP, an untrained second head": {"clip": 1.0},
  "aligned": {"clip": 1.0, "distance": 30.0},
  "alignment loss": {"clip": 1.0, "alignment": 1.0},
  "four terms": {"four_term": 1.0},
  "separation": {"clip": 1.0, "separation": 1.0},
  "bridge": {"clip": 1.0, "bridge": 1.0},
  "consistency": {"clip": 1.0, "consistency": 0.1},
  "image alone": {"image": 1.0},
}
# The classifier reads the second heads of these methods too.
TWO_HEADS = ("CLIP, an untrained second head", "separation")


def train(
  weights: Mapping[str, float],
  world: World,
  key: jax.Array,
  settings: WorldSizes,
  *,
  two_heads: bool = False,
) -> dict[str, jax.Array]:
  """Trains encoders and a classifier; what the features have lost.

  Args:
    weights: of the loss's terms; see `METHODS`.
    world: what is seen by whom.
    key: of everything random.
    settings: sizes.
    two_heads: whether the classifier reads the second heads too, trained or not.

  Returns:
    `cross_entropy` of the classifier on new things, in nats, and `misalignment`,
    the mean squared distance of paired features.
  """
  encoders = fit(weights, world, key, settings)
  *_, head, test = jax.random.split(key, 5)
  init, fit_key = jax.random.split(head)
  heads = ("", "_independent") if two_heads else ("",)
  sides = ("image",) if "image" in weights else ("image", "text")
  names = [f"{side}{head}" for side in sides for head in heads]

  def read(key):
    key, noise_key = jax.random.split(key)
    inputs, label = draw(encoders, world, key, settings)
    z = features(encoders, inputs)
    x = jnp.concatenate([z[name] for name in names], axis=1)
    noise = jax.random.normal(noise_key, x.shape)
    distance = jnp.mean(jnp.sum((z["image"] - z["text"]) ** 2, axis=1))
    return x + settings.precision * noise, label, distance

  def cross_entropy(params, key):
    x, label, _ = read(key)
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(_apply(params, x), label)
    )

  classifier = _init_layers(init, (settings.dim * len(names), 128, CLASSES))
  classifier = _minimize(cross_entropy, classifier, fit_key, settings)
  keys = jax.random.split(test, settings.test // settings.batch)
  return {
    "cross_entropy": jnp.mean(
      jax.lax.map(lambda k: cross_entropy(classifier, k), keys)
    ),
    "misalignment": jnp.mean(jax.lax.map(lambda k: read(k)[2], keys)),
  }


def fit(
  weights: Mapping[str, float],
  world: World,
  key: jax.Array,
  settings: WorldSizes,
) -> dict[str, Any]:
  """Both encoders' parameters, trained without labels, and `codes`, of what they
  have seen; arguments as of `train`.
  """
  codes_key, init, fit_key, *_ = jax.random.split(key, 5)
  codes = _codes(codes_key, settings)
  sizes = settings.inputs, settings.hidden, settings.dim
  params = {
    side: _init_encoder(jax.random.fold_in(init, i), *sizes)
    for i, side in enumerate(("image", "text"))
  }

  def loss(params, key):
    inputs, _ = draw({"codes": codes}, world, key, settings)
    return _loss(weights, features(params, inputs), settings)

  return {**_minimize(loss, params, fit_key, settings), "codes": codes}


def features(
  encoders: Mapping[str, Any], inputs: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """Unit-norm features [batch, d] of each input, by both heads."""
  out = {}
  for name, x in inputs.items():
    shared, independent = _encode(encoders[name.split("_")[0]], x)
    out[name], out[f"{name}_independent"] = shared, independent
  return out


def draw(
  encoders: Mapping[str, Any],
  world: World,
  key: jax.Array,
  settings: WorldSizes,
) -> tuple[dict[str, jax.Array], jax.Array]:
  """A batch of things: two views of both modalities, and which things they are.

  Returns:
    `image`, `text`, `image_augmented` and `text_augmented`, [batch, inputs] by the
    encoders' `codes`, and the label [batch]: the shared number, the image's and
    the text's own.
  """
  codes = encoders["codes"]
  shape = (settings.batch,)
  keys = jax.random.split(key, 8)
  shared = jax.random.randint(keys[0], shape, 0, 2**SHARED)
  own = {
    "image": jax.random.randint(keys[1], shape, 0, 2**world.image),
    "text": jax.random.randint(keys[2], shape, 0, 2**world.text),
  }
  shown = jax.random.uniform(keys[3], shape) >= world.erased
  inputs = {}
  for i, name in enumerate(
    ("image", "text", "image_augmented", "text_augmented")
  ):
    side = name.split("_")[0]
    x = codes[f"{side}_own"][own[side]]
    if side == "image":
      x = jnp.where(shown[:, None], x, 0.0)
    x += codes[f"{side}_shared"][shared]
    noise = jax.random.normal(keys[4 + i], x.shape)
    inputs[name] = x + settings.noise * noise
  label = (shared * 2**_MOST_IMAGE + own["image"]) * 2**_MOST_TEXT + own["text"]
  return inputs, label


def _codes(key: jax.Array, settings: WorldSizes) -> dict[str, jax.Array]:
  """Random unit codes of the numbers, of each modality."""
  counts = {
    "image_shared": 2**SHARED,
    "text_shared": 2**SHARED,
    "image_own": 2**_MOST_IMAGE,
    "text_own": 2**_MOST_TEXT,
  }
  return {
    name: ops.l2_normalize(
      jax.random.normal(jax.random.fold_in(key, i), (n, settings.inputs))
    )
    for i, (name, n) in enumerate(counts.items())
  }


def _loss(weights, z, settings):
  """The weighted sum of a method's terms."""
  scale = 1.0 / settings.temperature
  v, t = z["image"], z["text"]
  va, ta = z["image_augmented"], z["text_augmented"]
  terms = {
    "clip": lambda: losses.clip(v, t, logit_scale=scale),
    "four_term": lambda: losses.clip_four_term(v, t, va, ta, logit_scale=scale),
    "alignment": lambda: losses.alignment(v, t),
    # Unlike the paper's alignment loss it is not minimal at opposite features.
    "distance": lambda: jnp.sum(jnp.square(v - t), axis=1),
    "bridge": lambda: losses.brownian_bridge(v, t, va),
    "consistency": lambda: losses.geometric_consistency(v, t, va, ta),
    "image": lambda: losses.nt_xent(v, va, temperature=settings.temperature),
    "separation": lambda: losses.deep_feature_separation(
      v,
      t,
      *(z[f"{k}_independent"] for k in ("image", "text")),
      *(z[f"{k}_augmented_independent"] for k in ("image", "text")),
      temperature=settings.temperature,
    ),
  }
  total = jnp.float32(0)
  for name, weight in weights.items():
    value = terms[name]()
    parts = value.values() if isinstance(value, dict) else [value]
    total += weight * sum(jnp.mean(x) for x in parts)
  return total


def _minimize(loss, params, key, settings):
  """Adam with cosine decay on fresh things at each step."""
  optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, settings.steps))

  def step(carry, number):
    params, state = carry
    grads = jax.grad(loss)(params, jax.random.fold_in(key, number))
    updates, state = optimizer.update(grads, state)
    return (optax.apply_updates(params, updates), state), None

  carry = (params, optimizer.init(params))
  return jax.lax.scan(step, carry, jnp.arange(settings.steps))[0][0]


def _init_layers(key, widths):
  return [
    {
      "w": jax.random.normal(jax.random.fold_in(key, i), (m, n)) * m**-0.5,
      "b": jnp.zeros(n),
    }
    for i, (m, n) in enumerate(zip(widths, widths[1:]))
  ]


def _init_encoder(key, inputs, hidden, dim):
  first, shared, independent = jax.random.split(key, 3)
  return {
    "first": _init_layers(first, (inputs, hidden)),
    "shared": _init_layers(shared, (hidden, dim)),
    "independent": _init_layers(independent, (hidden, dim)),
  }


def _apply(layers, x):
  for i, layer in enumerate(layers):
    x = x @ layer["w"] + layer["b"]
    if i + 1 < len(layers):
      x = jax.nn.gelu(x)
  return x


def _encode(params, x):
  feature = jax.nn.gelu(_apply(params["first"], x))
  return tuple(
    ops.l2_normalize(_apply(params[head], feature))
    for head in ("shared", "independent")
  )
