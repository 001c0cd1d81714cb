"""Features of a few things, as the studies on frozen encoders have them."""

import numpy as np

from experiments.frozen import features

THINGS, WIDTH = 9, 6


def made(seed: int = 0) -> features.Inputs:
  """Inputs of a few things in two drawings each."""
  rng = np.random.default_rng(seed)

  def normal(rows):
    return rng.normal(size=(rows, WIDTH)).astype(np.float32)

  drawings = np.arange(2 * THINGS, dtype=np.int32).reshape(THINGS, 2)
  text = normal(THINGS)
  own = np.arange(THINGS, dtype=np.int32)
  tasks = {
    "unseen artist": features.Task(normal(THINGS), text, own),
    "unseen things": features.Task(normal(6), normal(3), np.arange(6) % 3),
    "validation": features.Task(normal(4), normal(4), np.arange(4)),
  }
  return features.Inputs(normal(2 * THINGS), text, drawings, tasks)
