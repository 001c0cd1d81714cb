"""A model that nobody trained, in a folder, and pictures for it."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from contrastive_jax import inference
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from tests.training import tiny


def write(folder, **changes):
  """A two-tower model with parameters at random."""
  tokenizer = tokenizer_lib.Tokenizer.train(["a b"], vocab_size=tiny.VOCABULARY)
  described = inference.Description(
    **{
      "overrides": tiny.OVERRIDES,
      "vocab_size": tokenizer.vocab_size,
      "image_size": 16,
      "context_length": 12,
      "pictures": inference.Pictures(stored_size=32),
      **changes,
    }
  )
  variables = jax.jit(described.module().init)(
    jax.random.key(0),
    jnp.zeros((1, 16, 16, 3)),
    jnp.zeros((1, 12), jnp.int32),
  )
  inference.save(folder, described, jax.device_get(variables), tokenizer)
  return folder


def pictures(folder, count, *, start=0):
  """Picture files `000.png` and so on, each of its own colours."""
  folder.mkdir(parents=True, exist_ok=True)
  paths = []
  for number in range(start, start + count):
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3))
    path = folder / f"{number:03}.png"
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    paths.append(path)
  return paths
