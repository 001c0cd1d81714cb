"""The evaluators that a run can be measured by, as choices.

An evaluator is a frozen dataclass whose `build` gives functions of a state; see
`Evaluator`. `config.evaluation=retrieval,my_project.mine:Evaluator` takes one of the
user's own.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

from contrastive_jax.choices import Kind, field, several

if TYPE_CHECKING:
  from contrastive_jax.training.evaluators import base

_HERE = "contrastive_jax.training.evaluators.choices"
EVALUATORS = Kind(
  "evaluator",
  {
    "retrieval": f"{_HERE}:Retrieval",
    "zero_shot": f"{_HERE}:ZeroShot",
    "classification": f"{_HERE}:Classification",
    "knn": f"{_HERE}:Knn",
    "geometry": f"{_HERE}:Geometry",
    "reranked": f"{_HERE}:Reranked",
    "benchmarks": f"{_HERE}:Benchmarks",
    "task": f"{_HERE}:Task",
  },
)
_FINAL = field(True, "Whether it runs at the end of training.")


class Evaluator(Protocol):
  """An evaluator: a frozen dataclass with these.

  Attributes:
    every: steps between two validations; 0 has none before the end. A class
      without the field never validates.
    final: whether it runs at the end.
  """

  every: int
  final: bool

  def build(self, run: "base.Opened") -> "base.Measure":
    """Functions of a state that measure it on the data of an opened run."""
    ...


@dataclasses.dataclass(frozen=True)
class Retrieval:
  """Retrieval between images and names or captions, both ways."""

  every: int = field(
    200, "Steps between two validations; 0 has none before the end.", low=0
  )
  final: bool = _FINAL


@dataclasses.dataclass(frozen=True)
class ZeroShot:
  """Zero-shot classification by the names of classes in prompts."""

  final: bool = _FINAL


@dataclasses.dataclass(frozen=True)
class Classification:
  """Few-shot, linear probe and kNN accuracy of frozen features."""

  final: bool = _FINAL
  concatenated: bool = field(
    False,
    "Whether features of both heads, side by side, are classified as well; needs"
    " structure=separation.",
  )


@dataclasses.dataclass(frozen=True)
class Knn:
  """kNN accuracy on the validation split while training."""

  every: int = field(
    200, "Steps between two validations; 0 has none before the end.", low=0
  )

  final = False


@dataclasses.dataclass(frozen=True)
class Geometry:
  """Alignment, uniformity and modality gap of the test split."""

  final: bool = _FINAL


@dataclasses.dataclass(frozen=True)
class Reranked:
  """Retrieval whose best answers matching ranks again (ALBEF)."""

  final: bool = _FINAL
  candidates: int = field(
    16, "Answers of the contrast that matching ranks again.", low=1
  )


@dataclasses.dataclass(frozen=True)
class Benchmarks:
  """Scores on published sets that TFDS has prepared."""

  final: bool = _FINAL
  sets: tuple[str, ...] = field(
    (), "Names of contrastive_jax.data.benchmarks; missing ones are skipped."
  )
  data_dir: str = field(
    "~/tensorflow_datasets", "TFDS's data directory that has the sets."
  )
  fit: str = field(
    "pad",
    "How images become squares: pad with white, crop the middle (as CLIP is"
    " evaluated), stretch (SigLIP).",
    among=("pad", "crop", "stretch"),
  )
  classification: bool = field(
    True, "Whether frozen features are classified on each set as well."
  )
  concatenated: bool = field(
    False,
    "Whether features of both heads, side by side, are classified as well; needs"
    " structure=separation.",
  )


@dataclasses.dataclass(frozen=True)
class Task:
  """Accuracy of a fusion model's task, and of the texts alone."""

  every: int = field(
    200, "Steps between two validations; 0 has none before the end.", low=0
  )
  final: bool = _FINAL


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Evaluators, and the fields that they share."""

  evaluators: dict[str, Any] = several(
    EVALUATORS, (), "Evaluators, in the order of their scores."
  )
  batch_size: int = field(512, "Images that are embedded at once.", low=1)
  plots: bool = field(True, "Whether plots are drawn at the end.")
