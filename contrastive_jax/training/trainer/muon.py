"""The kernels that Muon orthogonalises."""

from typing import Any

import jax
import optax


def matrices(params: Any) -> Any:
  """The input and output axes of each kernel; None for other parameters.

  A kernel of Flax has the output last, but those of
  `nn.MultiHeadDotProductAttention` have the heads apart: in `query`, `key` and
  `value` after the input, in `out` before the output. Depthwise kernels mix no
  channels, and embeddings are no products: they have none.
  """

  def rule(path, leaf):
    *_, module, name = [
      "",
      *(jax.tree_util.keystr((k,), simple=True) for k in path),
    ]
    if name != "kernel" or leaf.ndim < 2:
      return None
    inputs = leaf.ndim - 1
    if leaf.ndim == 3 and module in ("query", "key", "value"):
      inputs = 1
    axes = tuple(range(leaf.ndim))
    return optax.contrib.MuonDimensionNumbers(axes[:inputs], axes[inputs:])

  return jax.tree_util.tree_map_with_path(rule, params)
