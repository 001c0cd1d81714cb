"""A run, opened: its data, its model, its evaluators; nothing of it trained."""

import abc
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import grain
import jax

from contrastive_jax.data import sources
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.evaluators import base
from contrastive_jax.training.objectives.choices import OBJECTIVES
from contrastive_jax.training.runs import (
  cached_features,
  hits_file,
  initial_choices,
  initial_weights,
)
from contrastive_jax.training.runs.caption_feed import CaptionFeed
from contrastive_jax.training.trainer import loop, metric_log
from contrastive_jax.training.trainer import state as state_lib

# The scores that stand for a run, of those that there are.
HEADLINES = (
  "retrieval/image_to_text/recall_at_1",
  "retrieval/image_to_text/recall_at_10",
  "retrieval/text_to_image/recall_at_10",
  "retrieval_reranked/image_to_text/recall_at_1",
  "zero_shot/accuracy_top1",
  "linear_probe/accuracy",
  "knn/accuracy",
  "vqa/accuracy",
  "nlvr2/accuracy",
  "entailment/accuracy",
)
_PLOTS = {
  "retrieval": "Retrieval among the test images",
  "curves": "Training",
  "similarity": "Similarity of images and names",
  "embeddings": "Embeddings",
}


@dataclasses.dataclass(kw_only=True)
class Run(base.Opened, abc.ABC):
  """A run, opened, with its evaluators.

  Attributes:
    config: of the run, for records.
    initial: the variant of `INITIAL` that it begins with; None begins at random.
    evaluators: the variants of `EVALUATORS` that it is measured by, by name.
    measures: the measures that they build.
  """

  config: config_lib.Config
  initial: Any
  evaluators: Mapping[str, Any]

  def __post_init__(self):
    super().__post_init__()
    self.measures = self.build(self.evaluators)

  @abc.abstractmethod
  def batches(self) -> grain.DatasetIterator:
    """The training batches (this host's parts), from the beginning."""

  def fingerprints(self) -> dict[str, str | int]:
    """What the training data are, which must be the same on resuming."""
    return {
      "name": self.data.name,
      "fingerprint": self.data.fingerprint,
      "index_bound": self.data.splits[sources.TRAIN].index_bound,
    }

  @abc.abstractmethod
  def announce(self) -> None:
    """Reports what it trains on."""

  def build(self, evaluators: Mapping[str, Any]) -> dict[str, base.Measure]:
    """The measures that evaluators build on this run, by name.

    Raises:
      ConfigError: if one cannot measure it.
    """
    found = {}
    for name, chosen in evaluators.items():
      try:
        found[name] = chosen.build(self)
      except ValueError as error:
        raise config_lib.ConfigError(
          f"config.evaluation.{name}: {error}"
        ) from error
    return found

  def validations(self) -> tuple[loop.Evaluator, ...]:
    """The evaluators that measure while it trains."""
    return tuple(
      loop.Evaluator(every, measure.validate, measure.headline)
      for name, measure in self.measures.items()
      if (every := getattr(self.evaluators[name], "every", 0))
      and measure.validates
    )

  def final_measures(self) -> dict[str, base.Measure]:
    """The measures that are taken at the end of training."""
    return {
      name: measure
      for name, measure in self.measures.items()
      if getattr(self.evaluators[name], "final", True)
    }

  def evaluate(
    self,
    state: state_lib.TrainState,
    measures: Mapping[str, base.Measure] | None = None,
  ) -> dict[str, float]:
    """The final scores of evaluators, by default of all.

    Args:
      state: the model.
      measures: as `build` gives them; None is all of the run's own.
    """
    out: dict[str, float] = {}
    for measure in (self.measures if measures is None else measures).values():
      out |= measure.final(state)
    return out

  def draw(
    self, state: state_lib.TrainState, folder: pathlib.Path | None = None
  ) -> None:
    """Draws the curves of training, and embeddings where there are any.

    Args:
      state: the model.
      folder: where they go, is made if absent; None is `workdir/plots`.
    """
    # Matplotlib is slow to import.
    from contrastive_jax.training.evaluators import plots, retrieval_sheets

    folder = folder or self.workdir / "plots"
    folder.mkdir(exist_ok=True)
    validation: dict[str, str] = {}
    for measure in self.measures.values():
      validation |= measure.curves
    rows = metric_log.read_metrics(self.workdir)
    plots.curves(rows, folder / "curves.png", validation)
    if self.encoder is not None:
      retrieval_sheets.draw(self, state, folder)

  def page(
    self,
    state: state_lib.TrainState,
    results: Mapping[str, float],
    plots: pathlib.Path,
    *,
    command: str = "",
  ) -> str:
    """The run on a page of HTML that needs no other file; all processes take part.

    Args:
      state: the model.
      results: its scores.
      plots: the folder that `draw` has drawn into.
      command: that started the run, or "".
    """
    from contrastive_jax.training.evaluators import (
      html_pages,
      retrieval_sheets,
    )

    config, points = self.config, None
    if self.encoder is not None:
      points = retrieval_sheets.points(self, state)
    objective = OBJECTIVES.name_of(config.objective)
    train = len(self.data.splits[sources.TRAIN])
    return html_pages.page(
      f"{objective} on {self.data.name}",
      [
        f"{config.model.preset}, {int(state.step):,} steps of"
        f" {config.batch_size:,}"
        # None are known where the data are absent.
        + (f", {train:,} training images" if train else ""),
      ],
      results,
      hits_file.counts(self.hits),
      headlines=HEADLINES,
      pictures={
        title: (plots / f"{name}.png").read_bytes()
        for name, title in _PLOTS.items()
        if (plots / f"{name}.png").exists()
      },
      points=points,
      config=config.to_dict(),
      command=command,
    )


