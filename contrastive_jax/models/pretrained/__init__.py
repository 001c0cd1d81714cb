"""Published weights: read without executing anything, and given to our models.

The submodules: `files` and `torch_files` read tensors by name, `rules` has how names
correspond, `clip`, `siglip`, `encoders` and `albef` the names of each family, and
`loading` brings them together.
"""

from contrastive_jax.models.pretrained.files import (
  WeightFileError as WeightFileError,
  read_tensors as read_tensors,
  write_safetensors as write_safetensors,
)
from contrastive_jax.models.pretrained.loading import (
  load as load,
  load_image as load_image,
  load_text as load_text,
  names as names,
  save as save,
)
from contrastive_jax.models.pretrained.rules import (
  PretrainedError as PretrainedError,
  Report as Report,
)
