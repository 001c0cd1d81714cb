"""Scores of embeddings: pure functions of arrays and labels.

They take NumPy or JAX arrays, run in tiles, and return flat dictionaries of
floats (or NumPy arrays). They read their inputs on the host and call jitted
functions on tiles of a fixed shape, so call them outside `jax.jit`.
"""

from contrastive_jax.answers import normalize_answer as normalize_answer
from contrastive_jax.evaluation.average_precision import (
  average_precision as average_precision,
  mean_average_precision as mean_average_precision,
)
from contrastive_jax.evaluation.clustering import (
  k_means as k_means,
  v_measure as v_measure,
)
from contrastive_jax.evaluation.few_shot import (
  few_shot_accuracy as few_shot_accuracy,
)
from contrastive_jax.evaluation.geometry import (
  alignment as alignment,
  center as center,
  modality_gap as modality_gap,
  similarity_histogram as similarity_histogram,
  uniformity as uniformity,
)
from contrastive_jax.evaluation.knn import (
  knn_accuracy as knn_accuracy,
  knn_correct as knn_correct,
)
from contrastive_jax.evaluation.linear_probe import (
  linear_probe as linear_probe,
  multi_label_probe as multi_label_probe,
)
from contrastive_jax.evaluation.retrieval import (
  rank_metrics as rank_metrics,
  retrieval_metrics as retrieval_metrics,
  retrieval_ranks as retrieval_ranks,
  top_k as top_k,
)
from contrastive_jax.evaluation.text_only import (
  text_only_accuracy as text_only_accuracy,
  vqa_text_only_accuracy as vqa_text_only_accuracy,
)
from contrastive_jax.evaluation.vqa import (
  accuracy_by_kind as accuracy_by_kind,
  vqa_accuracy as vqa_accuracy,
)
from contrastive_jax.evaluation.zero_shot import (
  zero_shot_metrics as zero_shot_metrics,
  zero_shot_weights as zero_shot_weights,
)
