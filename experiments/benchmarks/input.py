"""Times the input: images read, decoded and augmented a second.

python -m experiments.benchmarks.input

Photographs of web size are drawn, converted into records and read in batches by one
thread: by a plain loop with Pillow, by the trainer's pipeline (with the augmentation
that the device does beside it), and by torch's DataLoader (extra `peers`).
"""

import functools
import io
import pathlib
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import numpy as np
from absl import flags
from PIL import Image

from contrastive_jax.data import pipeline, sources
from contrastive_jax.data.sets import records
from contrastive_jax.data.sets.choices import Request
from contrastive_jax.data.sets.records import conversion
from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.programs import reporting
from contrastive_jax.training.config import sections
from contrastive_jax.training.objectives import base
from experiments import studies
from experiments.benchmarks import peers

_FLAGS = flags.FlagValues()
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)
_IMAGES = _integer("images", 512, "Number of photographs.", lower_bound=64)
_ROUNDS = _integer(
  "rounds", 5, "Rounds of measuring, each contestant in turn.", lower_bound=1
)
_OUT = studies.define_out("input_speed", _FLAGS)

_SIZE, _SIDE, _BATCH = (640, 480), 224, 64
# Batches that a reader keeps ready, and the first one.
_BUFFERED = 6
_Batches = Generator[Any, None, None]


def photograph(rng: np.random.Generator) -> bytes:
  """A JPEG with smooth areas, edges and grain, as a photograph has."""
  coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
  image = Image.fromarray(coarse).resize(_SIZE, Image.Resampling.BICUBIC)
  edges = rng.integers(0, 256, (24, 32, 3), np.uint8)
  blocks = Image.fromarray(edges).resize(_SIZE, Image.Resampling.NEAREST)
  mixed = np.asarray(Image.blend(image, blocks, 0.25), np.int16)
  grain = rng.integers(-6, 7, mixed.shape, np.int16)
  file = io.BytesIO()
  Image.fromarray(np.clip(mixed + grain, 0, 255).astype(np.uint8)).save(
    file, format="JPEG", quality=90
  )
  return file.getvalue()


def cropped(data: bytes, rng: np.random.Generator) -> np.ndarray:
  """Decodes an image and takes a random box of it, all with Pillow."""
  with Image.open(io.BytesIO(data)) as image:
    image = image.convert("RGB")
    width, height = image.size
    side = min(width, height) * rng.uniform(0.7, 1.0)
    left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
    image = image.resize(
      (_SIDE, _SIDE),
      Image.Resampling.BICUBIC,
      box=(left, top, left + side, top + side),
    )
    if rng.random() < 0.5:
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def pillow_loop(images: list[bytes]) -> _Batches:
  """Batches by a plain loop."""
  rng = np.random.default_rng(0)
  while True:
    chosen = rng.integers(0, len(images), _BATCH)
    yield np.stack([cropped(images[i], rng) for i in chosen])


@functools.cache
def _augmentation() -> Callable[..., Any]:
  """The augmentation that a step applies to a batch, compiled once."""
  changes = sections.Augment(flip=0.5, color_jitter=0.0)
  return jax.jit(base.Views(changes, _SIDE).random)


def ours(data: sources.PairData, threads: int, *, augment: bool) -> _Batches:
  """Batches of the trainer's pipeline, augmented as a step does it."""
  random = _augmentation()
  batches = pipeline.train_batches(
    data.splits[sources.TRAIN],
    tokenizer=data.tokenizer,
    sampler=pipeline.CaptionSampler({sources.ANY_LANGUAGE: 1.0}),
    context_length=32,
    batch_size=_BATCH,
    seed=0,
    num_threads=threads,
  )
  try:
    for number, batch in enumerate(batches):
      if augment:
        key = jax.random.key(number)
        yield jax.block_until_ready(random(key, batch["image"]))
      else:
        yield batch["image"]
  finally:
    batches.close()


class _Dataset:
  """The images as torch's DataLoader takes them."""

  def __init__(self, images: list[bytes]):
    self._images = images

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index: int) -> np.ndarray:
    return cropped(self._images[index], np.random.default_rng(index))


