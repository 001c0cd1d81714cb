"""What the losses stand on: checks, normalisation, rows of a similarity."""

from contrastive_jax.ops._checks import check_features as check_features
from contrastive_jax.ops._checks import check_group_ids as check_group_ids
from contrastive_jax.ops._checks import check_positive as check_positive
from contrastive_jax.ops._rows import gather_rows as gather_rows
from contrastive_jax.ops._rows import global_row_ids as global_row_ids
from contrastive_jax.ops._rows import map_rows as map_rows
from contrastive_jax.ops._rows import masked_logsumexp as masked_logsumexp
from contrastive_jax.ops._rows import similarity as similarity
from contrastive_jax.ops.normalize import l2_normalize as l2_normalize

__all__ = (
  "check_features",
  "check_group_ids",
  "check_positive",
  "gather_rows",
  "global_row_ids",
  "l2_normalize",
  "map_rows",
  "masked_logsumexp",
  "similarity",
)
