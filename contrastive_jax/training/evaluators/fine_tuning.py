"""Fine-tuning of an image encoder with a linear head, as ELEVATER does it."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from contrastive_jax import evaluation
from contrastive_jax.training.distributed import sharding

# (params, fixed, uint8 [B, H, W, 3]) -> floating [B, d].
Encode = Callable[[Any, Any, jax.Array], jax.Array]
# Numbers [n] of images -> uint8 [n, H, W, 3].
Read = Callable[[np.ndarray], np.ndarray]
Tuned = Mapping[str, Any]

_MOMENTUM = 0.9
# Logits beyond it are of a fit that diverged; their order means nothing.
_LARGEST_LOGIT = 1e18


class FineTuneRecipe(NamedTuple):
  """How long and how fast; as ELEVATER's toolkit but for decays and the limit.

  Attributes:
    learning_rates: candidates, from the lowest up.
    weight_decays: candidates for L2, from the strongest down.
    search_epochs: of a trial.
    epochs: of the last fit.
    search_examples: examples that a trial fits at most.
  """

  learning_rates: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
  weight_decays: tuple[float, ...] = (1e-2, 1e-4, 1e-6)
  search_epochs: int = 10
  epochs: int = 50
  search_examples: int = 20_000


_RECIPE = FineTuneRecipe()


class FineTuner:
  """An image encoder and a linear head, both trained: two programs in all.

  Logits are `sqrt(d) W z + b` of embeddings z of unit norm: their entries then
  have a mean square of one. The loss is the cross-entropy, or with several
  classes an image the mean binary one, in float32. The batch size is fixed and
  the last batch of an epoch padded, so that any number of examples, rate and
  decay share the programs. A batch is split over the mesh, all else replicated.
  """

  def __init__(
    self,
    encode: Encode,
    params: Any,
    fixed: Any,
    *,
    image_shape: tuple[int, ...],
    classes: int,
    batch_size: int = 64,
    mesh: jax.sharding.Mesh | None = None,
  ):
    """Prepares the programs.

    Args:
      encode: of `params`, `fixed` and uint8 `[B, H, W, 3]` the embeddings,
        floating `[B, d]` of unit norm.
      params: where every fit starts. Leaves that no embedding depends on (of a
        text encoder) stay out of it.
      fixed: what else `encode` takes and is not trained, as batch statistics.
      image_shape: `(H, W, 3)`.
      classes: C.
      batch_size: B, a multiple of the number of devices.
      mesh: the devices; None is a single one.

    Raises:
      ValueError: sizes that are not positive, a batch that the devices do not
        divide, or no parameter that an embedding depends on.
    """
    mesh = mesh or sharding.make_mesh(jax.devices()[:1])
    if classes < 1 or batch_size < 1 or batch_size % mesh.size:
      raise ValueError(
        "classes must be positive, and batch_size a positive multiple of"
        f" {mesh.size} devices; got {classes} and {batch_size}."
      )
    images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.uint8)
    leaves, treedef = jax.tree.flatten(params)
    reached = _reached(encode, params, fixed, images)
    if not any(reached):
      raise ValueError(
        "params must hold something that an embedding depends on, got"
        f" {len(leaves)} leaves that none does."
      )
    width = jax.eval_shape(encode, params, fixed, images).shape[1]
    self.classes, self.width, self.batch_size = classes, width, batch_size
    self._moving = [leaf for leaf, moves in zip(leaves, reached) if moves]
    self._rest = [leaf for leaf, moves in zip(leaves, reached) if not moves]
    self._fixed = fixed
    rows = sharding.batch_sharding(mesh)
    self._everywhere = sharding.replicated(mesh)
    momentum = optax.trace(decay=_MOMENTUM)

    def logits(tuned, rest, fixed, images):
      images = jax.lax.with_sharding_constraint(images, rows)
      moving, still = iter(tuned["encoder"]), iter(rest)
      params = treedef.unflatten(
        [next(moving if moves else still) for moves in reached]
      )
      z = encode(params, fixed, images).astype(jnp.float32)
      scores = jnp.einsum("bd,cd->bc", z, tuned["kernel"], precision="highest")
      return math.sqrt(width) * scores + tuned["bias"]

    def loss(tuned, rest, fixed, images, labels, weights):
      found = logits(tuned, rest, fixed, images)
      if labels.ndim == 1:
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(
          found, labels
        )
      else:
        shown = (labels > 0).astype(jnp.float32)
        losses = optax.losses.sigmoid_binary_cross_entropy(found, shown)
        losses = jnp.mean(jnp.where(labels >= 0, losses, 0), axis=1)
      return jnp.sum(weights * losses)

    def step(tuned, trace, rest, fixed, batch, rate, decay):
      grads = jax.grad(loss)(tuned, rest, fixed, *batch)
      grads = jax.tree.map(lambda g, p: g + decay * p, grads, tuned)
      updates, trace = momentum.update(grads, trace)
      updates = jax.tree.map(lambda u: -rate * u, updates)
      return optax.apply_updates(tuned, updates), trace

    self._init_momentum = momentum.init
    self._step = jax.jit(
      step, donate_argnums=(0, 1), out_shardings=self._everywhere
    )
    self._logits = jax.jit(logits, out_shardings=self._everywhere)

  def fit(
    self,
    images: Read,
    labels: np.ndarray,
    rows: np.ndarray,
    *,
    key: jax.Array,
    head: np.ndarray | None = None,
    learning_rate: float,
    weight_decay: float,
    epochs: int,
  ) -> Tuned:
    """Trains a copy of the encoder and a head.

    Args:
      images: reads them by number.
      labels: int `[N]`, or `[N, C]` of 1, 0 and -1 (not counted).
      rows: numbers of the images to fit.
      key: of the order of the examples, and of a head that begins at random.
      head: float32 `[C, d]` that it begins with; None draws one, of rows with a
        norm of about one.
      learning_rate: of the first step; the last one's is almost 0 (cosine).
      weight_decay: L2 that joins the gradient, of all parameters.
      epochs: passes over the rows.

    Returns:
      What `scores` takes.

    Raises:
      ValueError: if the head has another shape, or there are no rows.
    """
    # Not JAX's: a sort, and each number of rows, would be compiled.
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    shape = (self.classes, self.width)
    if head is None:
      head = rng.normal(size=shape) / math.sqrt(self.width)
    if np.shape(head) != shape:
      raise ValueError(
        f"head must be [C, d] = {list(shape)}, got {list(np.shape(head))}."
      )
    if not len(rows):
      raise ValueError("rows must hold at least one image to fit, got none.")
    tuned = {
      "encoder": jax.tree.map(jnp.copy, self._moving),
      "kernel": jnp.asarray(head, jnp.float32),
      "bias": jnp.zeros(self.classes, jnp.float32),
    }
    trace = self._init_momentum(tuned)
    tuned, trace = jax.device_put((tuned, trace), self._everywhere)
    starts = range(0, len(rows), self.batch_size)
    number, steps = 0, epochs * len(starts)
    for _ in range(epochs):
      order = rng.permutation(rows)
      for start in starts:
        part = order[start : start + self.batch_size]
        weights = np.full(len(part), 1 / len(part), np.float32)
        batch = (
          self._padded(images(part)),
          self._padded(labels[part]),
          self._padded(weights, mode="constant"),
        )
        rate = learning_rate * (1 + math.cos(math.pi * number / steps)) / 2
        tuned, trace = self._step(
          tuned,
          trace,
          self._rest,
          self._fixed,
          batch,
          np.float32(rate),
          np.float32(weight_decay),
        )
        number += 1
    return tuned

  def scores(self, tuned: Tuned, images: Read, rows: np.ndarray) -> np.ndarray:
    """Logits float32 `[n, C]` of the images with these numbers."""
    parts = []
    for start in range(0, len(rows), self.batch_size):
      part = rows[start : start + self.batch_size]
      found = self._logits(
        tuned, self._rest, self._fixed, self._padded(images(part))
      )
      parts.append(np.asarray(found)[: len(part)])
    return np.concatenate(parts)

  def _padded(self, array: np.ndarray, mode: Any = "edge") -> np.ndarray:
    """A whole batch; the last row is repeated, as blanks may have no slope."""
    missing = self.batch_size - len(array)
    return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1), mode)


def fine_tune(
  tuner: FineTuner,
  images: Read,
  labels: Any,
  fit: np.ndarray,
  choose: np.ndarray,
  test_images: Read,
  test_labels: Any,
  *,
  key: jax.Array,
  head: np.ndarray | None = None,
  recipe: FineTuneRecipe = _RECIPE,
) -> dict[str, float]:
  """Test score of an encoder and a linear head that are trained on few images.

  SGD with momentum 0.9, as in ELEVATER: every pair of a learning rate and an L2
  is tried on `fit`, the one with the best score on `choose` (of equals the
  lowest rate, then the strongest L2) trains on both. With `head` the text
  embeddings of the classes it begins as the zero-shot classifier (language
  initialisation), otherwise at random.

  It differs from the published toolkit in this. The rate falls by a cosine,
  where it is constant there, and the model is scored at the end, where there
  the best of all epochs on the test set is reported. Three decays are tried,
  there seven from 1e-6 to 1e6 and others between them. Embeddings of unit norm
  are scaled by the root of d, where features there have a batch normalisation
  without parameters. Batch statistics of the encoder stay. Images are not
  augmented, there neither.

  Args:
    tuner: the encoder, with the number of classes.
    images: reads images by number, uint8 `[n, H, W, 3]`.
    labels: integers `[N]` in `[0, C)`; or `[N, C]` of 1 (the image shows the
      class), 0, and -1 (not counted).
    fit: numbers of images that trials fit.
    choose: numbers of images that choose.
    test_images: reads those of the test.
    test_labels: like `labels`, `[M]` or `[M, C]`.
    key: of the order of examples and a head that begins at random.
    head: float32 `[C, d]`, or None.
    recipe: candidates and lengths.

  Returns:
    `accuracy` and `mean_per_class_accuracy`, or of several classes an image
    `mean_average_precision`, on the test images; `validation`, the best score
    (the first of these) on `choose` before the last fit; `learning_rate` and
    `weight_decay`, the chosen ones. A fit that diverged scores all classes
    the same.

  Raises:
    ValueError: wrong shapes, types or labels, or no candidates.

  Reference:
    Li et al., ELEVATER: a benchmark and toolkit for evaluating
    language-augmented visual models, 2022.
  """
  labels = _labels("labels", labels, tuner.classes)
  test_labels = _labels("test_labels", test_labels, tuner.classes)
  if not recipe.learning_rates or not recipe.weight_decays:
    raise ValueError(
      "recipe must have at least one learning rate and one weight decay, got"
      f" {recipe.learning_rates} and {recipe.weight_decays}."
    )
  rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
  trial = fit
  if len(fit) > recipe.search_examples:
    trial = rng.permutation(fit)[: recipe.search_examples]
  best, chosen = -1.0, (recipe.learning_rates[0], recipe.weight_decays[0])
  for rate in recipe.learning_rates:
    for decay in recipe.weight_decays:
      tuned = tuner.fit(
        images,
        labels,
        trial,
        key=key,
        head=head,
        learning_rate=rate,
        weight_decay=decay,
        epochs=recipe.search_epochs,
      )
      found = _metrics(tuner.scores(tuned, images, choose), labels[choose])
      if (value := next(iter(found.values()))) > best:
        best, chosen = value, (rate, decay)
  rate, decay = chosen
  tuned = tuner.fit(
    images,
    labels,
    np.union1d(fit, choose),
    key=key,
    head=head,
    learning_rate=rate,
    weight_decay=decay,
    epochs=recipe.epochs,
  )
  scores = tuner.scores(tuned, test_images, np.arange(len(test_labels)))
  return _metrics(scores, test_labels) | {
    "validation": best,
    "learning_rate": rate,
    "weight_decay": decay,
  }


def _reached(
  encode: Encode, params: Any, fixed: Any, images: Any
) -> list[bool]:
  """Returns, for each leaf of `params`, whether an embedding depends on it."""
  jaxpr = jax.make_jaxpr(encode)(params, fixed, images).jaxpr
  used = {id(x) for equation in jaxpr.eqns for x in equation.invars}
  count = len(jax.tree.leaves(params))
  return [id(variable) in used for variable in jaxpr.invars[:count]]


def _labels(name: str, value: Any, classes: int) -> np.ndarray:
  """Labels as int32 `[N]` or `[N, C]`, checked."""
  array = np.asarray(value)
  several = array.ndim == 2
  if (
    array.ndim not in (1, 2)
    or array.dtype.kind not in "iub"
    or (several and array.shape[1] != classes)
  ):
    raise ValueError(
      f"{name} must be integers [N], or [N, C] of {classes} classes, got"
      f" {array.dtype}{list(array.shape)}."
    )
  least, most = (-1, 1) if several else (0, classes - 1)
  if array.size and not least <= array.min() <= array.max() <= most:
    raise ValueError(
      f"{name} must be from {least} to {most}, got {array.min()} to"
      f" {array.max()}."
    )
  return array.astype(np.int32)


def _metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Scores of logits; the first is what chooses."""
  usable = np.abs(scores).max(axis=1, keepdims=True) < _LARGEST_LOGIT
  # All classes alike is a tie, which is wrong.
  scores = np.where(usable, scores, 0)
  if labels.ndim == 2:
    value = evaluation.mean_average_precision(scores, labels)
    return {"mean_average_precision": value}
  true = np.arange(scores.shape[1]) == labels[:, None]
  wrong = np.where(true, -np.inf, scores).max(axis=1)
  correct = scores[true] > wrong
  return {
    "accuracy": float(np.mean(correct)),
    "mean_per_class_accuracy": float(
      np.mean([correct[labels == c].mean() for c in np.unique(labels)])
    ),
  }
