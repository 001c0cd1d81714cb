"""The loggers that receive what a run measures, as choices.

A logger is a frozen dataclass whose `open` gives a `Log`. `metrics.jsonl` is always
written, as a run that goes on reads it. `config.logging=tensorboard,my_logs:Mine` takes
one of the user's own.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from contrastive_jax.choices import Kind, field, load, several

_ROOM = "contrastive_jax.training.loggers"
LOGGERS = Kind(
  "logger",
  {
    "tensorboard": f"{_ROOM}.choices:TensorBoard",
    "wandb": f"{_ROOM}.choices:Wandb",
  },
)


class Log(Protocol):
  """An opened logger. One process of a run calls it, from `begin` to `close`."""

  def begin(self, step: int) -> None:
    """Training goes on after `step`; later steps that it knows are made again."""
    ...

  def write(self, step: int, numbers: Mapping[str, float]) -> None:
    """Receives what was measured after a step; a number may be infinite or NaN."""
    ...

  def finish(
    self,
    step: int,
    results: Mapping[str, float],
    pictures: Sequence[pathlib.Path],
  ) -> None:
    """Receives what a finished run has.

    Args:
      step: its last.
      results: scores by name, with those of training under `train/`.
      pictures: PNG files.
    """
    ...

  def close(self) -> None:
    """Ends it, of a run that was stopped without a `finish` before."""
    ...


class Logger(Protocol):
  """A logger: a frozen dataclass with an `open`."""

  def open(self, workdir: pathlib.Path, config: Mapping[str, Any]) -> Log:
    """A log of a run; nothing is written before its `begin`.

    Every process of a run opens it, and one begins it.

    Args:
      workdir: of the run.
      config: of the run, nested plain values.

    Raises:
      ValueError: if it cannot be opened, such as without a package.
    """
    ...


@dataclasses.dataclass(frozen=True)
class TensorBoard:
  """TensorBoard events in the workdir."""

  def open(self, workdir: pathlib.Path, config: Mapping[str, Any]) -> Log:
    """Events under `workdir/tensorboard`."""
    return load(f"{_ROOM}.tensorboard:Log")(workdir, config)


@dataclasses.dataclass(frozen=True)
class Wandb:
  """Weights & Biases; the extra `wandb` installs it."""

  project: str = field("contrastive_jax", "Project that the run is listed in.")
  entity: str = field(
    "", "User or team that the project belongs to; empty is your own."
  )
  run_name: str = field("", "Name of the run; empty is that of the workdir.")
  mode: str = field(
    "",
    "Whether it is sent at once (online) or kept for wandb sync (offline); empty is"
    " what WANDB_MODE says.",
    among=("", "online", "offline"),
  )

  def open(self, workdir: pathlib.Path, config: Mapping[str, Any]) -> Log:
    """A run of Weights & Biases, which the same workdir continues."""
    return load(f"{_ROOM}.weights_and_biases:Log")(self, workdir, config)


@dataclasses.dataclass(frozen=True)
class Logging:
  """Loggers, by their names."""

  loggers: dict[str, Any] = several(
    LOGGERS,
    ("tensorboard",),
    "Loggers beside metrics.jsonl; empty has none.",
  )
