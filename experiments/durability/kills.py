"""Kills runs at random moments, and compares them with undisturbed ones.

python -m experiments.durability.kills --kills=20

For each objective, with the augmented loss, and each setting of devices and processes
one run is made in peace, and one is killed again and again: in a step, in a save, in
a validation, while data are prepared, while the step is compiled, in the evaluation at
the end. Parameters, tables, queues, momentum parameters, the optimiser's state, the log
and the scores must be the same in every bit. What the record, durability.json, has
already is not made again.
"""

import collections
import contextlib
import functools
import itertools
import json
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import flags
from PIL import Image

from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.runs import runner
from contrastive_jax.training.trainer import metric_log
from experiments import studies
from experiments.durability import lives, report

_FLAGS = flags.FlagValues()
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)
_KILLS = _integer("kills", 20, "Kills of each run.", lower_bound=1)
_SEED = _integer("seed", 0, "Seed of the moments.", lower_bound=0)
_ONLY = flags.DEFINE_list(
  "only",
  [],
  "Runs by name, such as clip_4_devices; none are all.",
  flag_values=_FLAGS,
)
_OUT = studies.define_out("durability", _FLAGS)

_STEPS = 600
# Two processes compile at every start, with few of the compiler's passes.
_SHORT = {("albef", "2_processes"): 240}
_MOST_CRASHES = 5
# The first kill meets the compilation that no cache knows.
_MOMENTS = {
  "compilation": lives.compiling,
  "preparation": lives.preparing,
  "step": lives.stepping,
  "save": lives.saving,
  "validation": lives.evaluating,
}
# Numbers that depend on the clock.
_TIMES = ("train/examples_per_second", "train/input_wait", "train/seconds")
_SETTINGS = {"1_device": (1, 1), "4_devices": (4, 1), "2_processes": (1, 2)}
_TINY = {
  "steps": _STEPS,
  "batch_size": 16,
  "ema_decay": 0.9,
  "log_every": 1,
  "checkpoint_every": 20,
  "data": "folder",
  "data.vocab_size": 300,
  "model.image_size": 16,
  "model.context_length": 12,
  "evaluation.batch_size": 16,
  "evaluation.plots": False,
  "loss": "augmented",
  "loss.e_step": "conjugate",
  "loss.temperature_mode": "fixed",
}
_TOWER = {"widths": (8, 16), "depths": (1, 1)}
OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
  "clip": {
    "model.overrides": {
      "image": _TOWER,
      "text": {"width": 32, "depth": 1, "num_heads": 2},
      "embed_dim": 16,
    },
    "structure": "consistency",
    "structure.consistency.weight": 0.1,
    "other_view": "momentum",
    "evaluation.retrieval.every": lives.VALIDATE_EVERY,
  },
  "moco_v3": {
    "objective.projector": "16",
    "objective.predictor": "16",
    "objective.embed_dim": 16,
    "model.overrides": {"image": _TOWER},
    "evaluation.knn.every": lives.VALIDATE_EVERY,
  },
  "albef": {
    "optimizer": "muon",
    "model.preset": "albef_tiny",
    "model.overrides": {
      "image": {"width": 32, "depth": 1, "patch_size": 8, "stem_width": 0},
      "width": 32,
      "fusion_depth": 1,
      "dropout": 0.1,
    },
    "evaluation.retrieval.every": lives.VALIDATE_EVERY,
  },
}


def write_data(root: pathlib.Path, count: int = 120) -> None:
  """Random pictures with captions and labels, as a user's folder has them."""
  rng = np.random.default_rng(0)
  root.mkdir()
  rows = []
  for i in range(count):
    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / f"{i:03}.png")
    colour = ("red", "green", "blue")[i % 3]
    caption = f"{colour} thing {i}"
    rows.append({"image": f"{i:03}.png", "caption": caption, "label": colour})
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (root / "captions.jsonl").write_text(lines, encoding="utf-8")


def arguments(
  objective: str, data: pathlib.Path, *, steps: int = _STEPS
) -> list[str]:
  """Flags of a run."""
  fields = {
    "objective": objective,
    **_TINY,
    **OBJECTIVES[objective],
    "data.path": str(data),
    "steps": steps,
  }
  return [
    *(f"--config.{name}={value}" for name, value in fields.items()),
    "--dead_after=5",
    "--start_within=30",
  ]


