r"""The bias of log Z-hat where everything is known: negatives on a sphere.

Negatives are uniform on the unit sphere of R^d, so their similarity t to any
anchor has the density proportional to (1 - t^2)^{(d - 3) / 2}. With kappa = 1 /
tau, nu = d / 2 - 1 and w = exp(kappa t)

.. math::
  Z = E[w] = \Gamma(d/2) \, (2/\kappa)^\nu I_\nu(\kappa)
    = \sum_k \frac{(\kappa^2 / 4)^k}{k! \, (d/2)_k}, \qquad
  \mathrm{CV}^2 = \frac{E[w^2]}{Z^2} - 1

(E[w^2] is Z at 2 kappa; the positive's factor cancels). Of the mean Z-hat of B
negatives

.. math::
  E[\log \hat Z] - \log Z = -\frac{\mathrm{CV}^2}{2B} + O(B^{-2}), \qquad
  E[Z / \hat Z] - 1 = \frac{\mathrm{CV}^2}{B} + O(B^{-2}) .

Both left sides are known exactly as well, by the Laplace transform phi(s) =
E[exp(-s w / Z)] and the identity that the augmented loss rests on:

.. math::
  E[Z / \hat Z] = \int_0^\infty \phi(s / B)^B ds, \qquad
  E[\log (\hat Z / Z)] = \int_0^\infty \frac{e^{-s} - \phi(s / B)^B}{s} ds .
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import special

# (d, tau) and the numbers of negatives of the record.
CASES = ((128, 0.07), (128, 0.1), (32, 0.1))
NEGATIVES = (8, 32, 128)


class Deviation(NamedTuple):
  """E[log Z-hat] - log Z and E[Z / Z-hat] - 1, with standard errors.

  Attributes:
    log_bias: of log Z-hat.
    weight_bias: of the weight 1 / Z-hat, relative.
    log_error: standard error of `log_bias`; 0 of exact values.
    weight_error: that of `weight_bias`.
  """

  log_bias: float
  weight_bias: float
  log_error: float = 0.0
  weight_error: float = 0.0


def log_partition(dim: int, temperature: float) -> float:
  """Log of E[exp(t / tau)], d >= 2, from the series of Bessel's I in log space.

  It has a float64's precision at any order.

  Raises:
    ValueError: if `dim` < 2 or `temperature` <= 0.

  >>> round(log_partition(3, 1.0), 6) == round(math.log(math.sinh(1.0)), 6)
  True
  """
  if dim < 2:
    raise ValueError(f"dim must be at least 2; got {dim}.")
  if not temperature > 0:
    raise ValueError(f"temperature must be > 0; got {temperature}.")
  kappa = 1.0 / temperature
  # Terms fall from k = kappa / 2 on, at the latest.
  k = np.arange(64 + int(4 * kappa))
  terms = (
    2.0 * k * math.log(kappa / 2.0)
    - special.gammaln(k + 1.0)
    - special.gammaln(k + dim / 2.0)
    + special.gammaln(dim / 2.0)
  )
  return float(special.logsumexp(terms))


def squared_variation(dim: int, temperature: float) -> float:
  """CV^2 = Var(w) / Z^2 of one negative; arguments as of `log_partition`."""
  twice = log_partition(dim, temperature / 2.0)
  return math.expm1(twice - 2.0 * log_partition(dim, temperature))


def exact(dim: int, temperature: float, negatives: int) -> Deviation:
  """Both deviations, d >= 4, by quadrature of the integrals above.

  They have about six digits, and no error.
  """
  log_z = log_partition(dim, temperature)
  # Both integrands fade at both ends: the trapezoid rule is exact for them.
  t = np.linspace(-1.0, 1.0, 2001)[1:-1]
  log_density = (dim - 3) / 2.0 * np.log1p(-(t**2))
  density = special.softmax(log_density)
  w = np.exp(t / temperature - log_z)
  log_s = np.linspace(-40.0, 40.0, 4001)
  s = np.exp(log_s)
  phi = np.empty_like(s)
  for part in np.array_split(np.arange(len(s)), 16):
    phi[part] = np.exp(-np.outer(s[part] / negatives, w)) @ density
  with np.errstate(divide="ignore"):
    transform = np.exp(negatives * np.log(phi))
  step = log_s[1] - log_s[0]
  return Deviation(
    log_bias=float(step * np.sum(np.exp(-s) - transform)),
    weight_bias=float(step * np.sum(s * transform)) - 1.0,
  )


def monte_carlo(
  key: jax.Array, dim: int, temperature: float, negatives: int, *, draws: int
) -> Deviation:
  """Both deviations, with standard errors, from so many draws of B negatives.

  Z is known, and so is E[Z-hat / Z - 1] = 0: it is taken off as a control
  variate with the coefficient that regression finds, which makes the noise
  several times smaller.

  Raises:
    ValueError: if `draws` < 2.
  """
  if draws < 2:
    raise ValueError(f"draws must be at least 2; got {draws}.")
  log_z = log_partition(dim, temperature)
  log_ratio = _log_ratios(
    key, dim, temperature, log_z, negatives=negatives, draws=draws
  )
  log_ratio = np.asarray(log_ratio, np.float64)
  control = np.expm1(log_ratio)
  (a, a_error), (b, b_error) = (
    _controlled(x, control) for x in (log_ratio, np.expm1(-log_ratio))
  )
  return Deviation(a, b, a_error, b_error)


@functools.partial(jax.jit, static_argnames=("dim", "negatives", "draws"))
def _log_ratios(key, dim, temperature, log_z, *, negatives, draws):
  """[draws] log(Z-hat / Z)."""
  along, across = jax.random.split(key)
  shape = (draws, negatives)
  # A Gaussian's direction: one coordinate, and the length of all others.
  x = jax.random.normal(along, shape)
  rest = 2.0 * jax.random.gamma(across, (dim - 1) / 2.0, shape)
  t = x * jax.lax.rsqrt(x**2 + rest)
  log_w = t / temperature - log_z
  return jax.nn.logsumexp(log_w, axis=1) - math.log(negatives)


def _controlled(x: np.ndarray, control: np.ndarray) -> tuple[float, float]:
  """Mean of x and its standard error; the control's mean is known to be 0."""
  centred = control - control.mean()
  slope = float(centred @ x / (centred @ centred))
  rest = x - slope * control
  return float(rest.mean()), float(rest.std(ddof=2) / math.sqrt(len(x)))


def rows(key: jax.Array, *, similarities: int) -> list[dict[str, Any]]:
  """The record's rows: all cases and numbers of negatives.

  Args:
    key: of the draws.
    similarities: negatives drawn a row; of B each, that many / B draws.

  Returns:
    A dict a row: d, tau, B, CV^2, both deviations by Monte Carlo with standard
    errors, exactly, and in first order.
  """
  found = []
  for i, (dim, temperature) in enumerate(CASES):
    variation = squared_variation(dim, temperature)
    for j, count in enumerate(NEGATIVES):
      drawn = monte_carlo(
        jax.random.fold_in(key, i * len(NEGATIVES) + j),
        dim,
        temperature,
        count,
        draws=max(2, similarities // count),
      )
      known = exact(dim, temperature, count)
      found.append(
        {
          "dim": dim,
          "temperature": temperature,
          "negatives": count,
          "squared_variation": variation,
          "log_bias": drawn.log_bias,
          "log_error": drawn.log_error,
          "log_exact": known.log_bias,
          "log_first_order": -variation / (2 * count),
          "weight_bias": drawn.weight_bias,
          "weight_error": drawn.weight_error,
          "weight_exact": known.weight_bias,
          "weight_first_order": variation / count,
        }
      )
  return found
