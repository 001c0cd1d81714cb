"""Floating-point operations of the products in a traced program.

XLA's own count takes the body of a loop once; here it counts as often as it
runs. Elementwise work is left out: on a matrix machine it is not what counts.
"""

import math
from typing import Any

import jax


def products(jaxpr: Any) -> float:
  """Operations of all products of a program, over all devices.

  Args:
    jaxpr: `jax.jit(f).trace(...).jaxpr`, or a part of one.

  Returns:
    2 m n k for every product of [m, k] and [k, n] (convolutions likewise),
    times the runs of the loops around it; of a `shard_map`, times the devices.
    A branch counts as its most expensive alternative.

  Raises:
    ValueError: if a product is in a loop whose length is not known.

  >>> import jax.numpy as jnp
  >>> def f(x):
  ...   return jax.lax.fori_loop(0, 5, lambda i, y: x @ y, x)
  >>> products(jax.jit(f).trace(jnp.ones((4, 4))).jaxpr)
  640.0
  """
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  return sum((_of_equation(e) for e in jaxpr.eqns), start=0.0)


def _of_equation(equation: Any) -> float:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    inner = math.prod(left[i] for i in contracted)
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * inner
  if name == "conv_general_dilated":
    kernel = equation.invars[1].aval.shape
    out = params["dimension_numbers"].rhs_spec[0]
    inner = math.prod(kernel) // kernel[out]
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * inner
  if name == "cond":
    return max(products(branch) for branch in params["branches"])
  inside = sum((products(j) for j in _inner(params)), start=0.0)
  if name == "scan":
    return params["length"] * inside
  if name == "shard_map":
    mesh = params["mesh"]
    manual = params.get("manual_axes", mesh.axis_names)
    return inside * math.prod(mesh.shape[axis] for axis in manual)
  if name == "while" and inside:
    raise ValueError("a product is in a loop whose length is not known.")
  return inside


def _inner(params: Any) -> list[Any]:
  """The programs among an equation's parameters."""
  leaves = jax.tree.leaves(
    list(params.values()), is_leaf=lambda x: hasattr(x, "eqns")
  )
  return [x for x in leaves if hasattr(x, "eqns")]
