r"""The E-step: from estimates of the log-partition to the anchors' weights.

A rule folds a batch's estimate into what is known of its examples' log Z, and
`draw_auxiliary` turns that into the log-weights log u that the augmented losses
take. `losses.em` makes a whole step of both, with the memory of all examples.

The estimate Z-hat of the batch is part of Z itself, so each rule bounds u Z-hat, the
sum of an anchor's weights, for the posterior mean u = 1 / Z; its docstring says by
what. Without a bound one stale entry could decide a whole step. A draw multiplies u
by a gamma variable of mean 1, which has no bound.

All of it is in log space and float32. Examples that were not seen yet are NaN.
An anchor that had no negatives in its batch comes with an estimate of -inf,
"nothing seen": a rule leaves it out, and where nothing else is known its weight
is zero. All functions raise `ValueError`, naming the argument, on wrong shapes,
types or ranges.
"""

import dataclasses
import math
import typing
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

from contrastive_jax import ops
from contrastive_jax._types import Scalar
from contrastive_jax.losses._shared import (
  check_range,
  check_row,
  is_number,
)

_ROWS = 128
_Class = TypeVar("_Class", bound=type)


@dataclass_transform(frozen_default=True)
def _rule(cls: _Class) -> _Class:
  """A frozen dataclass, and a pytree whose structure names the class.

  `jax.tree_util.register_dataclass` alone makes structures that are equal for
  two classes with as many fields (jaxlib 0.10): a jitted function that has seen
  one rule might then run its program for another.
  """
  made: Any = dataclasses.dataclass(frozen=True)(cls)
  names = tuple(field.name for field in dataclasses.fields(made))

  def flatten(rule):
    return tuple(getattr(rule, name) for name in names), made.__name__

  def unflatten(name, leaves):
    del name
    rule = object.__new__(made)  # Leaves may be anything here: no checks.
    for field, leaf in zip(names, leaves):
      object.__setattr__(rule, field, leaf)
    return rule

  jax.tree_util.register_pytree_node(made, flatten, unflatten)
  return made


def _log(eps):
  return jnp.log(jnp.asarray(eps, jnp.float32))


def _check_eps(eps):
  check_range("eps", eps, "a finite number >= 0", lambda x: x >= 0)


@_rule
class BatchEstimate:
  """The batch's own estimate: InfoNCE's and DCL's gradient, bias included.

  u Z-hat is 1.
  """

  def combine(self, previous, batch, visits):
    """The log-partition of examples that have a previous one."""
    del previous, visits
    return batch


@_rule
class MovingAverage:
  r"""Moving average of Z (SogCLR, FastCLIP).

  .. math:: Z \leftarrow (1 - \gamma) Z + \gamma \hat Z, \qquad
    \gamma = \max(\gamma_{min}, \gamma_0 (v + 1)^{-\delta})

  at the visit after v earlier ones. `decay=0` is a constant rate, `rate=1,
  decay=1` the mean of all estimates. With a rate of gamma the variance is that
  of a batch (2 - gamma) / gamma times as large. u Z-hat is at most 1 / gamma.

  Attributes:
    rate: gamma_0 in (0, 1], a number or a traced scalar (a schedule's value);
      `rate_of_epochs` gives the published one for the length of a run.
    decay: delta >= 0.
    min_rate: gamma_min in [0, 1].
    eps: added to every Z-hat (FastCLIP), >= 0.
  """

  rate: Any = 0.5
  decay: Any = 0.0
  min_rate: Any = 0.0
  eps: Any = 0.0

  def __post_init__(self):
    check_range("rate", self.rate, "in (0, 1]", lambda x: 0 < x <= 1)
    check_range("decay", self.decay, "a finite number >= 0", lambda x: x >= 0)
    check_range("min_rate", self.min_rate, "in [0, 1]", lambda x: 0 <= x <= 1)
    _check_eps(self.eps)

  def combine(self, previous, batch, visits):
    """The log-partition of examples that have a previous one."""
    rate = jnp.asarray(self.rate, jnp.float32)
    if not (is_number(self.decay) and self.decay == 0):
      if visits is None:
        raise ValueError("visits must be given for a decaying rate; got None.")
      rate = rate * (visits.astype(jnp.float32) + 1.0) ** -self.decay
    rate = jnp.maximum(rate, self.min_rate)
    return jnp.logaddexp(jnp.log1p(-rate) + previous, jnp.log(rate) + batch)


