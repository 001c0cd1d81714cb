"""Checkpoints: everything that a run needs to go on, by Orbax."""

import pathlib
from typing import Any

import grain
import jax
from orbax.checkpoint import v1 as ocp

from contrastive_jax.training.distributed import example_tables
from contrastive_jax.training.trainer import checkpoint_files, integrity
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
      preservation_policy=_preservation(keep, keep_every, keep_best),
      # A killed run may have left one half written.
      cleanup_tmp_directories=keep is not None,
    )
    self._files = checkpoint_files.CheckpointFiles(workdir, self._checkpointer)

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

  def variables(
    self, sharding: jax.sharding.Sharding, step: int | None = None
  ) -> tuple[int, dict[str, Any]]:
    """A checkpoint's step, and the model's variables that evaluation uses.

    Args:
      sharding: of the arrays.
      step: which checkpoint; None is the newest.

    Raises:
      CheckpointError: if there is no checkpoint, or it cannot be read.
    """
    step, stored, name = self._stored(step)
    self._files.check(step)

    def wanted(path: Any, x: Any) -> Any:
      keys = [getattr(part, "key", None) for part in path]
      if keys[0] != name and keys[:2] != ["objective_state", "model"]:
        return ocp.PLACEHOLDER
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    form = jax.tree_util.tree_map_with_path(wanted, stored)
    found = self._files.load(step, {"state": form})["state"]
    others = found["objective_state"].get("model", {})
    return step, {"params": found[name], **others}

  def variable_forms(self) -> dict[str, Any]:
    """The shapes and types of the newest `variables`; nothing else is read."""
    _, stored, name = self._stored(None)
    others = stored["objective_state"].get("model", {})
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
      {"params": stored[name], **others},
    )

  def _stored(self, step: int | None) -> tuple[int, Any, str]:
    """A step, None the newest; the form of its state; which parameters count."""
    step = self.latest_step if step is None else step
    if step is None:
      raise CheckpointError(
        f"{self._checkpointer.directory} holds no checkpoint."
      )
    # The run may be any: its form is in the checkpoint, not in a configuration.
    found = self._checkpointer.checkpointables_metadata(step).metadata
    if "state" not in found:
      raise self._files.unreadable(step, "its folder `state` is missing")
    found = found["state"]
    return (
      step,
      found,
      "params" if found["ema_params"] is None else "ema_params",
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
        f" {self._checkpointer.directory} ({checkpoint_files.reason(error)}): those before it are as"
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
      self._files.check(step)
    abstract = {"state": example_tables.file_layout(state)}
    restored = example_tables.from_file(
      self._files.load(step, abstract)["state"], state
    )
    if iterator is not None:
      iterator.set_state(self._files.position(step))
    return restored

  def close(self) -> None:
    """Waits for what is being written."""
    try:
      self._checkpointer.close()
    except Exception:
      if not self._failed:  # Or it says once more what was said already.
        raise


def _preservation(keep: int | None, keep_every: int, keep_best: bool) -> Any:
  """Orbax's policy of what stays; arguments as of `Checkpoints`."""
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
  return policies.AnyPreservationPolicy(kept)
