"""A long run: memory, open files and compilations must not grow.

python -m experiments.durability.soak --steps=2000
"""

import contextlib
import json
import os
import pathlib
import tempfile
import threading
from typing import Any

import jax
import numpy as np
from absl import flags

from contrastive_jax.programs import arenas
from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.recipes import clip_emoji
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.runs import runner
from experiments import studies
from experiments.durability import kills, report

_FLAGS = flags.FlagValues()
_STEPS = flags.DEFINE_integer(
  "steps", 2000, "Steps of training.", lower_bound=400, flag_values=_FLAGS
)
_OUT = studies.define_out("durability", _FLAGS)

_VALIDATE_EVERY, _SAVE_EVERY = 100, 50
_LONGEST_LINE = 2**14
# Share of the steps up to which memory still grows.
_WARM_UP = 0.5


class Watch:
  """Samples of this process beside the step that it has come to."""

  def __init__(self, workdir: pathlib.Path, every: float = 0.5):
    self.samples: list[tuple[int, float, int]] = []
    self.compiled: list[int] = []
    self._workdir, self._every = workdir, every
    self._over = threading.Event()
    self._thread = threading.Thread(target=self._run, daemon=True)

  def __enter__(self) -> "Watch":
    jax.monitoring.register_event_duration_secs_listener(self._listen)
    self._thread.start()
    return self

  def __exit__(self, *unused) -> None:
    self._over.set()
    self._thread.join()
    jax.monitoring.unregister_event_duration_listener(self._listen)

  def _listen(self, event: str, duration_secs: float, **unused: Any) -> None:
    del duration_secs, unused
    if "backend_compile" in event:
      self.compiled.append(self._step())

  def _step(self) -> int:
    # The last line alone: to read all of them would use ever more memory.
    path = self._workdir / "metrics.jsonl"
    with contextlib.suppress(OSError), path.open("rb") as log:
      log.seek(max(0, path.stat().st_size - _LONGEST_LINE))
      # One that is being written ends without a line break.
      lines = log.read().split(b"\n")[:-1]
      if lines:
        return int(json.loads(lines[-1])["step"])
    return 0

  def _run(self) -> None:
    while not self._over.wait(self._every):
      if step := self._step():
        self.samples.append(
          (step, resident_megabytes(), len(os.listdir("/proc/self/fd")))
        )


def resident_megabytes() -> float:
  """Memory of this process's own, MiB: without files, which the system drops and
  reads again as it likes, and with what it has swapped out.
  """
  text = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
  found = dict(line.split(":", 1) for line in text.splitlines())
  names = ("RssAnon", "RssShmem", "VmSwap")
  return sum(int(found[name].split()[0]) for name in names) / 2**10


def run(steps: int) -> dict[str, Any]:
  """Trains for so many steps, and measures what must not grow.

  Returns:
    `slope`, MiB per 100 steps after the warm-up (least squares); `late`,
    compilations after the second validation; `memory`, MiB, of the first and of the
    last quarter, `open_files` of the first and of the second half.
  """
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    kills.write_data(root / "data", 400)
    config = clip_emoji.get_config()
    config.override(
      {
        "objective": "clip",
        "steps": steps,
        "batch_size": 32,
        "log_every": 10,
        "checkpoint_every": _SAVE_EVERY,
        "data": "folder",
        "data.path": str(root / "data"),
        "model.context_length": 16,
        # Validations alone.
        "evaluation": ("retrieval",),
        "evaluation.retrieval.every": _VALIDATE_EVERY,
        "evaluation.retrieval.final": False,
        "evaluation.plots": False,
      }
    )
    with Watch(root / "run") as watch:
      runner.train(config_lib.parse(config), root / "run")
  warm = [s for s in watch.samples if s[0] >= _WARM_UP * steps]
  step, memory, files = (np.array(column, float) for column in zip(*warm))
  return {
    "steps": steps,
    "samples": len(warm),
    "slope": 100.0 * float(np.polyfit(step, memory, 1)[0]),
    # Medians of quarters and halves: more memory is in use, and more files are
    # open, while a checkpoint is written.
    "memory": [
      float(np.median(part)) for part in np.array_split(memory, 4)[::3]
    ],
    "open_files": [int(np.median(half)) for half in np.array_split(files, 2)],
    "compilations": len(watch.compiled),
    # The log's last line is some steps old where a validation compiles.
    "late": sum(step > 2 * _VALIDATE_EVERY for step in watch.compiled),
  }


def main() -> None:
  """Runs the program."""
  arenas.use_two()  # As training does.
  found = run(_STEPS.value)
  report.write(pathlib.Path(_OUT.value), "soak", found)
  print(json.dumps(found, indent=2))


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=__doc__)
