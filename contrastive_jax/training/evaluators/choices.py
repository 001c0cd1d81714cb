"""The evaluators that a run can be measured by, as choices.

An evaluator is a frozen dataclass whose `build` gives functions of a state; see
`Evaluator`. `config.evaluation=retrieval,my_project.mine:Evaluator` takes one of the
user's own.
"""

import dataclasses
import difflib
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from contrastive_jax.choices import Kind, field, load, several
from contrastive_jax.data import benchmarks

if TYPE_CHECKING:
  from contrastive_jax.training.evaluators import base

_ROOM = "contrastive_jax.training.evaluators"
_HERE = f"{_ROOM}.choices"
EVALUATORS = Kind(
  "evaluator",
  {
    "retrieval": f"{_HERE}:Retrieval",
    "zero_shot": f"{_HERE}:ZeroShot",
    "classification": f"{_HERE}:Classification",
    "knn": f"{_HERE}:Knn",
    "geometry": f"{_HERE}:Geometry",
    "mixed": f"{_HERE}:Mixed",
    "reranked": f"{_HERE}:Reranked",
    "benchmarks": f"{_HERE}:Benchmarks",
    "task": f"{_HERE}:Task",
  },
)
_EVERY = field(
  200, "Steps between two validations; 0 has none before the end.", low=0
)
_CONCATENATED = field(
  False,
  "Whether features of both heads, side by side, are classified as well; needs"
  " structure=separation.",
)
_PAIRS = ("clip", "albef")
_IMAGES = (*_PAIRS, "simclr", "moco_v3", "superclass")


class Evaluator(Protocol):
  """An evaluator: a frozen dataclass with a `build`.

  It may have these too:

  Attributes:
    every: steps between two validations; 0 has none. An evaluator without it
      never validates.
    final: whether it runs at the end of training; one without it does.
    objectives: names of the objectives that it goes with; one without it goes with
      all.
  """

  def build(self, run: "base.Opened") -> "base.Measure":
    """The measure of states on the data of an opened run.

    Raises:
      ValueError: if it cannot measure this run.
    """
    ...


@dataclasses.dataclass(frozen=True)
class _Evaluator:
  """An evaluator of this package: its `Measure` is taken from its own module."""

  measure: ClassVar[str]
  objectives: ClassVar[tuple[str, ...]] = _IMAGES

  def build(self, run: "base.Opened") -> "base.Measure":
    """The `measure` on an opened run, with the fields chosen here."""
    return load(f"{_ROOM}.{self.measure}")(run, self)


@dataclasses.dataclass(frozen=True)
class _FinalEvaluator(_Evaluator):
  final: bool = field(True, "Whether it runs at the end of training.")


@dataclasses.dataclass(frozen=True)
class Retrieval(_FinalEvaluator):
  """Retrieval between images and names or captions, both ways."""

  every: int = _EVERY
  objectives = _PAIRS
  measure = "retrieval:RetrievalMeasure"


@dataclasses.dataclass(frozen=True)
class ZeroShot(_FinalEvaluator):
  """Zero-shot classification by the names of classes in prompts."""

  objectives = _PAIRS
  measure = "zero_shot:ZeroShotMeasure"


@dataclasses.dataclass(frozen=True)
class Classification(_FinalEvaluator):
  """Few-shot, linear probe and kNN accuracy of frozen features."""

  concatenated: bool = _CONCATENATED
  measure = "classification:ClassificationMeasure"


@dataclasses.dataclass(frozen=True)
class Knn(_Evaluator):
  """kNN accuracy on the validation split while training."""

  every: int = _EVERY
  final = False
  measure = "classification:KnnMeasure"


@dataclasses.dataclass(frozen=True)
class Geometry(_FinalEvaluator):
  """Alignment, uniformity and modality gap of the test split."""

  measure = "geometry:GeometryMeasure"


@dataclasses.dataclass(frozen=True)
class Mixed(_FinalEvaluator):
  """Images and texts in one set: clusters by label, and search among both."""

  centred: bool = field(
    True,
    "Whether all is measured again without the mean of each modality (GR-CLIP).",
  )
  objectives = _PAIRS
  measure = "mixed:MixedMeasure"


@dataclasses.dataclass(frozen=True)
class Reranked(_FinalEvaluator):
  """Retrieval whose best answers matching ranks again (ALBEF)."""

  candidates: int = field(
    16, "Answers of the contrast that matching ranks again.", low=1
  )
  objectives = ("albef",)
  measure = "reranking:RerankedMeasure"


@dataclasses.dataclass(frozen=True)
class Benchmarks(_FinalEvaluator):
  """Scores on published sets that TFDS has prepared."""

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
  concatenated: bool = _CONCATENATED
  measure = "benchmark_suites:BenchmarksMeasure"

  def check(self) -> None:
    """Raises on a set that is not known."""
    for name in self.sets:
      if name not in benchmarks.BENCHMARKS:
        near = difflib.get_close_matches(
          name, benchmarks.BENCHMARKS, n=1, cutoff=0.0
        )
        raise ValueError(
          f"sets must be some of {', '.join(benchmarks.BENCHMARKS)}; got"
          f" {name!r}. Did you mean {near[0]!r}?"
        )


@dataclasses.dataclass(frozen=True)
class Task(_FinalEvaluator):
  """Accuracy of a fusion model's task, and of the texts alone."""

  every: int = _EVERY
  objectives = ("vqa", "nlvr2", "entailment")
  measure = "task_accuracy:TaskMeasure"


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Evaluators, and the fields that they share."""

  evaluators: dict[str, Any] = several(
    EVALUATORS, (), "Evaluators, in the order of their scores."
  )
  batch_size: int = field(512, "Images that are embedded at once.", low=1)
  plots: bool = field(True, "Whether plots are drawn at the end.")
