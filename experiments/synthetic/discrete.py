r"""Exact information of two discrete modalities, and of their aligned part.

A world is a joint distribution p(x_V, x_T, y). Representations with Z_V = Z_T are
functions of what both modalities know alike: the connected parts of the bipartite
graph that joins x_V and x_T where p(x_V, x_T) > 0 (the common part of Gacs and
Koerner). So the best aligned representation, and what it loses, are known.
"""

import numpy as np
from scipy import sparse


def entropy(p: np.ndarray) -> float:
  """Nats of a distribution of any shape."""
  p = p[p > 0]
  return float(-np.sum(p * np.log(p)))


def information(joint: np.ndarray) -> float:
  """I(A; B) in nats of p(a, b), [A, B]."""
  return (
    entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0)) - entropy(joint)
  )


def common_part(p_vt: np.ndarray) -> np.ndarray:
  """The part of each x_V, [V] integers from 0, of p(x_V, x_T) [V, T]."""
  values, texts = p_vt.shape
  graph = np.zeros((values + texts, values + texts), bool)
  graph[:values, values:] = p_vt > 0
  _, parts = sparse.csgraph.connected_components(graph, directed=False)
  return parts[:values]


def gap(world: np.ndarray) -> dict[str, float]:
  """Loss that alignment cannot avoid, and the best aligned representation's.

  Args:
    world: p(x_V, x_T, y), [V, T, Y], which sums to 1.

  Returns:
    In nats: `image` I(X_V; Y), `text` I(X_T; Y), `both` I(X_V, X_T; Y), `bound`
    |I(X_V; Y) - I(X_T; Y)|, and `excess`, the cross-entropy of the best classifier
    on the best aligned representation above that of the best one on both inputs.

  Raises:
    ValueError: if it is no distribution of three variables.
  """
  if world.ndim != 3 or np.any(world < 0) or abs(world.sum() - 1) > 1e-9:
    raise ValueError(
      "world must be probabilities [V, T, Y] that sum to 1; got shape"
      f" {world.shape}, sum {world.sum():.6g}."
    )
  image = information(world.sum(axis=1))
  text = information(world.sum(axis=0))
  both = information(world.reshape(-1, world.shape[2]))
  parts = common_part(world.sum(axis=2))
  of_part = np.zeros((parts.max() + 1, world.shape[2]))
  np.add.at(of_part, parts, world.sum(axis=1))
  return {
    "image": image,
    "text": text,
    "both": both,
    "bound": abs(image - text),
    "excess": both - information(of_part),
  }


def bits(shared: int, image: int, text: int, erased: float = 0.0) -> np.ndarray:
  """The world of `worlds.World`: bits that both, or only one, can see.

  Args:
    shared: bits that both modalities see.
    image: bits that only the image shows, all or (when erased) none.
    text: bits that only the text tells.
    erased: probability that an image shows none of its own.

  Returns:
    p(x_V, x_T, y); y is all bits.
  """
  s, v, t = 2**shared, 2**image, 2**text
  world = np.zeros((s, v + 1, s, t, s, v, t))
  p = 1.0 / (s * v * t)
  for i, j, k in np.ndindex(s, v, t):
    world[i, j, i, k, i, j, k] += (1 - erased) * p
    world[i, v, i, k, i, j, k] += erased * p
  return world.reshape(s * (v + 1), s * t, s * v * t)


def random_world(rng: np.random.Generator) -> np.ndarray:
  """Some blocks that both modalities can tell apart, and noise within them."""
  blocks, classes = int(rng.integers(1, 5)), int(rng.integers(2, 7))
  sizes = rng.integers(1, 4, size=(2, blocks))
  world = np.zeros((*sizes.sum(axis=1), classes))
  masses = rng.dirichlet(np.ones(blocks))
  starts = np.cumsum(sizes, axis=1) - sizes
  for (i, j), (m, n), mass in zip(starts.T, sizes.T, masses):
    # A small concentration: some cells decide the class, and blocks differ.
    cells = rng.dirichlet(np.full(int(m * n) * classes, 0.15))
    world[i : i + m, j : j + n] = mass * cells.reshape(m, n, classes)
  return world / world.sum()
