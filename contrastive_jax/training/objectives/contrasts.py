"""The losses that an objective can train with, as choices.

A loss is a frozen dataclass whose `build` gives a function of two sides' features;
see `Loss`. `config.loss=my_project.mine:Tempered` takes one of the user's own.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import contrastive_jax
from contrastive_jax.choices import Kind, choice, field

if TYPE_CHECKING:
  import jax

_HERE = "contrastive_jax.training.objectives.contrasts"
_E_STEPS = "contrastive_jax.training.objectives.e_step_rules"

TEMPERATURE_MODES = Kind(
  "temperature mode",
  {
    "learned": f"{_HERE}:Learned",
    "fixed": f"{_HERE}:Fixed",
    "robust": f"{_HERE}:Robust",
    "individual": f"{_HERE}:Individual",
  },
)
E_STEPS = Kind(
  "E-step",
  {
    "batch": f"{_E_STEPS}:Batch",
    "moving_average": f"{_E_STEPS}:MovingAverage",
    "conjugate": f"{_E_STEPS}:Conjugate",
    "amortized": f"{_E_STEPS}:Amortized",
  },
)
LOSSES = Kind(
  "loss",
  {
    "clip": f"{_HERE}:Clip",
    "clip_four_term": f"{_HERE}:ClipFourTerm",
    "decoupled": f"{_HERE}:Decoupled",
    "sigmoid": f"{_HERE}:Sigmoid",
    "hard_negative": f"{_HERE}:HardNegative",
    "info_nce": f"{_HERE}:InfoNce",
    "nt_xent": f"{_HERE}:NtXent",
    "augmented": f"{_HERE}:Augmented",
    "soft_target": f"{_HERE}:SoftTarget",
  },
)

_MIN_TEMPERATURE = field(
  0.01, "Lower bound of the temperature.", low=1e-4, high=1
)


class Loss(Protocol):
  """A loss between two sides of a batch: a frozen dataclass with these.

  Attributes:
    temperature: where the temperature begins.
    temperature_mode: how it goes on.
    group_positives: whether rows of one concept are positives of each other.
    block_size: rows of the similarity that are formed at once; 0 chooses.
  """

  temperature: float
  temperature_mode: Any
  group_positives: bool
  block_size: int

  def build(self) -> Callable[..., "jax.Array"]:
    """The loss as a pure function, called as ::

      loss(first, second, *, temperature, group_ids, axes, block_size) -> [N]

    with unit-norm float [N, d] features of the two sides (images and captions, two
    views, queries and keys), the temperature as a scalar array, int [N] ids of which
    equal ones are positives of each other (or None), names of the mapped axes (or
    None), and rows at once ("auto" or a number).

    Optional attributes of the class: with `takes_bias = True` the function gets
    `bias` too, a learned scalar; with `takes_views = True` `first_augmented` and
    `second_augmented`, the features of another view of each side; a loss with
    `directional = True` is of the first side against the second, and objectives of
    two modalities take the mean of both directions; `temperature_modes` names those
    that it goes with. A class whose loss of two views of images is another one has
    `build_views` beside `build`, and objective=simclr takes that.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Learned:
  """One temperature, learned with the parameters."""

  min_temperature: float = _MIN_TEMPERATURE


@dataclasses.dataclass(frozen=True)
class Fixed:
  """The temperature stays as it is."""


@dataclasses.dataclass(frozen=True)
class Robust:
  """One learned temperature by FastCLIP's robust objective, tau (log Z + rho)."""

  rho: float = field(
    6.5, "Weight rho of the temperature; larger values lower it.", low=0
  )
  min_temperature: float = _MIN_TEMPERATURE


@dataclasses.dataclass(frozen=True)
class Individual:
  """One learned temperature an example, by iSogCLR's robust objective."""

  rho: float = field(
    6.5, "Weight rho of the temperatures; larger values lower them.", low=0
  )
  temperature_rate: float = field(
    0.01, "Learning rate of the temperatures.", low=0
  )
  min_temperature: float = _MIN_TEMPERATURE


@dataclasses.dataclass(frozen=True)
class LossFields:
  """Fields that all losses have; a loss of your own may begin with them."""

  temperature: float = field(
    0.07, "Temperature at the start of training.", low=1e-4, high=1
  )
  temperature_mode: Any = choice(
    TEMPERATURE_MODES, "learned", "How the temperature changes in training."
  )
  group_positives: bool = field(
    True, "Whether rows of one concept are positives of each other."
  )
  block_size: int = field(
    0, "Rows of the similarity formed at once; 0 decides by size.", low=0
  )

  # See `Loss`.
  takes_bias = False
  takes_views = False
  directional = False
  temperature_modes: ClassVar[tuple[str, ...]] = ("learned", "fixed")

  def check(self) -> None:
    """Raises on a first temperature below its own bound."""
    least = getattr(self.temperature_mode, "min_temperature", 0.0)
    if self.temperature < least:
      raise ValueError(
        "temperature must be at least temperature_mode.min_temperature"
        f" ({least:g}); got {self.temperature:g}."
      )
    mode = TEMPERATURE_MODES.name_of(self.temperature_mode)
    others = {*TEMPERATURE_MODES.variants} - {*self.temperature_modes}
    if mode in others:
      raise ValueError(
        f"temperature_mode={mode} belongs to loss=augmented; this run has"
        f" loss={LOSSES.name_of(self)}."
      )


