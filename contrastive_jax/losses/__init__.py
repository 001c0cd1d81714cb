"""Pure contrastive losses: functions of arrays, one value an example."""

from contrastive_jax.losses.augmented import (
  augmented_clip as augmented_clip,
  augmented_contrastive as augmented_contrastive,
  augmented_diagnostics as augmented_diagnostics,
  augmented_moco_v3 as augmented_moco_v3,
  augmented_nt_xent as augmented_nt_xent,
  scale_by_temperature as scale_by_temperature,
)
from contrastive_jax.losses.contrastive import (
  clip as clip,
  clip_four_term as clip_four_term,
  decoupled as decoupled,
  info_nce as info_nce,
  nt_xent as nt_xent,
  sigmoid as sigmoid,
)
from contrastive_jax.losses.e_step_rules import (
  Amortized as Amortized,
  BatchEstimate as BatchEstimate,
  Conjugate as Conjugate,
  DualDescent as DualDescent,
  MovingAverage as MovingAverage,
  Softplus as Softplus,
  draw_auxiliary as draw_auxiliary,
  e_step as e_step,
  rate_of_epochs as rate_of_epochs,
)
from contrastive_jax.losses.em import (
  em_clip as em_clip,
  em_contrastive as em_contrastive,
  em_moco_v3 as em_moco_v3,
  em_nt_xent as em_nt_xent,
)
from contrastive_jax.losses.em_state import (
  EMOptions as EMOptions,
  EMState as EMState,
  EMStep as EMStep,
  em_init as em_init,
)
from contrastive_jax.losses.fusion import (
  distillation as distillation,
  image_text_matching as image_text_matching,
  mask_tokens as mask_tokens,
  masked_language_modeling as masked_language_modeling,
  sample_hard_negatives as sample_hard_negatives,
  soft_target_contrastive as soft_target_contrastive,
)
from contrastive_jax.losses.hard_negative import (
  hard_negative_clip as hard_negative_clip,
  hard_negative_nt_xent as hard_negative_nt_xent,
)
from contrastive_jax.losses.logit_scale import (
  clamp_logit_scale as clamp_logit_scale,
)
from contrastive_jax.losses.mesh import (
  on_mesh as on_mesh,
)
from contrastive_jax.losses.moco import (
  moco_v2 as moco_v2,
  moco_v3 as moco_v3,
)
from contrastive_jax.losses.partition import (
  amortized_loss as amortized_loss,
  init_prototypes as init_prototypes,
  log_partition as log_partition,
  log_partition_clip as log_partition_clip,
  log_partition_nt_xent as log_partition_nt_xent,
  prototype_log_partition as prototype_log_partition,
)
from contrastive_jax.losses.structure.bridge import (
  alignment as alignment,
  brownian_bridge as brownian_bridge,
  draw_bridge_time as draw_bridge_time,
)
from contrastive_jax.losses.structure.consistency import (
  geometric_consistency as geometric_consistency,
)
from contrastive_jax.losses.structure.separation import (
  deep_feature_separation as deep_feature_separation,
  independent_contrast as independent_contrast,
  orthogonality as orthogonality,
)
from contrastive_jax.losses.structure.uniformity import (
  centroid_uniformity as centroid_uniformity,
  cross_uniformity as cross_uniformity,
  paired_distance as paired_distance,
  uniformity as uniformity,
)
from contrastive_jax.losses.token_classes import (
  count_documents as count_documents,
  inverse_document_frequency as inverse_document_frequency,
  superclass as superclass,
)
