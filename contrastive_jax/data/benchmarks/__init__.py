"""Classification sets that others publish, as TFDS prepares them.

They are read, never fetched: `tfds build NAME --file_format=array_record
--data_dir=DIR` prepares one. Reading needs no TensorFlow and runs none of the
data set's code. The fourteen of CLIP's linear probe that the second paper reports
are here but for Rendered SST2, which TFDS lacks; Aircraft and GTSRB are those of
the Visual Domain Decathlon (shorter side 72 pixels, its validation split for test,
as that of test has no labels). Images of PASCAL VOC 2007 have several classes.
"""

import functools
import importlib.resources
import io
import pathlib
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from contrastive_jax.data import sources
from contrastive_jax.data.benchmarks import prompts
from contrastive_jax.data.sets.folder.folder_rows import DataError, RowError

if TYPE_CHECKING:
  import numpy as np


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
    classes: names in the place of the set's own.
    per_class: whether its published score is the mean over classes.
    multi_label: whether an image has several classes, as objects in it; those
      that are all marked as difficult do not count, as in VOC's own measure.
  """

  builder: str
  test: str = "test"
  train: str = "train"
  validation: str = ""
  prompts: tuple[str, ...] = prompts.PHOTO
  occurring: bool = False
  classes: tuple[str, ...] = ()
  per_class: bool = False
  multi_label: bool = False


BENCHMARKS: Mapping[str, Benchmark] = {
  "imagenet": Benchmark(
    "imagenet2012", test="validation", prompts=prompts.IMAGENET
  ),
  "imagenet_v2": Benchmark(
    "imagenet_v2/matched-frequency", train="", prompts=prompts.IMAGENET
  ),
  "imagenet_sketch": Benchmark(
    "imagenet_sketch", train="", prompts=prompts.IMAGENET
  ),
  "imagenet_a": Benchmark(
    "imagenet_a", train="", prompts=prompts.IMAGENET, occurring=True
  ),
  "imagenet_r": Benchmark(
    "imagenet_r", train="", prompts=prompts.IMAGENET, occurring=True
  ),
  "caltech101": Benchmark(
    "caltech101", prompts=prompts.CALTECH101, per_class=True
  ),
  "svhn": Benchmark("svhn_cropped", prompts=prompts.SVHN),
  "stl10": Benchmark("stl10", prompts=prompts.PHOTO_BOTH),
  "cifar10": Benchmark("cifar10", prompts=prompts.CIFAR),
  "cifar100": Benchmark("cifar100", prompts=prompts.CIFAR),
  "dtd": Benchmark("dtd", validation="validation", prompts=prompts.DTD),
  "aircraft": Benchmark(
    "visual_domain_decathlon/aircraft",
    test="validation",
    prompts=(),
    per_class=True,
  ),
  "pets": Benchmark("oxford_iiit_pet", prompts=prompts.PETS, per_class=True),
  "food101": Benchmark("food101", test="validation", prompts=prompts.FOOD),
  "gtsrb": Benchmark(
    "visual_domain_decathlon/gtsrb", test="validation", prompts=()
  ),
  "cars": Benchmark("cars196", prompts=prompts.CARS),
  "flowers": Benchmark(
    "oxford_flowers102",
    validation="validation",
    prompts=prompts.FLOWERS,
    per_class=True,
  ),
  # VTAB's splits of the two that come in one piece.
  "eurosat": Benchmark(
    "eurosat/rgb",
    train="train[:60%]",
    validation="train[60%:80%]",
    test="train[80%:]",
    prompts=prompts.EUROSAT,
    classes=prompts.EUROSAT_CLASSES,
  ),
  "resisc45": Benchmark(
    "resisc45",
    train="train[:60%]",
    validation="train[60%:80%]",
    test="train[80%:]",
    prompts=prompts.RESISC45,
  ),
  "mnist": Benchmark("mnist", prompts=prompts.MNIST),
  "patch_camelyon": Benchmark(
    "patch_camelyon",
    validation="validation",
    prompts=prompts.PATCH_CAMELYON,
    classes=prompts.PATCH_CAMELYON_CLASSES,
  ),
  "sun397": Benchmark(
    "sun397/tfds", validation="validation", prompts=prompts.PHOTO_BOTH
  ),
  "voc2007": Benchmark("voc/2007", validation="validation", multi_label=True),
}


class Suite(NamedTuple):
  """Sets that are scored together, as others report them.

  Attributes:
    kind: `zero_shot`, `probe`, `few_shot`, `fine_tune` or `retrieval`.
    sets: in `BENCHMARKS`; of retrieval in `RETRIEVAL`.
    missing: those that cannot be had, and why.
  """

  kind: str
  sets: tuple[str, ...]
  missing: Mapping[str, str] = types.MappingProxyType({})


# Pairs with Karpathy's splits: the file that lists them.
RETRIEVAL: Mapping[str, str] = {
  "coco": "dataset_coco.json",
  "flickr30k": "dataset_flickr30k.json",
}
_NOT_IN_TFDS = "TFDS does not have it"
# ELEVATER's.
_FEW_SHOT_SETS = (
  *("caltech101", "cifar10", "cifar100", "dtd", "eurosat", "aircraft"),
  *("flowers", "food101", "gtsrb", "mnist", "pets", "patch_camelyon"),
  *("resisc45", "cars", "voc2007"),
)
_FEW_SHOT_MISSING = dict.fromkeys(
  (
    *("country211", "fer2013", "hateful_memes", "kitti_distance"),
    "rendered_sst2",
  ),
  _NOT_IN_TFDS,
)
SUITES: Mapping[str, Suite] = {
  "zero_shot": Suite(
    "zero_shot",
    (
      *("imagenet", "imagenet_v2", "imagenet_sketch", "imagenet_a"),
      *("imagenet_r", "caltech101", "cars", "cifar10", "cifar100", "dtd"),
      *("eurosat", "flowers", "food101", "mnist", "patch_camelyon", "pets"),
      *("resisc45", "stl10", "sun397", "svhn", "voc2007"),
    ),
    {
      **dict.fromkeys(
        ("country211", "fer2013", "objectnet", "rendered_sst2"), _NOT_IN_TFDS
      ),
      **dict.fromkeys(
        ("aircraft", "gtsrb"), "TFDS's form does not name the classes"
      ),
    },
  ),
  "probe": Suite(
    "probe",
    (
      *("cifar10", "cifar100", "food101", "pets", "cars", "aircraft", "dtd"),
      *("flowers", "gtsrb", "caltech101", "stl10", "svhn", "imagenet"),
    ),
    {"rendered_sst2": _NOT_IN_TFDS},
  ),
  "elevater": Suite("few_shot", _FEW_SHOT_SETS, _FEW_SHOT_MISSING),
  "elevater_fine_tune": Suite("fine_tune", _FEW_SHOT_SETS, _FEW_SHOT_MISSING),
  "retrieval": Suite("retrieval", tuple(RETRIEVAL)),
}


class BenchmarkError(DataError):
  """A set is not there, or not as it must be; says how to prepare it."""


class BenchmarkSource(sources.Source):
  """A split of a prepared set."""

  def __init__(
    self,
    rows: Sequence[Any],
    image_size: int,
    name: str,
    fit: str = "pad",
    label: Callable[[Any], Any] = lambda row: int(row["label"]),
  ):
    """Takes TFDS records with encoded images, and the squares to decode to."""
    self._rows, self._image_size, self._name = rows, image_size, name
    self._fit, self._label = fit, label
    # `about` of records that were read before, so that none is read twice.
    self._known: dict[int, Any] = {}

  def __len__(self) -> int:
    """Number of images."""
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One image with its label.

    Raises:
      BenchmarkError: if it cannot be decoded.
    """
    # The table of sets is read before what is slow is imported.
    from contrastive_jax.data.sets.folder import folder_images

    row = self._rows[index]
    try:
      image = folder_images.decode(
        io.BytesIO(row["image"]),
        self._image_size,
        folder_images.MAX_PIXELS,
        self._fit,
      )
    except RowError as error:
      raise BenchmarkError(
        f"Image {index} of {self._name} cannot be read ({error}): prepare the"
        " set again."
      ) from error
    self._known[index] = self._about(row)
    return {"image": image, **self.fields(index)}

  def fields(self, index: int) -> dict[str, Any]:
    """The label; no image is decoded."""
    return {
      "index": index,
      "concept_id": index,
      "captions": (),
      "label": self.about(index),
    }

  def about(self, index: int) -> Any:
    """The part of a record that is kept beside its image."""
    if index not in self._known:
      self._known[index] = self._about(self._rows[index])
    return self._known[index]

  def _about(self, row: Any) -> Any:
    return self._label(row)


