"""Compiled `init` and `apply`: op by op, the towers are slow to test."""

import functools

import jax

# Compiling takes longer than running here: without the compiler's costly passes
# the tests take half the time.
jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


@functools.partial(jit, static_argnums=0)
def init(module, *args):
  """The module's variables from a fixed key."""
  return module.init(jax.random.key(1), *args)


@functools.partial(
  jit,
  static_argnums=0,
  static_argnames=(
    "train",
    "are_features",
    "return_tokens",
    "method",
    "mutable",
  ),
)
def apply(module, variables, *args, **settings):
  """The module's output."""
  return module.apply(variables, *args, **settings)