@dataclasses.dataclass(frozen=True)
class Clip(LossFields):
  """Symmetric InfoNCE between images and captions (CLIP)."""

  label_smoothing: float = field(
    0.0, "Share of the target that is uniform.", low=0.0, high=0.999
  )

  def build(self) -> Callable[..., "jax.Array"]:
    """`losses.clip`."""
    return _scaled(
      contrastive_jax.losses.clip, label_smoothing=self.label_smoothing
    )


@dataclasses.dataclass(frozen=True)
class ClipFourTerm(LossFields):
  """CLIP's loss and its in-modal and cross-modal terms on another view."""

  takes_views = True

  def build(self) -> Callable[..., "jax.Array"]:
    """`losses.clip_four_term`."""
    loss = _scaled(contrastive_jax.losses.clip_four_term)
    return lambda *sides, first_augmented, second_augmented, **options: loss(
      *sides, first_augmented, second_augmented, **options
    )


@dataclasses.dataclass(frozen=True)
class Decoupled(LossFields):
  """Decoupled contrastive loss: no positive in the denominator (DCL)."""

  directional = True

  def build(self) -> Callable[..., "jax.Array"]:
    """`losses.decoupled` from the first side to the second."""
    return contrastive_jax.losses.decoupled


@dataclasses.dataclass(frozen=True)
class Sigmoid(LossFields):
  """Pairwise sigmoid loss with a learned bias (SigLIP)."""

  takes_bias = True

  def build(self) -> Callable[..., "jax.Array"]:
    """`losses.sigmoid`."""
    loss = _scaled(contrastive_jax.losses.sigmoid)
    return lambda *sides, bias, **options: loss(
      *sides, logit_bias=bias, **options
    )


@dataclasses.dataclass(frozen=True)
class InfoNce(LossFields):
  """InfoNCE of queries against keys (MoCo v3)."""

  directional = True

  def build(self) -> Callable[..., "jax.Array"]:
    """`losses.info_nce`."""
    return contrastive_jax.losses.info_nce


@dataclasses.dataclass(frozen=True)
class NtXent(LossFields):
  """NT-Xent of two views against all other rows of both (SimCLR)."""

  def build(self) -> Callable[..., "jax.Array"]:
    """`losses.nt_xent`, the mean of each example's two views."""
    return _of_examples(contrastive_jax.losses.nt_xent)


@dataclasses.dataclass(frozen=True)
class HardNegative(LossFields):
  """Hard-negative reweighting: HN-NCE of pairs, HCL of two views (simclr)."""

  beta: float = field(
    0.5, "Weight of hard negatives over easy ones; 0 has none.", low=0
  )
  alpha: float = field(1.0, "Weight of the positive in the denominator.", low=0)
  tau_plus: float = field(
    0.0,
    "Share of the negatives that are of the anchor's class, which is taken off.",
    low=0,
    high=0.99,
  )

  def build(self) -> Callable[..., "jax.Array"]:
    """`losses.hard_negative_clip`."""
    return _scaled(contrastive_jax.losses.hard_negative_clip, **self._fixed)

  def build_views(self) -> Callable[..., "jax.Array"]:
    """`losses.hard_negative_nt_xent`, the mean of each example's two views."""
    return _of_examples(
      contrastive_jax.losses.hard_negative_nt_xent, **self._fixed
    )

  @property
  def _fixed(self) -> dict[str, float]:
    names = ("beta", "alpha", "tau_plus")
    return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class Augmented(LossFields):
  """The gamma-augmented loss: exponential, decomposable, by stochastic EM."""

  e_step: Any = choice(
    E_STEPS, "moving_average", "How an anchor's log-partition is estimated."
  )
  lagged: bool = field(
    False,
    "Whether weights come from before the batch: without bias, but staler.",
  )
  concentration: float = field(
    0.0,
    "Concentration of the sampled gamma weights; 0 uses their mean.",
    low=0,
  )
  prior_shape: float = field(
    0.0, "Shape of the gamma prior on the weights.", low=0
  )
  prior_rate: float = field(
    0.0, "Rate of the gamma prior on the weights.", low=0
  )
  include_positive: bool = field(
    False, "Whether the partition function counts the positive."
  )
  negative_mass: float = field(
    1.0,
    "Weight of the mean over negatives in the partition function; 0 is"
    " batch_size - 1.",
    low=0,
  )
  log_weight_cap: float = field(
    0.0, "Bound of the log-weights; 0 has no bound.", low=0
  )

  temperature_modes = tuple(TEMPERATURE_MODES.variants)


@dataclasses.dataclass(frozen=True)
class SoftTarget(LossFields):
  """ALBEF's contrast with soft targets of the momentum model and a queue."""

  queue_size: int = field(
    1024, "Earlier keys in the contrast; 0 has no queue.", low=0
  )
  in_modal: bool = field(
    False,
    "Whether half of it is contrast within each modality, with hard targets, as"
    " the second paper's loss of four terms has it.",
  )


def _scaled(loss: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
  """A loss by its logit scale as one by its temperature."""
  return lambda *sides, temperature, **options: loss(
    *sides, logit_scale=1.0 / temperature, **fixed, **options
  )


def _of_examples(loss: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
  """A loss [2N] of two views as one of examples, the mean of both: [N]."""
  return lambda *sides, **options: (
    loss(*sides, **fixed, **options).reshape(2, -1).mean(0)
  )
