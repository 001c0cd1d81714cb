"""Embeddings of splits and of texts by one model."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from contrastive_jax.data import pipeline, sources
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.evaluators import fine_tuning
from contrastive_jax.training.objectives.base import Objective
from contrastive_jax.training.trainer import state as state_lib


@dataclasses.dataclass(frozen=True)
class Embedded:
  """A split's image embeddings [N, d] with what the images show."""

  images: np.ndarray
  concept_ids: np.ndarray
  labels: np.ndarray

  def rows(self, rows: np.ndarray) -> "Embedded":
    """Some of them."""
    return Embedded(
      self.images[rows], self.concept_ids[rows], self.labels[rows]
    )


class Encoder:
  """Embeds splits and texts with one model, in batches of one shape."""

  def __init__(
    self,
    objective: Objective,
    data: sources.PairData,
    *,
    context_length: int,
    batch_size: int,
    mesh: jax.sharding.Mesh,
  ):
    """Prepares the two jitted encoders; they split a batch over the mesh."""
    rows, heads = sharding.batch_sharding(mesh), objective.heads

    def split(encode):
      def fn(params, state, x):
        return encode(params, state, jax.lax.with_sharding_constraint(x, rows))

      # On every device, so that every host can look at all of it.
      return jax.jit(fn, out_shardings=sharding.replicated(mesh))

    self.has_text = objective.has_text
    self.trains_images = "image" not in objective.frozen
    self._encode_image, self._mesh = objective.encode_image, mesh
    self._image_fns, self._text_fns = (
      {head: split(functools.partial(encode, head=head)) for head in heads}
      for encode in (objective.encode_image, objective.encode_text)
    )
    self._data = data
    self._context_length = context_length
    self._batch_size = batch_size

  def images(
    self,
    state: state_lib.TrainState,
    source: sources.Source,
    *,
    head: str = "shared",
  ) -> Embedded:
    """Embeds a split.

    Args:
      state: the model.
      source: the split.
      head: `shared`; of a model with second heads also `independent`, or `both`
        side by side.

    Raises:
      ValueError: if the model has no such head.
    """
    fn = _of_head(self._image_fns, head)
    parts = [
      np.asarray(fn(state.eval_params, state.objective_state, images))[:rows]
      for images, rows in pipeline.eval_images(source, self._batch_size)
    ]
    records = [source.fields(i) for i in range(len(source))]
    return Embedded(
      np.concatenate(parts),
      np.array([r["concept_id"] for r in records]),
      np.array([r["label"] for r in records]),
    )

  def fine_tuner(
    self,
    state: state_lib.TrainState,
    *,
    classes: int,
    image_size: int,
    batch_size: int,
  ) -> fine_tuning.FineTuner:
    """The image encoder, to be trained with a head of so many classes.

    Args:
      state: the model.
      classes: of the head.
      image_size: side of the images.
      batch_size: of its steps, rounded up to a multiple of the devices.

    Returns:
      A tuner that fits and scores it, over the mesh.

    Raises:
      ValueError: if the model keeps its image tower as it is.
    """
    if not self.trains_images:
      raise ValueError(
        "fine-tuning needs an image tower that is trained; got"
        " config.objective.frozen with image: use a linear probe."
      )
    return fine_tuning.FineTuner(
      self._encode_image,
      state.eval_params,
      state.objective_state,
      image_shape=(image_size, image_size, 3),
      classes=classes,
      batch_size=batch_size + -batch_size % self._mesh.size,
      mesh=self._mesh,
    )

  def texts(
    self,
    state: state_lib.TrainState,
    texts: Sequence[str],
    *,
    head: str = "shared",
  ) -> np.ndarray:
    """Embeds texts: float32 [N, d]; `head` as in `images`."""
    fn = _of_head(self._text_fns, head)
    tokens = self._data.tokenizer.encode(texts, self._context_length)
    parts = []
    for start in range(0, len(tokens), self._batch_size):
      part = tokens[start : start + self._batch_size]
      rows = len(part)
      part = np.pad(part, [(0, self._batch_size - rows), (0, 0)])
      parts.append(
        np.asarray(fn(state.eval_params, state.objective_state, part))[:rows]
      )
    return np.concatenate(parts)


def _of_head(
  functions: Mapping[str, Callable[..., jax.Array]], head: str
) -> Callable[..., jax.Array]:
  if head not in functions:
    raise ValueError(
      f"head must be one of {', '.join(functions)}; got {head!r}. Second heads"
      " come with config.structure=separation."
    )
  return functions[head]
