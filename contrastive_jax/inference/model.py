"""A trained model with its weights: embeds pictures and texts, and compares them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from contrastive_jax import evaluation, ops
from contrastive_jax._types import Dtype
from contrastive_jax.data.images import augment
from contrastive_jax.data.sets.folder.folder_rows import RowError
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from contrastive_jax.inference import pictures as pictures_lib
from contrastive_jax.inference.description import (
  IMAGE_TOWER,
  Description,
  ModelError,
)


class Classified(NamedTuple):
  """What `Model.classify` says.

  Attributes:
    names: the likeliest name of each picture.
    probabilities: float32 [n, classes], in the order of the labels.
  """

  names: list[str]
  probabilities: np.ndarray


class Model:
  """A trained model; `contrastive_jax.load` opens one.

  Batches are split over the devices of this process. The rows of a batch are filled
  up to `batch_size`, or, of fewer, to the next power of two, so that few shapes are
  compiled.

  Attributes:
    description: what the model is.
    module: the Flax module.
    variables: its parameters and collections.
    tokenizer: its vocabulary; None if it has no text side.
    batch_size: rows that are embedded at once.
  """

  def __init__(
    self,
    description: Description,
    variables: Any,
    tokenizer: tokenizer_lib.Tokenizer | None = None,
    *,
    dtype: Dtype | None = None,
    batch_size: int = 64,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Puts the weights on the devices.

    Args:
      description: what the model is.
      variables: of the module, float32.
      tokenizer: its vocabulary; needed by models with a text side.
      dtype: compute type; None is float32.
      batch_size: rows that are embedded at once, rounded up to a multiple of the
        devices.
      devices: by default those of this process.
    """
    if batch_size < 1:
      raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
    devices = list(jax.local_devices() if devices is None else devices)
    mesh = jax.make_mesh(
      (len(devices),),
      ("rows",),
      (jax.sharding.AxisType.Auto,),
      devices=devices,
    )
    spec = jax.sharding.PartitionSpec
    self._rows = jax.sharding.NamedSharding(mesh, spec("rows"))
    self._everywhere = jax.sharding.NamedSharding(mesh, spec())
    self._devices = len(devices)
    self.description = description
    self.module = description.module(dtype)
    self.variables = jax.device_put(variables, self._everywhere)
    self.tokenizer = tokenizer
    self.batch_size = batch_size + -batch_size % len(devices)
    self._functions: dict[tuple[str, str], Callable[..., jax.Array]] = {}

  @property
  def heads(self) -> tuple[str, ...]:
    """Names that `head` takes: `shared`, and of second heads two more."""
    second = (
      ("independent", "both") if self.description.independent_head else ()
    )
    return ("shared", *second)

  def preprocess(self, images: Any) -> np.ndarray:
    """Pictures as the squares that the model takes: uint8 [n, S, S, 3].

    The device does the rest: it resizes, scales and normalises them.

    Args:
      images: a file, a folder, a PIL image, an array uint8 [H, W, 3] or [n, H, W, 3],
        or an iterable of files, PIL images and arrays.

    Raises:
      ValueError: that names the picture which cannot be read.
    """
    return np.concatenate(list(self._squares(pictures_lib.listed(images))))

  def encode_image(self, images: Any, *, head: str = "shared") -> np.ndarray:
    """Embeds pictures.

    Args:
      images: see `preprocess`.
      head: `shared`; of a model with second heads also `independent`, what the
        modalities do not share, or `both`, [z, z'] / sqrt 2.

    Returns:
      float32 [n, d] of unit norm; [n, 2 d] of both heads.

    Raises:
      ValueError: that names the picture which cannot be read, or if there is no such
        head.
    """
    fn = self._function("image", head)
    pictures = pictures_lib.listed(images)
    return self._outputs(fn, ((part,) for part in self._squares(pictures)))

  def encode_text(
    self, texts: str | Sequence[str], *, head: str = "shared"
  ) -> np.ndarray:
    """Embeds texts, one or several; `head` and the result as of `encode_image`.

    Raises:
      ModelError: if the model has no text side.
      ValueError: if something is no text, or there is no such head.
    """
    fn = self._function("text", head)
    return self._outputs(fn, ((part,) for part in self._tokens(texts)))

  def similarity(self, images: Any, texts: Any) -> np.ndarray:
    """Logits of pairs, float32 [n, m]: cosines over the model's temperature.

    A model of the sigmoid loss adds its bias.

    Args:
      images: float [n, d], as `encode_image` gives them.
      texts: float [m, d], as `encode_text` gives them; or images once more.
    """
    described = self.description
    sides = []
    for name, value in (("images", images), ("texts", texts)):
      value = np.asarray(value)
      if value.ndim != 2 or not np.issubdtype(value.dtype, np.floating):
        raise ValueError(
          f"{name} must be embeddings, float [n, d]; got {value.dtype}"
          f" {value.shape}: encode them first."
        )
      sides.append(value.astype(np.float32))
    logits = np.float32(described.logit_scale) * (sides[0] @ sides[1].T)
    return logits + np.float32(described.logit_bias)

  def classify(
    self,
    images: Any,
    labels: Sequence[str],
    *,
    templates: Sequence[str] | None = None,
  ) -> Classified:
    """Zero-shot classification by the names of classes.

    A class is the normalised mean of its texts; probabilities are a softmax of
    `similarity` over classes, or sigmoids if the model was trained by them.

    Args:
      images: embeddings float [n, d], or pictures, see `preprocess`.
      labels: names of the classes.
      templates: texts around a name, with `{}` in its place; None is the model's own.

    Raises:
      ValueError: if there is no label, or a template has no `{}`.
    """
    labels = [labels] if isinstance(labels, str) else list(labels)
    weights = self.class_weights(labels, templates)
    embeddings = np.asarray(images) if _are_embeddings(images) else None
    if embeddings is None:
      embeddings = self.encode_image(images)
    found = self.probabilities(embeddings, weights)
    return Classified([labels[i] for i in found.argmax(axis=1)], found)

  def class_weights(
    self, labels: Sequence[str], templates: Sequence[str] | None = None
  ) -> np.ndarray:
    """The normalised mean embedding of each class's texts: float32 [classes, d].

    Arguments and errors are as of `classify`.
    """
    templates = list(
      self.description.templates if templates is None else templates
    )
    if not labels or not templates:
      raise ValueError(
        "labels and templates must hold at least one text; got"
        f" {labels} and {templates}."
      )
    for template in templates:
      if "{}" not in template:
        raise ValueError(
          f"templates must hold {{}} where the name goes; got {template!r}."
        )
    texts = self.encode_text(
      [
        template.replace("{}", name)
        for name in labels
        for template in templates
      ]
    )
    return evaluation.zero_shot_weights(
      texts.reshape(len(labels), len(templates), -1)
    )

  def probabilities(self, images: Any, texts: Any) -> np.ndarray:
    """Probabilities of texts for images, float32 [n, m]; see `similarity`.

    A softmax over the texts, or, of a model of the sigmoid loss, one of each pair.
    """
    logits = self.similarity(images, texts)
    if self.description.sigmoid:
      return np.asarray(jax.nn.sigmoid(logits))
    return np.asarray(jax.nn.softmax(logits, axis=1))

  def _squares(self, pictures: list[Any]) -> Iterator[np.ndarray]:
    made = self.description.pictures
    if not pictures:  # One part without rows.
      return iter([np.zeros((0, *[made.stored_size] * 2, 3), np.uint8)])

    def make(picture: Any, row: int) -> np.ndarray:
      try:
        return pictures_lib.square(picture, made.stored_size, made.fit)
      except RowError as error:
        is_file = isinstance(picture, (str, os.PathLike))
        shown = f" ({picture})" if is_file else ""
        raise ValueError(
          f"images[{row}]{shown} cannot be read: {error}."
        ) from error

    return map(np.stack, pictures_lib.decoded(pictures, make, self.batch_size))

  def _tokens(self, texts: str | Sequence[str]) -> Iterator[np.ndarray]:
    """Token rows of texts, int32 [n, L], in parts; one without rows of no text."""
    if self.tokenizer is None:
      raise ModelError("The model embeds images alone; it has no text side.")
    texts = [texts] if isinstance(texts, str) else list(texts)
    for number, text in enumerate(texts):
      if not isinstance(text, str):
        raise ValueError(
          f"texts[{number}] must be a str; got {type(text).__name__}."
        )
    tokens = self.tokenizer.encode(texts, self.description.context_length)
    for start in range(0, max(len(tokens), 1), self.batch_size):
      yield tokens[start : start + self.batch_size]

  def _function(self, side: str, head: str) -> Callable[..., jax.Array]:
    """The jitted function (variables, rows) -> embeddings of a side's head."""
    if not self.heads:
      raise ModelError(
        f"A model of task {self.description.task!r} has no head that embeds."
      )
    if head not in self.heads:
      raise ValueError(
        f"head must be one of {', '.join(self.heads)}; got {head!r}."
      )
    if (side, head) not in self._functions:
      self._functions[side, head] = jax.jit(
        lambda variables, rows: self.embed(variables, side, head, rows),
        out_shardings=self._everywhere,
      )
    return self._functions[side, head]

  def embed(
    self, variables: Any, side: str, head: str, rows: jax.Array
  ) -> jax.Array:
    """The embeddings of a side's inputs, as a function of the variables.

    Args:
      variables: of the module.
      side: `image` or `text`.
      head: see `encode_image`.
      rows: uint8 [n, S, S, 3] as `preprocess` gives them, or token ids int32 [n, L].

    Returns:
      As of `encode_image`.
    """
    options = {"head": head} if len(self.heads) > 1 else {}
    return self._encode(side, options, variables, rows)

  def _encode(
    self, side: str, options: dict[str, str], variables: Any, rows: jax.Array
  ) -> jax.Array:
    if side == "image":
      rows = self._normalized(rows)
    if self.description.kind == IMAGE_TOWER:
      feature: Any = self.module.apply(variables, rows)
      return ops.l2_normalize(feature.astype(np.float32))
    apply: Any = self.module.apply
    return apply(variables, rows, method=f"encode_{side}", **options)

  def _normalized(self, squares: jax.Array) -> jax.Array:
    """uint8 [n, S, S, 3] as the module takes them."""
    return augment.preprocess_batch(squares, self.description.augment_config())

  def _outputs(
    self,
    fn: Callable[..., jax.Array],
    parts: Iterable[tuple[np.ndarray, ...]],
  ) -> np.ndarray:
    """Outputs of inputs whose rows come in parts.

    One part computes while the next is read.

    Args:
      fn: of the variables and the inputs of a part.
      parts: inputs of equally many rows; there is at least one part.
    """
    found: list[np.ndarray] = []
    waiting: list[tuple[jax.Array, int]] = []

    def fetch() -> None:
      value, rows = waiting.pop(0)
      found.append(np.asarray(value)[:rows])

    length = 0
    for part in parts:
      # The first part is the largest: the last one has its shape.
      rows = len(part[0])
      length = length or self._padded(rows)
      batch = [
        np.pad(x, [(0, length - rows)] + [(0, 0)] * (x.ndim - 1)) for x in part
      ]
      batch = jax.device_put(batch, self._rows)
      waiting.append((fn(self.variables, *batch), rows))
      if len(waiting) > 1:
        fetch()
    while waiting:
      fetch()
    return np.concatenate(found)

  def _padded(self, rows: int) -> int:
    """The length of a compiled batch that takes so many rows."""
    length = max(1 << max(rows - 1, 0).bit_length(), self._devices)
    return min(length + -length % self._devices, self.batch_size)


def _are_embeddings(images: Any) -> bool:
  return getattr(images, "ndim", 0) == 2