@dataclasses.dataclass(kw_only=True)
class PairRun(Run):
  """A run on images and captions.

  Attributes:
    feed: makes its batches.
    plain: what a tower takes, of uint8 images as they are.
  """

  feed: CaptionFeed
  plain: Callable[[jax.Array], jax.Array]

  def batches(self) -> grain.DatasetIterator:
    """The training batches (this host's parts), from the beginning."""
    cached = getattr(self.chosen, "cache_features", False)
    return self.feed.batches(self.data, self._features() if cached else None)

  def fingerprints(self) -> dict[str, str | int]:
    """What the training data are, which must be the same on resuming."""
    return super().fingerprints() | self.feed.fingerprint()

  def announce(self) -> None:
    """Reports what it trains on."""
    edit = self.feed.edit(self.data)
    if edit is not None and not any(edit.synonyms.values()):
      self.report(
        "No synonyms are known: captions are edited by swaps and deletions"
        " alone; config.other_view.text.synonyms=FILE adds some."
      )
    others = ", ".join(
      f"{len(source):,} {name.replace('_', ' ')}"
      for name, source in self.data.splits.items()
      if name != sources.TRAIN
    )
    self.report(
      f"{self.data.name}: {len(self.data.splits[sources.TRAIN]):,} training"
      f" images, {others}; {self.data.tokenizer.vocab_size:,} tokens;"
      f" {self.mesh.size} {jax.devices()[0].platform} device(s)."
    )

  def encoders(self) -> tuple[cached_features.Encode, cached_features.Encode]:
    """The functions that embed images and token rows, with published weights."""
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


@dataclasses.dataclass(kw_only=True)
class TaskRun(Run):
  """A run on texts and labels of images.

  Attributes:
    feed: `task_pipeline.train_batches`, but for its data.
  """

  feed: Callable[..., grain.DatasetIterator]

  def batches(self) -> grain.DatasetIterator:
    """The training batches (this host's parts), from the beginning."""
    return self.feed(self.data.splits[sources.TRAIN], self.reader)

  def fingerprints(self) -> dict[str, str | int]:
    """What the training data are, which must be the same on resuming."""
    return super().fingerprints() | {"task": self.data.task}

  def announce(self) -> None:
    """Reports what it trains on, and with what it begins."""
    count = len(self.data.splits[sources.TRAIN])
    self.report(
      f"{self.data.name}, {self.data.task}: {count:,} training records,"
      f" {self.reader.tokenizer.vocab_size:,} tokens; {self.mesh.size}"
      f" {jax.devices()[0].platform} device(s)."
    )
    if isinstance(self.initial, initial_choices.Random):
      self.report(
        "It begins at random: config.initial=run with"
        " config.initial.workdir=DIR takes the parameters of an earlier run of"
        " objective=albef."
      )
