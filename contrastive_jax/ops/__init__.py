"""Building blocks of losses: checks, normalisation, sums over a similarity."""

from contrastive_jax.ops import (
  collectives as collectives,
  similarity as similarity,
  tables as tables,
)
from contrastive_jax.ops._checks import (
  check_features as check_features,
  check_group_ids as check_group_ids,
  check_positive as check_positive,
)
from contrastive_jax.ops.collectives import (
  axis_size as axis_size,
  gather_rows as gather_rows,
  global_row_ids as global_row_ids,
  sum_over as sum_over,
)
from contrastive_jax.ops.normalize import l2_normalize as l2_normalize
from contrastive_jax.ops.similarity import (
  RowColumnSums as RowColumnSums,
  row_column_sums as row_column_sums,
)
