"""Draws what the embeddings of a test split look like."""

import pathlib

from contrastive_jax.data import sources
from contrastive_jax.training.evaluators import base, plots, retrieval
from contrastive_jax.training.trainer import state as state_lib

# More points than this only hide each other.
_MOST = 2000


def draw(
  run: base.Opened, state: state_lib.TrainState, folder: pathlib.Path
) -> None:
  """Retrieval sheet, embedding map and histogram of the test split.

  Args:
    run: the run, opened; its seed chooses the rows of the retrieval sheet.
    state: the trained state.
    folder: an existing directory.
  """
  source = run.data.splits[sources.TEST]
  if not len(source):
    return
  embedded = run.images(state, sources.TEST)
  if not run.encoder.has_text:
    plots.embedding_map(
      embedded.images[:_MOST],
      embedded.images[:0],
      embedded.labels[:_MOST].tolist(),
      folder / "embeddings.png",
    )
    return
  texts, text_ids = retrieval.names_of(source)
  if not texts:
    return
  text_embeddings = run.encoder.texts(state, texts)
  plots.histogram(
    embedded.images,
    text_embeddings,
    embedded.concept_ids,
    text_ids,
    folder / "similarity.png",
  )
  plots.embedding_map(
    embedded.images[:_MOST],
    text_embeddings[:_MOST],
    embedded.labels[:_MOST].tolist(),
    folder / "embeddings.png",
  )
  plots.retrieval_sheet(
    lambda index: source[int(index)]["image"],
    embedded.images,
    embedded.concept_ids,
    texts,
    text_embeddings,
    text_ids,
    folder / "retrieval.png",
    seed=run.seed,
  )
