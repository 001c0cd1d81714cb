"""ELEVATER's few shots: what is drawn, linear probes of it, and fine-tuning.

Li et al., ELEVATER: a benchmark and toolkit for evaluating language-augmented
visual models, 2022: 5, 20 and 50 examples of each class, three draws, and all;
a fifth of what is drawn chooses hyper-parameters, then all is fitted.
"""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class ModelOnSet:
  """A model, and a published set that it is scored on.

  Attributes:
    name: of the set, `data.benchmarks.BENCHMARKS`.
    splits: of the set.
    encoder: embeds.
    state: the model.
    image_size: side of the model's images.
    seed: of the draws and of the order of examples.
    report: receives a line a fit.
  """

  name: str
  splits: benchmarks_lib.Splits
  encoder: embeddings.Encoder
  state: state_lib.TrainState
  image_size: int
  seed: int
  report: Report

  @property
  def prompts(self) -> Sequence[str]:
    """Texts around the classes' names; () if the set or the model has none."""
    has_text = self.encoder.has_text
    return benchmarks_lib.BENCHMARKS[self.name].prompts if has_text else ()

  def headline(self, usual: str = "accuracy") -> str:
    """The metric that the set's published score is."""
    benchmark = benchmarks_lib.BENCHMARKS[self.name]
    if benchmark.multi_label:
      return "mean_average_precision"
    return "mean_per_class_accuracy" if benchmark.per_class else usual

  def splits_in_order(
    self,
  ) -> tuple[sources.Source, sources.Source, sources.Source]:
    """The splits of training, which the set has, validation and test."""
    splits = self.splits
    assert splits.train is not None and splits.validation is not None
    return splits.train, splits.validation, splits.test

  def embedded(self, *, head: str = "shared") -> list[embeddings.Embedded]:
    """The embeddings of `sources`, by the name of a head."""
    return [
      self.encoder.images(self.state, source, head=head)
      for source in self.splits_in_order()
    ]


def probe_of(labels: np.ndarray) -> Callable[..., dict[str, float]]:
  """The linear probe for labels [N], or [N, C] of several classes."""
  if labels.ndim == 2:
    return evaluation.multi_label_probe
  return evaluation.linear_probe


def probes(model: ModelOnSet) -> dict[str, float]:
  """Linear probes on few examples of each class, and on all.

  Returns:
    `few_shot/5_shot` (the mean of the draws), `few_shot/5_shot_std` and so on,
    and `few_shot/full`, in the set's own metric.
  """
  train, validation, test = model.embedded()
  images = np.concatenate([train.images, validation.images])
  labels = np.concatenate([train.labels, validation.labels])
  key, probe = model.headline(), probe_of(labels)

  def score(fit: np.ndarray, choose: np.ndarray, number: int) -> float:
    del number
    parts = (images[fit], labels[fit], images[choose], labels[choose])
    return float(probe(*parts, test.images, test.labels)[key])

  return _of_draws("few_shot", score, labels, len(train.labels), model.seed)


def fine_tuned(model: ModelOnSet) -> dict[str, float]:
  """The image encoder trained with a head, on few examples and on all.

  The head begins with the prompts of the classes where there are any (and the
  model has texts), else at random. The draws are those of `probes`. With all
  examples the validation split chooses rate and decay, and is then fitted too.

  Returns:
    `fine_tune/5_shot`, `fine_tune/5_shot_std` and so on, `fine_tune/full`, and
    `fine_tune/from_texts`, 1 if the head began with texts.

  Raises:
    ValueError: if the model keeps its image tower as it is.
  """
  train, validation, test_source = model.splits_in_order()
  classes = model.splits.classes
  tuner = model.encoder.fine_tuner(
    model.state,
    classes=len(classes),
    image_size=model.image_size,
    batch_size=_BATCH_SIZE,
  )
  head = None
  if model.prompts:
    head = zero_shot.class_weights(
      model.encoder, model.state, classes, model.prompts
    )
  images, test = _Images([train, validation]), _Images([test_source])
  labels, test_labels = images.labels(), test.labels()

  def score(fit: np.ndarray, choose: np.ndarray, number: int) -> float:
    scores = fine_tuning.fine_tune(
      tuner,
      images,
      labels,
      fit,
      choose,
      test,
      test_labels,
      key=jax.random.fold_in(jax.random.key(model.seed), number),
      head=head,
      recipe=_RECIPE,
    )
    value = scores[model.headline()]
    model.report(
      f"{model.name}: {value:.4f}, trained on"
      f" {len(np.union1d(fit, choose)):,} images with a rate of"
      f" {scores['learning_rate']:g} and a decay of"
      f" {scores['weight_decay']:g}."
    )
    return value

  out = _of_draws("fine_tune", score, labels, len(train), model.seed)
  return out | {"fine_tune/from_texts": float(head is not None)}


def _of_draws(
  kind: str,
  score: Callable[[np.ndarray, np.ndarray, int], float],
  labels: np.ndarray,
  count: int,
  seed: int,
) -> dict[str, float]:
  """Mean and deviation over draws of the first rows, and the score of all rows.

  `score` takes the rows to fit, those to choose by, and the draw's number; of all
  the first `count` are fitted and the others choose.
  """
  out = {}
  for shots in SHOTS:
    values = [
      score(
        *draw(labels[:count], shots, np.random.default_rng((seed, number))),
        number,
      )
      for number in range(_DRAWS)
    ]
    out[f"{kind}/{shots}_shot"] = float(np.mean(values))
    out[f"{kind}/{shots}_shot_std"] = float(np.std(values, ddof=1))
  rows = np.arange(len(labels))
  return out | {f"{kind}/full": score(rows[:count], rows[count:], _DRAWS)}


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