def rate_of_epochs(epochs: float) -> float:
  r"""The rate of a moving average for the length of a run (FastCLIP).

  .. math:: \gamma = \min(1, 4.177 E^{-0.7265})

  An entry is renewed once an epoch, so a short run needs a fast average.

  Args:
    epochs: E > 0, how often the run visits an example.

  Returns:
    A rate in (0, 1].

  Raises:
    ValueError: if `epochs` is not a finite number > 0.

  References:
    Wei et al., "FastCLIP: a suite of optimization techniques to accelerate CLIP
    training with limited resources", 2024; the rule is that of its code.

  >>> [round(rate_of_epochs(e), 3) for e in (2, 12, 40, 160)]
  [1.0, 0.687, 0.286, 0.105]
  """
  check_range("epochs", epochs, "a finite number > 0", lambda x: x > 0)
  return min(1.0, 4.177 * epochs**-0.7265)


@_rule
class Conjugate:
  r"""Posterior mean of u = 1/Z under a gamma prior that forgets (SCENT).

  The prior at a step is Gamma(b u, b), with the last u as its mean and b =
  1 / alpha as its strength; with the likelihood u exp(-u Z-hat) the posterior
  is Gamma(b u + 1, b + Z-hat), whose mean (b u + 1) / (b + Z-hat) is the new u:

  .. math:: \log Z \leftarrow \log Z + \log(1 + \alpha \hat Z)
    - \log(1 + \alpha Z)

  This is a moving average with the rate sigmoid(log Z + log alpha): it follows
  fast where Z is large. Where Z is small the rate vanishes and u Z-hat has no
  bound, so the rate has a floor here: u Z-hat is at most 1 / min_rate. With eps,
  which bounds the rate of an entry by alpha eps / (1 + alpha eps) from below
  (SCENT), it is at most 1 + 1 / (alpha eps).

  Attributes:
    log_alpha: log of the prior's inverse strength, a number or a traced scalar.
      Good where the rate is about 0.3 to 0.95: SCENT takes 10 for CLIP.
    min_rate: the floor of the rate, in [0, 1]; SCENT's own form has 0.
    eps: added to every Z-hat, >= 0; SCENT takes 1e-6.
  """

  log_alpha: Any = 10.0
  min_rate: Any = 0.3
  eps: Any = 0.0

  def __post_init__(self):
    check_range("log_alpha", self.log_alpha, "a finite number", lambda _: True)
    check_range("min_rate", self.min_rate, "in [0, 1]", lambda x: 0 <= x <= 1)
    _check_eps(self.eps)

  def combine(self, previous, batch, visits):
    """The log-partition of examples that have a previous one."""
    del visits
    # An entry of estimates with eps is not below it, unless its positive came
    # nearer since.
    logit = jnp.maximum(previous, _log(self.eps)) + self.log_alpha
    least = jnp.float32(self.min_rate)
    # By their logarithms, for a rate within an ulp of 1 still keeps a share.
    keep = jnp.minimum(jax.nn.log_sigmoid(-logit), jnp.log1p(-least))
    rate = jnp.maximum(jax.nn.log_sigmoid(logit), jnp.log(least))
    return jnp.logaddexp(keep + previous, rate + batch)


