"""Scores of embeddings: pure functions of arrays and labels.

They take NumPy or JAX arrays, run in tiles, and return flat dictionaries of
floats (or NumPy arrays). They read their inputs on the host and call jitted
functions on tiles of a fixed shape, so call them outside `jax.jit`.
"""

from contrastive_jax.answers import normalize_answer
from contrastive_jax.evaluation.average_precision import (
  average_precision,
  mean_average_precision,
)
from contrastive_jax.evaluation.few_shot import few_shot_accuracy
from contrastive_jax.evaluation.fine_tune import (
  FineTuner,
  FineTuneRecipe,
  fine_tune,
)
from contrastive_jax.evaluation.geometry import (
  alignment,
  modality_gap,
  similarity_histogram,
  uniformity,
)
from contrastive_jax.evaluation.gradients import (
  GradientStatistics,
  gradient_statistics,
)
from contrastive_jax.evaluation.knn import knn_accuracy
from contrastive_jax.evaluation.linear_probe import (
  linear_probe,
  multi_label_probe,
)
from contrastive_jax.evaluation.retrieval import (
  retrieval_metrics,
  retrieval_ranks,
  top_k,
)
from contrastive_jax.evaluation.text_only import (
  task_text_only_accuracy,
  text_only_accuracy,
)
from contrastive_jax.evaluation.vqa import vqa_accuracy
from contrastive_jax.evaluation.zero_shot import (
  zero_shot_metrics,
  zero_shot_weights,
)

__all__ = (
  "FineTuneRecipe",
  "FineTuner",
  "GradientStatistics",
  "alignment",
  "average_precision",
  "few_shot_accuracy",
  "fine_tune",
  "gradient_statistics",
  "knn_accuracy",
  "linear_probe",
  "mean_average_precision",
  "modality_gap",
  "multi_label_probe",
  "normalize_answer",
  "retrieval_metrics",
  "retrieval_ranks",
  "similarity_histogram",
  "task_text_only_accuracy",
  "text_only_accuracy",
  "top_k",
  "uniformity",
  "vqa_accuracy",
  "zero_shot_metrics",
  "zero_shot_weights",
)
