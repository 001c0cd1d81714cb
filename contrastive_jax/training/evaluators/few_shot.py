"""ELEVATER's few shots: what is drawn, linear probes of it, and fine-tuning.

Li et al., ELEVATER: a benchmark and toolkit for evaluating language-augmented
visual models, 2022: 5, 20 and 50 examples of each class, three draws, and all;
a fifth of what is drawn chooses hyper-parameters, then all is fitted.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from contrastive_jax import evaluation
from contrastive_jax.data import benchmarks as benchmarks_lib
from contrastive_jax.data import sources
from contrastive_jax.training.evaluators import (
  embeddings,
  fine_tuning,
  zero_shot,
)
from contrastive_jax.training.trainer import state as state_lib
from contrastive_jax.training.types import Report

SHOTS, _DRAWS = (5, 20, 50), 3
# One in so many of the drawn examples chooses.
_HELD_OUT = 5
_RECIPE, _BATCH_SIZE = fine_tuning.FineTuneRecipe(), 64
# Bytes of decoded images that are kept for the next epoch.
_MOST_BYTES = 2**32


def headline(name: str, usual: str = "accuracy") -> str:
  """The metric that a set's published score is."""
  benchmark = benchmarks_lib.BENCHMARKS[name]
  if benchmark.multi_label:
    return "mean_average_precision"
  return "mean_per_class_accuracy" if benchmark.per_class else usual


def probe_of(labels: np.ndarray) -> Callable[..., dict[str, float]]:
  """The linear probe for labels [N], or [N, C] of several classes."""
  if labels.ndim == 2:
    return evaluation.multi_label_probe
  return evaluation.linear_probe


def probes(
  encoder: embeddings.Encoder,
  state: state_lib.TrainState,
  splits: benchmarks_lib.Splits,
  name: str,
  *,
  seed: int,
) -> dict[str, float]:
  """Linear probes on few examples of each class, and on all.

  Args:
    encoder: embeds.
    state: the model.
    splits: of the set, with training data.
    name: of the set, whose own metric the scores are.
    seed: of the draws.

  Returns:
    `few_shot/5_shot` (the mean of the draws), `few_shot/5_shot_std` and so on,
    and `few_shot/full`.
  """
  assert splits.train is not None and splits.validation is not None
  train, validation, test = (
    encoder.images(state, source)
    for source in (splits.train, splits.validation, splits.test)
  )
  key, probe = headline(name), probe_of(train.labels)

  def score(fit: np.ndarray, choose: np.ndarray, number: int) -> float:
    del number
    scores = probe(
      train.images[fit],
      train.labels[fit],
      train.images[choose],
      train.labels[choose],
      test.images,
      test.labels,
    )
    return float(scores[key])

  out = _of_draws("few_shot", score, train.labels, seed)
  full = probe(
    *(train.images, train.labels, validation.images, validation.labels),
    *(test.images, test.labels),
  )
  return out | {"few_shot/full": float(full[key])}


def fine_tuned(
  encoder: embeddings.Encoder,
  state: state_lib.TrainState,
  splits: benchmarks_lib.Splits,
  name: str,
  *,
  image_size: int,
  seed: int,
  report: Report,
) -> dict[str, float]:
  """The image encoder trained with a head, on few examples and on all.

  The head begins with the prompts of the classes where there are any (and the
  model has texts), else at random. With all examples the validation split
  chooses rate and decay, and is then fitted too.

  Args:
    encoder: its image encoder is trained, on a copy each time.
    state: the model.
    splits: of the set, with training data.
    name: of the set, whose own metric the scores are.
    image_size: side of the model's images.
    seed: of the draws (those of `probes`) and of the order of examples.
    report: receives a line a fit.

  Returns:
    `fine_tune/5_shot`, `fine_tune/5_shot_std` and so on, `fine_tune/full`, and
    `fine_tune/from_texts`, 1 if the head began with texts.

  Raises:
    ValueError: if the model keeps its image tower as it is.
  """
  assert splits.train is not None and splits.validation is not None
  prompts = benchmarks_lib.BENCHMARKS[name].prompts
  tuner = encoder.fine_tuner(
    state,
    classes=len(splits.classes),
    image_size=image_size,
    batch_size=_BATCH_SIZE,
  )
  head = None
  if encoder.has_text and prompts:
    head = zero_shot.class_weights(encoder, state, splits.classes, prompts)
  images = _Images([splits.train, splits.validation])
  test = _Images([splits.test])
  labels, test_labels = images.labels(), test.labels()
  count = len(splits.train)

  def score(fit: np.ndarray, choose: np.ndarray, number: int) -> float:
    scores = fine_tuning.fine_tune(
      tuner,
      images,
      labels,
      fit,
      choose,
      test,
      test_labels,
      key=jax.random.fold_in(jax.random.key(seed), number),
      head=head,
      recipe=_RECIPE,
    )
    value = scores[headline(name)]
    report(
      f"{name}: {value:.4f}, trained on {len(np.union1d(fit, choose)):,} images"
      f" with a rate of {scores['learning_rate']:g} and a decay of"
      f" {scores['weight_decay']:g}."
    )
    return value

  out = _of_draws("fine_tune", score, labels[:count], seed)
  everything = np.arange(len(labels))
  full = score(everything[:count], everything[count:], _DRAWS)
  return out | {
    "fine_tune/full": full,
    "fine_tune/from_texts": float(head is not None),
  }


