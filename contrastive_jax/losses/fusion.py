"""Losses of fusion models: ALBEF's contrast, matching and masked modelling."""

import jax
import jax.numpy as jnp

from contrastive_jax import ops
from contrastive_jax._types import Axes, BlockSize, Scalar
from contrastive_jax.losses import _shared

# Shares of the tokens to be predicted: hidden, and replaced; the rest stay.
_MASKED, _REPLACED = 0.8, 0.1


def soft_target_contrastive(
  queries: jax.Array,
  momentum_queries: jax.Array,
  momentum_keys: jax.Array,
  queue: jax.Array | None = None,
  *,
  temperature: Scalar,
  alpha: Scalar,
  group_ids: jax.Array | None = None,
  queue_ids: jax.Array | None = None,
  axes: Axes = None,
  block_size: BlockSize = "auto",
) -> jax.Array:
  r"""Contrast with a momentum encoder's keys, a queue and soft targets.

  .. math:: \ell_i = -\sum_j y_{ij} \log p_{ij}, \quad
    p_i = \mathrm{softmax}(\langle q_i, r_j \rangle / \tau), \quad
    y_i = \alpha \, \mathrm{softmax}(\langle q^m_i, r_j \rangle / \tau)
      + (1 - \alpha) \, h_i

  over r, the momentum keys of the whole batch and then the queue; h is one at
  the row's own key or, with ids, spread evenly over the keys of its id. It is
  one direction of ALBEF's image-text contrast: with image features as queries
  and the texts' momentum features as keys, or the other way round. No gradient
  reaches the targets, keys or queue.

  Memory does not grow with N M: :math:`\sum_j y_{ij} \log p_{ij}` is linear in the
  keys, so the keys' mean under y stands for them, and both are formed in tiles.

  Args:
    queries: [N, d] unit norm, from the encoder.
    momentum_queries: [N, d] unit norm, the same examples by the momentum encoder.
    momentum_keys: [N, d] unit norm, the other modality by its momentum encoder, or
      for a contrast within a modality the same one.
    queue: [M, d] unit norm, earlier keys, or None; with `axes` this device's
      part, all parts together being the queue.
    temperature: tau > 0, a number or a traced scalar.
    alpha: share of the soft target in [0, 1], a number or a traced scalar.
    group_ids: [N] integers, equal where rows are positives of each other.
    queue_ids: [M] integers, those of the queue; needed with both.
    axes: see `losses.contrastive`.
    block_size: see `losses.contrastive`.

  Returns:
    [N] float32, one loss a query.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Li et al., "Align before fuse", 2021, eqs. 1, 2 and 6; for ids its code for
    retrieval.

  >>> import jax.numpy as jnp
  >>> x = jnp.eye(4)
  >>> loss = soft_target_contrastive(
  ...   x[:2], x[:2], x[:2], x[2:], temperature=0.5, alpha=0.0
  ... )
  >>> [round(v, 4) for v in loss.tolist()]
  [0.3408, 0.3408]
  """
  ops.check_features(
    queries=queries,
    momentum_queries=momentum_queries,
    momentum_keys=momentum_keys,
  )
  n = queries.shape[0]
  ops.check_group_ids(group_ids, n)
  ops.check_positive("temperature", temperature)
  _shared.check_range("alpha", alpha, "in [0, 1]", lambda x: 0 <= x <= 1)
  arrays = [queries, momentum_queries, momentum_keys]
  if queue is not None:
    ops.check_features(queue=queue)
    if queue.shape[1] != queries.shape[1]:
      raise ValueError(
        f"queue must have the {queries.shape[1]} columns of queries; got"
        f" {tuple(queue.shape)}."
      )
    arrays.append(queue)
  if (group_ids is None or queue is None) != (queue_ids is None):
    raise ValueError(
      "queue_ids must be given with both group_ids and queue, and only then."
    )
  if queue is not None and queue_ids is not None:
    _shared.check_row("queue_ids", queue_ids, queue.shape[0], jnp.integer)
  wide, dtype = _shared.widen(*arrays)
  queries, momentum_queries, own_keys, *rest = wide
  keys = jax.lax.stop_gradient(jnp.concatenate([own_keys, *rest]))
  log_sums = ops.row_column_sums(
    queries,
    keys,
    scale=1.0 / temperature,
    key_gradient=False,
    dtype=dtype,
    axes=axes,
    block_size=block_size,
  ).rows
  key_ids = group_ids
  if queue_ids is not None:
    key_ids = jnp.concatenate([jnp.asarray(group_ids), queue_ids])
  means = ops.similarity.key_means(
    momentum_queries,
    keys,
    scale=1.0 / temperature,
    query_ids=group_ids,
    key_ids=key_ids,
    axes=axes,
  )
  hard = own_keys if means.group is None else means.group
  target = alpha * means.softmax + (1.0 - alpha) * hard
  target = jax.lax.stop_gradient(target)
  return log_sums - _shared.paired(queries, target) / temperature


