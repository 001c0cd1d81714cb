"""Runs on images and captions: their data opened, their model built."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import grain
import jax

from contrastive_jax.data import pipeline, sources
from contrastive_jax.data.text import eda
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import objectives
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.evaluators import (
  benchmark_suites,
  embeddings,
  task_accuracy,
)
from contrastive_jax.training.objectives import base
from contrastive_jax.training.runs import (
  cached_features,
  initial_weights,
  open_data,
)
from contrastive_jax.training.trainer import loop
from contrastive_jax.training.trainer import state as state_lib

Report = Callable[[str], None]


@dataclasses.dataclass
class Run:
  """What a run is made of, opened.

  Attributes:
    config: the configuration.
    workdir: where it keeps its files.
    data: the data set.
    mesh: the devices.
    objective: what is trained.
    encoder: embeds splits and texts.
  """

  config: config_lib.Config
  workdir: pathlib.Path
  data: sources.PairData
  mesh: jax.sharding.Mesh
  objective: objectives.Objective
  encoder: embeddings.Encoder

  def batches(self, report: Report = print) -> grain.DatasetIterator:
    """The training batches (this host's parts), from the beginning."""
    config = self.config
    source: Any = self.data.splits[sources.TRAIN]
    tokenizer: Any = self.data.tokenizer
    if config.model.cache_features:
      source, tokenizer = self._features(source, report)
    view = "text" in config.augmented_sides
    another = view and config.structure.text_view == "caption"
    return pipeline.train_batches(
      source,
      tokenizer=tokenizer,
      sampler=caption_sampler(config, self.data),
      context_length=config.model.context_length,
      batch_size=config.batch_size,
      seed=config.seed,
      captions_per_example=config.data.captions_per_example,
      edit=caption_edit(config, self.data),
      another_caption=another,
      images_per_concept=config.data.images_per_concept,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      num_threads=config.data.num_threads,
    )

  def _features(
    self, source: sources.Source, report: Report
  ) -> tuple[cached_features.FeatureSource, cached_features.TextFeatures]:
    """Features in the place of images and tokens; images' are kept on disk."""
    config, objective = self.config, self.objective
    abstract = loop.abstract_state(config, objective, self.mesh)
    variables = initial_weights.published_variables(
      config, objective.model, abstract
    )
    size = config.evaluation.batch_size
    image, text = cached_features.encoders(
      objective.model, variables, base.Views(config).plain
    )
    path = self.workdir / "features.npy"
    with sharding.main_process_first("features"):
      known = cached_features.load(path, len(source))
      if known is None:
        report(f"Features of {len(source):,} images, kept in {path}.")
        known = cached_features.of_images(source, image, size, report)
        cached_features.save(path, known)
    return (
      cached_features.FeatureSource(source, known),
      cached_features.TextFeatures(self.data.tokenizer, text, size),
    )

  @property
  def train_source(self) -> sources.Source:
    """The training records."""
    return self.data.splits[sources.TRAIN]

  @property
  def has_validation(self) -> bool:
    """Whether there is something to validate on."""
    return bool(len(self.data.splits[sources.VALIDATION]))

  def fingerprints(self) -> dict[str, str]:
    """What the training data are; a run that goes on must have the same."""
    ours = {"name": self.data.name, "fingerprint": self.data.fingerprint}
    own_synonyms = _own_synonyms(self.config)
    if own_synonyms:
      text = json.dumps(own_synonyms, sort_keys=True)
      ours["synonyms"] = hashlib.sha256(text.encode()).hexdigest()
    return ours

  def announce(self, report: Report) -> None:
    """Says what it trains on."""
    edit = caption_edit(self.config, self.data)
    if edit is not None and not any(edit.synonyms.values()):
      report(
        "No synonyms are known: captions are edited by swaps and deletions"
        " alone; config.data.synonyms=FILE adds some."
      )
    report(
      f"{self.data.name}: {len(self.train_source):,} training images,"
      f" {self.data.tokenizer.vocab_size:,} tokens; {self.mesh.size}"
      f" {jax.devices()[0].platform} device(s)."
    )

  def evaluate(
    self, state: state_lib.TrainState, *, report: Report = print
  ) -> dict[str, float]:
    """All evaluations that the data set allows, and the sets asked for."""
    evaluation = self.config.evaluation
    results = embeddings.final(
      self.encoder,
      state,
      self.data,
      seed=self.config.seed,
      classify=evaluation.classification,
      concatenated=evaluation.concatenated,
      report=report,
    )
    if self.config.objective == "albef":
      results |= task_accuracy.reranked(
        self.objective,
        self.encoder,
        state,
        self.data,
        config=self.config,
        mesh=self.mesh,
        report=report,
      )
    return results | benchmark_suites.benchmarks(
      self.encoder,
      state,
      evaluation.benchmark_names,
      data_dir=evaluation.benchmarks_dir,
      image_size=self.config.model.image_size,
      fit=self.config.data.fit,
      classify=evaluation.classification,
      concatenated=evaluation.concatenated,
      report=report,
    )

  def validate(self, state: state_lib.TrainState) -> dict[str, float]:
    """Retrieval on the validation split; of images alone, kNN."""
    if not self.encoder.has_text:
      return embeddings.nearest_neighbours(
        self.encoder, state, self.data, name="knn_validation"
      )
    return embeddings.retrieval(
      self.encoder,
      state,
      self.data.splits[sources.VALIDATION],
      name="retrieval_validation",
      keywords=True,
    )

  def draw(
    self, state: state_lib.TrainState, folder: pathlib.Path | None = None
  ) -> None:
    """Draws the plots, by default into `workdir/plots`."""
    # Matplotlib is imported by who draws.
    from contrastive_jax.training.evaluators import retrieval_sheets

    retrieval_sheets.draw(
      self.encoder,
      self.data,
      state,
      self.workdir,
      seed=self.config.seed,
      folder=folder,
    )


def caption_sampler(
  config: config_lib.Config, data: sources.PairData
) -> pipeline.CaptionSampler:
  """Draws captions as the configuration says."""
  first, *others = data.languages
  share = config.data.main_language_share if others else 1.0
  languages = {first: share}
  languages |= {lang: (1.0 - share) / len(others) for lang in others}
  return pipeline.CaptionSampler(
    languages=languages,
    name=config.data.name_weight,
    keyword=config.data.keyword_weight,
    keywords=config.data.keywords_weight,
    prompt=config.data.prompt_weight,
    full=config.data.full_weight,
    listed=config.data.listed_weight,
    prompts=data.prompts,
  )


def caption_edit(
  config: config_lib.Config, data: sources.PairData
) -> eda.EasyDataAugmentation | None:
  """What makes a caption's other view; None if no term takes an edited one.

  Raises:
    UserError: if the file of synonyms cannot be used.
  """
  structure = config.structure
  if "text" not in config.augmented_sides or structure.text_view != "eda":
    return None
  synonyms = eda.synonyms(data.splits[sources.TRAIN], data.languages)
  for word, texts in _own_synonyms(config).items():
    synonyms[word] = (*synonyms.get(word, ()), *texts)
  return eda.EasyDataAugmentation(synonyms, structure.edited_share)


def _own_synonyms(config: config_lib.Config) -> dict[str, tuple[str, ...]]:
  """Those of the user's file, if there is one."""
  if not config.data.synonyms:
    return {}
  try:
    return eda.load_synonyms(os.path.expanduser(config.data.synonyms))
  except (OSError, ValueError) as error:
    raise config_lib.ConfigError(f"config.data.synonyms: {error}") from error


def open_run(
  config: config_lib.Config,
  workdir: pathlib.Path,
  *,
  report: Report = print,
) -> Run:
  """Opens the data and builds the model; see `runner.open_run`."""
  _own_synonyms(config)  # A mistake in it must show before data are opened.
  with sharding.main_process_first("data"):
    data = open_data.open_data(config, workdir, report)
  mesh = sharding.make_mesh()
  with workdirs.mistakes_of_config():
    objective = objectives.create(
      config,
      vocab_size=data.tokenizer.vocab_size,
      num_examples=sources.index_bound(data.splits[sources.TRAIN]),
      mesh=mesh,
    )
  initial_weights.check_tokenizer(config, objective.model, data.tokenizer)
  encoder: Any = None
  if config.objective != "text_assignment":  # Which embeds nothing.
    encoder = embeddings.Encoder(
      objective,
      data,
      context_length=config.model.context_length,
      batch_size=config.evaluation.batch_size,
      mesh=mesh,
    )
  return Run(config, workdir, data, mesh, objective, encoder)
