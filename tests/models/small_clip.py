"""A small CLIP's weights in a file, under their published names."""

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import models
from contrastive_jax.models import pretrained
from tests.models import make_golden_pretrained as golden

VOCABULARY = 49_408


def write(path, overrides, *, image_size=224, context_length=77):
  """Writes drawn weights of `vit_b32` with these fields; returns its parameters."""
  model = models.create_model(
    "vit_b32",
    vocab_size=VOCABULARY,
    image_size=image_size,
    context_length=context_length,
    **overrides,
  )
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jnp.zeros((1, image_size, image_size, 3)),
    jnp.zeros((1, context_length), jnp.int32),
  )
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
  pretrained.save(model, zeros, path)
  forms = {k: v.shape for k, v in pretrained.read_tensors(path).items()}
  tensors = golden.weights(forms)
  tensors["logit_scale"] = np.float32(2.0)
  pretrained.write_safetensors(path, tensors)
  return pretrained.load(model, path, shapes)[0]["params"]
