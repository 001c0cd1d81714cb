"""The E-step rules that the augmented loss can be trained with, as choices."""

import dataclasses
from typing import Any, Protocol

from contrastive_jax.choices import Kind, choice, field, load

_PACKAGE = "contrastive_jax.training.objectives"
_HERE = f"{_PACKAGE}.e_step_rules"
SCHEDULES = Kind(
  "schedule of the rate",
  {
    "constant": f"{_HERE}:Constant",
    "cosine": f"{_HERE}:Cosine",
    "visits": f"{_HERE}:Visits",
  },
)

PREDICTORS = Kind(
  "predictor",
  {
    "prototypes": f"{_HERE}:Prototypes",
    "network": f"{_HERE}:Network",
  },
)


class Rule(Protocol):
  """An E-step: a frozen dataclass with these.

  Attributes:
    keeps_entries: whether it keeps an entry an example in a table, as `Entries`
      says; without one the estimate of the batch is all that is known.
  """

  keeps_entries: bool

  def build(self, *, steps: int, epochs: float) -> Any:
    """Gives a function of the step's number (int32 []) that returns a rule.

    The rule is a pytree with the method that `losses.e_step` calls,

      combine(previous, batch, visits) -> log-partition [R]

    of the kept log-partition (NaN where nothing was seen), that of the batch, both
    float32 [R], and how often each was visited before, int32 [R].

    Args:
      steps: of the run.
      epochs: of the run, how often it visits an example.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Entries:
  """Fields of rules that keep an entry an example; your own may begin with them."""

  margins: bool = field(
    False,
    "Whether entries hold the log-partition of margins (SogCLR, SCENT) instead"
    " of that of the negatives, from which today's positive is subtracted.",
  )
  level_rate: float = field(
    0.1,
    "Rate of the level that all entries share; 0 has none.",
    low=0,
    high=1,
  )

  keeps_entries = True


@dataclasses.dataclass(frozen=True)
class Batch:
  """The batch's own estimate: InfoNCE or DCL, nothing is kept."""

  keeps_entries = False

  def build(self, *, steps: int, epochs: float) -> Any:
    """`losses.BatchEstimate`."""
    from contrastive_jax import losses

    del steps, epochs
    return lambda count: losses.BatchEstimate()


@dataclasses.dataclass(frozen=True)
class Constant:
  """The rate stays as it is."""


@dataclasses.dataclass(frozen=True)
class Cosine:
  """The rate falls from 1 to its value over the first half of the steps."""


@dataclasses.dataclass(frozen=True)
class Visits:
  """The rate of an entry is rate (visits + 1)^-decay."""

  decay: float = field(0.9, "Exponent of the number of visits.", low=0)


@dataclasses.dataclass(frozen=True)
class MovingAverage(Entries):
  """A moving average of the batches' estimates (SogCLR, with margins)."""

  rate: float = field(
    0.0,
    "Weight of the batch in the moving average; 0 takes the one for the number"
    " of epochs, min(1, 4.177 epochs^-0.7265), or 1 with"
    " rate_schedule=visits.",
    low=0,
    high=1,
  )
  rate_schedule: Any = choice(
    SCHEDULES, "constant", "How the rate changes in training."
  )

  def build(self, *, steps: int, epochs: float) -> Any:
    """`losses.MovingAverage` at the rate of a step."""
    import jax.numpy as jnp

    from contrastive_jax import losses

    # A run of no steps visits nothing.
    rate = self.rate or (losses.rate_of_epochs(epochs) if epochs else 1.0)

    def rule(count):
      schedule = self.rate_schedule
      if isinstance(schedule, Visits):
        return losses.MovingAverage(self.rate or 1.0, schedule.decay)
      if isinstance(schedule, Constant):
        return losses.MovingAverage(rate)
      done = jnp.minimum(2.0 * count / steps, 1.0)
      share = 0.5 * (1.0 + jnp.cos(jnp.pi * done))
      return losses.MovingAverage(rate + (1.0 - rate) * share)

    return rule


@dataclasses.dataclass(frozen=True)
class Conjugate(Entries):
  """A conjugate gamma posterior with a forgetting prior (SCENT)."""

  log_alpha: float = field(
    10.0, "Logarithm of the inverse strength of the prior."
  )
  min_rate: float = field(
    0.3,
    "Least weight of the batch; a weight is at most its inverse too large.",
    low=0,
    high=1,
  )
  eps: float = field(
    0.0, "Number added to the batch's estimate (SCENT: 1e-6).", low=0
  )

  def build(self, *, steps: int, epochs: float) -> Any:
    """`losses.Conjugate`."""
    from contrastive_jax import losses

    del steps, epochs
    return lambda count: losses.Conjugate(
      self.log_alpha, self.min_rate, self.eps
    )


@dataclasses.dataclass(frozen=True)
class Prototypes:
  """Learned prototypes of the negatives (NeuCLIP)."""

  prototypes: int = field(1024, "Number of prototypes per modality.", low=1)
  prototype_steps: int = field(
    10, "Gradient steps on the prototypes per training step.", low=1
  )
  prototype_rate: float = field(
    0.1, "Learning rate of the prototypes' AdaGrad.", low=0
  )
  prototype_refill: int = field(
    500, "Steps between two refills of the prototypes with keys.", low=1
  )

  def make(self, sides: Any, mesh: Any, *, steps: int) -> Any:
    """The prototypes of some sides."""
    del steps
    return load(f"{_PACKAGE}.prototypes:Prototypes")(self, sides, mesh)


@dataclasses.dataclass(frozen=True)
class Network:
  """A multi-layer perceptron on the anchor's embedding (AmorLIP)."""

  width: float = field(
    1.0, "Width of the hidden layers over that of the embedding.", low=0.01
  )
  blocks: int = field(1, "Residual blocks of two layers each.", low=0)
  objective: str = field("l2", "Objective of the networks.", among=("l2", "kl"))
  l2_weight: float = field(
    0.1, "Weight of the l2 objective beside the kl one.", low=0
  )
  network_rate: float = field(
    1e-3, "Learning rate of the networks' Adam.", low=0
  )
  network_steps: int = field(
    3, "Gradient steps on the networks per training step.", low=1
  )
  target_decay: float = field(
    0.92, "Decay of the networks' average, the target.", low=0, high=1
  )
  target_every: int = field(
    2, "Steps between two updates of the networks' average.", low=1
  )
  target_mix: float = field(
    0.8,
    "Share of the average's prediction, beside the batch's estimate, in the"
    " networks' target and in the weights, reached by a cosine over half of the"
    " steps; 0 fits to the batch alone, and makes weights of the average.",
    low=0,
    high=1,
  )

  def make(self, sides: Any, mesh: Any, *, steps: int) -> Any:
    """The networks of some sides."""
    made = load(f"{_PACKAGE}.networks:Networks")
    return made(self, sides, mesh, steps=steps)


@dataclasses.dataclass(frozen=True)
class Amortized:
  """A predictor of the log-partition that is trained along (NeuCLIP, AmorLIP)."""

  predictor: Any = choice(
    PREDICTORS, "prototypes", "Predictor of the log-partition."
  )
  min_rate: float = field(
    0.01,
    "Share of the batch's estimate below which no prediction falls.",
    low=0,
    high=1,
  )

  keeps_entries = False

  def build(self, *, steps: int, epochs: float) -> Any:
    """`losses.Amortized`."""
    from contrastive_jax import losses

    del steps, epochs
    return lambda count: losses.Amortized(self.min_rate)
