"""Training batches of images and captions, as a configuration asks for them."""

import dataclasses
import hashlib
import json
from typing import Any

import grain
import jax

from contrastive_jax.data import pipeline, sources
from contrastive_jax.data.text import eda
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import sections
from contrastive_jax.training.objectives import views


@dataclasses.dataclass(frozen=True)
class CaptionFeed:
  """How batches of images and captions are made up.

  Attributes:
    captions: how a caption is drawn.
    text_view: how a caption's other view is made, a choice of `views.TEXT_VIEWS`;
      None if a step takes none.
    captions_per_example: captions of an image in a step.
    images_per_concept: rows of a batch that show one concept.
    context_length: tokens of a caption.
    batch_size: examples a step, over all devices.
    seed: of order and draws.
    num_threads: threads that read ahead.
  """

  captions: sections.Captions
  text_view: Any
  captions_per_example: int
  images_per_concept: int
  context_length: int
  batch_size: int
  seed: int
  num_threads: int

  def batches(
    self, data: sources.PairData, features: pipeline.Features | None = None
  ) -> grain.DatasetIterator:
    """Endless batches (this host's parts), from the beginning.

    Args:
      data: the data set.
      features: of towers that are not trained, in the place of their inputs.
    """
    edit = self.edit(data)
    return pipeline.train_batches(
      data.splits[sources.TRAIN],
      tokenizer=data.tokenizer,
      sampler=self.sampler(data),
      context_length=self.context_length,
      batch_size=self.batch_size,
      seed=self.seed,
      captions_per_example=self.captions_per_example,
      edit=edit,
      another_caption=self.text_view is not None and edit is None,
      images_per_concept=self.images_per_concept,
      features=features,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      num_threads=self.num_threads,
    )

  def sampler(self, data: sources.PairData) -> pipeline.CaptionSampler:
    """Draws captions of a data set."""
    first, *others = data.languages
    share = self.captions.main_language_share if others else 1.0
    languages = {first: share}
    languages |= {lang: (1.0 - share) / len(others) for lang in others}
    weights: dict[str, Any] = dataclasses.asdict(self.captions)
    del weights["main_language_share"]
    return pipeline.CaptionSampler(
      languages=languages, prompts=data.prompts, **weights
    )

  def edit(self, data: sources.PairData) -> eda.EasyDataAugmentation | None:
    """Edits a caption into its other view; None if that is made otherwise.

    Raises:
      ConfigError: if the file of synonyms cannot be used.
    """
    if not isinstance(self.text_view, views.Eda):
      return None
    synonyms = eda.synonyms(data.splits[sources.TRAIN], data.languages)
    for word, texts in self.own_synonyms().items():
      synonyms[word] = (*synonyms.get(word, ()), *texts)
    return eda.EasyDataAugmentation(synonyms, self.text_view.edited_share)

  def own_synonyms(self) -> dict[str, tuple[str, ...]]:
    """Synonyms of the user's file, if there is one.

    Raises:
      ConfigError: if it cannot be used.
    """
    if not isinstance(self.text_view, views.Eda):
      return {}
    try:
      return self.text_view.own_synonyms()
    except ValueError as error:
      raise config_lib.ConfigError(
        f"config.other_view.text.synonyms: {error}"
      ) from error

  def fingerprint(self) -> dict[str, str]:
    """A hash of the user's synonyms, as `synonyms`; empty without any."""
    synonyms = self.own_synonyms()
    if not synonyms:
      return {}
    text = json.dumps(synonyms, sort_keys=True)
    return {"synonyms": hashlib.sha256(text.encode()).hexdigest()}