@_rule
class DualDescent:
  r"""A gradient step on the dual variable nu = log Z (ASGD; U-max with a reset).

  .. math:: \nu \leftarrow \nu - \gamma (1 - \hat Z e^{-\nu})

  descends e^{-nu} Z + nu, whose least value is at log Z. Where nu is below
  log Z-hat - reset, it begins anew at log Z-hat before the step (U-max), so that no
  step raises it by more than gamma (exp(reset) - 1); SCENT's code begins anew after
  the step instead. ASGD has no reset, and takes
  weights from before the batch (`lagged`). u Z-hat is at most
  exp(gamma - 1) / gamma with either.

  Attributes:
    rate: gamma > 0, a number or a traced scalar.
    reset: delta >= 0, or inf for none.
  """

  rate: Any = 0.5
  reset: Any = 1.0

  def __post_init__(self):
    check_range("rate", self.rate, "a finite number > 0", lambda x: x > 0)
    if not (is_number(self.reset) and math.isinf(self.reset)):
      check_range("reset", self.reset, "a number >= 0", lambda x: x >= 0)

  def combine(self, previous, batch, visits):
    """The log-partition of examples that have a previous one."""
    del visits
    known = jnp.where(previous < batch - self.reset, batch, previous)
    return known - self.rate * (1.0 - _ratio(batch, known))


@_rule
class Softplus:
  r"""A step on the dual of a softplus in place of the exponential.

  .. math:: \nu \leftarrow \nu - \gamma \Big( 1 - \frac{R}{1 + \rho R} \Big),
    \qquad R = \hat Z e^{-\nu}, \qquad u = \frac{1}{e^\nu + \rho \hat Z}

  with the batch's mean as the sample; with a single negative it is the published
  form. A large estimate moves nu by at most gamma (1 / rho - 1), and u Z-hat is at
  most 1 / rho. nu ends below log Z, by about rho times the mean of R^2. `e_step`
  returns nu; u comes from `weigh`, which `losses.em` calls.

  Attributes:
    rate: gamma > 0, a number or a traced scalar.
    rho: in (0, 1).
  """

  rate: Any = 0.5
  rho: Any = 0.1

  def __post_init__(self):
    check_range("rate", self.rate, "a finite number > 0", lambda x: x > 0)
    check_range("rho", self.rho, "in (0, 1)", lambda x: 0 < x < 1)

  def combine(self, previous, batch, visits):
    """The log-partition of examples that have a previous one."""
    del visits
    ratio = _ratio(batch, previous)
    return previous - self.rate * (1.0 - ratio / (1.0 + self.rho * ratio))

  def weigh(self, known, batch):
    """The log of 1 / u."""
    return jnp.logaddexp(known, batch + _log(self.rho))


def _ratio(batch, known):
  """Z-hat / Z, of a size that squares to a float32."""
  return jnp.exp(jnp.minimum(batch - known, ops.similarity.LARGEST_LOG / 2.0))


@_rule
class Amortized:
  """A network's prediction: pass it as `previous` (AmorLIP, NeuCLIP).

  Fit the network with `amortized_loss`; `prototype_log_partition` is one. Where
  it predicts less than min_rate Z-hat, that counts, so that u Z-hat is at most
  1 / min_rate.

  Attributes:
    min_rate: in [0, 1]; the published methods have 0, and no bound.
  """

  min_rate: Any = 0.01

  def __post_init__(self):
    check_range("min_rate", self.min_rate, "in [0, 1]", lambda x: 0 <= x <= 1)

  def combine(self, previous, batch, visits):
    """The log-partition of examples that have a prediction."""
    del visits
    return jnp.maximum(previous, batch + jnp.log(jnp.float32(self.min_rate)))


# Rules that fold an estimate into an entry.
KEEPING = (MovingAverage, Conjugate, DualDescent, Softplus)


@typing.runtime_checkable
class Rule(typing.Protocol):
  """An E-step rule: one of this module, or an object of your own."""

  def combine(
    self, previous: jax.Array, batch: jax.Array, visits: jax.Array | None
  ) -> jax.Array:
    """The log-partition [N] of examples that have a previous one.

    Args:
      previous: [N] float32, log Z from earlier.
      batch: [N] float32, log Z-hat of this batch.
      visits: [N] integers, how often each was updated before, or None.

    A rule may have `eps`, which is added to every Z-hat before it is combined, and a
    method weigh(known [N], batch [N]) -> [N], the log of 1 / u where that is not
    what is kept.
    """
    ...


