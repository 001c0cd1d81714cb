"""The configuration of a run: its fields, how it is written, read and compared."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from contrastive_jax import choices
from contrastive_jax.choices import choice, field, section
from contrastive_jax.data.sets.choices import DATA_SETS
from contrastive_jax.training.config import sections
from contrastive_jax.training.config.draft import Draft
from contrastive_jax.training.config.errors import ConfigError
from contrastive_jax.training.evaluators.choices import Evaluation
from contrastive_jax.training.loggers.choices import Logging
from contrastive_jax.training.objectives.choices import OBJECTIVES
from contrastive_jax.training.objectives.contrasts import (
  LOSSES,
  TEMPERATURE_MODES,
)
from contrastive_jax.training.objectives.structure_choices import Structure
from contrastive_jax.training.objectives.views import OTHER_VIEWS
from contrastive_jax.training.runs.initial_choices import INITIAL
from contrastive_jax.training.trainer.optimizer_choices import OPTIMIZERS

# Groups that some objectives do not use.
_OPTIONAL = (
  "tokenizer",
  "microbatches",
  "captions",
  "loss",
  "structure",
  "initial",
)
# Fields that change nothing of what is trained.
_OPERATION = (
  "num_threads",
  "log_every",
  "checkpoint_every",
  "keep_checkpoints",
  "keep_every",
  "keep_best",
  "skip_nonfinite",
  "logging",
)


@dataclasses.dataclass(frozen=True)
class Config:
  """A training run. Groups that its objective does not use are None."""

  objective: Any = choice(OBJECTIVES, "clip", "What is trained.")
  seed: int = field(0, "Random seed.", low=0, high=2**31 - 2)
  steps: int = field(
    1000,
    "Training steps; 0 evaluates what the run begins with. More of them let a finished"
    " run go on, with schedules as of a run of so many steps.",
    low=0,
  )
  batch_size: int = field(256, "Examples a step, over all devices.", low=1)
  microbatches: int | None = field(
    1, "Parts that encoders take one by one; the loss is exact.", low=1
  )
  fsdp: bool = field(
    False, "Whether large parameters and moments are split over all devices."
  )
  ema_decay: float = field(
    0.0,
    "EMA decay of the parameters that are evaluated; 0 evaluates the last ones.",
    low=0,
    high=1,
  )
  skip_nonfinite: int = field(
    0,
    "Steps in a row with a non-finite loss, gradient or state that are skipped;"
    " one more, or 0, stops the run.",
    low=0,
  )
  num_threads: int = field(2, "Threads that read data ahead.", low=1)
  log_every: int = field(20, "Steps between two log lines.", low=1)
  checkpoint_every: int = field(200, "Steps between two checkpoints.", low=1)
  keep_checkpoints: int = field(2, "Newest checkpoints that are kept.", low=1)
  keep_every: int = field(
    0,
    "Steps between two checkpoints that are never deleted; 0 has none.",
    low=0,
  )
  keep_best: bool = field(
    False,
    "Whether the checkpoint of the best validation is kept too, by the headline"
    " of its evaluators; the last step is not validated.",
  )
  data: Any = choice(DATA_SETS, "emoji", "Data set.")
  captions: sections.Captions | None = section(
    sections.Captions, "How a training caption is drawn."
  )
  tokenizer: str | None = field(
    "",
    "Published vocabulary: clip, or a vocab.txt, tokenizer.json or SentencePiece"
    " .model file; empty is the data's own.",
  )
  augment: sections.Augment = section(
    sections.Augment, "Random changes of training images."
  )
  model: sections.Model = section(sections.Model, "The model.")
  initial: Any = choice(
    INITIAL, "random", "Parameters that the run begins with."
  )
  loss: Any = choice(LOSSES, "clip", "Training loss.")
  structure: Structure | None = section(
    Structure, "Regularisers of the features' structure.", main="terms"
  )
  other_view: Any = choice(
    OTHER_VIEWS,
    "augmented",
    "Other view of a batch, for loss=clip_four_term and structure terms.",
  )
  optimizer: Any = choice(OPTIMIZERS, "adamw", "Optimizer.")
  evaluation: Evaluation = section(Evaluation, "Evaluators.", main="evaluators")
  logging: Logging = section(Logging, "Loggers.", main="loggers")

  @property
  def augmented_sides(self) -> tuple[str, ...]:
    """The modalities whose inputs a step sees in another view as well."""
    if getattr(self.loss, "takes_views", False):
      return ("image", "text")
    if OTHER_VIEWS.name_of(self.other_view) == "momentum":
      return ()
    return self.structure.augmented_sides if self.structure else ()

  @property
  def captions_per_example(self) -> int:
    """Token rows of an image in a step: its captions, and a view of one."""
    view = "text" in self.augmented_sides
    return self.objective.captions_per_example + int(view)

  def to_dict(self) -> dict[str, Any]:
    """Nested plain values, as `config.json` has them."""
    return choices.to_dict(self)


class ConfigDraft(Draft):
  """A `Config` while it is written."""

  def __init__(self):
    """The default run."""
    super().__init__(Config, "config")
    self._follow_objective()
    self._given.clear()

  def __getattr__(self, name: str) -> Any:
    self._check_used(name)
    return super().__getattr__(name)

  def __setattr__(self, name: str, value: Any) -> None:
    self._check_used(name)
    before = self._objective()
    super().__setattr__(name, value)
    if self._objective() is not before:
      self._follow_objective()
    elif name == "loss":
      self._follow_modes(by_name=isinstance(value, str))

  def reach(self, name: str, rest: str = "") -> Any:
    """See `Draft`; raises on a group that the objective does not use."""
    self._check_used(name, rest)
    return super().reach(name, rest)

  def override(self, values: Mapping[str, Any]) -> None:
    """Sets fields, in whatever order they come.

    Args:
      values: by dotted name, such as {"loss.rate": 0.3}; texts are read as on a
        command line.
    """
    waiting = dict(sorted(values.items()))
    while waiting:
      # Each choice may bring the fields that the next one is about.
      path = min(waiting, key=self._turn)
      self.assign(path, waiting.pop(path))

  def _turn(self, path: str) -> tuple[int, int, int]:
    """When a field is set: a choice before the fields of what was chosen."""
    try:
      place, name = self._walk(path)
    except ConfigError:  # A choice may bring it yet.
      return (1, 0, 0)
    if not place._chooses(name):
      return (1, 0, 0)
    return (0, place._path.count("."), _turn(path))

  def freeze(self) -> Config:
    """The configuration; see `Draft.freeze`."""
    config: Config = super().freeze()
    uses = self._objective().uses
    unused: dict[str, Any] = {
      name: None for name in _OPTIONAL if name not in uses
    }
    config = dataclasses.replace(config, **unused)
    takes_views = getattr(config.loss, "takes_views", False) or bool(
      config.structure and config.structure.augmented_sides
    )
    if not takes_views:
      if _was_given(self._values["other_view"]) or "other_view" in self._given:
        raise ConfigError(
          "config.other_view belongs to loss=clip_four_term and to terms of"
          " config.structure that take another view; this run has"
          f" loss={LOSSES.name_of(config.loss) if config.loss else 'none'},"
          f" structure={','.join(config.structure.terms) or 'none'}."
          if config.structure
          else "config.other_view belongs to objective=clip, albef; this run has"
          f" objective={OBJECTIVES.name_of(config.objective)}."
        )
      config = dataclasses.replace(config, other_view=None)
    return config

  def uses(self, name: str) -> bool:
    """Whether the objective uses a field of the top level."""
    return name not in _OPTIONAL or name in self._objective().uses

  def _objective(self) -> Any:
    return self._values["objective"]._cls

  def _holder(self, name: str) -> Any:
    self._check_used(name)
    return super()._holder(name)

  def _update(self, values: Mapping[str, Any]) -> None:
    for name in sorted(values, key=_turn):
      setattr(self, name, values[name])

  def _check_used(self, name: str, rest: str = "") -> None:
    if self.uses(name):
      return
    objectives = OBJECTIVES.variants
    owners = [o for o in objectives if name in OBJECTIVES.find(o).uses]
    raise ConfigError(
      f"config.{'.'.join(filter(None, (name, rest)))} belongs to"
      f" objective={' or '.join(owners)}; this run has"
      f" objective={self._values['objective'].variant()}."
    )

  def _follow_objective(self) -> None:
    """Puts what the objective does not take to what it does."""
    objective = self._objective()
    for name in _OPTIONAL:
      if name not in objective.uses:
        self._values[name] = self._default(self._fields[name])
        self._given.discard(name)
    if objective.losses:
      name = self._values["loss"].variant()
      if name in LOSSES.variants and name not in objective.losses:
        super().__setattr__("loss", objective.losses[0])
    view = self._values["other_view"].variant()
    if view not in objective.other_views:
      self._set("other_view", objective.other_views[0])
    if self.uses("loss"):
      self._follow_modes()
    fresh = {name: {} for name in objective.evaluators}
    self._values["evaluation"]._set("evaluators", fresh)

  def _follow_modes(self, *, by_name: bool = True) -> None:
    """Puts a temperature mode that the objective does not know to the usual one.

    Likewise one that the loss does not know, where that was chosen by its name.
    """
    loss, modes = self._values["loss"], self._objective().temperature_modes
    if by_name:
      own = getattr(loss._cls, "temperature_modes", modes)
      modes = [mode for mode in modes if mode in own]
    mode = loss._values.get("temperature_mode")
    chosen = mode and mode.variant()
    if chosen in TEMPERATURE_MODES.variants and chosen not in modes:
      loss._set("temperature_mode", modes[0])


def default_config() -> ConfigDraft:
  """The default run, to be changed by a recipe."""
  return ConfigDraft()


def parse(values: Mapping[str, Any] | ConfigDraft) -> Config:
  """Makes a `Config`, the sizes that a preset decides filled in.

  Args:
    values: a draft, or a nested mapping as `Config.to_dict` gives it; fields that
      are not there keep their default.

  Raises:
    ConfigError: naming the field, what came and what was expected.
  """
  from contrastive_jax.training.config import resolve

  return resolve.resolved(checked(values))


def checked(values: Mapping[str, Any] | ConfigDraft) -> Config:
  """As `parse`, without a look at the models' presets: JAX is not imported."""
  from contrastive_jax.training.config import checks

  draft = values if isinstance(values, ConfigDraft) else draft_of(values)
  config = draft.freeze()
  checks.check(config)
  return config


