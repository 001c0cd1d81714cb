"""Non-finite tensors stop a run, by name, or are skipped where the user says so."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import numpy as np

from contrastive_jax.training.trainer import state as state_lib


class NonFiniteError(RuntimeError):
  """A tensor of the run became infinite or NaN."""


class Guard:
  """Looks at every step's metrics, and at states that are about to be kept."""

  def __init__(self, allowed: int, skipped: Callable[[int, str], None]):
    """Counts from here, the start of the program.

    Args:
      allowed: steps in a row that may be skipped, `config.skip_nonfinite`.
      skipped: receives a step that was, and a line that says so.
    """
    self._allowed = allowed
    self._skipped = skipped
    self._in_a_row = 0
    self._step = -1
    self._finite_fn = jax.jit(state_lib.finite)

  def check(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Waits for a step; raises on the first tensor that is not finite.

    Args:
      step: which; asked for the same again it does nothing.
      metrics: of `state.make_train_step`.

    Raises:
      NonFiniteError: naming the tensor, in order of the step.
    """
    if step == self._step:
      return
    self._step = step
    values = jax.device_get(metrics)
    name = _first(values)
    if name is None and not values.get("skipped", 0.0):
      self._in_a_row = 0
      return
    name = name or "the state after the update"
    if not self._allowed:
      _stop(step, name)
    self._in_a_row += 1
    if self._in_a_row > self._allowed:
      _stop(step, name, skipped=self._allowed)
    self._skipped(
      step,
      f"Step {step}: {name} is not finite; the step is skipped"
      f" ({self._in_a_row} of {self._allowed} in a row).",
    )

  def check_state(self, step: int, state: state_lib.TrainState) -> None:
    """Raises unless the state after a step is finite.

    `check` sees the parameters that a step began with. Those that its update made
    must not get into a checkpoint unseen.
    """
    for name, finite in jax.device_get(self._finite_fn(state)).items():
      if not finite:
        _stop(step, f"{name} after the update", offer=not self._allowed)


def _first(values: Mapping[str, Any]) -> str | None:
  """The first tensor of a step that is not finite, in the order of the step."""
  squares = values["squares"]
  ordered = [
    *((f"parameter {k}", v) for k, v in squares["parameter"].items()),
    *(
      (k.replace("_", " "), v)
      for k, v in values.items()
      if k.endswith("embedding")
    ),
    ("loss", values["loss"]),
    *((f"gradient of {k}", v) for k, v in squares["gradient"].items()),
  ]
  return next((name for name, v in ordered if not np.isfinite(v)), None)


def _stop(
  step: int, name: str, *, skipped: int = 0, offer: bool = True
) -> NoReturn:
  after = f", after {skipped} skipped in a row" if skipped else ""
  advice = "Try a smaller config.optimizer.learning_rate, or look at the data"
  if offer and not skipped:
    advice += "; config.skip_nonfinite=N skips up to N such steps in a row"
  raise NonFiniteError(
    f"Step {step}: {name} is not finite{after}; training stops and the last good"
    f" checkpoint is kept. {advice}."
  )
