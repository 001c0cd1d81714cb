"""Answers to questions by a fusion model's decoder: ranked, or written freely."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from contrastive_jax._types import Array

# Calls a method of a `FusionModel` for task "vqa" with its parameters.
Apply = Callable[..., Array]


def rank(
  apply: Apply,
  states: Array,
  valid: Array,
  candidates: Array,
  count: int,
  *,
  pad_id: int,
) -> Array:
  """The likeliest of candidate answers, in two stages.

  By the probability of its first token each question keeps `count` candidates; those
  are ranked by the probability of all of their tokens.

  Args:
    apply: the model.
    states: [N, T, d], of the questions.
    valid: [N, T], their tokens that are not padding.
    candidates: int32 [C, A], token rows.
    count: kept ones, at most C.
    pad_id: of the tokens.

  Returns:
    int32 [N], numbers of candidates.

  Reference: Li et al., "Align before fuse", 2021, section 5 (VQA).
  """
  start = jnp.broadcast_to(candidates[0, :1], (states.shape[0], 1))
  first = apply(start, states, valid, method="decode")[:, 0]
  _, kept = jax.lax.top_k(jax.nn.log_softmax(first)[:, candidates[:, 1]], count)

  # Candidate by candidate: all at once would repeat the states `count` times.
  def score(place: Array) -> Array:
    rows = candidates[kept[:, place]]
    logits = apply(rows[:, :-1], states, valid, method="decode")
    target = rows[:, 1:]
    log_p = jax.nn.log_softmax(logits)
    found = jnp.take_along_axis(log_p, target[..., None], axis=2)[..., 0]
    return jnp.sum(jnp.where(target != pad_id, found, 0.0), axis=1)

  scores = jax.lax.map(score, jnp.arange(count))
  best = jnp.argmax(scores, axis=0)
  return jnp.take_along_axis(kept, best[:, None], axis=1)[:, 0]


def generate(
  apply: Apply,
  states: Array,
  valid: Array,
  *,
  start_id: int,
  end_id: int,
  length: int,
  pad_id: int,
) -> Array:
  """An answer written freely, each token the likeliest one.

  Args:
    apply: the model.
    states: as of `rank`, like the next.
    valid: see there.
    start_id: with which an answer begins.
    end_id: with which it ends.
    length: tokens, start and end among them.
    pad_id: what comes after the end.

  Returns:
    int32 [N, length].
  """
  n = states.shape[0]
  rows = jnp.full((n, length), pad_id, jnp.int32)
  rows = rows.at[:, 0].set(start_id)

  def step(place: Array, rows: Array) -> Array:
    logits = apply(rows, states, valid, method="decode")
    logits = jax.lax.dynamic_index_in_dim(logits, place - 1, 1, False)
    # Neither a pad nor the mask is an answer's token.
    logits = logits.at[:, (pad_id, logits.shape[1] - 1)].set(-jnp.inf)
    before = jax.lax.dynamic_index_in_dim(rows, place - 1, 1, False)
    ended = (before == end_id) | (before == pad_id)
    new = jnp.where(ended, pad_id, jnp.argmax(logits, axis=1))
    return rows.at[:, place].set(new.astype(jnp.int32))

  return jax.lax.fori_loop(1, length, step, rows)