def sample_hard_negatives(
  key: jax.Array,
  similarity: jax.Array,
  *,
  group_ids: jax.Array | None = None,
  positions: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  r"""Draws a column of another group for every row, the likelier the nearer.

  .. math:: P(c_i = j) \propto e^{s_{ij}} \; [g_j \ne g_i]

  by the Gumbel maximum: nothing is normalised, so no row can fail to be a
  distribution. A row without a column of another group (a batch of one) gets its
  own number and is not valid; ALBEF's own code raises there.

  Args:
    key: of the draw.
    similarity: [N, N] logits, similarity over temperature; column j is row j's
      other modality.
    group_ids: [N] integers; rows of one id are no negatives of each other. None:
      each row is its own.
    positions: [N] integers, the rows' places in the global batch, on which alone
      the draws depend beside the key; None is 0, 1, ...

  Returns:
    Columns [N] int32, and booleans [N]: whether it is a negative.

  Raises:
    ValueError: on wrong shapes or types, naming the argument.

  References:
    Li et al., "Align before fuse", 2021, section 3.2.

  >>> import jax
  >>> import jax.numpy as jnp
  >>> columns, valid = sample_hard_negatives(
  ...   jax.random.key(0), jnp.zeros((2, 2))
  ... )
  >>> columns.tolist(), valid.tolist()
  ([1, 0], [True, True])
  """
  if getattr(similarity, "ndim", 0) != 2 or (
    similarity.shape[0] != similarity.shape[1]
  ):
    came = getattr(similarity, "shape", type(similarity).__name__)
    raise ValueError(f"similarity must have shape [N, N]; got {came}.")
  n = similarity.shape[0]
  ops.check_features(similarity=similarity)
  ops.check_group_ids(group_ids, n)
  ids = jnp.arange(n) if group_ids is None else jnp.asarray(group_ids)
  rows = jnp.arange(n) if positions is None else jnp.asarray(positions)
  _shared.check_row("positions", rows, n, jnp.integer)
  noise = jax.vmap(
    lambda row: jax.random.gumbel(jax.random.fold_in(key, row), (n,))
  )(rows)
  others = ids[:, None] != ids[None, :]
  scores = jnp.where(others, similarity.astype(jnp.float32) + noise, -jnp.inf)
  valid = jnp.any(others, axis=1)
  columns = jnp.where(valid, jnp.argmax(scores, axis=1), jnp.arange(n))
  return columns.astype(jnp.int32), valid


def image_text_matching(
  logits: jax.Array, matches: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
  r"""Whether an image and a text belong together: cross-entropy of two classes.

  .. math:: \ell_i = -\log \mathrm{softmax}(z_i)_{m_i}

  Args:
    logits: [N, 2] floating; class 1 is a match.
    matches: [N] booleans or integers 0, 1.
    valid: [N] booleans, or None: all; others count nothing.

  Returns:
    [N] float32, 0 where not valid.

  Raises:
    ValueError: on wrong shapes or types, naming the argument.

  References:
    Li et al., "Align before fuse", 2021, eq. 4.

  >>> import jax.numpy as jnp
  >>> z = jnp.zeros((2, 2))
  >>> loss = image_text_matching(z, jnp.array([0, 1]))
  >>> [round(v, 4) for v in loss.tolist()]
  [0.6931, 0.6931]
  """
  ops.check_features(logits=logits)
  if logits.shape[1] != 2:
    raise ValueError(f"logits must have shape [N, 2]; got {logits.shape}.")
  n, matches = logits.shape[0], jnp.asarray(matches)
  kind = jnp.bool_ if matches.dtype == jnp.bool_ else jnp.integer
  _shared.check_row("matches", matches, n, kind)
  matches = matches.astype(jnp.int32)
  if valid is not None:
    valid = jnp.asarray(valid)
    _shared.check_row("valid", valid, n, jnp.bool_)
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  loss = -jnp.take_along_axis(log_p, matches[:, None], axis=1)[:, 0]
  return loss if valid is None else jnp.where(valid, loss, 0.0)


def mask_tokens(
  key: jax.Array,
  tokens: jax.Array,
  maskable: jax.Array,
  *,
  vocab_size: int,
  mask_id: int,
  share: float = 0.15,
  positions: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """BERT's masking: of the chosen tokens 80 % hidden, 10 % another, 10 % kept.

  Every token that may be masked is chosen with probability `share`.

  Args:
    key: of the draws.
    tokens: integers [N, T].
    maskable: booleans [N, T]; False for padding and special tokens.
    vocab_size: random tokens are drawn from [0, vocab_size).
    mask_id: stands for a hidden token.
    share: probability in [0, 1].
    positions: [N] integers, the rows' places in the global batch, on which alone
      the draws depend beside the key; None is 0, 1, ...

  Returns:
    The masked tokens [N, T], and booleans [N, T]: those to be predicted.

  Raises:
    ValueError: on wrong shapes or ranges, naming the argument.

  References:
    Devlin et al., "BERT", 2019, section 3.1; Li et al., "Align before fuse",
    2021, eq. 3.

  >>> import jax
  >>> import jax.numpy as jnp
  >>> tokens = jnp.full((1, 4), 7)
  >>> masked, chosen = mask_tokens(
  ...   jax.random.key(0), tokens, tokens > 0, vocab_size=9, mask_id=1, share=0.0
  ... )
  >>> masked.tolist(), chosen.any().item()
  ([[7, 7, 7, 7]], False)
  """
  if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise ValueError(
      f"tokens must be integers [N, T]; got {tokens.dtype}"
      f" {tuple(tokens.shape)}."
    )
  if maskable.shape != tokens.shape or maskable.dtype != jnp.bool_:
    raise ValueError(
      f"maskable must be booleans {tuple(tokens.shape)}; got"
      f" {maskable.dtype} {tuple(maskable.shape)}."
    )
  _shared.check_range("share", share, "in [0, 1]", lambda x: 0 <= x <= 1)
  if not 0 <= mask_id < vocab_size:
    raise ValueError(f"mask_id must be in [0, {vocab_size}); got {mask_id}.")
  n, length = tokens.shape
  rows = jnp.arange(n) if positions is None else jnp.asarray(positions)

  def draw(row):
    chosen, kind, other = jax.random.split(jax.random.fold_in(key, row), 3)
    return (
      jax.random.bernoulli(chosen, share, (length,)),
      jax.random.uniform(kind, (length,)),
      jax.random.randint(other, (length,), 0, vocab_size, tokens.dtype),
    )

  chosen, kind, other = jax.vmap(draw)(rows)
  chosen &= maskable
  new = jnp.where(
    kind < _MASKED,
    mask_id,
    jnp.where(kind < _MASKED + _REPLACED, other, tokens),
  )
  return jnp.where(chosen, new, tokens).astype(tokens.dtype), chosen


def masked_language_modeling(
  logits: jax.Array,
  tokens: jax.Array,
  chosen: jax.Array,
  *,
  teacher_logits: jax.Array | None = None,
  alpha: Scalar = 0.0,
) -> jax.Array:
  r"""Cross-entropy of the chosen tokens, softened by a momentum model's.

  .. math:: \ell_{it} = -(1 - \alpha) \log p_{it}(w_{it})
    - \alpha \sum_v p^m_{it}(v) \log p_{it}(v)

  A mean over tokens is `loss.sum() / chosen.sum()`.

  Args:
    logits: [N, T, V] floating.
    tokens: [N, T] integers, what was there before masking.
    chosen: [N, T] booleans, the tokens that count.
    teacher_logits: [N, T, V], the momentum model's, without gradient; needed
      where alpha is not 0.
    alpha: share of the soft target in [0, 1], a number or a traced scalar.

  Returns:
    [N, T] float32, 0 where not chosen.

  Raises:
    ValueError: on wrong shapes or ranges, naming the argument.

  References:
    Li et al., "Align before fuse", 2021, eqs. 3 and 7.

  >>> import jax.numpy as jnp
  >>> loss = masked_language_modeling(
  ...   jnp.zeros((1, 1, 4)), jnp.array([[2]]), jnp.array([[True]])
  ... )
  >>> round(loss.item(), 4)
  1.3863
  """
  if logits.ndim != 3 or logits.shape[:2] != tokens.shape:
    raise ValueError(
      f"logits must have shape {(*tokens.shape, 'V')}; got"
      f" {tuple(logits.shape)}."
    )
  if not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise ValueError(f"tokens must be integers; got {tokens.dtype}.")
  if chosen.shape != tokens.shape or chosen.dtype != jnp.bool_:
    raise ValueError(
      f"chosen must be booleans {tuple(tokens.shape)}; got {chosen.dtype}"
      f" {tuple(chosen.shape)}."
    )
  _shared.check_range("alpha", alpha, "in [0, 1]", lambda x: 0 <= x <= 1)
  # Once, as both terms use them: see `_shared.widen`.
  logits = logits.astype(jnp.float32)
  log_p = jax.nn.log_softmax(logits)
  loss = -jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
  if teacher_logits is not None:
    soft = distillation(logits, teacher_logits)
    loss = (1.0 - alpha) * loss + alpha * soft
  elif not (_shared.is_number(alpha) and alpha == 0):
    raise ValueError("teacher_logits must be given where alpha is not 0.")
  return jnp.where(chosen, loss, 0.0)


def distillation(logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
  r"""Cross-entropy against a teacher's distribution.

  .. math:: \ell = -\sum_v \mathrm{softmax}(z^m)_v \log \mathrm{softmax}(z)_v

  Args:
    logits: [..., V] floating.
    teacher_logits: the same shape; no gradient reaches them.

  Returns:
    [...] float32.

  Raises:
    ValueError: on different shapes.

  References:
    Li et al., "Align before fuse", 2021, eqs. 6 and 7 (but for the teacher's
    entropy, which is constant).

  >>> import jax.numpy as jnp
  >>> round(distillation(jnp.zeros(2), jnp.zeros(2)).item(), 4)
  0.6931
  """
  if logits.shape != teacher_logits.shape:
    raise ValueError(
      f"teacher_logits must have the shape of logits, {tuple(logits.shape)};"
      f" got {tuple(teacher_logits.shape)}."
    )
  p = jax.nn.softmax(jax.lax.stop_gradient(teacher_logits).astype(jnp.float32))
  return -jnp.sum(p * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
