"""Few-shot, linear probe and kNN accuracy of frozen features."""

from typing import Any

import jax
import numpy as np

from contrastive_jax import evaluation
from contrastive_jax.data import sources
from contrastive_jax.training.evaluators import base
from contrastive_jax.training.evaluators.embeddings import Embedded
from contrastive_jax.training.trainer import state as state_lib

_SHOTS = (1, 2, 4, 5, 8, 16)
_NAME = "few-shot, linear probe and kNN"
_SPLITS = (sources.TRAIN, sources.VALIDATION, sources.TEST)


class ClassificationMeasure(base.Measure):
  """The test split, classified by the labels of training."""

  def final(self, state: state_lib.TrainState) -> dict[str, float]:
    """`few_shot/...`, `linear_probe/...` and `knn/accuracy`.

    On the features of all heads they are `few_shot_concatenated/...` and so on.
    """
    if self.run.lacks(sources.TEST, _NAME):
      return {}
    out = self._labelled(state)
    if self.chosen.concatenated:
      for name, value in self._labelled(state, head="both").items():
        kind, metric = name.split("/")
        out[f"{kind}_concatenated/{metric}"] = value
    return out

  def _labelled(
    self, state: state_lib.TrainState, *, head: str = "shared"
  ) -> dict[str, float]:
    run, scores = self.run, {}
    # Training images are dear, and of no use without labels.
    if _share_labels(run.data):
      scores = classification(
        *(run.images(state, s, head=head) for s in _SPLITS),
        seed=run.seed,
        hits=run.hits if head == "shared" else None,
      )
    if not scores:
      run.report(
        f"Left out: {_NAME}, because the splits share fewer than two labels."
      )
    return scores


class KnnMeasure(base.Measure):
  """kNN on the validation split while training."""

  curves = {"kNN accuracy": "knn_validation/accuracy"}

  def __init__(self, run: base.Opened, chosen: Any = None):
    """Takes an opened run."""
    super().__init__(run, chosen)
    self.validates = bool(len(run.data.splits[sources.VALIDATION]))

  def validate(self, state: state_lib.TrainState) -> dict[str, float]:
    """`knn_validation/accuracy`; empty without shared labels."""
    run = self.run
    if not _share_labels(run.data):
      return {}
    (train, train_y), (held_out, y) = _numbered(
      *(run.images(state, s) for s in (sources.TRAIN, sources.VALIDATION))
    )
    scores = evaluation.knn_accuracy(
      train.images, train_y, held_out.images, y, k=min(20, len(train_y))
    )
    return {"knn_validation/accuracy": float(scores["accuracy"])}


def classification(
  train: Embedded,
  validation: Embedded,
  test: Embedded,
  *,
  seed: int,
  hits: dict[str, base.Hits] | None = None,
) -> dict[str, float]:
  """Few-shot, linear probe and kNN on the labels of frozen embeddings.

  Classes that the training split lacks, and images without a label, are left
  out. With fewer than two classes there is nothing to report. `hits` receives
  those of kNN.
  """
  (train, train_y), (validation, valid_y), (test, test_y) = _numbered(
    train, validation, test
  )
  train_x, valid_x, test_x = train.images, validation.images, test.images
  if len(set(train_y.tolist())) < 2 or not len(valid_y) or not len(test_y):
    return {}
  shots = evaluation.few_shot_accuracy(
    train_x,
    train_y,
    test_x,
    test_y,
    key=jax.random.key(seed),
    shots=_SHOTS,
  )
  probe = evaluation.linear_probe(
    train_x, train_y, valid_x, valid_y, test_x, test_y
  )
  right = evaluation.knn_correct(
    train_x, train_y, test_x, test_y, k=min(20, len(train_y))
  )
  if hits is not None:
    hits["knn/accuracy"] = base.Hits(right, test.concept_ids)
  out = {f"few_shot/{k}": float(v) for k, v in shots.items()}
  out |= {f"linear_probe/{k}": float(v) for k, v in probe.items()}
  return out | {"knn/accuracy": float(np.mean(right))}


def _numbered(
  train: Embedded, *others: Embedded
) -> list[tuple[Embedded, np.ndarray]]:
  """Images with numbered labels, of those that have one of the training's."""
  classes = sorted(set(train.labels.tolist()) - {""})
  numbers = {c: i for i, c in enumerate(classes)}

  def select(part: Embedded) -> tuple[Embedded, np.ndarray]:
    kept = [i for i, c in enumerate(part.labels.tolist()) if c in numbers]
    labels = [numbers[part.labels[i]] for i in kept]
    return part.rows(np.array(kept, np.int64)), np.array(labels, np.int64)

  return [select(part) for part in (train, *others)]


def _share_labels(data: sources.PairData) -> bool:
  """Whether `classification` has something to report."""
  train, validation, test = (
    data.splits[name].labels if name in data.splits else set()
    for name in _SPLITS
  )
  return len(train) > 1 and bool(train & validation) and bool(train & test)
