"""The interface of evaluators: the opened run, and the measure that is built on it."""

import dataclasses
import pathlib
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from contrastive_jax.training.evaluators import embeddings
from contrastive_jax.training.trainer import state as state_lib
from contrastive_jax.training.types import Report


class Hits(NamedTuple):
  """Items that a score counts as right, for an interval over items.

  Attributes:
    right: bool [n]; the score is their mean.
    things: integers [n], the thing that each item shows or names: items of one
      thing are found or missed together.
  """

  right: np.ndarray
  things: np.ndarray


@dataclasses.dataclass
class Opened:
  """A run, opened: an evaluator is built on it.

  Attributes:
    data: the data set, `sources.PairData`, or of a task `tasks.TaskData`.
    mesh: the devices.
    objective: what is trained, `objectives.base.Objective`.
    chosen: the variant of `OBJECTIVES` that the objective was built by.
    encoder: embeds splits and texts, `embeddings.Encoder`; None if the model
      embeds nothing.
    reader: makes arrays of a task's records, `task_pipeline.Encoder`; None for
      images and captions.
    workdir: where the run keeps its files.
    steps: of the run.
    seed: of the run.
    batch_size: images that are embedded at once.
    image_size: side of the model's images.
    context_length: tokens of a text.
    report: receives lines for the user.
    hits: of the last state that was measured, by the name of the score; scores
      that are no mean over items have none.
  """

  data: Any
  mesh: jax.sharding.Mesh
  objective: Any
  chosen: Any
  encoder: Any
  reader: Any
  workdir: pathlib.Path
  steps: int
  seed: int
  batch_size: int
  image_size: int
  context_length: int
  report: Report

  def __post_init__(self):
    self.hits: dict[str, Hits] = {}
    self._embedded: dict[tuple[str, str], embeddings.Embedded] = {}
    self._state: Callable[[], Any] = lambda: None

  def images(
    self,
    state: state_lib.TrainState,
    split: str,
    *,
    head: str = "shared",
  ) -> embeddings.Embedded:
    """A split's embeddings; those of a state are kept as long as it lives.

    Args:
      state: the model.
      split: name of the split.
      head: see `embeddings.Encoder.images`.
    """
    if self._state() is not state:
      self._embedded = kept = {}
      # A training split has many embeddings: they go with the state.
      self._state = weakref.ref(state, lambda _: kept.clear())
    key = split, head
    if key not in self._embedded:
      self._embedded[key] = self.encoder.images(
        state, self.data.splits[split], head=head
      )
    return self._embedded[key]

  def lacks(self, split: str, left_out: str) -> bool:
    """Whether a split has no example; then a line says what is left out."""
    if len(self.data.splits.get(split, ())):
      return False
    self.report(f"Left out: {left_out}, because the split {split} is empty.")
    return True


class Measure:
  """An evaluator that is built; one of your own overrides what it needs.

  All numbers are finite floats under flat names, `group/metric`.

  Attributes:
    run: the opened run.
    chosen: the evaluator's fields; None where it needs none.
    validates: whether there is something to validate on.
    curves: numbers of a validation that are plotted over the steps, by label.
  """

  validates: bool = True
  curves: Mapping[str, str] = {}

  def __init__(self, run: Opened, chosen: Any = None):
    """Takes an opened run, and the evaluator's fields."""
    self.run = run
    self.chosen = chosen

  def validate(self, state: state_lib.TrainState) -> dict[str, float]:
    """Numbers of a state while it trains, every so many steps."""
    del state
    return {}

  def final(self, state: state_lib.TrainState) -> dict[str, float]:
    """Numbers of a state at the end, for `results.json`."""
    del state
    return {}

  def headline(self, numbers: Mapping[str, float]) -> dict[str, float]:
    """The numbers of a validation that the log shows in a line.

    The best checkpoint is the one with the largest mean of them. Without a method
    of its own a class shows the numbers of `curves`.
    """
    names = self.curves.values()
    return {name: numbers[name] for name in names if name in numbers}
