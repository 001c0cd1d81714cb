"""The fields of a run, as frozen dataclasses; `config` parses and checks them."""

import dataclasses
import json
from typing import Any

from contrastive_jax.training.config.fields_inputs import (
  Augment,
  Data,
  Initial,
  Model,
  field,
)


@dataclasses.dataclass(frozen=True)
class Loss:
  """The training loss; fields from `e_step` on are those of name=augmented."""

  name: str = field(
    "clip",
    "Loss.",
    choices=(
      "clip",
      "clip_four_term",
      "decoupled",
      "sigmoid",
      "nt_xent",
      "moco_v3",
      "augmented",
      "soft_target",
      "cross_entropy",
    ),
  )
  group_positives: bool = field(
    True, "Rows of one concept are positives of each other."
  )
  label_smoothing: float = field(
    0.0, "Share of the uniform target; name=clip only.", low=0.0, high=0.999
  )
  image_image: float = field(
    0.0,
    "Weight of NT-Xent between a concept's images; needs"
    " data.images_per_concept=2.",
    low=0.0,
  )
  temperature: str = field(
    "learned",
    "robust is FastCLIP's objective of a learned one, individual one an example"
    " (iSogCLR); both need name=augmented.",
    choices=("learned", "fixed", "robust", "individual"),
  )
  init_logit_scale: float = field(14.2857, "Initial 1/temperature.", low=1)
  max_logit_scale: float = field(100.0, "Bound of 1/temperature.", low=1)
  block_size: int = field(0, "Rows formed at once; 0 decides by size.", low=0)
  e_step: str = field(
    "conjugate",
    "How an anchor's log-partition is estimated.",
    choices=("batch", "moving_average", "conjugate", "amortized"),
  )
  rate: float = field(
    0.5, "moving_average: weight of the batch.", low=1e-6, high=1
  )
  rate_schedule: str = field(
    "constant",
    "moving_average: cosine goes from 1 to rate in half of the steps, visits"
    " is rate (visits + 1)^-rate_decay.",
    choices=("constant", "cosine", "visits"),
  )
  rate_decay: float = field(0.9, "moving_average: see rate_schedule.", low=0)
  log_alpha: float = field(
    10.0, "conjugate: log of the inverse strength of the prior."
  )
  lagged: bool = field(
    False, "Weights from before the batch: without bias, and staler."
  )
  concentration: float = field(
    0.0, "Of the gamma draw of the weights; 0 takes their mean.", low=0
  )
  prior_shape: float = field(0.0, "Gamma prior of the weights.", low=0)
  prior_rate: float = field(0.0, "Gamma prior of the weights.", low=0)
  include_positive: bool = field(False, "The positive in the partition.")
  negative_mass: float = field(
    1.0, "Weight of the mean over negatives; 0 is batch_size - 1.", low=0
  )
  log_weight_cap: float = field(0.0, "Bound of log-weights; 0 is off.", low=0)
  rho: float = field(
    6.5, "temperature=robust or individual: larger is colder.", low=0
  )
  temperature_rate: float = field(
    0.01, "temperature=individual: its own learning rate.", low=0
  )
  prototypes: int = field(1024, "amortized: of each side.", low=1)
  prototype_steps: int = field(10, "amortized: fits a step.", low=1)
  prototype_rate: float = field(0.1, "amortized: of AdaGrad.", low=0)
  prototype_refill: int = field(
    500, "amortized: steps from one refill with keys to the next.", low=1
  )


