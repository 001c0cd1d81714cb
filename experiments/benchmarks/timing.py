"""Timing calls in turn, and whole train steps as such calls."""

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import base
from contrastive_jax.training.runs import build
from contrastive_jax.training.trainer import optimizers
from contrastive_jax.training.trainer import state as state_lib


def interleaved(
  calls: Mapping[str, Callable[[], Any]],
  seconds: float,
  *,
  least: int = 5,
  most: float = math.inf,
) -> dict[str, dict[str, Any]]:
  """Times calls in turn, there and back, after one of each that compiles.

  Args:
    calls: name -> call that returns when its work is done.
    seconds: of measuring, a call.
    least: runs of each, however long they take.
    most: runs of each.

  Returns:
    name -> median, quartiles, runs, and `ratio`: the median over rounds of the
    call's time over the first one's, with its 95 % interval (order statistics). A
    machine whose speed drifts slows both of a round.
  """
  for call in calls.values():
    call()
  times: dict[str, list[float]] = {name: [] for name in calls}
  began = time.monotonic()
  runs = 0
  while runs < least or (
    runs < most and time.monotonic() - began < seconds * len(calls)
  ):
    # A call may leave the next one a warm or a cold cache.
    for name, call in list(calls.items())[:: -1 if runs % 2 else 1]:
      start = time.perf_counter()
      call()
      times[name].append(time.perf_counter() - start)
    runs += 1
  first = next(iter(times.values()))
  return {
    name: {
      "seconds": statistics.median(values),
      "quartiles": statistics.quantiles(values, n=4)[::2],
      "runs": len(values),
      "ratio": median_interval([a / b for a, b in zip(values, first)]),
    }
    for name, values in times.items()
  }


def median_interval(values: Sequence[float]) -> list[float]:
  """The median, and the ends of its 95 % interval by the normal binomial."""
  ordered, count = sorted(values), len(values)
  reach = 0.98 * math.sqrt(count)
  low = max(0, math.floor(count / 2 - reach) - 1)
  high = min(count - 1, math.ceil(count / 2 + reach))
  return [statistics.median(ordered), ordered[low], ordered[high]]


def trainer_arguments(
  config: config_lib.Config, objective: base.Objective
) -> dict[str, Any]:
  """Settings, optimiser and rate of a run, as the trainer's functions take them."""
  chosen, steps = config.optimizer, config.steps
  return {
    "settings": build.trainer_settings(config),
    "optimizer": optimizers.make_optimizer(
      chosen, steps=steps, objective=objective
    ),
    "learning_rate": optimizers.learning_rate(chosen, steps),
  }


def first_batch(run: Any) -> Any:
  """The first batch of an open run, on its devices."""
  with contextlib.closing(run.batches()) as batches:
    return sharding.put_batch(next(batches), run.mesh)


def step_call(
  config: config_lib.Config, objective: base.Objective, batch: Any
) -> Callable[[], Any]:
  """A call that makes a train step, as the loop jits it, and waits for it; all
  on one batch, which is on the devices.
  """
  given = trainer_arguments(config, objective)
  step = jax.jit(
    state_lib.make_train_step(objective, **given), donate_argnums=0
  )
  state = jax.jit(
    lambda: state_lib.init_state(
      given["settings"], objective, given["optimizer"]
    )
  )()

  def call():
    nonlocal state
    state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))

  return call
