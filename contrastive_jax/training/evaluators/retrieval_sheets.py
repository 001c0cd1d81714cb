"""Draws the plots of a run, by default into `workdir/plots`."""

import pathlib

import numpy as np

from contrastive_jax.data import sources
from contrastive_jax.training.evaluators import embeddings, plots
from contrastive_jax.training.trainer import metric_log
from contrastive_jax.training.trainer import state as state_lib

# More points than this only hide each other.
_MOST = 2000


class _Pictures:
  """A split's pictures, read when they are shown."""

  def __init__(self, source: sources.Source):
    self._source = source

  def __getitem__(self, index: int) -> np.ndarray:
    return self._source[int(index)]["image"]


def draw(
  encoder: embeddings.Encoder,
  data: sources.PairData,
  state: state_lib.TrainState,
  workdir: pathlib.Path,
  *,
  seed: int,
  folder: pathlib.Path | None = None,
) -> None:
  """Curves, retrieval sheet, embedding map and histogram of the test split.

  Args:
    encoder: embeds splits and texts.
    data: the data set.
    state: the trained state.
    workdir: has the metrics that the curves show.
    seed: chooses the rows that the retrieval sheet shows.
    folder: where they go, is made if absent; None is `workdir/plots`.
  """
  folder = folder or workdir / "plots"
  folder.mkdir(exist_ok=True)
  plots.curves(metric_log.read_metrics(workdir), folder / "curves.png")
  source = data.splits[sources.TEST]
  if not len(source):
    return
  embedded = encoder.images(state, source)
  if not encoder.has_text:
    plots.embedding_map(
      embedded.images[:_MOST],
      embedded.images[:0],
      embedded.labels[:_MOST].tolist(),
      folder / "embeddings.png",
    )
    return
  texts, text_ids = embeddings.names_of(source)
  if not texts:
    return
  text_embeddings = encoder.texts(state, texts)
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
    seed=seed,
  )
