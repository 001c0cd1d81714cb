"""Checkpoints: everything that a run needs to go on, by Orbax."""

import pathlib
from typing import Any

import grain
import jax
from orbax.checkpoint import v1 as ocp

from contrastive_jax.training import state as state_lib


class Checkpoints:
  """The newest checkpoints of a run, in `workdir/checkpoints`.

  A checkpoint holds the train state and the data iterator, so that a run that
  goes on from it sees the same batches as one that was never stopped. Saving is
  atomic: a killed run leaves the older checkpoints as they are.
  """

  def __init__(self, workdir: pathlib.Path, *, keep: int):
    """Opens or makes the folder; keeps the newest `keep`."""
    policies = ocp.training.preservation_policies
    self._checkpointer = ocp.training.Checkpointer(
        (workdir / "checkpoints").absolute(),
        # The loop decides when to save.
        save_decision_policy=(
            ocp.training.save_decision_policies.FixedIntervalPolicy(1)
        ),
        preservation_policy=policies.LatestN(keep),
        cleanup_tmp_directories=True,
    )

  @property
  def latest_step(self) -> int | None:
    """Step of the newest checkpoint; None if there is none."""
    latest = self._checkpointer.latest
    return None if latest is None else latest.step

  def save(
      self,
      step: int,
      state: state_lib.TrainState,
      iterator: grain.DatasetIterator,
  ) -> None:
    """Saves, unless this step is saved already."""
    if self.latest_step == step:
      return
    self._checkpointer.save_checkpointables(
        step, {"state": state, "data": iterator}, force=True
    )

  def restore(
      self,
      state: state_lib.TrainState,
      iterator: grain.DatasetIterator | None = None,
      step: int | None = None,
  ) -> state_lib.TrainState:
    """Loads a checkpoint, by default the newest.

    Args:
      state: arrays (or their shapes, types and shardings) to restore into.
      iterator: is set to where the saved one stood; None leaves it out.
      step: which checkpoint.

    Returns:
      The state.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
    """
    if self.latest_step is None:
      raise FileNotFoundError(
          f"{self._checkpointer.directory} holds no checkpoint."
      )
    known = [c.step for c in self._checkpointer.checkpoints]
    if step is not None and step not in known:
      raise FileNotFoundError(
          f"There is no checkpoint of step {step}; there are {known}."
      )
    abstract: dict[str, Any] = {"state": jax.tree.map(_abstract, state)}
    if iterator is not None:
      abstract["data"] = iterator
    loaded = self._checkpointer.load_checkpointables(step, abstract)
    return loaded["state"]

  def close(self) -> None:
    """Waits for what is being written."""
    self._checkpointer.close()


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)
  )
