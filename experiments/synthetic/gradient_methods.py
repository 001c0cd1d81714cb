"""The stochastic gradients that the study of their bias compares."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contrastive_jax import losses


@dataclasses.dataclass(frozen=True)
class Method:
  """A stochastic gradient.

  Attributes:
    kind: what weights a batch: "info_nce" (its softmax), "table" (an entry an
      example and direction), "exact" (log Z over all examples) or "prototypes".
    rule: of a table's E-step: `MovingAverage` of a constant rate, `Conjugate`
      or `BatchEstimate`, which remembers nothing.
    concentration: of the gamma draw; inf is the posterior mean.
    lagged: whether a batch is weighted with what was known before it.
  """

  kind: str
  rule: Any = losses.BatchEstimate()
  concentration: float = math.inf
  lagged: bool = False

  @property
  def objective(self) -> str:
    """The key of `references` that it aims at."""
    return "info_nce" if self.kind == "info_nce" else "global"


class Rule(NamedTuple):
  """A rule as numbers, so that one compiled program serves all of them.

  Attributes:
    rate: of the moving average; 1 is the batch's estimate.
    log_alpha: of the conjugate rule.
    conjugate: whether it is that one.
    lagged: whether the batch's own estimate is left out.
  """

  rate: Any
  log_alpha: Any
  conjugate: Any
  lagged: Any


METHODS = {
  "InfoNCE": Method("info_nce"),
  "DCL": Method("table"),
  "moving average .5 (SogCLR)": Method("table", losses.MovingAverage(0.5)),
  "moving average .5, gamma 8": Method("table", losses.MovingAverage(0.5), 8.0),
  "moving average .5, gamma 1": Method("table", losses.MovingAverage(0.5), 1.0),
  "moving average .1": Method("table", losses.MovingAverage(0.1)),
  "conjugate, log alpha 10 (SCENT)": Method(
    "table", losses.Conjugate(10.0, min_rate=0.0)
  ),
  "amortised (NeuCLIP)": Method("prototypes"),
  "exact 1/Z (control)": Method("exact", lagged=True),
}
# Other rates, for one batch size.
RATES = {
  **{
    f"moving average {text}": Method("table", losses.MovingAverage(float(text)))
    for text in (".05", ".1", ".2", ".3", ".5")
  },
  **{
    f"moving average {text}, lagged": Method(
      "table", losses.MovingAverage(float(text)), lagged=True
    )
    for text in (".1", ".5")
  },
  **{
    f"conjugate, log alpha {number}": Method(
      "table", losses.Conjugate(float(number), min_rate=0.0)
    )
    for number in (2, 4, 6, 8, 10, 12)
  },
}


def numbers(method: Method) -> Rule:
  """The rule of a method as numbers."""
  rule = method.rule
  conjugate = isinstance(rule, losses.Conjugate)
  average = isinstance(rule, losses.MovingAverage)
  return Rule(
    rate=jnp.float32(rule.rate if average else 1.0),
    log_alpha=jnp.float32(rule.log_alpha if conjugate else 0.0),
    conjugate=jnp.bool_(conjugate),
    lagged=jnp.bool_(method.lagged),
  )


def mean_rate(method: Method, state: Any) -> float | None:
  """The weight of a batch in a table's entry, averaged over a steady state; None
  of a method without one.
  """
  if isinstance(method.rule, losses.MovingAverage):
    return float(method.rule.rate)
  if isinstance(method.rule, losses.Conjugate):
    return float(jnp.mean(jax.nn.sigmoid(state + method.rule.log_alpha)))
  return None
