"""Draws the plots of a run, by default into `workdir/plots`."""

import pathlib

import numpy as np

from contrastive_jax.data import sources
from contrastive_jax.training import evaluators, logging, plots, runs
from contrastive_jax.training import state as state_lib

# More points than this only hide each other.
_MOST = 2000


class _Pictures:
  """A split's pictures, read when they are shown."""

  def __init__(self, source: sources.Source):
    self._source = source

  def __getitem__(self, index: int) -> np.ndarray:
    return self._source[int(index)]["image"]


def draw(
  run: "runs.Run",
  state: state_lib.TrainState,
  *,
  folder: pathlib.Path | None = None,
) -> None:
  """Curves, retrieval sheet, embedding map and histogram of the test split.

  Args:
    run: an opened run.
    state: its trained state.
    folder: where they go, is made if absent; None is `workdir/plots`.
  """
  folder = folder or run.workdir / "plots"
  folder.mkdir(exist_ok=True)
  plots.curves(logging.read_metrics(run.workdir), folder / "curves.png")
  source = run.data.splits[sources.TEST]
  if not len(source):
    return
  embedded = run.encoder.images(state, source)
  if not run.encoder.has_text:
    plots.embedding_map(
      embedded.images[:_MOST],
      embedded.images[:0],
      embedded.labels[:_MOST].tolist(),
      folder / "embeddings.png",
    )
    return
  texts, text_ids = evaluators.names_of(source)
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
    _Pictures(source),
    embedded.images,
    embedded.concept_ids,
    texts,
    text_embeddings,
    text_ids,
    folder / "retrieval.png",
    seed=run.config.seed,
  )
