"""Zero-shot classification by the names of classes in prompts."""

from collections.abc import Sequence

import numpy as np

from contrastive_jax import evaluation
from contrastive_jax.data import sources
from contrastive_jax.training.evaluators import base, retrieval
from contrastive_jax.training.evaluators.embeddings import Embedded, Encoder
from contrastive_jax.training.trainer import state as state_lib

_NAME = "zero-shot classification"


class ZeroShotMeasure(base.Measure):
  """Over all names where there is an unseen style; else over the labels."""

  def final(self, state: state_lib.TrainState) -> dict[str, float]:
    """`zero_shot/accuracy_top1` and so on; empty without names or labels."""
    run, splits = self.run, self.run.data.splits
    if run.lacks(sources.TEST, _NAME):
      return {}
    if len(splits.get("unseen_style", ())):
      images = run.images(state, "unseen_style")
      found: dict[int, str] = {}
      for split in (sources.TRAIN, sources.VALIDATION, sources.TEST):
        texts, ids = retrieval.names_of(splits[split])
        found |= dict(zip(ids.tolist(), texts))
      choices = sorted(found)
      classes, shown = [found[i] for i in choices], images.concept_ids
      kept, missing = np.flatnonzero(np.isin(shown, choices)), "names"
    else:
      images = run.images(state, sources.TEST)
      choices = classes = sorted(
        set().union(*(source.labels for source in splits.values()))
      )
      shown = images.labels
      kept, missing = np.flatnonzero(shown != ""), "labels"
      kept = kept if len(classes) > 1 else kept[:0]
    if not len(kept):
      run.report(f"Left out: {_NAME}, because there are no {missing}.")
      return {}
    return zero_shot(
      run.encoder,
      state,
      images.rows(kept),
      classes,
      np.searchsorted(choices, shown[kept]),
      prompts=run.data.prompts,
      hits=run.hits,
    )


def zero_shot(
  encoder: Encoder,
  state: state_lib.TrainState,
  images: Embedded,
  classes: Sequence[str],
  labels: np.ndarray,
  *,
  prompts: Sequence[str],
  hits: dict[str, base.Hits] | None = None,
) -> dict[str, float]:
  """Classification among class names, each in all prompts.

  Args:
    encoder: embeds.
    state: the model.
    images: what is classified.
    classes: the names.
    labels: the right class of each image, a number in `classes`; or of several
      those that it shows, as of `evaluation.average_precision`.
    prompts: texts that go around a name, `{}`.
    hits: receives those of the first choice.

  Returns:
    `zero_shot/accuracy_top1` and so on; of several
    `zero_shot/mean_average_precision`.
  """
  weights = class_weights(encoder, state, classes, prompts)
  if labels.ndim == 2:
    value = evaluation.mean_average_precision(images.images @ weights.T, labels)
    return {"zero_shot/mean_average_precision": value}
  scores = evaluation.zero_shot_metrics(images.images, weights, labels)
  if hits is not None:
    ranks = evaluation.retrieval_ranks(
      images.images, weights, labels, np.arange(len(weights))
    )
    hits["zero_shot/accuracy_top1"] = base.Hits(ranks <= 1, images.concept_ids)
  return {f"zero_shot/{key}": float(v) for key, v in scores.items()}


def class_weights(
  encoder: Encoder,
  state: state_lib.TrainState,
  classes: Sequence[str],
  prompts: Sequence[str],
) -> np.ndarray:
  """The normalised mean embedding of each class's texts: float32 [C, d]."""
  texts = encoder.texts(
    state, [prompt.format(c) for c in classes for prompt in prompts]
  )
  return evaluation.zero_shot_weights(
    texts.reshape(len(classes), len(prompts), -1)
  )
