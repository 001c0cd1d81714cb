"""Times a model in use: pictures embedded a second, and search in many embeddings.

python -m experiments.benchmarks.inference

Photographs of web size are embedded by the tiny model, as `contrastive_jax.load` gives
it, beside the decoder alone and the model alone. Then embeddings that were drawn are
searched, of which the last 10 million take 10 GB of disk in --scratch; beside it their
files are read, and multiplied, alone.
"""

import functools
import itertools
import json
import os
import pathlib
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import flags

from contrastive_jax import inference, models
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from contrastive_jax.inference import embedding_files, pictures, search
from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.programs import reporting
from experiments import studies
from experiments.benchmarks import input as input_speed
from experiments.benchmarks import peers

_FLAGS = flags.FlagValues()
_integer = functools.partial(
  flags.DEFINE_integer, flag_values=_FLAGS, lower_bound=1
)
_PICTURES = _integer("pictures", 10_000, "Pictures that are embedded at last.")
_ROUNDS = _integer("rounds", 5, "Rounds of measuring, each in turn.")
_ROWS = _integer("rows", 10_000_000, "Embeddings that are searched at last.")
_SCRATCH = flags.DEFINE_string(
  "scratch",
  "",
  "Folder for the drawn embeddings, which are removed; empty is the system's.",
  flag_values=_FLAGS,
)
_OUT = studies.define_out("inference_speed", _FLAGS)
_FILES, _PART = 256, 1_024  # Photographs, and pictures of a round.
_DIM, _QUERIES, _IN_FILE, _ROWS_AT_ONCE = 256, 16, 250_000, 65_536


def model(folder: pathlib.Path) -> inference.Model:
  """A tiny model with parameters at random, written and opened."""
  tokenizer = tokenizer_lib.Tokenizer.train(["a b"], vocab_size=512)
  described = inference.Description(vocab_size=tokenizer.vocab_size)
  module = models.create_model("tiny", vocab_size=tokenizer.vocab_size)
  variables = jax.jit(module.init)(
    jax.random.key(0),
    np.zeros((1, 32, 32, 3), np.float32),
    np.zeros((1, 48), np.int32),
  )
  inference.save(folder, described, jax.device_get(variables), tokenizer)
  return inference.load(folder)


def embedding(folder: pathlib.Path, count: int, rounds: int) -> dict[str, Any]:
  """Pictures a second, in turn, and memory while many are embedded."""
  rng = np.random.default_rng(0)
  files = []
  for number in range(_FILES):
    path = folder / f"{number:04}.jpg"
    path.write_bytes(input_speed.photograph(rng))
    files.append(path)
  began = time.perf_counter()
  used = model(folder / "model")
  opened = time.perf_counter() - began
  part = list(itertools.islice(itertools.cycle(files), _PART))
  made = used.description.pictures
  squares = used.preprocess(part)

  def decode() -> None:
    def make(path: pathlib.Path, row: int) -> np.ndarray:
      del row
      return pictures.square(path, made.stored_size, made.fit)

    for _ in pictures.decoded(part, make, used.batch_size):
      pass

  calls: dict[str, Callable[[], Any]] = {
    "decoder alone": decode,
    "model alone": lambda: used.encode_image(squares),
    "encode_image of files": lambda: used.encode_image(part),
  }
  rates: dict[str, list[float]] = {name: [] for name in calls}
  for call in calls.values():
    call()
  for _ in range(rounds):
    for name, call in calls.items():
      began = time.perf_counter()
      call()
      rates[name].append(_PART / (time.perf_counter() - began))
  before = _memory()
  began = time.perf_counter()
  many = list(itertools.islice(itertools.cycle(files), count))
  for start in range(0, count, _PART):
    used.encode_image(many[start : start + _PART])
  return {
    "opened_seconds": opened,
    "pictures_a_second": rates,
    "pictures": count,
    "seconds": time.perf_counter() - began,
    "memory_grew_mb": (_memory() - before) / 2**20,
  }