@dataclasses.dataclass(frozen=True)
class Structure:
  """Regularisers of both modalities' features, with objective=clip, albef."""

  separation: float = field(
    0.0, "Weight of deep feature separation; gives towers a second head.", low=0
  )
  orthogonality: float = field(1.0, "separation: its term's weight.", low=0)
  independent_contrast: float = field(
    1.0, "separation: its term's weight.", low=0
  )
  uniformity: float = field(1.0, "separation: its term's weight.", low=0)
  independent_positive: str = field(
    "augmented",
    "separation: original is the printed form, without another view.",
    choices=("augmented", "original"),
  )
  independent_head: str = field(
    "linear", "separation: form of the second head.", choices=("linear", "mlp")
  )
  bridge: float = field(0.0, "Weight of the Brownian bridge.", low=0)
  bridge_side: str = field(
    "image",
    "bridge: whose other view is bridged.",
    choices=("image", "text", "both"),
  )
  bridge_time: tuple[float, float] = field(
    (0.25, 0.25), "bridge: range of its time; drawn where the ends differ."
  )
  bridge_weighted: bool = field(False, "bridge: divided by t (1 - t).")
  consistency: float = field(
    0.0, "Weight of geometric consistency; CyCLIP's is 0.25.", low=0
  )
  consistency_intra: float = field(
    1.0, "consistency: weight of the in-modal term.", low=0
  )
  consistency_inter: float = field(
    1.0, "consistency: weight of the cross-modal term.", low=0
  )
  consistency_augmented: float = field(
    1.0, "consistency: weight under augmentation; CyCLIP has none.", low=0
  )
  consistency_paired: float = field(
    1.0, "consistency: weight of pairs under augmentation; the same.", low=0
  )
  alignment: float = field(
    0.0, "Weight of the loss that closes the modality gap.", low=0
  )
  alignment_epsilon: float = field(
    1e-3, "alignment: 0 is the printed form, which may diverge.", low=0
  )
  source: str = field(
    "views",
    "Another view's features: of changed inputs, or of the same inputs by a"
    " momentum encoder.",
    choices=("views", "momentum"),
  )
  text_view: str = field(
    "eda",
    "source=views: the caption edited, or another caption.",
    choices=("eda", "caption"),
  )
  edited_share: float = field(
    0.1, "text_view=eda: share of the words.", low=1e-3, high=1
  )
  momentum: float = field(
    0.995, "source=momentum: of the momentum encoder.", low=0, high=1
  )

  @property
  def active(self) -> bool:
    """Whether any term is asked for."""
    return any((self.separation, self.bridge, self.consistency, self.alignment))

  @property
  def augmented_sides(self) -> tuple[str, ...]:
    """The modalities of which the terms take another view."""
    both = (
      self.separation
      and self.independent_contrast
      and self.independent_positive == "augmented"
    ) or (
      self.consistency
      and (self.consistency_augmented or self.consistency_paired)
    )
    bridged = self.bridge_side if self.bridge else ""
    return tuple(
      side for side in ("image", "text") if both or bridged in (side, "both")
    )


@dataclasses.dataclass(frozen=True)
class Fusion:
  """ALBEF: its pre-training (objective=albef) and its tasks."""

  contrast: float = field(1.0, "albef: weight of the contrast.", low=0)
  matching: float = field(1.0, "albef: weight of image-text matching.", low=0)
  language: float = field(
    1.0, "albef: weight of masked language modelling.", low=0
  )
  mask_share: float = field(
    0.15, "albef: share of the tokens to be predicted.", low=0, high=1
  )
  queue_size: int = field(
    1024, "albef: earlier keys in the contrast; 0 is none.", low=0
  )
  negative_block: int = field(
    0,
    "albef: neighbouring rows among which hard negatives are drawn; 0 is the"
    " whole batch.",
    low=0,
  )
  momentum: float = field(0.995, "Of the momentum model.", low=0, high=1)
  alpha: float = field(
    0.4, "Share of the momentum model's soft targets; 0 is off.", low=0, high=1
  )
  alpha_ramp: float = field(
    0.05, "Share of the steps in which alpha grows from 0.", low=0, high=1
  )
  answer_length: int = field(
    8, "vqa: tokens of an answer, start and end among them.", low=3
  )
  answers_per_question: int = field(
    1, "vqa: weighted answers of a question in a step.", low=1
  )
  questions_per_image: int = field(
    4, "Questions, statements or hypotheses of an image in a step.", low=1
  )
  answering: str = field(
    "rank",
    "vqa: candidates are ranked, or an answer is written freely.",
    choices=("rank", "generate"),
  )
  candidates: int = field(
    128, "vqa: answers that are ranked by all of their tokens.", low=1
  )
  inputs: str = field(
    "both",
    "vqa, nlvr2, entailment: what the model sees. With image every text is"
    " empty, with text every image is grey: what one input alone gives away.",
    choices=("both", "image", "text"),
  )
  rerank: int = field(
    16, "albef: answers of the contrast that matching ranks again.", low=1
  )


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """Warm-up, peak and cosine decay of AdamW, LARS or Muon."""

  name: str = field("adamw", "Optimizer.", choices=("adamw", "lars", "muon"))
  learning_rate: float = field(1e-3, "Peak.", low=0)
  warmup_share: float = field(0.1, "Share of the steps.", low=0, high=1)
  decay_share: float = field(
    1.0,
    "Share of the steps, at their end and after the warm-up, in which the rate"
    " falls.",
    low=0,
    high=1,
  )
  final_share: float = field(0.0, "Last rate over peak.", low=0, high=1)
  weight_decay: float = field(
    0.1, "On matrices only; with muon not on embeddings.", low=0
  )
  # With 1 nothing new would ever count, and the bias correction divide by 0.
  beta1: float = field(
    0.9, "First moment; the momentum of lars and muon.", low=0, high=0.999999
  )
  beta2: float = field(0.98, "Second moment.", low=0, high=0.999999)
  clip_norm: float = field(1.0, "Gradient norm bound; 0 is off.", low=0)
  skip_nonfinite: int = field(
    0,
    "Steps in a row whose loss, gradient or state is not finite and that are"
    " skipped; one more, or 0, stops the run.",
    low=0,
  )
  tower_rate: float = field(
    1.0,
    "clip: learning rate of both towers over that of all else, the maps on top of"
    " them and the temperature; smaller where the towers begin as published weights.",
    low=0,
  )
  ema_decay: float = field(
    0.0, "Average of the parameters for evaluation; 0 is off.", low=0, high=1
  )


