"""The optimisers and learning-rate schedules that a run can choose."""

import dataclasses
from typing import Any

from contrastive_jax.choices import Kind, choice, field

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


@dataclasses.dataclass(frozen=True)
class Constant:
  """Linear warm-up, then the peak."""

  warmup_share: float = _WARMUP


@dataclasses.dataclass(frozen=True)
class _Optimizer:
  """Fields that all optimisers have."""

  learning_rate: float = field(1e-3, "Peak learning rate.", low=0)
  schedule: Any = choice(
    SCHEDULES, "cosine", "How the learning rate changes in training."
  )
  weight_decay: float = field(
    0.1, "Weight decay of kernels and embeddings.", low=0
  )
  clip_norm: float = field(
    1.0, "Bound of the gradient's norm; 0 has none.", low=0
  )


@dataclasses.dataclass(frozen=True)
class AdamW(_Optimizer):
  """Adam with decoupled weight decay."""

  beta1: float = field(0.9, "Decay of the first moment.", low=0, high=_MOST)
  beta2: float = field(0.98, "Decay of the second moment.", low=0, high=_MOST)


@dataclasses.dataclass(frozen=True)
class Lars(_Optimizer):
  """Layer-wise adaptive rates with momentum, for large batches."""

  momentum: float = field(0.9, "Momentum.", low=0, high=_MOST)


@dataclasses.dataclass(frozen=True)
class Muon(_Optimizer):
  """Orthogonalised momentum for matrices; Adam, undecayed, for all else."""

  beta1: float = field(
    0.9, "Momentum of matrices, first moment of all else.", low=0, high=_MOST
  )
  beta2: float = field(
    0.98, "Decay of the second moment of all but matrices.", low=0, high=_MOST
  )
