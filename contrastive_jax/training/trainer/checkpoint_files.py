"""Files of checkpoints: read, or told what is wrong with them."""

import json
import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from contrastive_jax.training.trainer import integrity
from contrastive_jax.training.trainer.integrity import CheckpointError


class CheckpointFiles:
  """What the checkpoints of a run hold, read by Orbax."""

  def __init__(
    self, workdir: pathlib.Path, checkpointer: ocp.training.Checkpointer
  ):
    """Takes the run's folder, and what reads its checkpoints."""
    self._workdir = workdir
    self._checkpointer = checkpointer

  def check(self, step: int) -> None:
    """Raises if a checkpoint is damaged; one process reads it for all."""
    found = ""
    if jax.process_index() == 0:
      found = integrity.problem(self._workdir, step)
    if found:
      raise CheckpointError(
        f"{self._checkpointer.directory / str(step)} is damaged ({found}): restore it,"
        " or take another step."
      )

  def load(self, step: int | None, abstract: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's content in a form; raises `CheckpointError` if it has not."""
    try:
      return self._checkpointer.load_checkpointables(step, abstract)
    # Orbax raises whatever its layers do: a file is missing, cut or changed.
    except Exception as error:
      folder = self._checkpointer.directory / str(step)
      why = (
        self._difference(step, abstract["state"]) or reason(error)
        if (folder / "state").exists()
        else "its folder `state` is missing"
      )
      raise self.unreadable(step, why) from error

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

  def unreadable(self, step: int | None, why: str) -> CheckpointError:
    """The error of a checkpoint that cannot be restored."""
    return CheckpointError(
      f"{self._checkpointer.directory / str(step)} cannot be restored"
      f" ({why}). If it is damaged, delete this folder to go on from the"
      " checkpoint before; if the data has changed, choose another --workdir."
    )

  def position(self, step: int) -> Any:
    """Where the data iterator stood: the same in all processes, however many."""
    folder = pathlib.Path(self._checkpointer.directory / str(step) / "data")
    found = sorted(folder.glob("process_*-of-*.json"))
    if not found:
      raise self.unreadable(step, "its folder `data` is missing or empty")
    try:
      return json.loads(found[0].read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
      raise self.unreadable(step, reason(error)) from error


def _forms(tree: Any) -> dict[str, str]:
  """Type and shape of each array by its path, "" where any will do."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (
      f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") else ""
    )
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def reason(error: Exception) -> str:
  """A library's error, short enough to read."""
  text = " ".join(str(error).split())
  if len(text) > 150:
    text = f"{text[:150]}..."
  return f"{type(error).__name__}: {text}"