@dataclasses.dataclass(frozen=True)
class Ssl:
  """Heads of the objectives simclr and moco_v3."""

  projector: str = field(
    "128", "Widths of the hidden layers of the projector, comma-separated."
  )
  predictor: str = field(
    "128", "moco_v3: those of the predictor; empty is none."
  )
  predictor_norm: bool = field(
    True, "moco_v3: batch normalisation after the predictor's last layer."
  )
  embed_dim: int = field(64, "Width of what is contrasted.", low=1)
  momentum: float = field(
    0.99,
    "moco_v3: of the momentum encoder, at first; a cosine takes it to 1.",
    low=0,
    high=1,
  )
  freeze_patches: bool = field(
    True, "moco_v3: the patch projection of a ViT stays as initialised."
  )


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Evaluators; a cadence of 0 means at the end only."""

  batch_size: int = field(512, "Images at once.", low=1)
  retrieval_every: int = field(200, "Steps between validations.", low=0)
  final: bool = field(True, "Evaluate everything at the end.")
  classification: bool = field(
    True, "Few-shot, linear probe and kNN at the end."
  )
  concatenated: bool = field(
    False,
    "structure.separation: these also on both heads' features, side by side.",
  )
  benchmarks: str = field(
    "",
    "Sets of contrastive_jax.data.benchmarks that are scored at the end,"
    " comma-separated; those that are not prepared are left out.",
  )
  benchmarks_dir: str = field(
    "~/tensorflow_datasets", "TFDS's data directory, which has them."
  )
  plots: bool = field(True, "Draw plots at the end.")

  @property
  def benchmark_names(self) -> tuple[str, ...]:
    """The sets' names, one by one."""
    names = (part.strip() for part in self.benchmarks.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


@dataclasses.dataclass(frozen=True)
class Config:
  """A training run."""

  objective: str = field(
    "clip",
    "What is trained.",
    choices=(
      "clip",
      "simclr",
      "moco_v3",
      "albef",
      "vqa",
      "nlvr2",
      "text_assignment",
      "entailment",
    ),
  )
  seed: int = field(0, "Of everything random.", low=0, high=2**31 - 2)
  steps: int = field(
    1000, "Training steps; 0 evaluates what the run begins with.", low=0
  )
  batch_size: int = field(256, "Examples a step, over all devices.", low=1)
  fsdp: bool = field(
    False, "Split large parameters and moments over all devices."
  )
  microbatches: int = field(
    1, "Parts that encoders take one by one; the loss is exact.", low=1
  )
  log_every: int = field(20, "Steps between log lines.", low=1)
  checkpoint_every: int = field(200, "Steps between checkpoints.", low=1)
  keep_checkpoints: int = field(2, "Newest checkpoints kept.", low=1)
  keep_every: int = field(
    0, "Also one every so many steps, for ever; 0 is none.", low=0
  )
  keep_best: bool = field(
    False,
    "Also that of the best validation: mean R@1, kNN or the task's accuracy (the"
    " last step is not validated).",
  )
  initial: Initial = Initial()
  data: Data = Data()
  augment: Augment = Augment()
  model: Model = Model()
  loss: Loss = Loss()
  structure: Structure = Structure()
  fusion: Fusion = Fusion()
  ssl: Ssl = Ssl()
  optimizer: Optimizer = Optimizer()
  evaluation: Evaluation = Evaluation()

  @property
  def augmented_sides(self) -> tuple[str, ...]:
    """The modalities whose inputs a step sees in another view as well."""
    if self.loss.name == "clip_four_term":
      return ("image", "text")
    if self.structure.source == "momentum":
      return ()
    return self.structure.augmented_sides

  @property
  def captions_per_example(self) -> int:
    """Token rows of an image in a step: its captions, and a view of one."""
    view = "text" in self.augmented_sides
    return self.data.captions_per_example + int(view)

  def to_dict(self) -> dict[str, Any]:
    """Nested plain values, as they are written to `config.json`."""
    return json.loads(json.dumps(dataclasses.asdict(self)))
