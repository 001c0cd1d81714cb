"""The log of a run for Weights & Biases."""

import pathlib
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from contrastive_jax.training.loggers import choices


class Log:
  """A run of Weights & Biases; see `choices.Log`.

  Its files are where it puts them, `WANDB_DIR` or the folder that the run is started
  in: among them are links, which a workdir may not have.
  """

  def __init__(
    self,
    chosen: "choices.Wandb",
    workdir: pathlib.Path,
    config: Mapping[str, Any],
  ):
    """Imports the package; raises ValueError if it is absent."""
    try:
      import wandb
    except ImportError as error:
      raise ValueError(
        "needs the package wandb, which is not installed: install the extra wandb,"
        ' pip install "contrastive_jax[wandb]", or log elsewhere.'
      ) from error
    self._wandb: Any = wandb
    self._chosen, self._workdir, self._config = chosen, workdir, config
    self._finished = False

  def begin(self, step: int) -> None:
    """Starts its run, or goes on with that of the workdir."""
    del step  # Its own steps only rise: ours are a number of each line.
    chosen = self._chosen
    self._run = self._wandb.init(
      project=chosen.project,
      entity=chosen.entity or None,
      name=chosen.run_name or self._workdir.name,
      mode=chosen.mode or None,
      config=dict(self._config),
      id=self._id(),
      resume="allow",
    )
    self._run.define_metric("step")
    self._run.define_metric("*", step_metric="step")

  def write(self, step: int, numbers: Mapping[str, float]) -> None:
    """A line of the run's history."""
    self._run.log({"step": step, **numbers})

  def finish(
    self,
    step: int,
    results: Mapping[str, float],
    pictures: Sequence[pathlib.Path],
  ) -> None:
    """Scores go to the run's summary, pictures to its media."""
    self._run.log(
      {
        "step": step,
        **{f"plots/{p.stem}": self._wandb.Image(str(p)) for p in pictures},
      }
    )
    self._run.summary.update(dict(results))
    self._finished = True

  def close(self) -> None:
    """Waits until all is sent or kept; a run that was stopped is marked so."""
    self._run.finish(exit_code=0 if self._finished else 1)

  def _id(self) -> str:
    """The name that its server knows the workdir's run by."""
    path = self._workdir / "wandb_id"
    if not path.exists():
      path.write_text(uuid.uuid4().hex[:12], encoding="ascii")
    return path.read_text(encoding="ascii")
