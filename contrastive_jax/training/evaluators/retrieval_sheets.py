"""Draws what the embeddings of a test split look like."""

import pathlib

import numpy as np

from contrastive_jax.data import sources
from contrastive_jax.training.evaluators import (
  base,
  html_pages,
  plots,
  retrieval,
)
from contrastive_jax.training.trainer import state as state_lib

# More points than this only hide each other.
_MOST = 2000
# A page shows so many points, each with its picture.
_MOST_PICTURES = 600


def points(
  run: base.Opened, state: state_lib.TrainState
) -> html_pages.Points | None:
  """The test images on the two main axes of their embeddings; None without any."""
  source = run.data.splits[sources.TEST]
  if len(source) < 2:
    return None
  stride = -(-len(source) // _MOST_PICTURES)
  rows = np.arange(0, len(source), stride)
  embedded = run.images(state, sources.TEST).rows(rows)
  centred = embedded.images - embedded.images.mean(axis=0)
  titles = []
  for row, label in zip(rows, embedded.labels.tolist()):
    captions = source.fields(int(row)).get("captions", ())
    titles.append(captions[0].text if captions else label or f"image {row}")
  return html_pages.Points(
    plots.principal(centred.astype(np.float64)),
    titles,
    embedded.labels.tolist(),
    np.stack([source[int(row)]["image"] for row in rows]),
  )


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
