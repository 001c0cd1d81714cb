"""The state of a run: one pytree, passed in and returned."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from contrastive_jax._types import Params
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import objectives, sharding, stopping
from contrastive_jax.training.objectives import base

# The root mean square of Adam's updates, over the rate, as Liu et al. found it.
_ADAM_RMS = 0.2
# Parameters of the objective clip that published weights bring.
_TOWERS = ("image", "text")


@flax.struct.dataclass
class TrainState:
  """Everything that a step changes.

  Attributes:
    step: updates made, int32 [].
    seed: of everything random, uint32 []; here and not in the program, so that
      runs of several seeds share one compiled step.
    params: parameters.
    opt_state: of the optimiser.
    objective_state: of the objective (batch statistics, tables, queues).
    ema_params: averaged parameters; None if switched off.
  """

  step: jax.Array
  seed: jax.Array
  params: Params
  opt_state: optax.OptState
  objective_state: Params
  ema_params: Params | None

  @property
  def eval_params(self) -> Params:
    """The parameters that evaluation uses."""
    return self.params if self.ema_params is None else self.ema_params


def learning_rate(config: config_lib.Config) -> optax.Schedule:
  """Linear warm-up, the peak, and cosine decay, over the steps of the run.

  With `decay_share=1` the decay follows the warm-up.
  """
  peak = config.optimizer.learning_rate
  warmup = round(config.optimizer.warmup_share * config.steps)
  decay = round(config.optimizer.decay_share * config.steps)
  start = config.steps - decay
  if start > warmup:
    # A run without decay has no step in its last part.
    fall = optax.cosine_decay_schedule(
      peak, max(decay, 1), config.optimizer.final_share
    )
    return optax.join_schedules(
      [
        optax.linear_schedule(0.0, peak, warmup),
        optax.constant_schedule(peak),
        fall,
      ],
      [warmup, start],
    )
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0 if warmup else peak,
    peak_value=peak,
    warmup_steps=warmup,
    decay_steps=max(config.steps, warmup + 1),
    end_value=peak * config.optimizer.final_share,
  )


def make_optimizer(config: config_lib.Config) -> optax.GradientTransformation:
  """Clipping, then AdamW, LARS or Muon; only kernels and embeddings are decayed.

  Towers of `config.model.frozen` stay as they are; `optimizer.tower_rate` scales what
  all of that comes to for the others, decay included.

  LARS adapts the rates of those alone as well, as SimCLR and MoCo v3 do. A
  patch projection that is frozen (`config.ssl.freeze_patches`) gets no gradient,
  so that decay alone would shrink it to nothing: it is left out.

  Muon (Jordan et al., 2024) is for the kernels of `matrices`, all of them: those of
  patches and of heads too, and of queries, keys and values as one where they are
  one. What else there is, embeddings too, gets Adam with Nesterov's moment and no
  decay. Its updates have the size of Adam's (Liu et al., Muon is scalable for LLM
  training, 2025, equation 4), so that rates mean the same.
  """
  settings = config.optimizer
  frozen = config.objective == "moco_v3" and config.ssl.freeze_patches

  def mask(params):
    return jax.tree_util.tree_map_with_path(
      lambda path, kept: kept and not (frozen and base.under_patches(path)),
      decayed(params),
    )

  steps = []
  if settings.clip_norm:
    steps.append(optax.clip_by_global_norm(settings.clip_norm))
  if settings.name == "lars":
    steps.append(
      optax.lars(
        learning_rate(config),
        weight_decay=settings.weight_decay,
        weight_decay_mask=mask,
        trust_ratio_mask=mask,
        momentum=settings.beta1,
      )
    )
  elif settings.name == "muon":
    steps.append(
      optax.contrib.muon(
        learning_rate(config),
        beta=settings.beta1,
        adam_b1=settings.beta1,
        adam_b2=settings.beta2,
        weight_decay=settings.weight_decay,
        weight_decay_mask=mask,
        muon_weight_dimension_numbers=matrices,
        consistent_rms=_ADAM_RMS,
      )
    )
  else:
    steps.append(
      optax.adamw(
        learning_rate(config),
        b1=settings.beta1,
        b2=settings.beta2,
        weight_decay=settings.weight_decay,
        mask=mask,
      )
    )
  if settings.tower_rate != 1.0:
    steps.append(
      optax.masked(
        optax.scale(settings.tower_rate),
        lambda params: jax.tree_util.tree_map_with_path(
          lambda path, _: path[0].key in _TOWERS, params
        ),
      )
    )
  chain = optax.chain(*steps)
  towers = config.model.frozen_towers
  if not towers:
    return chain

  def kinds(params: Params) -> Any:
    out = {}
    for name, tree in params.items():
      kind = "frozen" if name in towers else "own"
      out[name] = jax.tree.map(lambda _, kind=kind: kind, tree)
    return out

  return optax.multi_transform(
    {"own": chain, "frozen": optax.set_to_zero()}, kinds
  )


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


def matrices(params: Any) -> Any:
  """Which axes of a kernel are its input and its output; None of what has none.

  A kernel of Flax has the output last, but those of
  `nn.MultiHeadDotProductAttention` have the heads apart: in `query`, `key` and
  `value` after the input, in `out` before the output. Depthwise kernels mix no
  channels, and embeddings are no products: they have none.
  """

  def rule(path, leaf):
    *_, module, name = [
      "",
      *(jax.tree_util.keystr((k,), simple=True) for k in path),
    ]
    if name != "kernel" or leaf.ndim < 2:
      return None
    inputs = leaf.ndim - 1
    if leaf.ndim == 3 and module in ("query", "key", "value"):
      inputs = 1
    axes = tuple(range(leaf.ndim))
    return optax.contrib.MuonDimensionNumbers(axes[:inputs], axes[inputs:])

  return jax.tree_util.tree_map_with_path(rule, params)


def init_state(
  objective: objectives.Objective,
  optimizer: optax.GradientTransformation,
  config: config_lib.Config,
  batch: Mapping[str, Any],
  seed: jax.Array | None = None,
) -> TrainState:
  """The state before the first step, by `seed` (None is `config.seed`)."""
  seed = jnp.asarray(config.seed if seed is None else seed, jnp.uint32)
  params, state = objective.init(jax.random.key(seed), batch)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    seed=seed,
    params=params,
    opt_state=optimizer.init(params),
    objective_state=state,
    ema_params=(
      jax.tree.map(jnp.copy, params) if config.optimizer.ema_decay else None
    ),
  )


def make_train_step(
  objective: objectives.Objective,
  optimizer: optax.GradientTransformation,
  config: config_lib.Config,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
  """One update as a pure function of state and batch, to be jitted.

  The key of a step is derived from (seed, step), so that nothing random has to
  be kept. `metrics["squares"]` holds the sum of squares of every gradient and
  parameter by name: what is not finite shows there, see `finite.Guard`.

  With `config.optimizer.skip_nonfinite` a step with something that is not finite
  changes nothing but the counts of steps, and `metrics["skipped"]` is 1. A batch's
  `stopping.FIELD` is no input of the objective; its largest value is a metric.
  """
  schedule = learning_rate(config)
  decay = config.optimizer.ema_decay

  def train_step(state, batch):
    batch = dict(batch)
    told = batch.pop(stopping.FIELD, None)
    key = jax.random.fold_in(jax.random.key(state.seed + 1), state.step)
    grad_fn = jax.value_and_grad(objective.loss, has_aux=True)
    (loss, (objective_state, metrics)), grads = grad_fn(
      state.params, state.objective_state, batch, key
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    # pyrefly: ignore[bad-argument-type]
    params = objective.constrain(optax.apply_updates(state.params, updates))
    ema_params = state.ema_params
    if ema_params is not None:
      # Early on the average would remember the initial values.
      rate = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
      ema_params = optax.incremental_update(params, ema_params, 1.0 - rate)
    squares = {
      "parameter": _squares(state.params),
      "gradient": _squares(grads),
    }
    metrics = {
      "loss": loss,
      **metrics,
      "gradient_norm": optax.global_norm(grads),
      "parameter_norm": optax.global_norm(state.params),
      "learning_rate": schedule(state.step),
      "squares": squares,
    }
    new = TrainState(
      step=state.step + 1,
      seed=state.seed,
      params=params,
      opt_state=opt_state,
      objective_state=objective_state,
      # pyrefly: ignore[bad-argument-type]
      ema_params=ema_params,
    )
    if told is not None:
      metrics[stopping.FIELD] = jnp.max(told)
    if config.optimizer.skip_nonfinite:
      good = _all_finite(metrics, new)
      # Counts go on, or a schedule would end later than the run.
      counts = jax.tree.map(
        lambda a, b: a if jnp.issubdtype(a.dtype, jnp.integer) else b,
        new.opt_state,
        state.opt_state,
      )
      old = state.replace(step=new.step, opt_state=counts)
      new = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
      metrics["skipped"] = 1.0 - good
    return new, metrics

  return train_step


def _all_finite(metrics: Params, state: TrainState) -> Any:
  """Whether a step, and the state that it made, may be kept: bool []."""
  seen = {k: v for k, v in metrics.items() if k.endswith("_embedding")}
  found = jax.tree.leaves((metrics["loss"], metrics["squares"], seen))
  values = [*map(jnp.isfinite, found), *finite(state).values()]
  return jnp.all(jnp.stack(values))


def finite(state: TrainState) -> dict[str, jax.Array]:
  """Whether each tensor of a state is finite, by name; parameters first."""
  groups = {
    "parameter": state.params,
    "averaged parameter": state.ema_params,
    "objective state": state.objective_state,
    "optimizer state": state.opt_state,
  }

  def whole(path, leaf):
    # In a table, NaN is an example that was not seen yet.
    if sharding.under_tables(path):
      return ~jnp.any(jnp.isinf(leaf))
    return jnp.all(jnp.isfinite(leaf))

  return {
    f"{group} {jax.tree_util.keystr(path, simple=True, separator='/')}": (
      whole(path, leaf)
    )
    for group, tree in groups.items()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  }


def _squares(tree: Any) -> dict[str, jax.Array]:
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): jnp.sum(
      jnp.square(leaf.astype(jnp.float32))
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
