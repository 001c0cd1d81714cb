"""Contrastive representation learning in JAX.

The functions of `losses`, `ops` and `evaluation` are here by name
(`contrastive_jax.clip`, `contrastive_jax.l2_normalize`,
`contrastive_jax.retrieval_metrics`), the rest in its rooms: `losses`, `ops`,
`evaluation`, `models`, `data`, `training`. Where two rooms have a name, it is
the one of the first of them: losses win.

A room is imported when it is first used, so `import contrastive_jax` costs
nothing, and `import contrastive_jax.losses` needs JAX alone.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = ("data", "evaluation", "losses", "models", "ops", "training")
# What each room lends to this one. Written out, because asking the rooms would
# import them; a test compares.
_LENT = {
  "losses": (
    "Amortized",
    "BatchEstimate",
    "Conjugate",
    "MovingAverage",
    "alignment",
    "amortized_loss",
    "augmented_clip",
    "augmented_contrastive",
    "augmented_diagnostics",
    "augmented_moco_v3",
    "augmented_nt_xent",
    "brownian_bridge",
    "clamp_logit_scale",
    "clip",
    "clip_four_term",
    "decoupled",
    "deep_feature_separation",
    "distillation",
    "draw_auxiliary",
    "draw_bridge_time",
    "e_step",
    "geometric_consistency",
    "image_text_matching",
    "independent_contrast",
    "info_nce",
    "init_prototypes",
    "log_partition",
    "log_partition_clip",
    "log_partition_nt_xent",
    "mask_tokens",
    "masked_language_modeling",
    "moco_v2",
    "moco_v3",
    "nt_xent",
    "on_mesh",
    "orthogonality",
    "prototype_log_partition",
    "sample_hard_negatives",
    "scale_by_temperature",
    "sigmoid",
    "soft_target_contrastive",
    "uniformity",
  ),
  "ops": (
    "RowColumnSums",
    "axis_size",
    "check_features",
    "check_group_ids",
    "check_positive",
    "gather_rows",
    "global_row_ids",
    "l2_normalize",
    "row_column_sums",
    "sum_over",
  ),
  "evaluation": (
    "FineTuneRecipe",
    "FineTuner",
    "alignment",
    "average_precision",
    "few_shot_accuracy",
    "fine_tune",
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
  ),
}
# From last to first, so that an earlier room's name stays.
_ROOM_OF = {name: room for room in reversed(_LENT) for name in _LENT[room]}

__all__ = (*_ROOMS, *_ROOM_OF)


def __getattr__(name: str) -> Any:
  if name in _ROOMS:
    return importlib.import_module(f"{__name__}.{name}")
  if name in _ROOM_OF:
    room = importlib.import_module(f"{__name__}.{_ROOM_OF[name]}")
    return getattr(room, name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