def e_step(
  rule: Rule,
  previous: jax.Array,
  batch: jax.Array,
  visits: jax.Array | None = None,
) -> jax.Array:
  """Folds a batch's estimate into what is known of its examples' log Z.

  Where nothing is known (`previous` is not finite, or `visits` is 0) the result
  is the batch's estimate; where the batch says nothing (not finite), what was
  known; NaN if neither does. No gradient passes.

  Weighting a batch with the result is slightly biased, as its own estimate is
  part of it; weighting it with `previous` is not, but far staler, and does
  worse at small batches.

  Args:
    rule: `BatchEstimate`, `MovingAverage`, `Conjugate`, `DualDescent`, `Softplus`,
      `Amortized`, or an object with their method `combine`; its `eps`, if it has one, is added to Z-hat.
    previous: [N] floating, log Z from earlier (or the network's prediction),
      NaN where unseen.
    batch: [N] floating, log Z-hat: see `log_partition`.
    visits: [N] integers, how often each example was updated before; None if
      the rule does not ask for it.

  Returns:
    [N] float32, the new log-partition.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Moving average: Yuan et al., 2022; conjugate: "A geometry-aware efficient
    algorithm for compositional entropic risk minimization" (SCENT), 2026,
    lemma 3.3; dual descent: Fagan and Iyengar, "Unbiased scalable softmax
    optimization", 2018; softplus: Gladin et al., 2025; amortised: "NeuCLIP:
    efficient large-scale CLIP training with neural normalizer optimization", 2025.

  >>> import jax.numpy as jnp
  >>> previous, batch = jnp.log(jnp.array([1.0, jnp.nan])), jnp.log(jnp.full(2, 3.0))
  >>> new = e_step(MovingAverage(0.5), previous, batch)
  >>> [round(v, 4) for v in jnp.exp(new).tolist()]
  [2.0, 3.0]
  """
  if not isinstance(rule, Rule):
    raise ValueError(
      "rule must be a rule of contrastive_jax.losses, such as MovingAverage(0.5),"
      f" or have its method combine; got {rule!r}."
    )
  check_row("batch", batch, None)
  check_row("previous", previous, batch.shape[0])
  if visits is not None:
    check_row("visits", visits, batch.shape[0], jnp.integer)
  previous, batch = jax.lax.stop_gradient(
    (jnp.asarray(previous, jnp.float32), jnp.asarray(batch, jnp.float32))
  )
  seen, says = jnp.isfinite(previous), jnp.isfinite(batch)
  if visits is not None and not isinstance(rule, Amortized):
    seen &= visits > 0
  batch = jnp.where(
    says, jnp.logaddexp(batch, _log(getattr(rule, "eps", 0.0))), batch
  )
  new = rule.combine(
    jnp.where(seen, previous, 0.0), jnp.where(says, batch, 0.0), visits
  )
  alone = jnp.where(says, batch, jnp.where(seen, previous, jnp.nan))
  return jax.lax.stop_gradient(jnp.where(seen & says, new, alone))


