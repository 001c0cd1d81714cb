"""Times the losses against their floor, the textbook and the peers.

python -m experiments.benchmarks.loss
python -m experiments.benchmarks.loss --losses=clip --sizes=1024,8192

Time is value and gradient, by interleaved runs in one process (medians, as ratios
to the floor: the products alone, tile by tile). Memory is the peak of a process of
its own above what it needs to start. A run that is stopped goes on where it was.
"""

import functools
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags

from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.programs import reporting
from contrastive_jax.training import config as config_lib
from experiments import studies
from experiments.benchmarks import contestants, peers, timing

_FLAGS = flags.FlagValues()
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)
_list = functools.partial(flags.DEFINE_list, flag_values=_FLAGS)
_string = functools.partial(flags.DEFINE_string, flag_values=_FLAGS)
_LOSSES = _list("losses", list(contestants.PRODUCTS), "Names of losses.")
_SIZES = _list(
  "sizes",
  ["1024", "2048", "4096", "8192", "16384", "32768"],
  "Values of N for clip.",
)
_OTHER_SIZES = _list(
  "other_sizes", ["512", "2048", "8192"], "Values of N for the other losses."
)
_DIM = _integer("dim", 512, "d, columns of the features.")
_SECONDS = flags.DEFINE_float(
  "seconds", 20.0, "Seconds of measuring, a contestant.", flag_values=_FLAGS
)
_DENSE_LIMIT = _integer(
  "dense_limit", 16384, "Largest N for contestants that form N x N arrays."
)
_OUT = studies.define_out("NAME", _FLAGS)
_NAME = _string("name", "loss_speed", "Name of the record.")
_MEMORY_OF = _string(
  "memory_of", "", "contestant:loss:N, printed in bytes; nothing else is run."
)
_TILED = ("ours", "floor")


def measure(
  name: str, size: int, dim: int, seconds: float, *, dense_limit: int = 16384
) -> dict[str, Any]:
  """Seconds of every contestant, run in turn.

  Args:
    name: of the loss.
    size: N.
    dim: d.
    seconds: of measuring, a contestant, at most; at least three runs.
    dense_limit: largest N for contestants that form N x N arrays.

  Returns:
    By contestant what `timing.interleaved` tells; of one that the machine has not
    enough memory for, None.
  """
  calls, failed = {}, {}
  for contestant in contestants.CONTESTANTS:
    if contestant not in _TILED and size > dense_limit:
      continue
    call = contestants.make(contestant, name, size, dim)
    if call is None:
      continue
    try:
      call()  # Compiles.
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      failed[contestant] = None
    else:
      calls[contestant] = call
  return failed | timing.interleaved(calls, seconds, least=3, most=50)


def peak_bytes(contestant: str, name: str, size: int, dim: int) -> int | None:
  """Peak memory of value and gradient, in a process of its own."""
  command = [sys.executable, "-m", "experiments.benchmarks.loss"]
  command += [f"--memory_of={contestant}:{name}:{size}", f"--dim={dim}"]
  found = subprocess.run(command, capture_output=True, text=True, check=False)
  if found.returncode:
    return None
  return int(found.stdout.split()[-1])


def _print_memory(what: str) -> None:
  contestant, name, size = what.split(":")
  dim = _DIM.value

  def peak():
    # Not getrusage: its peak begins with that of the process that started us.
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

  # Everything is loaded and has run, at a size that needs nothing.
  small = contestants.make(contestant, name, 8, 8)
  if small is None:
    raise config_lib.UserError(f"{contestant} has no {name}.")
  small()
  before = peak()
  call = contestants.make(contestant, name, int(size), dim)
  assert call is not None
  call()
  print(peak() - before)


def page(record: Mapping[str, Any], name: str = "loss_speed") -> str:
  """The record as Markdown; `name` is the record's."""
  command = "python -m experiments.benchmarks.loss"
  if name != "loss_speed":
    some = dict.fromkeys(row["loss"] for row in record["rows"])
    command += f" --losses={','.join(some)} --name={name}"
  names = ("ours", "textbook", "optax", "open_clip")
  rows = []
  for row in record["rows"]:
    times, memory = row["times"], row["memory"]
    floor = times["floor"]["seconds"]
    rows.append(
      [
        *(row["loss"], f"{row['size']:,}", f"{floor:.3g}"),
        *(_ratio(times[n], floor) if n in times else "–" for n in names),
        *(f"{memory[n] / 2**20:,.0f}" if memory.get(n) else "–" for n in names),
      ]
    )
  return studies.page(
    "# Speed and memory of the losses",
    f"Value and gradient, float32, d = {record['dim']}, {record['cores']} CPU"
    " cores. The floor is the products that the loss cannot do without, tile by"
    " tile, in the same run. Medians of interleaved runs; time as a multiple of"
    " the floor's, memory in MiB above the process's start.",
    studies.shell(command),
    reporting.table(
      ["loss", "N", "floor, s", *names, "ours, MiB", *names[1:]], rows
    ),
    _against_clip(record),
    f"![Time over the floor's, and memory, by N]({name}.png)",
    f"Made with {reporting.listed(record['versions'])}.",
  )


