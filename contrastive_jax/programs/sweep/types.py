"""A grid of runs: its arms, and the configuration of each run."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from contrastive_jax.training import config as config_lib

# Finished runs by `Job.key`, as the record has them.
Runs = dict[str, dict[str, Any]]
_OTHERS = "others."


@dataclasses.dataclass(frozen=True)
class Arm:
  """One configuration of a sweep.

  Attributes:
    method: what is compared, a row of the table and a line of the plot.
    setting: where it is compared (a batch size), a column and the plot's x.
    fields: dotted fields of the configuration and their values; those that begin
      with "others." are of all configurations of `Sweep.others`.
    tuned: a dotted field that is chosen for this arm, or several separated by
      commas that have one value, or "".
    candidates: the values to choose from.
  """

  method: str
  setting: float
  fields: Mapping[str, Any]
  tuned: str = ""
  candidates: Sequence[float] = ()

  @property
  def name(self) -> str:
    """Method and setting."""
    return f"{self.method} @ {self.setting:g}"


@dataclasses.dataclass(frozen=True)
class Job:
  """One run: an arm with a seed and, where it is tuned, a value."""

  arm: Arm
  seed: int
  value: float | None

  @property
  def key(self) -> str:
    """Its name in the record."""
    value = "" if self.value is None else f" | {self.value:g}"
    return f"{self.arm.name}{value} | seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class Sweep:
  """A grid of runs; ConfigError if a field of an arm is wrong.

  Attributes:
    name: of the record.
    title: of its page.
    text: says what is compared, Markdown.
    config: what all runs have in common.
    arms: the configurations.
    baseline: the method that the others are compared with, at each setting.
    seeds: of every arm; runs of one seed are paired.
    metrics: names in `results.json` and what the page calls them; a run may lack
      some, but not the first.
    tune_metric: chooses the tuned fields, the larger the better; of validation
      data.
    tune_seeds: of the runs that choose, none of `seeds`; the mean of their scores
      decides.
    train_fn: gives a configuration's results; None is a run of the trainer. It is
      called with the configuration, and with those of `others` if there are any.
    others: what else `train_fn` trains, by name.
    setting: what the settings of arms are.
    source: what --sweep calls it; `files.load` fills it in.
  """

  name: str
  title: str
  text: str
  config: config_lib.ConfigDraft
  arms: Sequence[Arm]
  baseline: str
  seeds: Sequence[int]
  metrics: Mapping[str, str]
  tune_metric: str = ""
  tune_seeds: Sequence[int] = (1000,)
  train_fn: Callable[..., Mapping[str, float]] | None = None
  others: Mapping[str, config_lib.ConfigDraft] = dataclasses.field(
    default_factory=dict
  )
  setting: str = "batch size"
  source: str = ""

  def __post_init__(self):
    if both := {*self.tune_seeds} & {*self.seeds}:
      raise ValueError(
        f"tune_seeds must be none of seeds; both have {sorted(both)}."
      )
    methods = {arm.method for arm in self.arms}
    if self.baseline not in methods:
      raise ValueError(
        f"baseline must be one of {', '.join(sorted(methods))}; got"
        f" {self.baseline!r}."
      )
    for arm in self.arms:
      if arm.tuned and not (arm.candidates and self.tune_metric):
        raise ValueError(
          f"tuned={arm.tuned!r} needs candidates and tune_metric; got"
          f" {arm.candidates} and {self.tune_metric!r}."
        )
      # A mistake must show before hours of other runs.
      self.configurations(Job(arm, self.seeds[0], (*arm.candidates, None)[0]))

  @property
  def methods(self) -> list[str]:
    """Names of the methods that are compared, in order."""
    return list(dict.fromkeys(arm.method for arm in self.arms))

  @property
  def settings(self) -> list[float]:
    """Settings at which the methods are compared, sorted."""
    return sorted({arm.setting for arm in self.arms})

  def arm(self, method: str, setting: float) -> Arm | None:
    """The arm of a method at a setting; None if the sweep has none there."""
    found = (a for a in self.arms if (a.method, a.setting) == (method, setting))
    return next(found, None)

  @property
  def total_runs(self) -> int:
    """How many runs it has, those that choose included."""
    return sum(
      len(self.tune_seeds) * len(arm.candidates) + len(self.seeds)
      for arm in self.arms
    )

  def configurations(
    self, job: Job
  ) -> tuple[config_lib.Config, dict[str, config_lib.Config]]:
    """The configuration of a run, and those of `others` by name.

    Raises:
      ConfigError: if a field is wrong.
    """
    fields = dict(job.arm.fields)
    if job.value is not None:
      fields |= dict.fromkeys(job.arm.tuned.split(","), job.value)
    theirs = {
      name.removeprefix(_OTHERS): fields.pop(name)
      for name in list(fields)
      if self.others and name.startswith(_OTHERS)
    }
    return _changed(self.config, {**fields, "seed": job.seed}), {
      name: _changed(draft, {**theirs, "seed": job.seed})
      for name, draft in self.others.items()
    }


def _changed(
  draft: config_lib.ConfigDraft, fields: Mapping[str, Any]
) -> config_lib.Config:
  # A copy: a field that one arm sets must not reach the next.
  draft = copy.deepcopy(draft)
  draft.override(fields)
  return config_lib.parse(draft)
