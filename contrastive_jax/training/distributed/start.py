"""Joining the processes of a run."""

import os
import sys
import threading
from typing import Any

import jax

from contrastive_jax.training.config.errors import UserError
from contrastive_jax.training.distributed import processes


def start_processes(
  coordinator: str,
  count: int,
  index: int,
  *,
  start_within: float = 300.0,
  dead_after: float = 30.0,
) -> None:
  """Joins the processes of a run; must come before anything of JAX.

  Args:
    coordinator: "" for one process, "auto", or HOST:PORT of process 0.
    count: processes; 0 if not given.
    index: this process; -1 if not given.
    start_within: seconds in which all of them must have started.
    dead_after: seconds without an answer after which one is taken for gone. The
      runtime waits four times as long, because `distributed.processes` names the one.

  Raises:
    UserError: if the flags do not go together.
  """
  if not coordinator:
    if count > 0 or index >= 0:
      raise UserError(
        "--process_count and --process_id need --coordinator=HOST:PORT."
      )
    return
  # Its own handler of SIGTERM would take the place of ours.
  jax.config.update("jax_enable_preemption_service", False)
  options: dict[str, Any] = {
    # It may notice after half of this time; the watch needs 1.6 * dead_after.
    "heartbeat_timeout_seconds": round(4 * dead_after),
  }
  if coordinator != "auto":
    if ":" not in coordinator or not 0 <= index < count:
      raise UserError(
        "--coordinator=HOST:PORT needs --process_count=N and --process_id from 0"
        f" to N - 1; got --coordinator={coordinator} --process_count={count}"
        f" --process_id={index}."
      )
    options |= {
      "coordinator_address": coordinator,
      "num_processes": count,
      "process_id": index,
    }
  _initialize(start_within, **options)


def _initialize(start_within: float, **options: Any) -> None:
  """`jax.distributed.initialize`, which would end the process without our words."""
  timer = threading.Timer(start_within, _leave, (start_within,))
  timer.daemon = True
  timer.start()
  # Some time later, so that the words are ours.
  jax.distributed.initialize(
    initialization_timeout=round(start_within) + 60, **options
  )
  timer.cancel()
  if jax.default_backend() == "cpu":
    # A program that XLA reads from the cache has lost the order of the collectives
    # in its loops (jaxlib 0.10): CPUs then take one's numbers for another's.
    jax.config.update("jax_enable_compilation_cache", False)


def _leave(start_within: float) -> None:
  print(
    f"Stopped: not all processes of the run have started within {start_within:g} s"
    " (--start_within); the same commands try again.",
    file=sys.stderr,
    flush=True,
  )
  # The main thread waits in the runtime.
  os._exit(processes.EXIT_CODE)