def _against_clip(record: Mapping[str, Any]) -> str:
  """The augmented loss's time over InfoNCE's, where both were measured."""
  seconds = {
    (r["loss"], r["size"]): r["times"]["ours"]["seconds"]
    for r in record["rows"]
    if r["times"].get("ours")
  }
  ratios = [
    f"{own / seconds['clip', size]:.2f} at N = {size:,}"
    for (loss, size), own in seconds.items()
    if loss == "augmented_clip" and ("clip", size) in seconds
  ]
  if not ratios:
    return ""
  return f"`augmented_clip` over `clip`, ours: {', '.join(ratios)}."


def _ratio(found: Mapping[str, Any] | None, floor: float) -> str:
  return f"{found['seconds'] / floor:.2f}" if found else "out of memory"


def plot(record: Mapping[str, Any], path: pathlib.Path) -> None:
  """Time and memory of CLIP by N."""
  from matplotlib import figure

  rows = [r for r in record["rows"] if r["loss"] == "clip"]
  if not rows:
    return
  canvas = figure.Figure(figsize=(9, 3.6), layout="constrained")
  left, right = canvas.subplots(1, 2)
  for name in ("ours", "textbook", "open_clip"):
    ratios = {
      r["size"]: r["times"][name]["seconds"] / r["times"]["floor"]["seconds"]
      for r in rows
      if r["times"].get(name)
    }
    mebibytes = {
      r["size"]: r["memory"][name] / 2**20
      for r in rows
      if r["memory"].get(name)
    }
    for axes, found in ((left, ratios), (right, mebibytes)):
      if found:
        axes.plot([*found], [*found.values()], "o-", label=name)
  left.axhline(1.0, color="grey", linestyle=":", label="floor")
  left.set_ylabel("time / floor")
  left.set_ylim(0)
  right.set_ylabel("peak memory, MiB")
  right.set_yscale("log")
  for axes in (left, right):
    axes.set_xscale("log", base=2)
    axes.set_xlabel("N")
    axes.legend()
  left.set_title("CLIP, value and gradient")
  canvas.savefig(path, dpi=110)


def main() -> None:
  """Runs the program."""
  if _MEMORY_OF.value:
    _print_memory(_MEMORY_OF.value)
    return
  unknown = set(_LOSSES.value) - set(contestants.PRODUCTS)
  if unknown:
    raise config_lib.UserError(
      f"--losses must be some of {', '.join(contestants.PRODUCTS)}; got"
      f" {', '.join(sorted(unknown))}."
    )
  out, title, dim = studies.folder(_OUT.value), _NAME.value, _DIM.value
  record: dict[str, Any] = {"dim": dim, **peers.machine(), "rows": []}
  path = out / f"{title}.json"
  if path.exists():
    old = json.loads(path.read_text(encoding="utf-8"))
    if {**old, "rows": []} == record:
      record = old
  done = {(r["loss"], r["size"]) for r in record["rows"]}
  for name in _LOSSES.value:
    sizes = _SIZES.value if name == "clip" else _OTHER_SIZES.value
    for size in map(int, sizes):
      if (name, size) in done:
        continue
      times = measure(
        *(name, size, dim, _SECONDS.value), dense_limit=_DENSE_LIMIT.value
      )
      memory = {
        c: peak_bytes(c, name, size, dim)
        for c, found in times.items()
        if found and c != "floor"
      }
      row = {"loss": name, "size": size, "times": times, "memory": memory}
      record["rows"].append(row)
      reporting.write(out, title, record, page(record, title))
      ratio = times["ours"]["seconds"] / times["floor"]["seconds"]
      print(f"{name}, N = {size:,}: {ratio:.2f} x the floor", flush=True)
  studies.publish(out, title, record, page(record, title), plot)


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=__doc__)