def moments(kills: int, rng: np.random.Generator) -> list[str]:
  """Kinds of moments in a random order, two of the last evaluation at the end."""
  last = min(2, kills // 4)
  kinds = list(itertools.islice(itertools.cycle(_MOMENTS), kills - last))
  rest = rng.permutation(kinds[1:]).tolist()
  return [kinds[0], *rest, *["evaluation"] * last]


def disturbed(
  start: Callable[[], lives.Life],
  processes: int,
  kills: int,
  rng: np.random.Generator,
) -> dict[str, Any]:
  """Kills a run at every moment of `moments`, then lets it finish.

  `start` starts its `processes` again, once those before them have ended.
  """
  startup, waits, names = 8.0, [], 0
  made: collections.Counter[str] = collections.Counter()
  torn = crashes = 0
  for kind in moments(kills, rng):
    life = start()
    make = _MOMENTS.get(kind, lives.scoring)
    if lives.reach(life, make(rng, startup)):
      half = bool(lives.half_written(life.workdir))
      codes, waited = life.kill(int(rng.integers(processes)))
      made[kind] += 1
      torn += half
      if processes > 1:
        waits.append(waited)
        names += "has not answered for" in life.text()
        # None goes on alone.
        assert all(codes), (codes, life.text())
      if kind == "step":
        startup = 0.5 * startup + 0.5 * (time.monotonic() - life.began)
    else:
      crashes += any(life.wait())
  # A life that ends by itself (the runtime's collectives between processes may
  # fail) is restarted as well, and counted.
  life = start()
  while any(codes := life.wait()):
    crashes += 1
    print(f"It ended by itself, {codes}:\n{life.text()[-2000:]}", flush=True)
    if crashes >= _MOST_CRASHES:
      raise RuntimeError(f"{life.workdir} does not finish.")
    life = start()
  result: dict[str, Any] = {
    "kills": dict(sorted(made.items())),
    "crashes": crashes,
    "half_written": torn,
  }
  if waits:
    result |= {"longest_wait": max(waits), "named": names}
  return result


def slowed(
  start: Callable[[], lives.Life],
  processes: int,
  kills: int,
  rng: np.random.Generator,
) -> dict[str, Any]:
  """Stops one process of a run for a while, again and again; see `disturbed`."""
  life, made = start(), 0
  while made < kills and lives.reach(life, lives.stepping(rng, 0.0)):
    life.pause(int(rng.integers(processes)), rng.uniform(0.1, 1.0))
    made += 1
  if any(life.wait()):
    raise RuntimeError(f"{life.workdir} did not finish:\n{life.text()}")
  return {"kills": {"pause": made}, "half_written": 0}


def rows_of(workdir: pathlib.Path) -> list[dict[str, float]]:
  """The log without what depends on the clock."""
  return [
    {k: v for k, v in row.items() if k not in _TIMES}
    for row in metric_log.read_metrics(workdir)
  ]


def differences(ours: pathlib.Path, theirs: pathlib.Path) -> list[str]:
  """In what two finished runs differ; empty if in nothing but time."""
  out = []
  if rows_of(ours) != rows_of(theirs):
    out.append("the log")
  scores = [
    {
      k: v
      for k, v in workdirs.read_json(w / "results.json").items()
      if k not in _TIMES
    }
    for w in (ours, theirs)
  ]
  if scores[0] != scores[1]:
    out.append("the scores")
  states = [runner.restore(w, report=lambda _: None)[1] for w in (ours, theirs)]
  flat = [jax.tree_util.tree_leaves_with_path(state) for state in states]
  for (path, a), (_, b) in zip(*flat, strict=True):
    if np.asarray(a).tobytes() != np.asarray(b).tobytes():
      out.append(jax.tree_util.keystr(path))
  return out


def study(
  objective: str,
  setting: str,
  *,
  kills: int,
  seed: int,
  disturb: Callable[..., dict[str, Any]] = disturbed,
) -> dict[str, Any]:
  """One run in peace, one that is disturbed, and in what they differ."""
  began = time.monotonic()
  devices, processes = _SETTINGS[setting]
  steps = _SHORT.get((objective, setting), _STEPS)
  with contextlib.ExitStack() as stack:
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    root = pathlib.Path(stack.enter_context(folder))
    killed, peace = root / "killed", root / "peace"
    write_data(root / "data")
    given = arguments(objective, root / "data", steps=steps)

    def start(workdir: pathlib.Path) -> lives.Life:
      life = lives.Life(
        *(given, workdir),
        devices=devices,
        processes=processes,
        cache=root / "programs",
      )
      return stack.enter_context(contextlib.closing(life))

    # First, while no cache knows its programs.
    rng = np.random.default_rng(seed)
    found = disturb(functools.partial(start, killed), processes, kills, rng)
    life = start(peace)
    if any(life.wait()):
      raise RuntimeError(f"The run in peace failed:\n{life.text()}")
    state = runner.restore(peace, report=lambda _: None)[1]
    return {
      **found,
      "steps": steps,
      "leaves": len(jax.tree.leaves(state)),
      "lines": len(rows_of(peace)),
      "differences": differences(killed, peace),
      "seconds": time.monotonic() - began,
    }


def main() -> None:
  """Runs the program."""
  out = pathlib.Path(_OUT.value)
  names = {
    f"{objective}_{setting}": (objective, setting, disturbed)
    for objective in OBJECTIVES
    for setting in _SETTINGS
  }
  names["clip_2_processes_slow"] = ("clip", "2_processes", slowed)
  for name in _ONLY.value:
    if name not in names:
      raise config_lib.UserError(
        f"--only must be some of {', '.join(names)}; got {name!r}."
      )
  known = report.read(out).get("kills", {})
  for name in _ONLY.value or names:
    if name in known:
      print(f"{name}: known.")
      continue
    print(f"{name}: {_KILLS.value} kills ...", flush=True)
    objective, setting, disturb = names[name]
    known[name] = study(
      objective, setting, kills=_KILLS.value, seed=_SEED.value, disturb=disturb
    )
    known[name]["seed"] = _SEED.value
    report.write(out, "kills", known)
    print(f"  {known[name]}", flush=True)


if __name__ == "__main__":
  flags_lib.run(
    main,
    flag_values=_FLAGS,
    usage=__doc__,
    interrupted="the same command goes on with the next run",
  )
