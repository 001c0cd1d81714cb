"""Features of towers that are not trained, computed once for all steps."""

import functools
import pathlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from contrastive_jax.data import pipeline, sources
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from contrastive_jax.training.types import Report

Encode = Callable[[np.ndarray], np.ndarray]

_MOST_TEXTS = 2**19  # 0.8 GB at 384 numbers each.


class CachedFeatures:
  """Features of a split's images, and of texts as they come.

  A text is encoded when it first comes, and remembered, up to half a million of them;
  threads may ask at once. Texts of few forms (`config.captions.listed`) suit it.

  Attributes:
    images: float32 [N, width], of the rows of the split.
  """

  def __init__(
    self,
    images: np.ndarray,
    tokenizer: tokenizer_lib.Tokenizer,
    encode: Encode,
    batch_size: int,
  ):
    """`encode` maps token rows [n, L] to features [n, width], n to `batch_size`."""
    self.images = images
    self._tokenizer = tokenizer
    self._encode = encode
    self._batch_size = batch_size
    self._known: dict[tuple[str, int], np.ndarray] = {}
    self._lock = threading.Lock()

  def of_texts(self, texts: Sequence[str], length: int) -> np.ndarray:
    """Features float32 [N, width] of texts of at most `length` tokens."""
    with self._lock:
      new = [t for t in dict.fromkeys(texts) if (t, length) not in self._known]
      for start in range(0, len(new), self._batch_size):
        part = new[start : start + self._batch_size]
        tokens = self._tokenizer.encode(part, length)
        # Few sizes occur, as each is compiled; most texts come alone.
        rows = min(1 << (len(part) - 1).bit_length(), self._batch_size)
        found = self._encode(np.pad(tokens, [(0, rows - len(part)), (0, 0)]))
        self._known.update({(t, length): f for t, f in zip(part, found)})
      out = np.stack([self._known[text, length] for text in texts])
      while len(self._known) > _MOST_TEXTS:  # The oldest go.
        del self._known[next(iter(self._known))]
      return out


def of_images(
  source: sources.Source,
  encode: Encode,
  batch_size: int,
  report: Report,
) -> np.ndarray:
  """The features [N, width] of a split's images, with progress."""
  began = said = time.monotonic()
  parts, done = [], 0
  for images, rows in pipeline.eval_images(source, batch_size):
    parts.append(encode(images)[:rows])
    done += rows
    now = time.monotonic()
    if now - said > 10:
      said = now
      left = (now - began) / done * (len(source) - done)
      report(
        f"Features of {done:,} of {len(source):,} images, {left:.0f} s to go."
      )
  return np.concatenate(parts)


def encoders(
  model: Any,
  variables: Mapping[str, Any],
  prepare: Callable[[jax.Array], jax.Array],
) -> tuple[Encode, Encode]:
  """Makes the functions that encode images and token rows.

  Args:
    model: a `TwoTower`.
    variables: of it.
    prepare: turns uint8 images into the tower's input.

  Returns:
    The image's and the text's encoder.
  """

  def tower(module: nn.Module, side: str) -> Callable[[Any], jax.Array]:
    # Arguments of the program, where as constants they would be compiled into it.
    own = jax.device_put(
      {k: tree[side] for k, tree in variables.items() if side in tree}
    )

    @jax.jit
    def run(weights: Any, x: jax.Array) -> jax.Array:
      x = prepare(x) if side == "image" else x
      out = module.apply(weights, x, train=False)
      return jnp.asarray(out, jnp.float32)  # pyrefly: ignore

    return functools.partial(run, own)

  image, text = tower(model.image, "image"), tower(model.text, "text")
  return (lambda x: np.asarray(image(x))), (lambda x: np.asarray(text(x)))


def save(path: pathlib.Path, features: np.ndarray) -> None:
  """Writes features, all of them or none."""
  partial = path.with_name(path.name + ".partial")
  with open(partial, "wb") as file:
    np.save(file, features)
  partial.replace(path)


def load(path: pathlib.Path, count: int) -> np.ndarray | None:
  """Reads features that `save` wrote; None if there are none of so many images."""
  try:
    with open(path, "rb") as file:
      found = np.lib.format.read_array(file, allow_pickle=False)
  except (OSError, ValueError, EOFError, MemoryError):
    return None
  return found if found.ndim == 2 and len(found) == count else None
