"""Batches of the fusion tasks: an image, or two, with several texts."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from contrastive_jax.data import pipeline, sources, tasks
from contrastive_jax.data.text import tokenizer as tokenizer_lib


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Turns the records of a task into arrays.

  Attributes:
    task: of `TaskData`.
    tokenizer: of texts and answers.
    context_length: tokens of a text.
    answer_length: tokens of an answer, start and end among them.
  """

  task: str
  tokenizer: tokenizer_lib.Tokenizer
  context_length: int
  answer_length: int

  def images(self, record: Mapping[str, Any]) -> np.ndarray:
    """uint8 [S, S, 3], of nlvr2 [2, S, S, 3]."""
    if self.task == "nlvr2":
      return np.stack([record["image"], record["second_image"]])
    return record["image"]

  def texts(self, records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """int32 [N, T] of questions, statements or hypotheses."""
    return self.tokenizer.encode(
      [record[tasks.TEXT_FIELDS[self.task]] for record in records],
      self.context_length,
    )

  def answers(self, texts: Sequence[str]) -> np.ndarray:
    """int32 [N, A] of answers."""
    return self.tokenizer.encode(texts, self.answer_length)


def images_of(source: sources.Source) -> list[list[int]]:
  """The rows of a source by image, in order; a row without an id has its own."""
  found: dict[Any, list[int]] = {}
  for row in range(len(source)):
    record = source.fields(row)
    # Both images of a pair count. Three entries equal no pair of ids.
    key: tuple[Any, ...] = ("row", row, None)
    if "image_id" in record:
      key = (record["image_id"], record.get("second_image_id"))
    found.setdefault(key, []).append(row)
  return list(found.values())


@dataclasses.dataclass(frozen=True)
class _Draw(grain.transforms.RandomMap):
  """The number of an image -> it and some of its texts, drawn at random."""

  source: sources.Source
  groups: Sequence[Sequence[int]]
  encoder: Encoder
  texts_per_image: int
  answers_per_text: int

  def random_map(  # pyrefly: ignore[bad-override-param-name]
    self, number: int, rng: np.random.Generator
  ) -> dict[str, np.ndarray]:
    rows = rng.permutation(np.asarray(self.groups[number]))
    rows = np.resize(rows, self.texts_per_image)
    first = self.source[int(rows[0])]
    records = [first, *(self.source.fields(int(row)) for row in rows[1:])]
    out: dict[str, Any] = {
      "image": self.encoder.images(first),
      "tokens": self.encoder.texts(records),
      "index": np.int64(first["index"]),
    }
    if self.encoder.task != "vqa":
      return out | {
        "label": np.array([record["label"] for record in records], np.int32)
      }
    drawn = [self._answers(record["answers"], rng) for record in records]
    tokens = self.encoder.answers([a.text for part in drawn for a, _ in part])
    return out | {
      "answers": tokens.reshape(len(records), self.answers_per_text, -1),
      "weights": np.array([[w for _, w in p] for p in drawn], np.float32),
    }

  def _answers(
    self, answers: Sequence[tasks.Answer], rng: np.random.Generator
  ) -> list[tuple[tasks.Answer, float]]:
    """So many answers with weights whose expected sum is that of all of them."""
    count, weights = self.answers_per_text, [a.weight for a in answers]
    if len(answers) <= count:
      fill = [(answers[0], 0.0)] * (count - len(answers))
      return [*zip(answers, weights), *fill]
    share = np.asarray(weights, np.float64)
    places = rng.choice(len(answers), size=count, p=share / share.sum())
    return [(answers[i], share.sum() / count) for i in places]


def train_batches(
  source: sources.Source,
  encoder: Encoder,
  *,
  batch_size: int,
  seed: int,
  texts_per_image: int = 1,
  answers_per_text: int = 1,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 2,
) -> grain.DatasetIterator:
  """Endless shuffled batches of images with their texts.

  An epoch shows every image once. Of an image with more texts than are asked
  for, some are drawn; of one with fewer, they come again.

  Args:
    source: records of the task.
    encoder: makes arrays of them.
    batch_size: images of all hosts.
    seed: of order and draws.
    texts_per_image: Q.
    answers_per_text: K, of vqa: all of a question's if there are no more, else
      K drawn by weight, whose weights are such that their sum is right on
      average.
    process_index: this host.
    process_count: hosts.
    num_threads: that read ahead.

  Returns:
    An iterator with a state, over `image` [B, ...], `tokens` [B, Q, T], `index`
    [B], and `label` [B, Q], or of vqa `answers` [B, Q, K, A] and `weights`
    [B, Q, K]; B is this host's part.

  Raises:
    ValueError: if a number is out of range or does not divide.
  """
  for name, value in (
    ("texts_per_image", texts_per_image),
    ("answers_per_text", answers_per_text),
  ):
    if value < 1:
      raise ValueError(f"{name} must be at least 1; got {value}.")
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      f"batch_size must be a positive multiple of the {process_count} hosts;"
      f" got {batch_size}."
    )
  groups = images_of(source)
  if not groups:
    raise ValueError("source must hold at least one record; got none.")
  dataset = (
    grain.MapDataset.range(len(groups))
    .seed(seed)
    .shuffle()
    .repeat()
    # Before the split by host, so that the draw follows the image's place in
    # the global order.
    .random_map(
      _Draw(source, groups, encoder, texts_per_image, answers_per_text)
    )
    .batch(batch_size // process_count, drop_remainder=True)
  )
  return pipeline.read_ahead(dataset[process_index::process_count], num_threads)


def eval_batches(
  source: sources.Source,
  encoder: Encoder,
  *,
  batch_size: int,
  texts_per_image: int = 8,
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
  """All records, images with their texts, in batches of one form.

  Args:
    source: records of the task.
    encoder: makes arrays of them.
    batch_size: images at once.
    texts_per_image: Q; an image with more texts comes again.

  Yields:
    `image` [batch_size, ...] and `tokens` [batch_size, Q, T], filled up with
    zeros, and the records' rows [batch_size, Q], -1 where there is none.
  """
  groups = images_of(source)
  size = min(texts_per_image, max(map(len, groups), default=1))
  parts = [part for group in groups for part in _batched(group, size)]
  for some in _batched(parts, batch_size):
    rows = np.full((batch_size, size), -1, np.int64)
    tokens = np.zeros((batch_size, size, encoder.context_length), np.int32)
    images = []
    for place, part in enumerate(some):
      first = source[part[0]]
      records = [first, *(source.fields(row) for row in part[1:])]
      images.append(encoder.images(first))
      rows[place, : len(part)] = part
      tokens[place, : len(part)] = encoder.texts(records)
    image = pipeline.filled(images, batch_size)
    yield {"image": image, "tokens": tokens}, rows


def _batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
  """Neighbouring parts of a sequence, the last one perhaps shorter."""
  for start in range(0, len(items), size):
    yield items[start : start + size]