def _of_draws(
  kind: str,
  score: Callable[[np.ndarray, np.ndarray, int], float],
  labels: np.ndarray,
  seed: int,
) -> dict[str, float]:
  """Mean and deviation over draws; `score` takes rows and the draw's number."""
  out = {}
  for shots in SHOTS:
    values = [
      score(*draw(labels, shots, np.random.default_rng((seed, number))), number)
      for number in range(_DRAWS)
    ]
    out[f"{kind}/{shots}_shot"] = float(np.mean(values))
    out[f"{kind}/{shots}_shot_std"] = float(np.std(values, ddof=1))
  return out


def draw(
  labels: np.ndarray, shots: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Rows to fit, and rows that choose hyper-parameters: of each class some.

  Images of several classes are taken in a random order, each that shows a class
  with too few yet.

  Args:
    labels: [N]; of several classes [N, C], 1 for one that an image shows.
    shots: images of each class, fewer where there are not so many; of several
      classes at least so many.
    rng: draws.

  Returns:
    The rows to fit, and a fifth of each class to choose with; the same rows if
    there are too few for that.
  """
  if labels.ndim == 2:
    shown = labels == 1
    rows = _covering(shown, rng.permutation(len(labels)), shots)
    held_out = shown[rows].sum(axis=0) // _HELD_OUT
    choose = _covering(shown, rows, held_out)
    fit = rows[~np.isin(rows, choose)]
    return fit, (choose if len(choose) else fit)
  fit, choose = [], []
  for label in np.unique(labels):
    rows = rng.permutation(np.flatnonzero(labels == label))[:shots]
    held_out = len(rows) // _HELD_OUT
    choose.extend(rows[:held_out])
    fit.extend(rows[held_out:])
  return np.array(fit), np.array(choose or fit)


def _covering(
  shown: np.ndarray, order: np.ndarray, wanted: int | np.ndarray
) -> np.ndarray:
  """The rows, in order, that bring each class nearer to its number."""
  missing = np.broadcast_to(wanted, shown.shape[1]).copy()
  taken = []
  for row in order:
    if (missing[shown[row]] > 0).any():
      taken.append(row)
      missing -= shown[row]
  return np.array(taken, np.int64)


class _Images:
  """Images of splits by number, one split after the other; many are kept."""

  def __init__(self, parts: Sequence[sources.Source]):
    self._parts = parts
    self._places = [(part, i) for part in parts for i in range(len(part))]
    self._kept: dict[int, np.ndarray] = {}
    self._room = _MOST_BYTES

  def __call__(self, rows: np.ndarray) -> np.ndarray:
    """uint8 [n, H, W, 3]."""
    return np.stack([self._image(row) for row in rows.tolist()])

  def labels(self) -> np.ndarray:
    """The labels of all images; none is decoded."""
    return np.array([part.fields(i)["label"] for part, i in self._places])

  def _image(self, row: int) -> np.ndarray:
    if row in self._kept:
      return self._kept[row]
    part, index = self._places[row]
    image = part[index]["image"]
    if image.nbytes <= self._room:
      self._kept[row] = image
      self._room -= image.nbytes
    return image
