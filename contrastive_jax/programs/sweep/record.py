"""The record of a sweep: its finished runs in a JSON file, and what they score."""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np

from contrastive_jax.programs import differences
from contrastive_jax.programs.sweep.types import Arm, Job, Runs, Sweep
from contrastive_jax.training import config as config_lib


@dataclasses.dataclass
class Record:
  """Record of a sweep: its finished runs.

  Attributes:
    sweep: the grid.
    out: folder of the record.
    runs: the finished runs.
    things: numbers of the things that items show, with spaces between them, by the
      digest that hits name.
  """

  sweep: Sweep
  out: pathlib.Path
  runs: Runs = dataclasses.field(default_factory=dict)
  things: dict[str, str] = dataclasses.field(default_factory=dict)

  @property
  def path(self) -> pathlib.Path:
    """The JSON file."""
    return self.out / f"{self.sweep.name}.json"

  def add(self, key: str, run: dict[str, Any]) -> None:
    """Adds a run as `jobs.measure` gives it."""
    self.things |= run.pop("things", {})
    self.runs[key] = run

  def ready(self) -> Iterator[Job]:
    """The runs that are missing and depend on none that is.

    Yields:
      First those that choose the tuned field, then seed by seed all arms, so that a
      record that is not finished compares pairs.
    """
    choosing = {
      arm.name: [
        Job(arm, seed, value)
        for seed in self.sweep.tune_seeds
        for value in arm.candidates
      ]
      for arm in self.sweep.arms
    }
    for jobs in choosing.values():
      yield from (job for job in jobs if job.key not in self.runs)
    for seed in self.sweep.seeds:
      for arm in self.sweep.arms:
        if all(job.key in self.runs for job in choosing[arm.name]):
          job = Job(arm, seed, self.chosen(arm))
          if job.key not in self.runs:
            yield job

  def finished(self) -> int:
    """How many of the sweep's runs there are; the record may have others."""
    metric = next(iter(self.sweep.metrics))
    return sum(
      sum(
        len(scores)
        for value, scores in self._tried(arm).items()
        if value in arm.candidates
      )
      + len(self.scores(arm.method, arm.setting, metric))
      for arm in self.sweep.arms
    )

  def _tried(self, arm: Arm) -> dict[float, list[float]]:
    """The scores of the runs that choose an arm's value, by value."""
    found: dict[float, list[float]] = {}
    for r in self.runs.values():
      if r["arm"] == arm.name and r["seed"] in self.sweep.tune_seeds:
        score = r["results"][self.sweep.tune_metric]
        found.setdefault(r["value"], []).append(score)
    return found

  def choosing(self, arm: Arm) -> dict[float, float]:
    """The mean scores that choose an arm's value, where all runs are there."""
    return {
      value: statistics.fmean(scores)
      for value, scores in self._tried(arm).items()
      if len(scores) == len(self.sweep.tune_seeds)
    }

  def chosen(self, arm: Arm) -> float | None:
    """The tuned field's best value of an arm; None if nothing is tuned.

    Raises:
      KeyError: if a run that chooses it is missing.
    """
    found = self.choosing(arm)
    return max(arm.candidates, key=lambda value: found[value], default=None)

  def scores(
    self, method: str, setting: float, metric: str
  ) -> dict[int, float]:
    """An arm's numbers by seed, at the value that is chosen for it."""
    return {
      seed: run["results"][metric]
      for seed, run in self._reported(method, setting).items()
      if metric in run["results"]
    }

  def _reported(self, method: str, setting: float) -> dict[int, Any]:
    """An arm's runs by seed, at the value that is chosen for it."""
    arm = self.sweep.arm(method, setting)
    try:
      value = self.chosen(arm) if arm else None
    except KeyError:  # Not all that choose it are there.
      return {}
    return {
      r["seed"]: r
      for r in self.runs.values()
      if arm
      and r["arm"] == arm.name
      and r["seed"] in self.sweep.seeds
      and r["value"] == value
    }

  def gains(
    self,
    method: str,
    setting: float,
    metric: str,
    *,
    against: float | None = None,
  ) -> list[float]:
    """Paired differences from the baseline, over the seeds that both have.

    The baseline is at the setting `against`; None is the same.
    """
    base = setting if against is None else against
    theirs = self.scores(self.sweep.baseline, base, metric)
    ours = self.scores(method, setting, metric)
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]

  def over_items(
    self, method: str, setting: float, metric: str, *, against: float
  ) -> tuple[float, float] | None:
    """The 95 % interval over items of `gains`; None without hits of both.

    Only seeds that both have, and only hits of the same items.
    """
    theirs = self._reported(self.sweep.baseline, against)
    ours = self._reported(method, setting)
    both = [
      (a["hits"][metric], b["hits"][metric])
      for seed, a in ours.items()
      if (b := theirs.get(seed))
      and metric in a.get("hits", ())
      and metric in b.get("hits", ())
    ]
    digests = {digest for pair in both for digest, _ in pair}
    if len(digests) != 1:
      return None
    things = np.array(self.things[digests.pop()].split(), np.int64)
    first, second = (
      np.concatenate(
        [differences.unpacked(p[side][1], 1, len(things)) for p in both]
      )
      for side in (0, 1)
    )
    return differences.bootstrap(first, second, things)

  def comparable(self, setting: float) -> list[tuple[str, str]]:
    """The metrics that the baseline has: from others there is no difference."""
    return [
      (metric, label)
      for metric, label in self.sweep.metrics.items()
      if self.scores(self.sweep.baseline, setting, metric)
    ]


