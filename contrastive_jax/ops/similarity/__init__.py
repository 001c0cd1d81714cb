"""Sums over the similarity of a batch, which is never formed as a matrix.

`row_column_sums` gives log-sum-exps of the rows and columns, `weighted_sums`
the anchors' sums of weighted exponentials, `key_means` the means of keys under
a query's softmax or group. They are what a contrastive loss is made of: inputs
are taken as checked (`ops.check_features`), and the batch may be split over
mapped axes.
"""

from contrastive_jax.ops.similarity._grid import (
  RowColumnSums as RowColumnSums,
  row_column_sums as row_column_sums,
)
from contrastive_jax.ops.similarity._means import (
  KeyMeans as KeyMeans,
  key_means as key_means,
)
from contrastive_jax.ops.similarity._weighted import (
  LARGEST_LOG as LARGEST_LOG,
  Anchors as Anchors,
  capped_exp as capped_exp,
  weighted_sums as weighted_sums,
)
