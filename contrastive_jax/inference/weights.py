"""A model's weights under the names by which others publish such models.

published.safetensors   open_clip's names of CLIP and SigLIP, ALBEF's, timm's,
                        torchvision's or Hugging Face's, by what the model is
"""

import pathlib

import jax

from contrastive_jax.inference import folder as folder_lib
from contrastive_jax.inference.description import ModelError
from contrastive_jax.models import pretrained

FILE = "published.safetensors"


def save(folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes the file of a model's folder into it.

  Returns:
    The file.

  Raises:
    ModelError: if no published names are known for such a model.
  """
  model = folder_lib.load(folder, devices=jax.local_devices()[:1])
  tokenizer = model.tokenizer
  try:
    pretrained.save(
      model.module,
      jax.device_get(model.variables),
      folder / FILE,
      logit_bias=model.description.sigmoid,
      mask=tokenizer.mask_id if tokenizer is not None else None,
    )
  except (pretrained.PretrainedError, pretrained.WeightFileError) as error:
    raise ModelError(str(error)) from error
  return [folder / FILE]
