"""Pure contrastive losses: functions of arrays, one value an example."""

from contrastive_jax.losses.augmented import augmented_clip as augmented_clip
from contrastive_jax.losses.augmented import (
  augmented_contrastive as augmented_contrastive,
)
from contrastive_jax.losses.augmented import (
  augmented_diagnostics as augmented_diagnostics,
)
from contrastive_jax.losses.augmented import (
  augmented_moco_v3 as augmented_moco_v3,
)
from contrastive_jax.losses.augmented import (
  augmented_nt_xent as augmented_nt_xent,
)
from contrastive_jax.losses.augmented import (
  scale_by_temperature as scale_by_temperature,
)
from contrastive_jax.losses.bridge import alignment as alignment
from contrastive_jax.losses.bridge import brownian_bridge as brownian_bridge
from contrastive_jax.losses.bridge import draw_bridge_time as draw_bridge_time
from contrastive_jax.losses.contrastive import clip as clip
from contrastive_jax.losses.contrastive import clip_four_term as clip_four_term
from contrastive_jax.losses.contrastive import decoupled as decoupled
from contrastive_jax.losses.contrastive import info_nce as info_nce
from contrastive_jax.losses.contrastive import moco_v3 as moco_v3
from contrastive_jax.losses.contrastive import nt_xent as nt_xent
from contrastive_jax.losses.contrastive import sigmoid as sigmoid
from contrastive_jax.losses.expectation import Amortized as Amortized
from contrastive_jax.losses.expectation import BatchEstimate as BatchEstimate
from contrastive_jax.losses.expectation import Conjugate as Conjugate
from contrastive_jax.losses.expectation import MovingAverage as MovingAverage
from contrastive_jax.losses.expectation import draw_auxiliary as draw_auxiliary
from contrastive_jax.losses.expectation import e_step as e_step
from contrastive_jax.losses.fusion import distillation as distillation
from contrastive_jax.losses.fusion import (
  image_text_matching as image_text_matching,
)
from contrastive_jax.losses.fusion import mask_tokens as mask_tokens
from contrastive_jax.losses.fusion import (
  masked_language_modeling as masked_language_modeling,
)
from contrastive_jax.losses.fusion import (
  sample_hard_negatives as sample_hard_negatives,
)
from contrastive_jax.losses.fusion import (
  soft_target_contrastive as soft_target_contrastive,
)
from contrastive_jax.losses.logit_scale import (
  clamp_logit_scale as clamp_logit_scale,
)
from contrastive_jax.losses.mesh import on_mesh as on_mesh
from contrastive_jax.losses.partition import amortized_loss as amortized_loss
from contrastive_jax.losses.partition import init_prototypes as init_prototypes
from contrastive_jax.losses.partition import log_partition as log_partition
from contrastive_jax.losses.partition import (
  log_partition_clip as log_partition_clip,
)
from contrastive_jax.losses.partition import (
  log_partition_nt_xent as log_partition_nt_xent,
)
from contrastive_jax.losses.partition import (
  prototype_log_partition as prototype_log_partition,
)
from contrastive_jax.losses.queue import moco_v2 as moco_v2
from contrastive_jax.losses.separation import (
  deep_feature_separation as deep_feature_separation,
)
from contrastive_jax.losses.separation import (
  independent_contrast as independent_contrast,
)
from contrastive_jax.losses.separation import orthogonality as orthogonality
from contrastive_jax.losses.structure import (
  geometric_consistency as geometric_consistency,
)
from contrastive_jax.losses.structure import uniformity as uniformity

__all__ = (
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
)
