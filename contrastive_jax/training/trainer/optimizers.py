"""The optimiser of a run, and which parameters it decays or orthogonalises."""

from typing import Any

import jax
import optax

from contrastive_jax.training.objectives import base
from contrastive_jax.training.trainer import optimizer_choices as choices
from contrastive_jax.training.types import Params


def learning_rate(choice: choices.Optimizer, steps: int) -> optax.Schedule:
  """The rate of an update by the number of those before it, in a run of `steps`."""
  return choice.schedule.build(choice.learning_rate, steps)


def make_optimizer(
  choice: choices.Optimizer, *, steps: int, objective: base.Objective
) -> optax.GradientTransformation:
  """Clipping, then the chosen optimiser, then what the objective adds.

  Only kernels and embeddings are decayed, and of them those that the objective lets
  decay: a parameter that gets no gradient would shrink to nothing.
  """

  def mask(params: Params) -> Any:
    return jax.tree_util.tree_map_with_path(
      lambda path, kept: kept and objective.decays(path), decayed(params)
    )

  chain = [choice.build(learning_rate(choice, steps), mask)]
  if choice.clip_norm:
    chain.insert(0, optax.clip_by_global_norm(choice.clip_norm))
  return objective.adapt(optax.chain(*chain))


def decayed(params: Params) -> Any:
  """True on the leaves that weight decay acts on: kernels and embeddings.

  The last part of a parameter's name decides: `kernel`, `kernel_0` and so on,
  `embedding`. Biases, norms, scalars, position embeddings and learned tokens
  are left alone, as is usual. Their shapes would not tell: the biases of an
  attention are [heads, width of a head], a class token is [1, width].
  """

  def rule(path, leaf):
    del leaf
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return name.startswith("kernel") or name == "embedding"

  return jax.tree_util.tree_map_with_path(rule, params)
