"""A grid of runs: its arms, and the configuration of each run."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from contrastive_jax.training import config as config_lib

# Finished runs by `Job.key`, as the record has them.
Runs = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Arm:
  """One configuration of a sweep.

  Attributes:
    method: what is compared, a row of the table and a line of the plot.
    setting: where it is compared (a batch size), a column and the plot's x.
    fields: dotted fields of the configuration and their values.
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
    setting: what the settings are, such as "batch size".
    seeds: of every arm; runs of one seed are paired.
    metrics: names in `results.json` and what the page calls them; a run may lack
      some, but not the first.
    tune_metric: chooses the tuned fields, the larger the better; of validation
      data.
    tune_seed: of the runs that choose, none of `seeds`.
    train_fn: a configuration's results; None is a run of the trainer.
    others: what else `train_fn` trains: configurations by name, for the record.
    source: what --sweep calls it; `files.load` fills it in.
  """

  name: str
  title: str
  text: str
  config: ml_collections.ConfigDict
  arms: Sequence[Arm]
  baseline: str
  setting: str
  seeds: Sequence[int]
  metrics: Mapping[str, str]
  tune_metric: str = ""
  tune_seed: int = 1000
  train_fn: Callable[[config_lib.Config], Mapping[str, float]] | None = None
  others: Mapping[str, ml_collections.ConfigDict] = dataclasses.field(
    default_factory=dict
  )
  source: str = ""

  def __post_init__(self):
    if self.tune_seed in self.seeds:
      raise ValueError(
        f"tune_seed must be none of seeds; got {self.tune_seed}."
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
      self.configuration(Job(arm, self.seeds[0], (*arm.candidates, None)[0]))

  @property
  def total_runs(self) -> int:
    """How many runs it has, those that choose included."""
    return sum(len(arm.candidates) + len(self.seeds) for arm in self.arms)

  def configuration(self, job: Job) -> config_lib.Config:
    """The configuration of a run.

    Raises:
      ConfigError: if a field is wrong.
    """
    # A copy: a field that one arm sets must not reach the next.
    values = copy.deepcopy(self.config.to_dict())
    fields = {**job.arm.fields, "seed": job.seed}
    if job.value is not None:
      fields |= dict.fromkeys(job.arm.tuned.split(","), job.value)
    for name, value in fields.items():
      *groups, last = name.split(".")
      place = values
      for group in groups:
        place = place.setdefault(group, {})
      place[last] = value
    return config_lib.parse(values)