class Splits(NamedTuple):
  """An opened set: the names of its classes, and its splits.

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
  if name not in BENCHMARKS:
    raise BenchmarkError(
      f"There is no set {name!r}: choose of {', '.join(BENCHMARKS)}."
    )
  benchmark = BENCHMARKS[name]
  prepared = Prepared(benchmark.builder, data_dir)
  classes = prepared.classes(benchmark.classes, benchmark.multi_label)
  options: dict[str, Any] = {}
  if benchmark.multi_label:
    options["label"] = functools.partial(_several, classes=len(classes))

  def split(wanted: str) -> BenchmarkSource:
    rows = prepared.rows(wanted)
    return BenchmarkSource(
      rows, image_size, f"{name}'s split {wanted}", fit, **options
    )

  train = validation = None
  if benchmark.train:
    wanted = benchmark.train, benchmark.validation
    if not benchmark.validation:
      wanted = f"{benchmark.train}[10%:]", f"{benchmark.train}[:10%]"
    train, validation = map(split, wanted)
  return Splits(classes, split(benchmark.test), train, validation)


def _several(row: Any, classes: int) -> "np.ndarray":
  """Labels int8 [C]: 1 is shown, 0 is not, -1 is difficult: not counted."""
  import numpy as np

  labels = np.zeros(classes, np.int8)
  for name, value in (("labels", -1), ("labels_no_difficult", 1)):
    labels[np.asarray(row[name], np.int64)] = value
  return labels


class Prepared:
  """A set that TFDS has prepared, opened without its code.

  Attributes:
    builder: reads it.
    advice: how it is prepared anew, for messages.
  """

  def __init__(self, name: str, data_dir: str):
    """Opens the newest version of a set, `name` with its config after a slash.

    Raises:
      BenchmarkError: if it is not prepared.
    """
    # TFDS takes seconds to import: only who opens a data set pays for it.
    import tensorflow_datasets as tfds

    self._where = f"{name} in {data_dir}"
    self.advice = (
      f"prepare it with tfds build {name} --file_format=array_record"
      f" --data_dir={data_dir}"
    )
    folder = pathlib.Path(data_dir).expanduser() / name
    self.builder = tfds.builder_from_directory(_version(folder, self.advice))
    self._decoders: Any = {"image": tfds.decode.SkipDecoding()}

  def rows(self, split: str) -> Sequence[Any]:
    """The records of a split (or of slices and sums of some), images encoded.

    Raises:
      BenchmarkError: if there is none, or it is not in a format with random access.
    """
    try:
      rows: Any = self.builder.as_data_source(
        split=split, decoders=self._decoders
      )
    except (ValueError, NotImplementedError, KeyError) as error:
      raise BenchmarkError(
        f"{self._where} cannot be read at random"
        f" ({' '.join(str(error).split())[:200]}): {self.advice}."
      ) from error
    return rows

  def classes(
    self, names: Sequence[str] = (), multi_label: bool = False
  ) -> tuple[str, ...]:
    """Names of the classes: `names` if they are given.

    Raises:
      BenchmarkError: if the set has another number of classes.
    """
    features = self.builder.info.features
    own = (
      features["labels"].feature if multi_label else features["label"]
    ).names
    if names and len(names) != len(own):
      raise BenchmarkError(
        f"{self._where} has {len(own)} classes instead of {len(names)}:"
        f" {self.advice}."
      )
    return tuple(names) or tuple(map(_readable, own))


@functools.cache
def imagenet_names() -> Mapping[str, str]:
  """Names of the classes of ImageNet, by WordNet identifier."""
  file = importlib.resources.files(__name__) / "imagenet_names.txt"
  lines = file.read_text(encoding="utf-8").splitlines()
  return dict(line.split("\t") for line in lines)


def _readable(name: str) -> str:
  """A class name as words."""
  if re.fullmatch(r"n\d{8}", name):
    return imagenet_names().get(name, name)
  # SUN397's are paths, /a/apartment_building/outdoor.
  name = re.sub(r"^/[a-z]/", "", name)
  return name.replace("_", " ").replace("/", " ")


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
