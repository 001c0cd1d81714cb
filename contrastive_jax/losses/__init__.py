"""Pure contrastive losses: functions of arrays, one value an example."""

from contrastive_jax.losses.contrastive import clip as clip
from contrastive_jax.losses.contrastive import clip_four_term as clip_four_term
from contrastive_jax.losses.contrastive import decoupled as decoupled
from contrastive_jax.losses.contrastive import info_nce as info_nce
from contrastive_jax.losses.contrastive import moco_v3 as moco_v3
from contrastive_jax.losses.contrastive import nt_xent as nt_xent
from contrastive_jax.losses.contrastive import sigmoid as sigmoid
from contrastive_jax.losses.logit_scale import (
  clamp_logit_scale as clamp_logit_scale,
)
from contrastive_jax.losses.mesh import on_mesh as on_mesh
from contrastive_jax.losses.structure import (
  geometric_consistency as geometric_consistency,
)

__all__ = (
  "clamp_logit_scale",
  "clip",
  "clip_four_term",
  "decoupled",
  "geometric_consistency",
  "info_nce",
  "moco_v3",
  "nt_xent",
  "on_mesh",
  "sigmoid",
)
