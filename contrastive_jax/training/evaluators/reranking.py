"""Retrieval whose best answers the matching of a fusion model ranks again."""

import jax
import numpy as np

from contrastive_jax.data import pipeline, sources
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.evaluators import base, retrieval
from contrastive_jax.training.trainer import state as state_lib


class RerankedMeasure(base.Measure):
  """Retrieval on the test split, whose first answers matching ranks again."""

  def final(self, state: state_lib.TrainState) -> dict[str, float]:
    """`retrieval_reranked/image_to_text/recall_at_1` and so on.

    For 1, 5 and 10, both ways; empty without test images.
    """
    run = self.run
    if run.lacks(sources.TEST, "retrieval_reranked"):
      return {}
    source = run.data.splits[sources.TEST]
    texts, text_ids = retrieval.names_of(source, keywords=True)
    images = run.images(state, sources.TEST)
    similarity = images.images @ run.encoder.texts(state, texts).T
    match = _Matcher(run, state, source, texts)
    out = {}
    for way, scores, asked, answers in (
      ("image_to_text", similarity, images.concept_ids, text_ids),
      ("text_to_image", similarity.T, text_ids, images.concept_ids),
    ):
      kept = min(self.chosen.candidates, scores.shape[1])
      best = np.argsort(-scores, axis=1, kind="stable")[:, :kept]
      pairs = np.stack(
        [np.repeat(np.arange(len(scores)), kept), best.reshape(-1)], axis=1
      )
      run.report(f"Matching {len(pairs):,} pairs, {way.replace('_', ' ')}.")
      # Image first, whichever asks.
      values = match(pairs if way == "image_to_text" else pairs[:, ::-1])
      order = np.argsort(-values.reshape(-1, kept), axis=1, kind="stable")
      ranked = np.take_along_axis(best, order, axis=1)
      # A question without a right answer counts nothing, as in `retrieval`.
      possible = np.isin(asked, answers)
      right = (answers[ranked] == asked[:, None])[possible]
      for k in (1, 5, 10):
        hits = right[:, :k].any(axis=1)
        out[f"retrieval_reranked/{way}/recall_at_{k}"] = float(hits.mean())
    return out


class _Matcher:
  """Scores pairs of images and texts; a part of the images is held at once."""

  def __init__(self, run, state, source, texts):
    self._source = source
    self._tokens = run.data.tokenizer.encode(texts, run.context_length)
    self._params = state.eval_params
    # A pair costs what an image costs.
    self._size = run.batch_size
    # On every device, so that every host can look at all of it.
    everywhere = sharding.replicated(run.mesh)
    self._encode = jax.jit(run.objective.image_tokens, out_shardings=everywhere)
    self._match = jax.jit(run.objective.match, out_shardings=everywhere)

  def __call__(self, pairs: np.ndarray) -> np.ndarray:
    """The log-odds [P] of rows (image, text) that belong together."""
    values = np.empty(len(pairs), np.float32)
    parts = pipeline.eval_images(self._source, self._size)
    for number, (images, count) in enumerate(parts):
      image_tokens = np.asarray(self._encode(self._params, images))
      first = number * self._size
      here = np.flatnonzero(
        (pairs[:, 0] >= first) & (pairs[:, 0] < first + count)
      )
      for start in range(0, len(here), self._size):
        places = here[start : start + self._size]
        image, text = pairs[np.resize(places, self._size)].T
        found = self._match(
          self._params, image_tokens[image - first], self._tokens[text]
        )
        values[places] = np.asarray(found)[: len(places)]
    return values
