"""From records to batches: shuffled, sharded by host, resumable.

A training batch is a dict of NumPy arrays: `image` uint8 [B, S, S, 3], `tokens`
int32 [B, K, L] (K captions an example), `index` int64 [B] and `concept_id`
int32 [B]. Of towers whose features are known it has these in the place of the
first two: `image_features` float32 [B, width] and `text_features` float32
[B, K, width].
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from contrastive_jax.data import sources
from contrastive_jax.data.text import tokenizer as tokenizer_lib

# A text -> the same, changed at random.
Edit = Callable[[str, np.random.Generator], str]


class Features(Protocol):
  """Features of towers that are not trained, in the place of their inputs.

  Attributes:
    images: float32 [N, width], of the rows of a source.
  """

  images: np.ndarray

  def of_texts(self, texts: Sequence[str], length: int) -> np.ndarray:
    """Features float32 [n, width] of texts of at most `length` tokens."""
    ...


@dataclasses.dataclass(frozen=True)
class CaptionSampler:
  """Draws one text of an example.

  First a language (those that the example has, by weight), then a kind (name,
  keyword or prompt, by weight, of those that it has), then one of these.

  Attributes:
    languages: weight of each language; an unlisted one is drawn only for an
      example that has no listed one.
    name: weight of the names as they are.
    keyword: weight of one keyword.
    keywords: weight of several keywords, comma-separated in random order.
    prompt: weight of an English name in one of `prompts`.
    full: weight of a name with some of the keywords, in random order.
    listed: weight of a name with all keywords in their own order, as evaluation has
      them: few different texts, whose features can be kept.
    prompts: what a prompt says around a name, `{}`; the data set's.
  """

  languages: Mapping[str, float]
  name: float = 1.0
  keyword: float = 0.0
  keywords: float = 0.0
  prompt: float = 0.0
  full: float = 0.0
  listed: float = 0.0
  prompts: Sequence[str] = ("{}",)

  def __call__(
    self, captions: Sequence[sources.Caption], rng: np.random.Generator
  ) -> str:
    """One text."""
    weights = {
      c.language: self.languages.get(c.language, 0.0) for c in captions
    }
    language = _choose(rng, weights) or captions[0].language
    own = [c for c in captions if c.language == language]
    names = [c.text for c in own if c.kind == "name"]
    keywords = [c.text for c in own if c.kind == "keyword"]
    english = language in ("en", sources.ANY_LANGUAGE)
    kind = _choose(
      rng,
      {
        "name": self.name if names else 0.0,
        "keyword": self.keyword if keywords else 0.0,
        "keywords": self.keywords if keywords else 0.0,
        "prompt": self.prompt if names and english else 0.0,
        "full": self.full if names and keywords else 0.0,
        "listed": self.listed if names and keywords else 0.0,
      },
    )
    if kind in ("keyword", "keywords"):
      few = 1 if kind == "keyword" else int(rng.integers(2, 5))
      return ", ".join(rng.permutation(keywords)[:few])
    text = str(rng.choice(names or keywords))
    if kind == "listed":
      return full_caption(text, keywords)
    if kind == "full":
      few = int(rng.integers(1, len(keywords) + 1))
      return ", ".join(
        rng.permutation([text, *rng.permutation(keywords)[:few]])
      )
    if kind == "prompt":
      return str(rng.choice(self.prompts)).format(text)
    return text


@dataclasses.dataclass(frozen=True)
class _Tokenize(grain.transforms.RandomMap):
  """A draw of an example -> fields of a batch, with random captions as tokens.

  The fields are [P, ...]: the example, then P - 1 others of its concept.
  """

  source: sources.Source
  concepts: Mapping[int, np.ndarray]
  images_per_concept: int
  tokenizer: tokenizer_lib.Tokenizer
  samplers: Sequence[CaptionSampler]
  edit: Edit | None
  another: CaptionSampler | None
  context_length: int
  features: Features | None

  def random_map(  # pyrefly: ignore[bad-override-param-name]
    self, number: int, rng: np.random.Generator
  ) -> dict[str, Any]:
    rows = self._companions(number, rng)
    read = self.source.fields if self.features else self.source.__getitem__
    records = [read(i) for i in rows]
    captions = [
      [sampler(record["captions"], rng) for sampler in self.samplers]
      for record in records
    ]
    # After all of them, so that they are what they are without a view.
    for record, own in zip(records, captions):
      if self.another is not None:
        own.append(self.another(record["captions"], rng))
      elif self.edit is not None:
        own.append(self.edit(own[0], rng))
    texts = [text for own in captions for text in own]
    shape = len(records), len(texts) // len(records), -1
    if self.features is None:
      tokens = self.tokenizer.encode(texts, self.context_length)
      inputs = {
        "image": np.stack([r["image"] for r in records]),
        "tokens": tokens.reshape(shape),
      }
    else:
      known = self.features.of_texts(texts, self.context_length)
      inputs = {
        "image_features": self.features.images[rows],
        "text_features": known.reshape(shape),
      }
    return {
      **inputs,
      "index": np.array([r["index"] for r in records], np.int64),
      "concept_id": np.array([r["concept_id"] for r in records], np.int32),
    }

  def _companions(self, number: int, rng: np.random.Generator) -> list[int]:
    if self.images_per_concept == 1:
      return [number]
    same = self.concepts[int(self.source.fields(number)["concept_id"])]
    # A concept of one image is shown as often, in other crops.
    others = rng.permutation(same[same != number] if len(same) > 1 else same)
    return [number, *np.resize(others, self.images_per_concept - 1).tolist()]


def _flatten(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """[B / P, P, ...] -> [B, ...]: images of one draw are neighbours."""
  return {k: v.reshape(-1, *v.shape[2:]) for k, v in batch.items()}


def full_caption(name: str, keywords: Sequence[str]) -> str:
  """A name with all keywords, as evaluation uses it: "lion, big cat, zoo"."""
  return ", ".join([name, *keywords])


def train_batches(
  source: sources.Source,
  *,
  tokenizer: tokenizer_lib.Tokenizer,
  sampler: CaptionSampler,
  context_length: int,
  batch_size: int,
  seed: int,
  captions_per_example: int = 1,
  edit: Edit | None = None,
  another_caption: bool = False,
  images_per_concept: int = 1,
  features: Features | None = None,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 2,
) -> grain.DatasetIterator:
  """An endless iterator of training batches.

  Every epoch is a new global permutation by `seed`; with P images per concept,
  B / P examples of it make a batch, each followed by P - 1 random others of its
  concept. So `index` may repeat within a batch where P > 1: a concept with
  fewer than P images shows one of them several times (each in its own crop),
  and two examples of one concept may both lead, or one follow the other.

  With several captions per example the first one is in the sampler's main
  language (the first), so that a mixture does not dilute it. What global batch
  b holds, and which captions were drawn, depends on seed and b alone, not on
  the number of hosts; host h receives the h-th contiguous part. The iterator's
  `get_state` and `set_state` go into the checkpoint.

  Args:
    source: the records.
    tokenizer: makes the token rows.
    sampler: draws captions.
    context_length: columns of the token rows.
    batch_size: examples a *global* batch.
    seed: of the permutations and captions.
    captions_per_example: K, captions of an example, each a token row.
    edit: changes an example's first caption into one more row, the last; None
      leaves it out.
    another_caption: whether one more row, the last, is another caption in the
      main language; instead of `edit`.
    images_per_concept: P, neighbouring rows of a batch that show one concept.
    features: of the source's images and of texts, which batches hold in their
      place; None leaves images and tokens.
    process_index: this host.
    process_count: hosts.
    num_threads: threads that read ahead.

  Returns:
    An iterator over this host's parts of the batches.

  Raises:
    ValueError: on an empty source, a batch that the hosts cannot share, or a
      number out of range.
  """
  if len(source) == 0:
    raise ValueError("source holds no example; training needs at least one.")
  if not 0 <= process_index < process_count:
    raise ValueError(
      f"process_index must be in [0, {process_count}); got {process_index}."
    )
  for name, value in (
    ("captions_per_example", captions_per_example),
    ("images_per_concept", images_per_concept),
  ):
    if value < 1:
      raise ValueError(f"{name} must be at least 1; got {value}.")
  if another_caption and edit is not None:
    raise ValueError("edit must be None with another_caption; got both.")
  unit = process_count * images_per_concept
  if batch_size < 1 or batch_size % unit:
    raise ValueError(
      f"batch_size must be a positive multiple of hosts x images_per_concept ="
      f" {process_count} x {images_per_concept}; got {batch_size}."
    )
  samplers = [sampler] * captions_per_example
  main = next(iter(sampler.languages))
  in_main = dataclasses.replace(sampler, languages={main: 1.0})
  if captions_per_example > 1:
    samplers[0] = in_main
  dataset = (
    _order(source, seed)
    # Before the split by host, so that the draw follows the example's place
    # in the global order.
    .random_map(
      _Tokenize(
        source,
        _rows_by_concept(source) if images_per_concept > 1 else {},
        images_per_concept,
        tokenizer,
        samplers,
        edit,
        in_main if another_caption else None,
        context_length,
        features,
      )
    )
    .batch(batch_size // unit, drop_remainder=True)
    .map(_flatten)
  )
  return read_ahead(dataset[process_index::process_count], num_threads)


def read_ahead(
  dataset: grain.MapDataset, num_threads: int
) -> grain.DatasetIterator:
  """An iterator over batches, which so many threads make before they are due."""
  options = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=max(4, 2 * num_threads)
  )
  return iter(dataset.to_iter_dataset(read_options=options))


def _order(source: sources.Source, seed: int) -> grain.MapDataset:
  """Rows for ever: in every epoch all of them, in an order of its own.

  Of a mixture with weights each part has its own epochs, and rows of the parts
  alternate by their weights.
  """
  if source.weights is None:
    return grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
  parts = [
    grain.MapDataset.range(start, stop).seed(seed + i).shuffle().repeat()
    for i, (start, stop) in enumerate(itertools.pairwise(source.bounds))
  ]
  return grain.MapDataset.mix(parts, source.weights).seed(seed)


def eval_images(
  source: sources.Source, batch_size: int
) -> Iterator[tuple[np.ndarray, int]]:
  """All images in order, in batches of one size.

  Args:
    source: the records.
    batch_size: rows a batch; the last one is filled up with zeros.

  Yields:
    uint8 [batch_size, S, S, 3] and the number of true rows.
  """
  for start in range(0, len(source), batch_size):
    stop = min(start + batch_size, len(source))
    images = [source[i]["image"] for i in range(start, stop)]
    yield filled(images, batch_size), stop - start


def filled(images: Sequence[np.ndarray], size: int) -> np.ndarray:
  """Images as one array of `size` rows, the last ones zeros."""
  fill = [(0, size - len(images))] + [(0, 0)] * images[0].ndim
  return np.pad(np.stack(images), fill)


def _rows_by_concept(source: sources.Source) -> dict[int, np.ndarray]:
  rows = collections.defaultdict(list)
  for i in range(len(source)):
    rows[int(source.fields(i)["concept_id"])].append(i)
  return {concept: np.array(found) for concept, found in rows.items()}


def _choose(
  rng: np.random.Generator, weights: Mapping[str, float]
) -> str | None:
  """A key by weight; None where all weights are 0."""
  names = [k for k, w in weights.items() if w > 0]
  if not names:
    return None
  p = np.array([weights[k] for k in names], np.float64)
  return names[int(rng.choice(len(names), p=p / p.sum()))]
