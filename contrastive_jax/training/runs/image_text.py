"""Runs on images and captions: their data opened, their model built."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import grain
import jax

from contrastive_jax.data import sources
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.evaluators import embeddings
from contrastive_jax.training.objectives import base
from contrastive_jax.training.runs import (
  build,
  cached_features,
  caption_feed,
  initial_weights,
  open_data,
)
from contrastive_jax.training.runs.run import Run
from contrastive_jax.training.types import Report


@dataclasses.dataclass(kw_only=True)
class PairRun(Run):
  """A run on images and captions.

  Attributes:
    feed: makes its batches.
    plain: what a tower takes, of uint8 images as they are.
  """

  feed: caption_feed.CaptionFeed
  plain: Callable[[jax.Array], jax.Array]

  def batches(self) -> grain.DatasetIterator:
    """The training batches (this host's parts), from the beginning."""
    cached = getattr(self.chosen, "cache_features", False)
    return self.feed.batches(self.data, self._features() if cached else None)

  def fingerprints(self) -> dict[str, str]:
    """Names and hashes of the training data, which must be the same on resuming."""
    ours = {"name": self.data.name, "fingerprint": self.data.fingerprint}
    return ours | self.feed.fingerprint()

  def announce(self) -> None:
    """Reports what it trains on."""
    edit = self.feed.edit(self.data)
    if edit is not None and not any(edit.synonyms.values()):
      self.report(
        "No synonyms are known: captions are edited by swaps and deletions"
        " alone; config.other_view.text.synonyms=FILE adds some."
      )
    self.report(
      f"{self.data.name}: {len(self.data.splits[sources.TRAIN]):,} training"
      f" images, {self.data.tokenizer.vocab_size:,} tokens; {self.mesh.size}"
      f" {jax.devices()[0].platform} device(s)."
    )

  def encoders(self) -> tuple[cached_features.Encode, cached_features.Encode]:
    """What makes features of images and of token rows, by published weights."""
    objective = self.objective
    shapes = jax.eval_shape(
      lambda: objective.init(jax.random.key(0), objective.example_batch())
    )
    return cached_features.encoders(
      objective.model,
      initial_weights.published_variables(
        self.initial,
        objective.model,
        initial_weights.variables(*shapes),
      ),
      self.plain,
    )

  def _features(self) -> cached_features.CachedFeatures:
    """Features in the place of images and tokens; images' are kept on disk."""
    source = self.data.splits[sources.TRAIN]
    image, text = self.encoders()
    path = self.workdir / "features.npy"
    with sharding.main_process_first("features"):
      known = cached_features.load(path, len(source))
      if known is None:
        self.report(f"Features of {len(source):,} images, kept in {path}.")
        known = cached_features.of_images(
          source, image, self.batch_size, self.report
        )
        cached_features.save(path, known)
    return cached_features.CachedFeatures(
      known, self.data.tokenizer, text, self.batch_size
    )


def open_run(
  config: config_lib.Config, workdir: pathlib.Path, report: Report
) -> PairRun:
  """Opens the data and builds the model; see `runner.open_run`."""
  feed = build.caption_feed(config)
  feed.own_synonyms()  # A mistake in it must show before data are opened.
  with sharding.main_process_first("data"):
    data = open_data.open_data(config, workdir, report)
  fields = build.run_fields(config, data, workdir, report)
  encoder: Any = None
  if hasattr(fields["objective"], "encode_image"):
    encoder = embeddings.Encoder(
      fields["objective"],
      data,
      context_length=config.model.context_length,
      batch_size=config.evaluation.batch_size,
      mesh=fields["mesh"],
    )
  return PairRun(
    **fields,
    encoder=encoder,
    reader=None,
    feed=feed,
    plain=base.Views(config.augment, config.model.image_size).plain,
  )
