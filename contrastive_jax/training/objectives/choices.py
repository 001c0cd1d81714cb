"""The objectives that a run can train, as choices: fields, and what they go with.

The classes that they build stand beside this module, which is read before JAX is.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from contrastive_jax.choices import Kind, choice, field, load

if TYPE_CHECKING:
  from contrastive_jax.training.objectives import parts as parts_lib

_HERE = "contrastive_jax.training.objectives.choices"
OBJECTIVES = Kind(
  "objective",
  {
    "clip": f"{_HERE}:Clip",
    "simclr": f"{_HERE}:SimCLR",
    "moco_v3": f"{_HERE}:MoCoV3",
    "superclass": f"{_HERE}:SuperClass",
    "albef": f"{_HERE}:Albef",
    "vqa": f"{_HERE}:Vqa",
    "nlvr2": f"{_HERE}:Nlvr2",
    "text_assignment": f"{_HERE}:TextAssignment",
    "entailment": f"{_HERE}:Entailment",
  },
)
ANSWERING = Kind(
  "way of answering",
  {"rank": f"{_HERE}:Rank", "generate": f"{_HERE}:Generate"},
)
_TEXT = ("tokenizer", "captions", "initial")


@dataclasses.dataclass(frozen=True)
class Objective:
  """An objective: a frozen dataclass with these, and a `build`.

  Attributes:
    uses: groups of the configuration that it reads, of those that not every
      objective has: tokenizer, captions, initial, loss, structure, microbatches.
    task: the records that it trains on: captions (images with texts), images,
      vqa, nlvr2 or entailment.
    losses: names of the losses that it takes, the usual one first; a loss of the
      user's own goes with any that has some.
    temperature_modes: those that it knows, the usual one first.
    other_views: likewise.
    evaluators: those that it is measured by where nobody chooses others.
    fuses: whether its model is one of `models.FUSION_PRESETS`.
    builds: `module:Class` of what `build` makes of the fields and `Parts`.
  """

  uses: ClassVar[tuple[str, ...]] = ()
  task: ClassVar[str] = "captions"
  losses: ClassVar[tuple[str, ...]] = ()
  temperature_modes: ClassVar[tuple[str, ...]] = ("fixed",)
  other_views: ClassVar[tuple[str, ...]] = ("augmented", "momentum")
  evaluators: ClassVar[tuple[str, ...]] = ()
  fuses: ClassVar[bool] = False
  builds: ClassVar[str] = ""

  # How a batch is made up; objectives with fields of these names choose.
  captions_per_example = 1
  images_per_concept = 1

  def check_run(self, config: Any) -> None:
    """Raises ValueError if the rest of the configuration does not go with it."""

  def build(self, parts: "parts_lib.Parts") -> Any:
    """The objective as the trainer takes it, `objectives.base.Objective`."""
    return load(self.builds)(self, parts)


@dataclasses.dataclass(frozen=True)
class Clip(Objective):
  """Image-text contrast of a two-tower model (CLIP, LiT, SigLIP)."""

  builds = "contrastive_jax.training.objectives.clip:Clip"

  # pyrefly: ignore[bad-override]
  captions_per_example: int = field(
    1,
    "Captions of an image in a step; the first is in the first language.",
    low=1,
  )
  # pyrefly: ignore[bad-override]
  images_per_concept: int = field(
    1, "Rows of a batch that show one concept.", low=1
  )
  image_image: float = field(
    0.0,
    "Weight of NT-Xent between a concept's images; needs an even"
    " images_per_concept.",
    low=0.0,
  )
  frozen: tuple[str, ...] = field(
    (), "Towers that are not trained.", among=("image", "text")
  )
  cache_features: bool = field(
    False,
    "Whether features of training data are computed once, of images as they"
    " are; needs both towers frozen.",
  )
  tower_rate: float = field(
    1.0,
    "Learning rate of the towers over that of all else; below 1 where they begin"
    " with published weights.",
    low=0,
  )

  uses = (*_TEXT, "loss", "structure", "microbatches")
  losses = (
    "clip",
    "clip_four_term",
    "decoupled",
    "sigmoid",
    "hard_negative",
    "augmented",
  )
  temperature_modes = ("learned", "fixed", "robust", "individual")
  evaluators = ("retrieval", "zero_shot", "classification", "geometry")

  def check(self) -> None:
    """Raises on fields that do not go together."""
    if self.image_image and self.images_per_concept % 2:
      raise ValueError(
        "image_image needs an even config.objective.images_per_concept; got"
        f" {self.images_per_concept}."
      )
    if self.cache_features and {*self.frozen} != {"image", "text"}:
      raise ValueError(
        "cache_features needs config.objective.frozen=image,text; got"
        f" {self.frozen!r}."
      )

  def check_run(self, config: Any) -> None:
    """Raises if a frozen tower has no weights, or a cached one other views."""
    for side in self.frozen:
      given = getattr(config.initial, f"{side}_weights", "")
      if not (given or getattr(config.initial, "weights", "")):
        raise ValueError(
          f"config.objective.frozen={self.frozen!r} needs weights of the {side}"
          " tower: config.initial=weights with"
          f" config.initial.{side}_weights or config.initial.weights."
        )
    if self.cache_features and config.augmented_sides:
      raise ValueError(
        "config.objective.cache_features knows no other views of images and"
        " texts: leave out the loss and the terms of config.structure that take"
        " them."
      )


@dataclasses.dataclass(frozen=True)
class _SelfSupervised(Objective):
  """Fields of both objectives of one modality."""

  # pyrefly: ignore[bad-override]
  images_per_concept: int = field(
    1,
    "Images of a concept that are its two views; 1 takes two augmentations of"
    " one image.",
    low=1,
    high=2,
  )
  projector: tuple[int, ...] = field(
    (128,), "Widths of the projector's hidden layers.", low=1
  )
  embed_dim: int = field(64, "Width of the contrasted features.", low=1)
  second_blur: float = field(
    -1.0,
    "Blur probability of the second view; negative = as the first view.",
    low=-1,
    high=1,
  )
  second_solarize: float = field(
    -1.0,
    "Solarize probability of the second view; negative = as the first view.",
    low=-1,
    high=1,
  )

  uses = ("initial", "loss")
  task = "images"
  evaluators = ("knn", "classification", "geometry")

  def check_run(self, config: Any) -> None:
    """Raises on an E-step that needs two modalities."""
    from contrastive_jax.training.objectives import e_step_rules

    rule = getattr(config.loss, "e_step", None)
    # Its predictors are of two modalities.
    if isinstance(rule, e_step_rules.Amortized):
      raise ValueError(
        "config.loss.e_step=amortized needs config.objective=clip or albef; set"
        " config.loss.e_step=conjugate or moving_average."
      )


@dataclasses.dataclass(frozen=True)
class SimCLR(_SelfSupervised):
  """Two views of each example through one encoder (SimCLR, SogCLR)."""

  builds = "contrastive_jax.training.objectives.simclr:SimCLR"

  losses = ("nt_xent", "hard_negative", "augmented")


@dataclasses.dataclass(frozen=True)
class MoCoV3(_SelfSupervised):
  """Queries against the keys of a momentum encoder (MoCo v3)."""

  builds = "contrastive_jax.training.objectives.moco_v3:MoCoV3"

  predictor: tuple[int, ...] = field(
    (128,), "Widths of the predictor's hidden layers; () has none.", low=1
  )
  predictor_norm: bool = field(
    True, "Whether batch normalisation follows the predictor's last layer."
  )
  momentum: float = field(
    0.99,
    "EMA decay of the momentum encoder at the start; a cosine takes it to 1.",
    low=0,
    high=1,
  )
  freeze_patches: bool = field(
    True, "Whether a ViT's patch projection stays as initialised."
  )

  losses = ("info_nce", "decoupled", "augmented")


@dataclasses.dataclass(frozen=True)
class SuperClass(Objective):
  """Classification of images into the tokens of their captions (SuperClass)."""

  builds = "contrastive_jax.training.objectives.superclass:SuperClass"

  # pyrefly: ignore[bad-override]
  captions_per_example: int = field(
    1,
    "Captions of an image in a step; the first is in the first language.",
    low=1,
  )
  weighted: bool = field(
    True, "Whether rare tokens weigh more, by inverse document frequency."
  )

  uses = (*_TEXT, "microbatches")
  evaluators = ("knn", "classification", "geometry")


@dataclasses.dataclass(frozen=True)
class _Fusion(Objective):
  """Fields of objectives of fusion models with a momentum model."""

  momentum: float = field(
    0.995, "EMA decay of the momentum model.", low=0, high=1
  )
  alpha: float = field(
    0.4,
    "Share of the momentum model's soft targets; 0 has none.",
    low=0,
    high=1,
  )
  alpha_ramp: float = field(
    0.05,
    "Share of the steps in which alpha grows from 0.",
    low=0,
    high=1,
  )

  fuses = True


@dataclasses.dataclass(frozen=True)
class Albef(_Fusion):
  """Contrast, matching and masked language modelling of a fusion model (ALBEF)."""

  builds = "contrastive_jax.training.objectives.albef:Albef"

  contrast: float = field(1.0, "Weight of the image-text contrast.", low=0)
  matching: float = field(1.0, "Weight of image-text matching.", low=0)
  language: float = field(1.0, "Weight of masked language modelling.", low=0)
  mask_share: float = field(
    0.15, "Share of a text's tokens that is predicted.", low=0, high=1
  )
  negative_block: int = field(
    0,
    "Neighbouring rows among which hard negatives are drawn; 0 is the whole"
    " batch.",
    low=0,
  )

  uses = (*_TEXT, "loss", "structure")
  losses = ("soft_target", "augmented")
  temperature_modes = ("learned", "fixed")
  other_views = ("momentum",)
  evaluators = (
    "retrieval",
    "zero_shot",
    "classification",
    "geometry",
    "reranked",
  )

  def check_run(self, config: Any) -> None:
    """Raises on rows that hard negatives cannot be drawn among, and on heads."""
    if not any((self.contrast, self.matching, self.language)):
      raise ValueError(
        "One of config.objective.contrast, matching and language must be above"
        " 0."
      )
    block = self.negative_block
    if block and config.batch_size % block:
      raise ValueError(
        "config.objective.negative_block must divide config.batch_size"
        f" ({config.batch_size}); got {block}."
      )
    separation: Any = config.structure.terms.get("separation")
    if separation is not None and separation.independent_head != "linear":
      raise ValueError(
        "config.structure.separation.independent_head must be linear for"
        f" config.objective=albef; got {separation.independent_head!r}."
      )


@dataclasses.dataclass(frozen=True)
class _Task(_Fusion):
  """Fields of tasks with texts and labels of their own."""

  texts_per_image: int = field(
    4, "Questions, statements or hypotheses of an image in a step.", low=1
  )
  inputs: str = field(
    "both",
    "Inputs that the model sees; with image every text is empty, with text every"
    " image is grey, which tells what one input alone gives away.",
    among=("both", "image", "text"),
  )

  uses = ("tokenizer", "initial")
  evaluators = ("task",)


@dataclasses.dataclass(frozen=True)
class Rank:
  """Candidate answers are ranked by all of their tokens."""

  candidates: int = field(
    128, "Candidates that are kept by their first token.", low=1
  )

  def answer(self, objective: Any, *question: Any, reader: Any, answers: Any):
    """Numbers of the likeliest of the answers, int32 [N]; see `tasks.Vqa.rank`.

    Args:
      objective: a `tasks.Vqa`.
      *question: its parameters, and what it makes of the questions.
      reader: the `task_pipeline.Encoder` of the run.
      answers: texts, the candidates.
    """
    import jax.numpy as jnp

    candidates = jnp.asarray(reader.answers(answers))
    count = min(self.candidates, max(1, len(answers)))
    return objective.rank(*question, candidates, count)


@dataclasses.dataclass(frozen=True)
class Generate:
  """An answer is written freely, each token the likeliest one."""

  def answer(self, objective: Any, *question: Any, reader: Any, answers: Any):
    """Token rows, int32 [N, A]; see `Rank.answer` and `tasks.Vqa.generate`."""
    del answers
    return objective.generate(
      *question,
      start_id=reader.tokenizer.start_id,
      end_id=reader.tokenizer.end_id,
      length=reader.answer_length,
    )


@dataclasses.dataclass(frozen=True)
class Vqa(_Task):
  """Answers to questions on an image, by a decoder that writes them."""

  builds = "contrastive_jax.training.objectives.tasks:Vqa"

  answer_length: int = field(
    8, "Tokens of an answer, start and end included.", low=3
  )
  answers_per_question: int = field(
    1, "Weighted answers of a question in a step.", low=1
  )
  answering: Any = choice(ANSWERING, "rank", "How questions are answered.")

  task = "vqa"

  def check_run(self, config: Any) -> None:
    """Raises on answers that are longer than the model's texts."""
    longest = config.model.context_length + 1
    if config.model.context_length and self.answer_length > longest:
      raise ValueError(
        "config.objective.answer_length must be at most one more than"
        f" config.model.context_length ({config.model.context_length}); got"
        f" {self.answer_length}."
      )


@dataclasses.dataclass(frozen=True)
class Nlvr2(_Task):
  """Whether a statement on two images is true."""

  builds = "contrastive_jax.training.objectives.tasks:Nlvr2"

  task = "nlvr2"


@dataclasses.dataclass(frozen=True)
class Entailment(_Task):
  """Whether an image entails a hypothesis, contradicts it, or neither."""

  builds = "contrastive_jax.training.objectives.tasks:Entailment"

  task = "entailment"


@dataclasses.dataclass(frozen=True)
class TextAssignment(Objective):
  """NLVR2's further pre-training: which of two images a text belongs to."""

  builds = "contrastive_jax.training.objectives.tasks:TextAssignment"

  uses = _TEXT
  fuses = True
