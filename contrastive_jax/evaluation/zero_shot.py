"""Zero-shot classification with prompt ensembles."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from contrastive_jax.evaluation import _blockwise, _inputs, retrieval


def zero_shot_weights(text_embeddings: Any) -> np.ndarray:
  """One classifier direction a class: the normalised mean of its prompts.

  `w_c = n(1/P_c sum_p n(t_cp))` with `n(x) = x / |x|`.

  Args:
    text_embeddings: floating `[C, P, d]`, or C arrays `[P_c, d]` when classes
      have different numbers of prompts.

  Returns:
    float32 `[C, d]`, rows of unit norm (zero if the prompts cancel).

  Raises:
    ValueError: wrong shapes or types, no class, or a class without prompts.

  Reference:
    Radford et al., Learning transferable visual models from natural language
    supervision, 2021, section 3.1.4.

  >>> zero_shot_weights([[[3.0, 0.0], [0.0, 1.0]], [[0.0, 2.0]]]).round(4)
  array([[0.7071, 0.7071],
         [0.    , 1.    ]], dtype=float32)
  """
  if hasattr(text_embeddings, "ndim") and text_embeddings.ndim != 3:
    raise ValueError(
      "text_embeddings must be [C, P, d] or C arrays [P_c, d], got"
      f" {_inputs.describe(text_embeddings)}."
    )
  if len(text_embeddings) == 0:
    raise ValueError("text_embeddings must hold at least one class, got none.")
  width = None
  means = []
  for number, prompts in enumerate(text_embeddings):
    name = f"text_embeddings[{number}]"
    unit = _inputs.embeddings(name, prompts, normalize=True, width=width)
    width = unit.shape[1]
    means.append(unit.mean(axis=0, dtype=np.float64))
  return _inputs.l2_normalize(np.stack(means).astype(np.float32))


def zero_shot_metrics(
  images: Any,
  weights: Any,
  labels: Any,
  *,
  ks: Sequence[int] = (1, 3, 5),
  block_size: int = _blockwise.DEFAULT_BLOCK_SIZE,
) -> dict[str, float]:
  """Top-k accuracy of the class directions that `zero_shot_weights` made.

  An image is right at k if fewer than k wrong classes have a cosine at least
  as high as its own class; ties count against the model. A `k` of C or more is
  allowed and gives 1.

  Args:
    images: floating `[N, d]`.
    weights: floating `[C, d]`.
    labels: integers `[N]` in `[0, C)`.
    ks: cut-offs.
    block_size: rows and columns of a tile.

  Returns:
    `accuracy_top{k}` for each k and `mean_per_class_accuracy` (top 1, mean
    over the classes that occur in `labels`).

  Raises:
    ValueError: wrong shapes or types, or a label outside `[0, C)`.

  >>> w = zero_shot_weights(np.eye(3)[:, None])
  >>> zero_shot_metrics(np.eye(3), w, [0, 1, 1], ks=(1,))["accuracy_top1"]
  0.6666666666666666
  """
  ks = _inputs.cutoffs("ks", ks)
  images = _inputs.embeddings("images", images)
  weights = _inputs.embeddings("weights", weights, width=images.shape[1])
  labels = _inputs.identifiers("labels", labels, len(images))
  if labels.dtype.kind not in "iu":
    raise ValueError(f"labels must be integers, got {labels.dtype}.")
  if labels.min() < 0 or labels.max() >= len(weights):
    raise ValueError(
      f"labels must be from 0 to {len(weights) - 1}, got {int(labels.min())}"
      f" to {int(labels.max())}."
    )
  labels = labels.astype(np.int64)
  ranks = retrieval.retrieval_ranks(
    images, weights, labels, np.arange(len(weights)), block_size=block_size
  )
  metrics = {f"accuracy_top{k}": float(np.mean(ranks <= k)) for k in ks}
  metrics["mean_per_class_accuracy"] = _blockwise.mean_per_class(
    ranks == 1, labels
  )
  return metrics