def draw_auxiliary(
  key: jax.Array | None,
  log_partition: jax.Array,
  *,
  concentration: Scalar,
  prior: tuple[float, float] | None = None,
  index: jax.Array | None = None,
) -> jax.Array:
  r"""Draws the auxiliary variables from their posterior, divided by its shape.

  .. math:: a u_i \sim \mathrm{Gamma}(a, \mathrm{rate} = Z_i), \qquad
    E[u_i] = 1 / Z_i, \qquad \mathrm{Var}[u_i] = 1 / (a Z_i^2)

  so that the mean of the M-step's gradient is that of log Z at any a. a = 1 is
  the augmentation of the loss itself and multiplies each anchor's gradient by an
  exponential variable; larger a are the same with less noise. With a prior
  Gamma(a_0, b_0) on u: shape a_0 + a, rate b_0 + Z, mean 1 / (b_0 + Z), which is
  the gradient of log(b_0 + Z).

  Each row draws from a key of its own, `fold_in(key, index)`: results do not
  depend on how the batch is split, to the bit (of compiled code), if `index`
  names the rows globally. Take another key at each step and for each direction.

  Args:
    key: a PRNG key; may be None if `concentration` is infinite.
    log_partition: [N] floating, log Z. Not finite means nothing known: weight 0.
    concentration: a > 0; `math.inf` is the posterior mean.
    prior: (a_0, b_0), both >= 0; None is none.
    index: [N] integers, the examples' indices or their global positions
      (`ops.global_row_ids`); None is 0, ..., N - 1. Rows with the same index
      draw the same.

  Returns:
    [N] float32, log u; -inf where nothing is known. Without gradient.

  Raises:
    ValueError: on wrong shapes, types or ranges, naming the argument.

  References:
    Chen et al., "Why do we need large batch sizes in contrastive learning? A
    gradient-bias perspective", 2022: Bayesian data augmentation.

  >>> import math
  >>> import jax.numpy as jnp
  >>> log_z = jnp.log(jnp.array([2.0, 4.0]))
  >>> jnp.exp(draw_auxiliary(None, log_z, concentration=math.inf)).tolist()
  [0.5, 0.25]
  """
  check_row("log_partition", log_partition, None)
  if jnp.shape(concentration) != ():
    raise ValueError(
      f"concentration must be a scalar; got shape {jnp.shape(concentration)}."
    )
  known = not isinstance(concentration, jax.core.Tracer)
  if known and not concentration > 0:
    raise ValueError(f"concentration must be > 0; got {concentration}.")
  a0, b0 = (0.0, 0.0) if prior is None else _check_prior(prior)
  n = log_partition.shape[0]
  if index is not None:
    check_row("index", index, n, jnp.integer)
  mean = known and math.isinf(concentration)
  if key is None and not mean:
    raise ValueError(
      "key must be a PRNG key for a finite concentration; got None."
    )
  shape = jnp.asarray(concentration + a0, jnp.float32)

  def rows(operands, key: Any = key):
    log_z, index = jax.lax.optimization_barrier(operands)
    seen = jnp.isfinite(log_z)
    log_u = -jnp.where(seen, log_z, 0.0)
    if b0:
      log_u = -jnp.logaddexp(-log_u, jnp.float32(math.log(b0)))
    if not mean:
      keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
      # In log space: of a small shape most draws are no float32 themselves.
      draw = jax.vmap(
        lambda k: jax.random.loggamma(k, shape, dtype=jnp.float32)
      )
      # A traced concentration may be infinite.
      drawn = draw(keys) - jnp.log(shape)
      log_u += jnp.where(jnp.isinf(shape), 0.0, drawn)
    return jax.lax.optimization_barrier(jnp.where(seen, log_u, -jnp.inf))

  log_z = jax.lax.stop_gradient(jnp.asarray(log_partition, jnp.float32))
  if index is None:
    index = jnp.arange(n, dtype=jnp.int32)
  # Rows in parts of one size: a compiler rounds a row by itself in another way
  # than one of many, and the parts of a batch may be of any size.
  log_z, index = (
    jnp.pad(x, (0, -n % _ROWS)).reshape(-1, _ROWS) for x in (log_z, index)
  )
  return jax.lax.map(rows, (log_z, index)).reshape(-1)[:n]


def _check_prior(prior: Any) -> tuple[float, float]:
  try:
    a0, b0 = (float(x) for x in prior)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"prior must be two numbers (a0, b0); got {prior!r}."
    ) from error
  if not all(math.isfinite(x) and x >= 0 for x in (a0, b0)):
    raise ValueError(f"prior must be finite numbers >= 0; got {prior!r}.")
  return a0, b0
