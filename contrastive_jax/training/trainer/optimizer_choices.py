"""The optimisers and learning-rate schedules that a run can choose."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from contrastive_jax.choices import Kind, choice, field

if TYPE_CHECKING:
  import optax

_HERE = "contrastive_jax.training.trainer.optimizer_choices"
SCHEDULES = Kind(
  "learning-rate schedule",
  {"cosine": f"{_HERE}:Cosine", "constant": f"{_HERE}:Constant"},
)
OPTIMIZERS = Kind(
  "optimizer",
  {
    "adamw": f"{_HERE}:AdamW",
    "lars": f"{_HERE}:Lars",
    "muon": f"{_HERE}:Muon",
  },
)
_WARMUP = field(
  0.1, "Share of the steps in which the rate rises from 0.", low=0, high=1
)
# With 1 nothing new would ever count, and the bias correction divide by 0.
_MOST = 0.999999
# The root mean square of Adam's updates, over the rate, as Liu et al. found it.
_ADAM_RMS = 0.2


@dataclasses.dataclass(frozen=True)
class Cosine:
  """Linear warm-up, the peak, and half a cosine down."""

  warmup_share: float = _WARMUP
  decay_share: float = field(
    1.0,
    "Share of the steps, at their end and after the warm-up, in which the rate"
    " falls.",
    low=0,
    high=1,
  )
  final_share: float = field(
    0.0, "Last learning rate over the peak.", low=0, high=1
  )

  def build(self, peak: float, steps: int) -> "optax.Schedule":
    """The rate by the number of updates, in a run of `steps`.

    With `decay_share=1` the decay follows the warm-up.
    """
    import optax

    warmup = round(self.warmup_share * steps)
    decay = round(self.decay_share * steps)
    if steps - decay > warmup:
      # A run without decay has no step in its last part.
      fall = optax.cosine_decay_schedule(peak, max(decay, 1), self.final_share)
      level = Constant(self.warmup_share).build(peak, steps)
      return optax.join_schedules([level, fall], [steps - decay])
    return optax.warmup_cosine_decay_schedule(
      init_value=0.0 if warmup else peak,
      peak_value=peak,
      warmup_steps=warmup,
      decay_steps=max(steps, warmup + 1),
      end_value=peak * self.final_share,
    )


@dataclasses.dataclass(frozen=True)
class Constant:
  """Linear warm-up, then the peak."""

  warmup_share: float = _WARMUP

  def build(self, peak: float, steps: int) -> "optax.Schedule":
    """The rate by the number of updates, in a run of `steps`."""
    import optax

    warmup = round(self.warmup_share * steps)
    return optax.join_schedules(
      [optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak)],
      [warmup],
    )


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optimiser: a frozen dataclass with these fields, and a `build`."""

  learning_rate: float = field(1e-3, "Peak learning rate.", low=0, own=True)
  schedule: Any = choice(
    SCHEDULES, "cosine", "How the learning rate changes in training."
  )
  weight_decay: float = field(
    0.1, "Weight decay of kernels and embeddings.", low=0, own=True
  )
  clip_norm: float = field(
    1.0, "Bound of the gradient's norm; 0 has none.", low=0
  )

  def build(
    self, rate: "optax.Schedule", mask: Callable[[Any], Any]
  ) -> "optax.GradientTransformation":
    """Makes updates of gradients, which are clipped before.

    Args:
      rate: the learning rate by the number of updates.
      mask: gives of parameters which leaves are decayed.
    """
    raise TypeError(f"{type(self).__name__} must have a build.")


@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
  """Adam with decoupled weight decay."""

  beta1: float = field(0.9, "Decay of the first moment.", low=0, high=_MOST)
  beta2: float = field(0.98, "Decay of the second moment.", low=0, high=_MOST)

  def build(
    self, rate: "optax.Schedule", mask: Callable[[Any], Any]
  ) -> "optax.GradientTransformation":
    """`optax.adamw`."""
    import optax

    return optax.adamw(
      rate,
      b1=self.beta1,
      b2=self.beta2,
      weight_decay=self.weight_decay,
      mask=mask,
    )


@dataclasses.dataclass(frozen=True)
class Lars(Optimizer):
  """Layer-wise adaptive rates with momentum, for large batches."""

  momentum: float = field(0.9, "Momentum.", low=0, high=_MOST)

  def build(
    self, rate: "optax.Schedule", mask: Callable[[Any], Any]
  ) -> "optax.GradientTransformation":
    """`optax.lars`, which adapts the rates of what decays, as SimCLR does."""
    import optax

    return optax.lars(
      rate,
      weight_decay=self.weight_decay,
      weight_decay_mask=mask,
      trust_ratio_mask=mask,
      momentum=self.momentum,
    )


@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
  """Orthogonalised momentum for matrices; Adam, undecayed, for all else."""

  beta1: float = field(
    0.9, "Momentum of matrices, first moment of all else.", low=0, high=_MOST
  )
  beta2: float = field(
    0.98, "Decay of the second moment of all but matrices.", low=0, high=_MOST
  )

  def build(
    self, rate: "optax.Schedule", mask: Callable[[Any], Any]
  ) -> "optax.GradientTransformation":
    """`optax.contrib.muon` for the kernels of `muon.matrices`, all of them.

    They are kernels of patches and of heads too, and of queries, keys and values
    as one where they are one. All else, embeddings too, gets Adam with Nesterov's
    moment and no decay. A matrix's updates have the size of Adam's (Liu et al.,
    Muon is scalable for LLM training, 2025, equation 4), so that rates mean the
    same. Jordan et al., 2024.
    """
    import optax

    from contrastive_jax.training.trainer import muon

    return optax.contrib.muon(
      rate,
      beta=self.beta1,
      adam_b1=self.beta1,
      adam_b2=self.beta2,
      weight_decay=self.weight_decay,
      weight_decay_mask=mask,
      muon_weight_dimension_numbers=muon.matrices,
      consistent_rms=_ADAM_RMS,
    )
