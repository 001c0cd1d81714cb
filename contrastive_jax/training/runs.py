"""Runs on images and captions: their data opened, their model built."""

import dataclasses
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import grain
import jax
import numpy as np

from contrastive_jax.data import eda, pipeline, sources, tokenizer
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import (
  evaluators,
  features,
  initial,
  loop,
  objectives,
  official_data,
  sharding,
  suites,
  task_evaluators,
  workdirs,
)
from contrastive_jax.training import state as state_lib
from contrastive_jax.training.objectives import base

Report = Callable[[str], None]

# Seconds between two lines on a folder that is being checked.
_REPORT_EVERY = 5.0


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
  encoder: evaluators.Encoder

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
  ) -> tuple[features.FeatureSource, features.TextFeatures]:
    """Features in the place of images and tokens; images' are kept on disk."""
    config, objective = self.config, self.objective
    abstract = loop.abstract_state(config, objective, self.mesh)
    variables = initial.published_variables(config, objective.model, abstract)
    size = config.evaluation.batch_size
    image, text = features.encoders(
      objective.model, variables, base.Views(config).plain
    )
    path = self.workdir / "features.npy"
    with sharding.main_process_first("features"):
      known = features.load(path, len(source))
      if known is None:
        report(f"Features of {len(source):,} images, kept in {path}.")
        known = features.of_images(source, image, size, report)
        features.save(path, known)
    return (
      features.FeatureSource(source, known),
      features.TextFeatures(self.data.tokenizer, text, size),
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
    results = evaluators.final(
      self.encoder,
      state,
      self.data,
      seed=self.config.seed,
      classify=evaluation.classification,
      concatenated=evaluation.concatenated,
      report=report,
    )
    if self.config.objective == "albef":
      results |= task_evaluators.reranked(
        self.objective,
        self.encoder,
        state,
        self.data,
        config=self.config,
        mesh=self.mesh,
        report=report,
      )
    return results | suites.benchmarks(
      self.encoder,
      state,
      evaluation.benchmark_names,
      data_dir=evaluation.benchmarks_dir,
      image_size=self.config.model.image_size,
      classify=evaluation.classification,
      concatenated=evaluation.concatenated,
      report=report,
    )

  def validate(self, state: state_lib.TrainState) -> dict[str, float]:
    """Retrieval on the validation split; of images alone, kNN."""
    if not self.encoder.has_text:
      return evaluators.nearest_neighbours(
        self.encoder, state, self.data, name="knn_validation"
      )
    return evaluators.retrieval(
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
    from contrastive_jax.training import sheets

    sheets.draw(self, state, folder=folder)


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
    data = _open_data(config, workdir, report)
  mesh = sharding.make_mesh()
  with workdirs.mistakes_of_config():
    objective = objectives.create(
      config,
      vocab_size=data.tokenizer.vocab_size,
      num_examples=sources.index_bound(data.splits[sources.TRAIN]),
      mesh=mesh,
    )
  initial.check_tokenizer(config, objective.model, data.tokenizer)
  encoder: Any = None
  if config.objective != "text_assignment":  # Which embeds nothing.
    encoder = evaluators.Encoder(
      objective,
      data,
      context_length=config.model.context_length,
      batch_size=config.evaluation.batch_size,
      mesh=mesh,
    )
  return Run(config, workdir, data, mesh, objective, encoder)


def _open_data(
  config: config_lib.Config, workdir: pathlib.Path, report: Report
) -> sources.PairData:
  """Opens the data set with the vocabulary that the workdir keeps."""
  kept = workdir / "tokenizer.json"
  known = workdirs.read_tokenizer(kept)
  if config.data.name == "folder":
    return sources.load_folder(
      os.path.expanduser(config.data.path),
      image_size=config.model.image_size,
      report_path=workdir / "skipped.jsonl",
      tokenizer_path=kept,
      vocab_size=config.data.vocab_size,
      max_bad_share=config.data.max_bad_share,
      report=report,
      progress=_image_counter(report),
    )
  if config.data.name == "fashion_mnist":
    data = sources.load_fashion_mnist(
      os.path.expanduser(config.data.path),
      class_concepts=config.objective not in ("simclr", "moco_v3"),
    )
  elif config.data.name == "openclipart":
    # Its builder's class needs TFDS, which takes seconds to import.
    from contrastive_jax.data import openclipart

    data = openclipart.load(
      os.path.expanduser(config.data.path),
      os.path.expanduser(config.data.data_dir) or None,
      report=report,
    )
  elif config.data.name == "scenes":
    from contrastive_jax.data import scenes

    data = scenes.load_pairs(
      os.path.expanduser(config.data.data_dir) or None,
      settings=scenes_settings(config),
      report=report,
    )
  elif config.data.name == "official":
    data = _open_official(config, workdir, known, report)
  elif config.data.name == "easy_vqa":
    raise config_lib.ConfigError(
      "config.data=easy_vqa has questions alone: set config.objective=vqa; got"
      f" {config.objective!r}."
    )
  else:
    data = _open_emoji(config, report)
  # A copy stays with the run: its parameters mean nothing under another
  # vocabulary, which a newer version of the package may ship.
  if known is not None:
    return dataclasses.replace(data, tokenizer=known)
  data.tokenizer.save(kept)
  return data


def scenes_settings(config: config_lib.Config) -> Any:
  """The settings of `config.data.name=scenes`.

  Raises:
    ConfigError: if a field is out of their range.
  """
  from contrastive_jax.data import scenes

  try:
    return scenes.Settings(
      image_size=config.model.image_size,
      sizes=scenes.Sizes(train=config.data.scenes),
      private=tuple(
        name.strip()
        for name in config.data.scenes_private.split(",")
        if name.strip()
      ),
    )
  except ValueError as error:
    names = {"image_size": "model.", "private": "data.scenes_"}
    place = names.get(str(error).split(" ")[0], "data.scenes: ")
    raise config_lib.ConfigError(f"config.{place}{error}") from error


def _open_official(
  config: config_lib.Config,
  workdir: pathlib.Path,
  known: tokenizer.Tokenizer | None,
  report: Report,
) -> sources.PairData:
  """Captions as others publish them; the vocabulary is learned on them."""
  splits: Any = official_data.load(config, "captions", workdir, report)
  train = splits[sources.TRAIN]
  for name in (sources.VALIDATION, sources.TEST):
    if name not in splits:
      splits[name] = sources.ArraySource(np.zeros((0, 1, 1, 3), np.uint8), [])
  if known is None:
    known = tokenizer.Tokenizer.train(
      (
        caption.text
        for row in range(len(train))
        for caption in train.fields(row)["captions"]
      ),
      vocab_size=config.data.vocab_size,
    )
  return sources.PairData(
    name="official",
    splits=splits,
    languages=(sources.ANY_LANGUAGE,),
    tokenizer=known,
    fingerprint=train.fingerprint,
    prompts=sources.FOLDER_PROMPTS,
  )


def _open_emoji(config: config_lib.Config, report: Report) -> sources.PairData:
  languages = [part.strip() for part in config.data.languages.split(",")]
  try:
    return sources.load_emoji(
      os.path.expanduser(config.data.data_dir) or None,
      languages=languages,
      report=report,
    )
  except ValueError as error:
    raise config_lib.ConfigError(f"config.data: {error}") from error


def _image_counter(report: Report) -> Callable[[int, int], None]:
  """Tells every few seconds how many images of a folder are checked."""
  last = time.monotonic()

  def progress(done: int, total: int) -> None:
    nonlocal last
    now = time.monotonic()
    if now - last >= _REPORT_EVERY:
      last = now
      report(f"Checked {done:,} of {total:,} images.")

  return progress
