"""The bounds of a learnable logit scale."""

import math

import jax
import jax.numpy as jnp


def clamp_logit_scale(
  log_logit_scale: jax.Array,
  *,
  minimum: float = 0.0,
  maximum: float = math.log(100.0),
) -> jax.Array:
  r"""Clamps a learnable log logit scale after an optimiser update.

  .. math:: \theta \leftarrow \min(\max(\theta, \theta_{min}), \theta_{max}),
    \qquad \alpha = 1 / \tau = e^\theta

  Apply it to the *parameter* after the update, not inside the loss: there the
  gradient would vanish beyond the bound and the scale could never come back.

  Args:
    log_logit_scale: theta, of any shape.
    minimum: smallest theta; 0 is a temperature of 1.
    maximum: largest theta; log 100 is a temperature of .01.

  Returns:
    The clamped theta, same shape and type.

  Raises:
    ValueError: if minimum > maximum.

  References:
    Radford et al., 2021, section 2.5.

  >>> import jax.numpy as jnp
  >>> round(float(clamp_logit_scale(jnp.float32(7.0))), 4)
  4.6052
  """
  if minimum > maximum:
    raise ValueError(
      f"minimum must not exceed maximum; got {minimum} > {maximum}."
    )
  return jnp.clip(log_logit_scale, minimum, maximum)
