r"""Caption tokens as classes: SuperClass, which needs neither pairs nor a text tower.

An image is classified into the vocabulary; its classes are the tokens of its caption,
weighted by how rare they are. A token that occurs twice counts once, tokens of
`ignored_ids` (padding, start and end) and ids outside of the vocabulary do not count.
Each example's loss is its own, so it does not depend on the size of the batch, and
rows may lie on any number of devices.

All raise `ValueError`, naming the argument, on wrong shapes, types or ranges.

References:
  Huang et al., "Classification done right for vision-language pre-training", 2024,
  and its code for the smoothed weights.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from contrastive_jax import ops
from contrastive_jax._types import Axes, Scalar
from contrastive_jax.losses import _shared


def superclass(
  logits: jax.Array,
  tokens: jax.Array,
  *,
  token_weights: jax.Array | None = None,
  ignored_ids: Sequence[int] = (),
) -> jax.Array:
  r"""Multi-label softmax cross-entropy of an image's caption tokens.

  .. math::
    \ell_i = -\sum_{c \in C_i} \hat y_{ic} \log \mathrm{softmax}(z_i)_c, \qquad
    \hat y_{ic} = \frac{w_c}{\sum_{k \in C_i} w_k}

  with :math:`C_i` the set of tokens of row i that count, see the module's docstring.

  Args:
    logits: [N, V] floating, z: an image's score of each token.
    tokens: [N, L] integers, the tokens of each image's caption.
    token_weights: [V] floating, w >= 0, see `inverse_document_frequency`; None
      weights all tokens alike. No gradient reaches them.
    ignored_ids: ids of the tokens that do not count.

  Returns:
    [N] float32; 0, without gradient, where nothing counts.

  Raises:
    ValueError: on wrong shapes or types, naming the argument.

  References:
    Huang et al., "Classification done right for vision-language pre-training",
    2024.

  >>> import jax.numpy as jnp
  >>> loss = superclass(
  ...   jnp.zeros((1, 4)), jnp.array([[1, 3, 3, 0]]), ignored_ids=(0,)
  ... )
  >>> round(loss.item(), 4)
  1.3863
  """
  if getattr(logits, "ndim", None) != 2 or 0 in logits.shape:
    came = getattr(logits, "shape", type(logits).__name__)
    raise ValueError(f"logits must have shape [N, V]; got {came}.")
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise ValueError(f"logits must be floating point; got {logits.dtype}.")
  n, size = logits.shape
  ids, counted = _classes(tokens, size, ignored_ids)
  if len(ids) != n:
    raise ValueError(f"tokens must have {n} rows, as logits; got {len(ids)}.")
  weights = counted.astype(jnp.float32)
  if token_weights is not None:
    _shared.check_row("token_weights", token_weights, size)
    known = jax.lax.stop_gradient(jnp.asarray(token_weights, jnp.float32))
    weights *= known[ids]
  total = jnp.sum(weights, axis=1, keepdims=True)
  target = weights / jnp.where(total > 0.0, total, 1.0)
  logits = logits.astype(jnp.float32)
  # The target is of L numbers, not of V: no other array [N, V] is formed.
  picked = jnp.take_along_axis(logits, ids, axis=1)
  normalizer = jax.nn.logsumexp(logits, axis=1, keepdims=True)
  return jnp.sum(target * (normalizer - picked), axis=1)


def count_documents(
  tokens: jax.Array,
  vocab_size: int,
  *,
  ignored_ids: Sequence[int] = (),
  axes: Axes = None,
) -> jax.Array:
  """Number of rows that each token occurs in.

  Sums over parts of a corpus are the counts of all of it.

  Args:
    tokens: [N, L] integers, a caption a row.
    vocab_size: V, the number of token ids.
    ignored_ids: ids of the tokens that do not count; theirs is 0.
    axes: names of the mapped axes that the rows are split over, see
      `losses.contrastive`; the counts are those of all rows.

  Returns:
    [V] float32, whole numbers; exact up to 2^24 rows.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  >>> import jax.numpy as jnp
  >>> count_documents(jnp.array([[1, 3, 3], [1, 0, 0]]), 4).tolist()
  [1.0, 2.0, 0.0, 1.0]
  """
  if (
    isinstance(vocab_size, bool)
    or not hasattr(vocab_size, "__index__")
    or vocab_size < 1
  ):
    raise ValueError(f"vocab_size must be an integer >= 1; got {vocab_size!r}.")
  ids, counted = _classes(tokens, vocab_size, ignored_ids)
  counts = jnp.zeros(vocab_size, jnp.float32)
  counts = counts.at[ids].add(counted.astype(jnp.float32))
  return ops.sum_over(counts, axes)


def inverse_document_frequency(
  counts: jax.Array, num_documents: Scalar
) -> jax.Array:
  r"""Weights of tokens by how rare they are, smoothed.

  .. math:: w_c = \log \frac{D + 1}{n_c + 1}

  with D documents, of which :math:`n_c` have the token. A token of every document
  weighs 0. SuperClass takes the documents seen so far, those of the batch included:
  its code keeps running means of batches, and adds a document to both.

  Args:
    counts: [V], numbers of documents n with each token, see `count_documents`.
    num_documents: D >= counts, a number or a scalar array.

  Returns:
    [V] float32, >= 0.

  Raises:
    ValueError: on wrong shapes or ranges, naming the argument.

  >>> import jax.numpy as jnp
  >>> weights = inverse_document_frequency(jnp.array([0.0, 1.0, 7.0]), 7)
  >>> [round(v, 4) for v in weights.tolist()]
  [2.0794, 1.3863, 0.0]
  """
  if getattr(counts, "ndim", None) != 1 or not counts.shape[0]:
    came = getattr(counts, "shape", type(counts).__name__)
    raise ValueError(f"counts must have shape [V]; got {came}.")
  if jnp.shape(num_documents) != ():
    raise ValueError(
      f"num_documents must be a scalar; got shape {jnp.shape(num_documents)}."
    )
  _shared.check_range(
    "num_documents", num_documents, "a finite number >= 0", lambda x: x >= 0
  )
  seen = jnp.asarray(num_documents, jnp.float32)
  return jnp.log(seen + 1.0) - jnp.log(jnp.asarray(counts, jnp.float32) + 1.0)


def _classes(
  tokens: jax.Array, vocab_size: int, ignored_ids: Sequence[int]
) -> tuple[jax.Array, jax.Array]:
  """Ids [N, L] within the vocabulary, and which of them count: once each."""
  if getattr(tokens, "ndim", None) != 2:
    came = getattr(tokens, "shape", type(tokens).__name__)
    raise ValueError(f"tokens must have shape [N, L]; got {came}.")
  if not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise ValueError(f"tokens must be integers; got {tokens.dtype}.")
  for ignored in ignored_ids:
    if isinstance(ignored, bool) or not hasattr(ignored, "__index__"):
      raise ValueError(f"ignored_ids must be integers; got {ignored!r}.")
  # Sorted, a token stands beside its repetitions.
  ids = jnp.sort(jnp.asarray(tokens), axis=1)
  before = jnp.roll(ids, 1, axis=1)
  counted = (ids != before) | (jnp.arange(ids.shape[1]) == 0)
  counted &= (ids >= 0) & (ids < vocab_size)
  for ignored in ignored_ids:
    counted &= ids != ignored
  return jnp.clip(ids, 0, vocab_size - 1), counted
