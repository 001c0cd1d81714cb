"""Classification sets that others publish, as TFDS prepares them.

They are read, never fetched: `tfds build NAME --file_format=array_record
--data_dir=DIR` prepares one. Reading needs no TensorFlow and runs none of the
data set's code. The fourteen of CLIP's linear probe that the second paper reports
are here but for Rendered SST2, which TFDS lacks; Aircraft and GTSRB are those of
the Visual Domain Decathlon (shorter side 72 pixels, its validation split for test,
as that of test has no labels).
"""

import functools
import importlib.resources
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from contrastive_jax.data import folder, folder_images

_PHOTO = ("a photo of a {}.",)


class Benchmark(NamedTuple):
  """Where a set is in TFDS, and what is said of its classes.

  Attributes:
    builder: its name in TFDS, with the config after a slash.
    test: the split that is scored.
    train: that of the linear probe; "" if the set has none.
    validation: what the probe's strength is chosen on; "" takes a tenth of `train`.
    prompts: around a class name; none if the set does not name its classes.
    occurring: whether only classes that occur in the test split are choices, as
      in ImageNet-A and -R, which have 200 of the thousand.
  """

  builder: str
  test: str = "test"
  train: str = "train"
  validation: str = ""
  prompts: tuple[str, ...] = _PHOTO
  occurring: bool = False


BENCHMARKS: Mapping[str, Benchmark] = {
  "imagenet": Benchmark("imagenet2012", test="validation"),
  "imagenet_v2": Benchmark("imagenet_v2/matched-frequency", train=""),
  "imagenet_sketch": Benchmark("imagenet_sketch", train=""),
  "imagenet_a": Benchmark("imagenet_a", train="", occurring=True),
  "imagenet_r": Benchmark("imagenet_r", train="", occurring=True),
  "caltech101": Benchmark("caltech101"),
  "svhn": Benchmark("svhn_cropped", prompts=('a photo of the number "{}".',)),
  "stl10": Benchmark("stl10"),
  "cifar10": Benchmark("cifar10"),
  "cifar100": Benchmark("cifar100"),
  "dtd": Benchmark(
    "dtd", validation="validation", prompts=("a photo of a {} texture.",)
  ),
  "aircraft": Benchmark(
    "visual_domain_decathlon/aircraft", test="validation", prompts=()
  ),
  "pets": Benchmark(
    "oxford_iiit_pet", prompts=("a photo of a {}, a type of pet.",)
  ),
  "food101": Benchmark(
    "food101",
    test="validation",
    prompts=("a photo of {}, a type of food.",),
  ),
  "gtsrb": Benchmark(
    "visual_domain_decathlon/gtsrb", test="validation", prompts=()
  ),
  "cars": Benchmark("cars196"),
  "flowers": Benchmark(
    "oxford_flowers102",
    validation="validation",
    prompts=("a photo of a {}, a type of flower.",),
  ),
}


class BenchmarkError(folder.DataError):
  """A set is not there, or not as it must be; says how to prepare it."""


class BenchmarkSource:
  """A split of a prepared set as a `sources.Source`."""

  def __init__(
    self, rows: Sequence[Any], image_size: int, name: str, fit: str = "pad"
  ):
    """Takes TFDS records with encoded images, and the squares to decode to."""
    self._rows, self._image_size, self._name = rows, image_size, name
    self._fit = fit
    # What was read once with its image is not read again for its label.
    self._labels: dict[int, int] = {}

  def __len__(self) -> int:
    """Number of images."""
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One image with its label.

    Raises:
      BenchmarkError: if it cannot be decoded.
    """
    row = self._rows[index]
    try:
      image = folder_images.decode(
        io.BytesIO(row["image"]),
        self._image_size,
        folder_images.MAX_PIXELS,
        self._fit,
      )
    except folder_images.RowError as error:
      raise BenchmarkError(
        f"Image {index} of {self._name} cannot be read ({error}): prepare the"
        " set anew."
      ) from error
    self._labels[index] = int(row["label"])
    return {"image": image, **self.fields(index)}

  def fields(self, index: int) -> dict[str, Any]:
    """The label; no image is decoded."""
    if index not in self._labels:
      self._labels[index] = int(self._rows[index]["label"])
    return {
      "index": index,
      "concept_id": index,
      "captions": (),
      "label": self._labels[index],
    }


class Splits(NamedTuple):
  """A set, opened: what its classes are called, and its splits.

  Attributes:
    classes: the names, in order of the labels.
    test: what is scored.
    train: of the probe, or None.
    validation: of the probe, or None.
  """

  classes: tuple[str, ...]
  test: BenchmarkSource
  train: BenchmarkSource | None
  validation: BenchmarkSource | None


def load(
  name: str, data_dir: str, *, image_size: int, fit: str = "pad"
) -> Splits:
  """Opens a prepared set.

  Args:
    name: one of `BENCHMARKS`.
    data_dir: TFDS's data directory.
    image_size: side of the model's images.
    fit: how pictures become squares, see `folder_images.decode`.

  Returns:
    Its splits and names.

  Raises:
    BenchmarkError: if the set is unknown, not prepared or not in a format with
      random access.
  """
  # TFDS takes seconds to import: only who opens a data set pays for it.
  import tensorflow_datasets as tfds

  if name not in BENCHMARKS:
    raise BenchmarkError(
      f"There is no set {name!r}: choose of {', '.join(BENCHMARKS)}."
    )
  benchmark = BENCHMARKS[name]
  advice = (
    f"prepare it with tfds build {benchmark.builder}"
    f" --file_format=array_record --data_dir={data_dir}"
  )
  builder = tfds.builder_from_directory(
    _version(pathlib.Path(data_dir).expanduser() / benchmark.builder, advice)
  )
  decoders: Any = {"image": tfds.decode.SkipDecoding()}

  def split(wanted: str) -> BenchmarkSource:
    try:
      rows: Any = builder.as_data_source(split=wanted, decoders=decoders)
    except (ValueError, NotImplementedError, KeyError) as error:
      raise BenchmarkError(
        f"{benchmark.builder} in {data_dir} cannot be read at random"
        f" ({' '.join(str(error).split())[:200]}): {advice}."
      ) from error
    return BenchmarkSource(rows, image_size, f"{name}'s split {wanted}", fit)

  train = validation = None
  if benchmark.train:
    wanted = benchmark.train, benchmark.validation
    if not benchmark.validation:
      wanted = f"{benchmark.train}[10%:]", f"{benchmark.train}[:10%]"
    train, validation = map(split, wanted)
  return Splits(
    classes=tuple(map(_readable, builder.info.features["label"].names)),
    test=split(benchmark.test),
    train=train,
    validation=validation,
  )


@functools.cache
def imagenet_names() -> Mapping[str, str]:
  """What the classes of ImageNet are called, by WordNet identifier."""
  file = importlib.resources.files(__name__) / "imagenet_names.txt"
  lines = file.read_text(encoding="utf-8").splitlines()
  return dict(line.split("\t") for line in lines)


def _readable(name: str) -> str:
  """A class name as words."""
  if re.fullmatch(r"n\d{8}", name):
    return imagenet_names().get(name, name)
  return name.replace("_", " ")


def _version(folder: pathlib.Path, advice: str) -> pathlib.Path:
  """The newest version below a set's folder."""
  found = {
    tuple(map(int, path.parent.name.split("."))): path.parent
    for path in folder.glob("*/dataset_info.json")
    if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
  }
  if not found:
    raise BenchmarkError(f"{folder} has no prepared data: {advice}.")
  return found[max(found)]
