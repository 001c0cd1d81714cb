"""Safe normalisation."""

import jax
import jax.numpy as jnp


def l2_normalize(
  x: jax.Array, axis: int = -1, *, eps: float = 1e-12
) -> jax.Array:
  r"""Scales `x` to unit Euclidean norm along `axis`; safe at zero.

  .. math:: y = x / \sqrt{\max(\|x\|^2, \epsilon^2)}

  The norm is accumulated in float32 whatever the input type, and a zero vector
  maps to zero with a finite gradient (the plain `x / norm(x)` gives NaN there).

  Args:
    x: array of any floating type.
    axis: the axis that becomes unit norm.
    eps: smallest norm that is divided by.

  Returns:
    An array of the shape and type of `x`.

  >>> import jax.numpy as jnp
  >>> l2_normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
  [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
  """
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  square = jnp.sum(wide * wide, axis=axis, keepdims=True)
  # rsqrt of the clipped square: where the clip bites, its gradient is zero.
  return (wide * jax.lax.rsqrt(jnp.maximum(square, eps * eps))).astype(x.dtype)
