"""The parameters that a run can begin with, as choices."""

import dataclasses

from contrastive_jax.choices import Kind, field

_HERE = "contrastive_jax.training.runs.initial_choices"
INITIAL = Kind(
  "beginning",
  {
    "random": f"{_HERE}:Random",
    "run": f"{_HERE}:Run",
    "weights": f"{_HERE}:Weights",
  },
)


@dataclasses.dataclass(frozen=True)
class Random:
  """Parameters drawn at random."""


@dataclasses.dataclass(frozen=True)
class Run:
  """Parameters of a finished run, where their names and shapes fit."""

  workdir: str = field(
    "",
    "Workdir of a finished run, or folder of a model (WORKDIR/model).",
    place=True,
  )
  part: str = field(
    "all",
    "Parameters of a fusion model that are taken: all, or the two encoders alone.",
    among=("all", "encoders"),
  )

  def check(self) -> None:
    """Raises if no run is named."""
    if not self.workdir:
      raise ValueError("workdir must be the folder of a finished run; got ''.")


@dataclasses.dataclass(frozen=True)
class Weights:
  """Published weights: safetensors, npz or torch files, or folders of them."""

  weights: str = field(
    "", "File or folder of the whole model's weights.", place=True
  )
  image_weights: str = field(
    "", "File or folder of the image tower's weights.", place=True
  )
  text_weights: str = field(
    "",
    "File or folder of the text tower's weights; for a fusion model's text layers,"
    " a BERT's.",
    place=True,
  )
  allow: tuple[str, ...] = field(
    (),
    "Mismatches between file and model that are accepted.",
    among=("missing", "unexpected", "misshapen"),
  )

  def check(self) -> None:
    """Raises unless weights of the whole model, or of towers, are named."""
    towers = {
      "image_weights": self.image_weights,
      "text_weights": self.text_weights,
    }
    given = [name for name, value in towers.items() if value]
    if self.weights and given:
      raise ValueError(
        f"weights is of the whole model: leave config.initial.{given[0]} empty."
      )
    if not self.weights and not given:
      raise ValueError(
        "weights, config.initial.image_weights or config.initial.text_weights must"
        " name a file; all are empty."
      )
