"""Alignment, uniformity and modality gap of the test split."""

import numpy as np

from contrastive_jax import evaluation
from contrastive_jax.data import sources
from contrastive_jax.training.evaluators import base
from contrastive_jax.training.evaluators.embeddings import Encoder
from contrastive_jax.training.trainer import state as state_lib


class GeometryMeasure(base.Measure):
  """Where the embeddings of the test split lie; of images alone how uniformly."""

  def final(self, state: state_lib.TrainState) -> dict[str, float]:
    """`geometry/...`."""
    run = self.run
    if run.lacks(sources.TEST, "geometry"):
      return {}
    images = run.images(state, sources.TEST).images
    if run.encoder.has_text:
      source = run.data.splits[sources.TEST]
      return geometry(images, paired_texts(run.encoder, state, source))
    if len(images) < 2:
      return {}
    return {"geometry/uniformity_image": float(evaluation.uniformity(images))}


def geometry(images: np.ndarray, texts: np.ndarray) -> dict[str, float]:
  """Alignment, uniformity and modality gap of paired embeddings."""
  out = {"geometry/alignment": float(evaluation.alignment(images, texts))}
  if len(images) > 1:  # Uniformity is of pairs.
    out["geometry/uniformity_image"] = float(evaluation.uniformity(images))
    out["geometry/uniformity_text"] = float(evaluation.uniformity(texts))
  gap = evaluation.modality_gap(images, texts)
  return out | {f"geometry/modality_gap_{k}": float(v) for k, v in gap.items()}


def paired_texts(
  encoder: Encoder, state: state_lib.TrainState, source: sources.Source
) -> np.ndarray:
  """The embedding of each image's first caption: float32 [N, d]."""
  return encoder.texts(
    state, [source.fields(i)["captions"][0].text for i in range(len(source))]
  )
