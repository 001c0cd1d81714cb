"""Trained models in use: open one, embed pictures and texts, compare them."""

from contrastive_jax.data.sets.folder.folder_images import files_in as files_in
from contrastive_jax.inference.description import (
  Description as Description,
  ModelError as ModelError,
  Pictures as Pictures,
)
from contrastive_jax.inference.folder import (
  load as load,
  save as save,
)
from contrastive_jax.inference.fusion import Fusion as Fusion
from contrastive_jax.inference.model import (
  Classified as Classified,
  Model as Model,
)
