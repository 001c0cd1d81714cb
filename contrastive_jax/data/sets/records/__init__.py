"""Image-text pairs at scale: converted once, then read at random.

Tar shards (WebDataset, img2dataset), parquet files and lists of captions become
ArrayRecord files with stable indices:

  python -m experiments.convert_pairs --inputs=shards --out=pairs
"""

from contrastive_jax.data.sets.records.conversion import (
  Settings,
  Summary,
  convert,
)
from contrastive_jax.data.sets.records.source import Mixture, RecordSource, load
from contrastive_jax.data.sets.records.tables import Columns

__all__ = [
  "Columns",
  "Mixture",
  "RecordSource",
  "Settings",
  "Summary",
  "convert",
  "load",
]