def read(sweep: Sweep, out: pathlib.Path) -> Record:
  """The record in a folder, without runs if there is none yet.

  Raises:
    UserError: if the record is of other configurations, or no record.
  """
  made = Record(sweep, out)
  path = made.path
  if not path.exists():
    return made
  advice = "move it away, or choose another --out"
  ours = grid(sweep)
  try:
    record = json.loads(path.read_text(encoding="utf-8"))
    if not record["runs"]:
      return made
    # Fields that are newer than the record have the default there.
    config, others = _parsed(record["config"], record["others"])
    theirs = _plain({"config": config, "others": others})
    for part in ("arms", "tuned"):
      both = ours[part].keys() & record[part].keys()
      theirs[part] = {name: record[part][name] for name in both}
      ours[part] = {name: ours[part][name] for name in both}
  except config_lib.ConfigError as error:
    raise config_lib.UserError(
      f"{path} holds runs of another version ({error}): {advice}."
    ) from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise config_lib.UserError(
      f"{path} is no record of a sweep ({type(error).__name__}: {error}): {advice}."
    ) from error
  difference = config_lib.first_difference(theirs, ours)
  if difference:
    field, then, now = difference
    raise config_lib.UserError(
      f"{path} holds runs of another sweep ({field} was {then!r}, and is {now!r}"
      f" now): {advice}."
    )
  made.runs, made.things = record["runs"], record.get("things", {})
  return made


def grid(sweep: Sweep) -> dict[str, Any]:
  """Settings that two records must share for their runs to go into one."""
  config, others = _parsed(sweep.config, sweep.others)
  return _plain(
    {
      "config": config,
      "arms": {arm.name: dict(arm.fields) for arm in sweep.arms},
      # The values to choose from may become more.
      "tuned": {arm.name: arm.tuned for arm in sweep.arms},
      "others": others,
    }
  )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
  """As JSON gives them back."""
  return json.loads(json.dumps(values))


def _parsed(config, others) -> tuple[dict[str, Any], dict[str, Any]]:
  """Configurations with all fields."""
  return config_lib.parse(config).to_dict(), {
    name: config_lib.parse(values).to_dict() for name, values in others.items()
  }
