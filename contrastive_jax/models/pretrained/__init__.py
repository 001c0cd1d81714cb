"""Published weights: read without executing anything, and given to our models.

The submodules: `files` and `torch_files` read tensors by name, `rules` has how names
correspond, `clip`, `siglip`, `encoders` and `albef` the names of each family, and
`loading` brings them together.
"""

from contrastive_jax.models.pretrained.files import (
  WeightFileError,
  read_tensors,
  write_safetensors,
)
from contrastive_jax.models.pretrained.loading import (
  load,
  load_image,
  load_text,
  names,
  save,
)
from contrastive_jax.models.pretrained.rules import PretrainedError, Report

__all__ = [
  "PretrainedError",
  "Report",
  "WeightFileError",
  "load",
  "load_image",
  "load_text",
  "names",
  "read_tensors",
  "save",
  "write_safetensors",
]