def _memory() -> int:
  """Bytes that this process holds."""
  with open("/proc/self/statm", encoding="ascii") as file:
    return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def searching(folder: pathlib.Path, rows: int) -> dict[str, Any]:
  """Seconds of a search in drawn embeddings, and the peak of memory."""
  import pyarrow
  from pyarrow import parquet

  folder.mkdir()
  rng = np.random.default_rng(0)
  drawn = rng.standard_normal((_IN_FILE, _DIM), np.float32)
  drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
  for number, start in enumerate(range(0, rows, _IN_FILE)):
    count = min(_IN_FILE, rows - start)
    # The same numbers in another order: drawing 10 million takes minutes.
    values = np.roll(drawn, number, axis=1)[:count].reshape(-1)
    keys = [f"{start + i}" for i in range(count)]
    listed = pyarrow.FixedSizeListArray.from_arrays(values, _DIM)
    parquet.write_table(
      pyarrow.table({"key": keys, "embedding": listed}),
      folder / f"{number:06}.parquet",
      compression="none",
    )
  about = {"format": embedding_files.FORMAT, "dim": _DIM}
  (folder / embedding_files.ABOUT).write_text(json.dumps(about))
  queries = drawn[:_QUERIES]
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  began = time.perf_counter()
  hits = search.in_folder(folder, queries, 10)
  seconds = time.perf_counter() - began
  assert all(hit[0].score > 0.999 for hit in hits)
  began = time.perf_counter()
  for _, _ in embedding_files.read(folder, _ROWS_AT_ONCE):
    pass
  read = time.perf_counter() - began
  began = time.perf_counter()
  for _ in range(0, rows, _ROWS_AT_ONCE):
    queries @ drawn[:_ROWS_AT_ONCE].T
  return {
    "rows": rows,
    "bytes": sum(p.stat().st_size for p in folder.glob("*.parquet")),
    "queries": _QUERIES,
    "seconds": seconds,
    "read_seconds": read,
    "multiply_seconds": time.perf_counter() - began,
    "peak_grew_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    / 2**10,
  }


def page(record: Mapping[str, Any]) -> str:
  """The record as Markdown."""
  embedded, searched = record["embedding"], record["search"]
  rates = {
    k: statistics.median(v) for k, v in embedded["pictures_a_second"].items()
  }
  decoder, alone = rates["decoder alone"], rates["model alone"]
  # The decoder and the model share the cores.
  limit = 1 / (1 / decoder + 1 / alone)
  return studies.page(
    "# A model in use: embedding and search",
    f"The tiny model on {record['cores']} CPU cores. JPEG photographs of 640 x 480"
    f" pixels, {_PART:,} a round, medians of {record['rounds']} rounds in turn.",
    studies.shell("python -m experiments.benchmarks.inference"),
    reporting.table(
      ["what", "pictures a second", "of the limit"],
      [
        [name, f"{rate:.0f}", f"{rate / limit:.2f}"]
        for name, rate in (*rates.items(), ("the limit", limit))
      ],
    ),
    f"{embedded['pictures']:,} pictures take {embedded['seconds']:.0f} s; the process"
    f" grew by {embedded['memory_grew_mb']:.0f} MB meanwhile. The decoder and the model"
    " share the cores here, and the limit is both after each other; beside an"
    " accelerator it is the decoder alone."
    f" Writing and opening the model took {embedded['opened_seconds']:.1f} s.",
    reporting.table(
      ["search, " + f"{searched['rows']:,} embeddings of {_DIM}", "seconds"],
      [
        [
          f"{searched['queries']} queries, 10 each",
          f"{searched['seconds']:.1f}",
        ],
        ["reading the files alone", f"{searched['read_seconds']:.1f}"],
        ["multiplying alone", f"{searched['multiply_seconds']:.1f}"],
      ],
    ),
    f"The files have {searched['bytes'] / 1e9:.1f} GB; the search raised the peak of"
    f" memory by {searched['peak_grew_mb']:.0f} MB.",
    f"Made with {reporting.listed(record['versions'])}.",
  )


def main() -> None:
  """Runs the program."""
  out = studies.folder(_OUT.value)
  with tempfile.TemporaryDirectory(dir=_SCRATCH.value or None) as name:
    folder = pathlib.Path(name)
    embedded = embedding(folder, _PICTURES.value, _ROUNDS.value)
    searched = searching(folder / "embedded", _ROWS.value)
  record = {
    "rounds": _ROUNDS.value,
    **peers.machine(),
    "embedding": embedded,
    "search": searched,
  }
  print(text := page(record))
  studies.publish(out, "inference_speed", record, text)


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=__doc__)