def draft_of(values: Mapping[str, Any]) -> ConfigDraft:
  """A draft of a nested mapping, as `Config.to_dict` gives it."""
  if not isinstance(values, Mapping):
    raise ConfigError(f"The configuration must be a mapping; got {values!r}.")
  draft = ConfigDraft()
  draft._update(values)
  return draft


def with_operation_of(ours: Config, theirs: Config) -> Config:
  """`theirs` with what may change while a run is stopped taken from `ours`.

  That is how often it logs and saves, what it keeps, how many threads read, whether
  steps that are not finite are skipped, and where its data and weights lie.
  """
  theirs = dataclasses.replace(
    theirs, **{name: getattr(ours, name) for name in _OPERATION}
  )
  return _with_places_of(ours, theirs)


def _with_places_of(ours: Any, theirs: Any) -> Any:
  """A dataclass with the places of another, where the same variants are chosen."""
  changed = {}
  for f in dataclasses.fields(theirs):
    own, other = getattr(ours, f.name), getattr(theirs, f.name)
    if f.metadata.get("place"):
      changed[f.name] = own
    elif dataclasses.is_dataclass(other) and type(own) is type(other):
      changed[f.name] = _with_places_of(own, other)
  return dataclasses.replace(theirs, **changed)


def first_difference(
  ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = ""
) -> tuple[str, Any, Any] | None:
  """The first field in which two nested mappings differ, with both values."""
  for name in [*ours, *(n for n in theirs if n not in ours)]:
    a, b = ours.get(name), theirs.get(name)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
      found = first_difference(a, b, f"{prefix}{name}.")
      if found:
        return found
    elif a != b:
      return f"{prefix}{name}", a, b
  return None


def _turn(name: str) -> int:
  """When a group is chosen: the objective decides which others there are."""
  return {"objective": 0, "loss": 1}.get(name, 2)


def _was_given(draft: Draft) -> bool:
  """Whether somebody set a field of a draft, or of one inside of it."""
  return bool(draft._given) or any(
    isinstance(value, Draft) and _was_given(value)
    for value in draft._values.values()
  )
