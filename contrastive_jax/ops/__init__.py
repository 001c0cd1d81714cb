"""What the losses stand on: checks, normalisation, sums over a similarity."""

from contrastive_jax.ops import tables as tables
from contrastive_jax.ops._checks import check_features as check_features
from contrastive_jax.ops._checks import check_group_ids as check_group_ids
from contrastive_jax.ops._checks import check_positive as check_positive
from contrastive_jax.ops._grid import RowColumnSums as RowColumnSums
from contrastive_jax.ops._grid import axis_size as axis_size
from contrastive_jax.ops._grid import global_row_ids as global_row_ids
from contrastive_jax.ops._grid import row_column_sums as row_column_sums
from contrastive_jax.ops._grid import sum_over as sum_over
from contrastive_jax.ops.normalize import l2_normalize as l2_normalize

__all__ = (
  "RowColumnSums",
  "axis_size",
  "check_features",
  "check_group_ids",
  "check_positive",
  "global_row_ids",
  "l2_normalize",
  "row_column_sums",
  "sum_over",
  "tables",
)
