"""A ring of earlier keys, as a pytree that a step takes and returns."""

from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import ops

# Id of entries that no example has filled yet.
NO_ID = -1


def create(key: jax.Array, size: int, dim: int) -> dict[str, Any]:
  """A queue of random unit-norm keys of two sides.

  It has `image` and `text` [size, dim] float32, `ids` [size] int32 (`NO_ID`), and
  `pointer`, the place of the next entry.
  """
  sides = {
    side: ops.l2_normalize(
      jax.random.normal(jax.random.fold_in(key, number), (size, dim))
    )
    for number, side in enumerate(("image", "text"))
  }
  return {
    **sides,
    "ids": jnp.full(size, NO_ID, jnp.int32),
    "pointer": jnp.zeros((), jnp.int32),
  }


def push(
  queue: dict[str, Any], image: jax.Array, text: jax.Array, ids: jax.Array
) -> dict[str, Any]:
  """The queue with a batch's keys in the places of the oldest.

  The batch need not divide the queue; of one that is larger the last rows stay.
  `image` and `text` are [N, dim], `ids` [N] tells which are positives of each other.
  """
  size, count = queue["ids"].shape[0], ids.shape[0]
  kept = min(size, count)
  first = queue["pointer"] + (count - kept)
  places = (first + jnp.arange(kept, dtype=jnp.int32)) % size
  new = {
    name: queue[name].at[places].set(value[count - kept :])
    for name, value in (
      ("image", image),
      ("text", text),
      ("ids", ids.astype(jnp.int32)),
    )
  }
  return {**new, "pointer": (queue["pointer"] + count) % size}
