"""Checkpoints: everything that a run needs to go on, by Orbax."""

import json
import pathlib
from typing import Any

import grain
import jax
from orbax.checkpoint import v1 as ocp

from contrastive_jax.training.distributed import example_tables
from contrastive_jax.training.trainer import integrity
from contrastive_jax.training.trainer import state as state_lib
from contrastive_jax.training.trainer.integrity import CheckpointError

_SCORE = "score"


class Checkpoints:
  """The checkpoints of a run, in `workdir/checkpoints`.

  A checkpoint holds the train state and the data iterator, so that a run that
  goes on from it sees the same batches as one that was never stopped. Saving is
  atomic: a killed run leaves the older checkpoints as they are; what is damaged
  later is noticed, see `integrity`. Tables of one entry an example are kept in the
  order of the examples.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    keep: int | None,
    keep_every: int = 0,
    keep_best: bool = False,
  ):
    """Opens the folder.

    Args:
      workdir: the run's.
      keep: checkpoints that stay, the newest; None is for readers, which
        touch nothing: the run may be at work.
      keep_every: those of multiples of so many steps stay as well; 0 is none.
      keep_best: whether that of the highest score does.
    """
    policies = ocp.training.preservation_policies
    kept: list[Any] = [policies.LatestN(keep)]
    if keep_every:
      kept.append(policies.EveryNSteps(keep_every))
    if keep_best:
      kept.append(
        policies.BestN(
          get_metric_fn=lambda metrics: metrics[_SCORE],
          n=1,
          keep_checkpoints_without_metrics=False,
        )
      )
    self._failed = False
    self._workdir = workdir
    self._checkpointer = ocp.training.Checkpointer(
      str((workdir / "checkpoints").absolute()),
      # The loop decides when to save.
      save_decision_policy=(
        # pyrefly: ignore[bad-argument-type]
        ocp.training.save_decision_policies.FixedIntervalPolicy(1)
      ),
      # pyrefly: ignore[bad-argument-type]
      preservation_policy=policies.AnyPreservationPolicy(kept),
      # A killed run may have left one half written.
      cleanup_tmp_directories=keep is not None,
    )

  @property
  def latest_step(self) -> int | None:
    """Step of the newest checkpoint; None if there is none."""
    latest = self._checkpointer.latest
    return None if latest is None else latest.step

  @property
  def best_step(self) -> int | None:
    """Step of the checkpoint with the highest score; None if none has one."""
    found: Any = self._checkpointer.checkpoints
    scores = {c.step: c.metrics[_SCORE] for c in found if c.metrics}
    return max(scores, key=scores.__getitem__) if scores else None

  def parameters(self, sharding: jax.sharding.Sharding) -> Any:
    """The newest checkpoint's parameters that evaluation uses, and nothing else.

    Raises:
      CheckpointError: if there is no checkpoint, or it cannot be read.
    """
    step, stored, name = self._stored()
    self._check_files(step)
    wanted = {
      key: jax.tree.map(
        lambda x, key=key: (
          jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
          if key == name
          else ocp.PLACEHOLDER
        ),
        value,
      )
      for key, value in stored.items()
    }
    return self._load(step, {"state": wanted})["state"][name]

  def parameter_forms(self) -> Any:
    """The shapes and types of `parameters`; nothing else is read."""
    _, stored, name = self._stored()
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), stored[name]
    )

  def _stored(self) -> tuple[int, Any, str]:
    """The newest step, the form of its state, and which parameters count."""
    step = self.latest_step
    if step is None:
      raise CheckpointError(
        f"{self._checkpointer.directory} holds no checkpoint."
      )
    # The run may be any: its form is in the checkpoint, not in a configuration.
    found = self._checkpointer.checkpointables_metadata(step).metadata
    if "state" not in found:
      raise self._unreadable(step, "its folder `state` is missing")
    found = found["state"]
    return (
      step,
      found,
      "params" if found["ema_params"] is None else "ema_params",
    )

  def _check_files(self, step: int) -> None:
    """Raises if a checkpoint is damaged; one process reads it for all."""
    found = ""
    if jax.process_index() == 0:
      found = integrity.problem(self._workdir, step)
    if found:
      raise CheckpointError(
        f"{self._checkpointer.directory / str(step)} is damaged ({found}): restore it,"
        " or take another step."
      )

  def _load(self, step: int | None, abstract: dict[str, Any]) -> dict[str, Any]:
    try:
      return self._checkpointer.load_checkpointables(step, abstract)
    # Orbax raises whatever its layers do: a file is missing, cut or changed.
    except Exception as error:
      folder = self._checkpointer.directory / str(step)
      reason = (
        self._difference(step, abstract["state"]) or _reason(error)
        if (folder / "state").exists()
        else "its folder `state` is missing"
      )
      raise self._unreadable(step, reason) from error

  def _difference(self, step: int | None, state: Any) -> str:
    """The first array that the checkpoint holds in another form; "" if none."""
    try:
      metadata = self._checkpointer.checkpointables_metadata(step).metadata
    except Exception:  # It is damaged, which the first error tells.
      return ""
    stored, wanted = _forms(metadata["state"]), _forms(state)
    for name in sorted({*stored, *wanted}):
      here, there = (x.get(name, "missing") for x in (wanted, stored))
      if here not in ("", there):
        return f"{name} is {there}; the configuration needs {here}"
    return ""

  def _unreadable(self, step: int | None, reason: str) -> CheckpointError:
    return CheckpointError(
      f"{self._checkpointer.directory / str(step)} cannot be restored"
      f" ({reason}). If it is damaged, delete this folder to go on from the"
      " checkpoint before; if the data has changed, choose another --workdir."
    )

  def check(self, step: int | None = None) -> None:
    """Raises `FileNotFoundError` unless there is this (or any) checkpoint."""
    if self.latest_step is None:
      raise FileNotFoundError(
        f"{self._checkpointer.directory} holds no checkpoint."
      )
    known = [c.step for c in self._checkpointer.checkpoints]
    if step is not None and step not in known:
      raise FileNotFoundError(
        f"{self._checkpointer.directory} holds no checkpoint of step {step};"
        f" there are {', '.join(map(str, known))}."
      )

  def save(
    self,
    step: int,
    state: state_lib.TrainState,
    iterator: grain.DatasetIterator,
    *,
    score: float | None = None,
  ) -> None:
    """Saves, unless this step is saved already.

    Args:
      step: updates made.
      state: after them.
      iterator: of the training data.
      score: of a validation of this state, the higher the better.

    Raises:
      CheckpointError: if it cannot be written; the earlier ones stay.
    """
    if self.latest_step == step:
      return
    try:
      self._checkpointer.save_checkpointables(
        step,
        {"state": example_tables.to_file(state), "data": iterator},
        metrics=None if score is None else {_SCORE: score},
        force=True,
      )
    # Orbax raises whatever its layers do.
    except Exception as error:
      self._failed = True
      raise CheckpointError(
        f"The checkpoint of step {step} cannot be written to"
        f" {self._checkpointer.directory} ({_reason(error)}): those before it are as"
        " they were; make room, then the same command goes on."
      ) from error
    if jax.process_index() == 0:
      integrity.record(self._workdir, step)

  def restore(
    self,
    state: state_lib.TrainState,
    iterator: grain.DatasetIterator | None = None,
    step: int | None = None,
  ) -> state_lib.TrainState:
    """Loads a checkpoint, by default the newest.

    Args:
      state: arrays (or their shapes, types and shardings) to restore into.
      iterator: is set to where the saved one stood, and the files are taken for
        checked (`integrity.set_aside_damaged`); None leaves it out, and checks them.
      step: which checkpoint.

    Returns:
      The state.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
      CheckpointError: if it cannot be read.
    """
    self.check(step)
    step = self.latest_step if step is None else step
    assert step is not None
    if iterator is None:
      self._check_files(step)
    abstract = {"state": example_tables.file_layout(state)}
    restored = example_tables.from_file(
      self._load(step, abstract)["state"], state
    )
    if iterator is not None:
      iterator.set_state(self._position(step))
    return restored

  def _position(self, step: int) -> Any:
    """Where the data iterator stood: the same in all processes, however many."""
    folder = pathlib.Path(self._checkpointer.directory / str(step) / "data")
    found = sorted(folder.glob("process_*-of-*.json"))
    if not found:
      raise self._unreadable(step, "its folder `data` is missing or empty")
    try:
      return json.loads(found[0].read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
      raise self._unreadable(step, _reason(error)) from error

  def close(self) -> None:
    """Waits for what is being written."""
    try:
      self._checkpointer.close()
    except Exception:
      if not self._failed:  # Or it says once more what was said already.
        raise


def _forms(tree: Any) -> dict[str, str]:
  """Type and shape of each array by its path, "" where any will do."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (
      f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") else ""
    )
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def _reason(error: Exception) -> str:
  """A library's error, short enough to read."""
  reason = " ".join(str(error).split())
  if len(reason) > 150:
    reason = f"{reason[:150]}..."
  return f"{type(error).__name__}: {reason}"
