"""A run, opened: its data, its model, its evaluators; nothing of it trained."""

import abc
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import grain

from contrastive_jax.training import config as config_lib
from contrastive_jax.training.evaluators import base
from contrastive_jax.training.trainer import loop, metric_log
from contrastive_jax.training.trainer import state as state_lib


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

  def fingerprints(self) -> dict[str, str]:
    """Names and hashes of the training data, which must be the same on resuming."""
    return {"name": self.data.name, "fingerprint": self.data.fingerprint}

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