def torch_loader(torch: Any, images: list[bytes]) -> _Batches:
  """Batches of torch's DataLoader with one worker."""
  loader = torch.utils.data.DataLoader(
    _Dataset(images),
    batch_size=_BATCH,
    shuffle=True,
    num_workers=1,
    persistent_workers=True,
    multiprocessing_context="spawn",
  )
  while True:
    yield from loader


def measure(
  contestants: Mapping[str, Callable[[], _Batches]],
  rounds: int,
  batches: int = 16,
) -> dict[str, list[float]]:
  """Images a second of each contestant, in turn, once its buffer is empty.

  What was read ahead while the first batch was made must not count.
  """
  rates: dict[str, list[float]] = {name: [] for name in contestants}
  for _ in range(rounds):
    for name, make in contestants.items():
      iterator = make()
      for _ in range(_BUFFERED):
        next(iterator)
      start = time.perf_counter()
      for _ in range(batches):
        next(iterator)
      rates[name].append(_BATCH * batches / (time.perf_counter() - start))
      iterator.close()
  return rates


def prepared(count: int, folder: pathlib.Path) -> tuple[list[bytes], Any]:
  """The images, and the records that they became."""
  rng = np.random.default_rng(0)
  images = [photograph(rng) for _ in range(count)]
  with tarfile.open(folder / "0.tar", "w") as archive:
    for i, data in enumerate(images):
      for name, part in (
        (f"{i}.jpg", data),
        (f"{i}.txt", f"photo {i}".encode()),
      ):
        info = tarfile.TarInfo(name)
        info.size = len(part)
        archive.addfile(info, io.BytesIO(part))
  settings = conversion.ConversionSettings((str(folder / "0.tar"),))
  conversion.convert(
    settings, folder / "records", workers=1, report=lambda line: None
  )
  data_set = records.Records(
    path=(str(folder / "records"),), fit="crop", vocab_size=512
  )
  data = data_set.open(
    Request(task="captions", image_size=_SIDE, workdir=folder)
  )
  return images, data


def page(record: Mapping[str, Any]) -> str:
  """The record as Markdown."""
  rates = {
    k: statistics.median(v) for k, v in record["images_a_second"].items()
  }
  base_rate = rates["Pillow, a loop"]
  return studies.page(
    "# Input: images a second",
    f"{record['images']} JPEG photographs of {_SIZE[0]} x {_SIZE[1]} pixels"
    f" ({record['bytes'] / 1e3:.0f} kB each), to {_SIDE} pixels, batches of {_BATCH};"
    f" {record['cores']} CPU cores; medians of {record['rounds']} rounds in turn.",
    studies.shell("python -m experiments.benchmarks.input"),
    reporting.table(
      ["reader", "images a second", "of the loop"],
      (
        [name, f"{rate:.0f}", f"{rate / base_rate:.2f}"]
        for name, rate in rates.items()
      ),
    ),
    "The pipeline reads records at random, decodes with Pillow, crops to a square,"
    " tokenizes a caption, and leaves the random crop and flip to the device; the others"
    " crop at random and flip with Pillow. The limit is the decoder.",
    f"Made with {reporting.listed(record['versions'])}.",
  )


def main() -> None:
  """Runs the program."""
  out = studies.folder(_OUT.value)
  with tempfile.TemporaryDirectory() as folder:
    images, data = prepared(_IMAGES.value, pathlib.Path(folder))
    contestants: dict[str, Callable[[], _Batches]] = {
      "Pillow, a loop": lambda: pillow_loop(images),
      "pipeline, one thread": lambda: ours(data, 1, augment=False),
      "pipeline, one thread, augmented": lambda: ours(data, 1, augment=True),
      "pipeline, two threads": lambda: ours(data, 2, augment=False),
    }
    found = peers.open_clip()
    if found is not None:
      torch = found[1]
      contestants["torch DataLoader, one worker"] = lambda: torch_loader(
        torch, images
      )
    rates = measure(contestants, _ROUNDS.value)
  record = {
    "images": len(images),
    "bytes": statistics.fmean(map(len, images)),
    "rounds": _ROUNDS.value,
    **peers.machine(),
    "images_a_second": rates,
  }
  print(text := page(record))
  studies.publish(out, "input_speed", record, text)


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=__doc__)
