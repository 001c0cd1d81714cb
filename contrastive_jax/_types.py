"""Types that several packages annotate with; this imports JAX alone."""

from collections.abc import Mapping
from typing import Any

import jax

Array = jax.Array
# Names of the mapped axes over which a batch is split; None: it is whole.
Axes = str | tuple[str, ...] | None
# A step's arrays of JAX or NumPy by name, one row an example.
Batch = Mapping[str, Any]
# Side of a tile; None: one tile; "auto": by the size of the similarity.
BlockSize = int | str | None
# A type of computation or parameters as Flax takes it.
Dtype = Any
# Parameters of a model: a tree of arrays.
Params = Mapping[str, Any]
# Features of a frozen model, those of both sides; None: there is no such model.
Reference = tuple[jax.Array, jax.Array] | None
# A hyper-parameter: a number, or an array of shape [].
Scalar = float | jax.Array
