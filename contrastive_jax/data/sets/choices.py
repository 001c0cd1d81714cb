"""The data sets that a run can train on, as choices.

A data set is a frozen dataclass whose `open` gives its splits; see `DataSet`.
`config.data=my_project.mine:Pairs` takes one of the user's own.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from contrastive_jax.choices import Kind, field

if TYPE_CHECKING:
  from contrastive_jax.data.text import tokenizer as tokenizer_lib

_HERE = "contrastive_jax.data.sets.choices"
DATA_SETS = Kind(
  "data set",
  {
    "emoji": f"{_HERE}:Emoji",
    "folder": f"{_HERE}:Folder",
    "fashion_mnist": f"{_HERE}:FashionMnist",
    "openclipart": f"{_HERE}:OpenClipart",
    "scenes": f"{_HERE}:Scenes",
    "easy_vqa": f"{_HERE}:EasyVqa",
    "official": f"{_HERE}:Official",
    "records": f"{_HERE}:Records",
    "tfds": f"{_HERE}:Tfds",
  },
)


@dataclasses.dataclass(frozen=True)
class Request:
  """What a run asks of a data set.

  Attributes:
    task: the records that it trains on: captions, images, vqa, nlvr2 or
      entailment.
    image_size: side of the model's images.
    workdir: receives lists of what cannot be used.
    tokenizer: of the run, if it has one already; None takes the data set's own,
      or learns one on the training texts.
    trains: whether there are steps to train; without, any split will do.
    random_crops: whether training crops images, which may then be stored larger.
    report: receives lines for the user.
  """

  task: str
  image_size: int
  workdir: pathlib.Path
  tokenizer: "tokenizer_lib.Tokenizer | None" = None
  trains: bool = True
  random_crops: bool = True
  report: Callable[[str], None] = print


class DataSet(Protocol):
  """A data set: a frozen dataclass with these.

  Attributes:
    tasks: those of `Request.task` that it has records for.
  """

  tasks: ClassVar[tuple[str, ...]]

  def open(self, request: Request) -> Any:
    """The splits: `sources.PairData` for captions and images, else `TaskData`.

    Raises:
      ValueError: naming the field first, if fields are wrong.
      DataError: if the data cannot be used.
    """
    ...


_PAIRS = ("captions", "images")
_TASKS = ("vqa", "nlvr2", "entailment")
_FIT = field(
  "pad",
  "How pictures become squares: pad with white, crop the middle (as CLIP is"
  " evaluated), stretch (SigLIP).",
  among=("pad", "crop", "stretch"),
)
_VOCAB_SIZE = field(
  8192, "Size of the vocabulary that is learned on the texts.", low=259
)
_MAX_BAD_SHARE = field(
  0.05,
  "Largest share of rows that cannot be used; more stop the run.",
  low=0.0,
  high=1.0,
)
_DATA_DIR = field("", "Folder for prepared data; empty is the user's cache.")


@dataclasses.dataclass(frozen=True)
class Emoji:
  """The embedded emoji: drawings with names and keywords in six languages."""

  languages: tuple[str, ...] = field(
    ("en", "de", "es", "fr", "ja", "zh"), "Languages of the captions."
  )
  data_dir: str = _DATA_DIR

  tasks = _PAIRS


@dataclasses.dataclass(frozen=True)
class Folder:
  """A folder of your images with captions.jsonl or captions.csv."""

  path: str = field("", "Folder that holds the images and captions.jsonl.")
  fit: str = _FIT
  max_bad_share: float = _MAX_BAD_SHARE
  vocab_size: int = _VOCAB_SIZE

  tasks = _PAIRS

  def check(self) -> None:
    """Raises if no folder is named."""
    if not self.path:
      raise ValueError(
        "path must be the folder that holds your images and captions.jsonl; got"
        " ''."
      )


@dataclasses.dataclass(frozen=True)
class FashionMnist:
  """Fashion-MNIST: the 8,000 images that ship, or all 70,000 from a folder."""

  path: str = field(
    "", "Folder with the four idx.gz files; empty is the 8,000 that ship."
  )

  tasks = _PAIRS


@dataclasses.dataclass(frozen=True)
class OpenClipart:
  """Open Clip Art, as Debian's package installs it."""

  path: str = field(
    "", "Folder with png/ and svg/; empty is /usr/share/openclipart."
  )
  data_dir: str = _DATA_DIR

  tasks = _PAIRS


@dataclasses.dataclass(frozen=True)
class Scenes:
  """Drawn scenes whose every fact is known, with texts for all tasks."""

  scenes: int = field(
    4000, "Training images, or pairs of them for nlvr2.", low=1
  )
  private: tuple[str, ...] = field(
    ("background", "texture", "rotation"),
    "Facts that captions never mention.",
    among=(
      *("size", "texture", "colour", "shape"),
      *("rotation", "position", "background"),
    ),
  )
  data_dir: str = _DATA_DIR

  tasks = (*_PAIRS, *_TASKS)


@dataclasses.dataclass(frozen=True)
class EasyVqa:
  """Questions on drawn shapes, of the package easy-vqa."""

  vocab_size: int = _VOCAB_SIZE

  tasks = ("vqa",)


@dataclasses.dataclass(frozen=True)
class Official:
  """Published sets in the authors' own files (COCO, Flickr30k, VQA v2, ...)."""

  path: str = field("", "File or folder with the lists of examples.")
  format: str = field(
    "", "Format of the lists, see contrastive_jax.data.sets.official."
  )
  image_root: str = field(
    "", "Folder below which the images are; empty is path."
  )
  options: dict[str, Any] = dataclasses.field(
    default_factory=dict,
    metadata={
      "doc": "Further arguments of the format's function, such as"
      ' {"path": {"train": FILE}, "min_count": 1}.'
    },
  )
  fit: str = _FIT
  max_bad_share: float = _MAX_BAD_SHARE
  vocab_size: int = _VOCAB_SIZE

  tasks = (*_PAIRS, *_TASKS)

  def check(self) -> None:
    """Raises if the lists or their format are not named."""
    for name in ("path", "format"):
      if not getattr(self, name):
        raise ValueError(
          f"{name} must be given, see contrastive_jax.data.sets.official for what"
          " is read; got ''."
        )


@dataclasses.dataclass(frozen=True)
class Records:
  """Pairs that `convert` has written as ArrayRecord files."""

  path: tuple[str, ...] = field(
    (), "Folders that the program convert has written."
  )
  mixture: tuple[float, ...] = field(
    (),
    "Weights by which training draws from each folder; () draws by size.",
    low=0,
  )
  fit: str = _FIT
  vocab_size: int = _VOCAB_SIZE

  tasks = _PAIRS

  def check(self) -> None:
    """Raises if no folder is named, or the weights are not as many."""
    if not self.path:
      raise ValueError(
        "path must name what python -m experiments.convert_pairs wrote; got ()."
      )
    if self.mixture and (
      len(self.mixture) != len(self.path) or not all(self.mixture)
    ):
      raise ValueError(
        "mixture must be a number above 0 for each folder of config.data.path"
        f" ({len(self.path)}); got {self.mixture!r}."
      )


@dataclasses.dataclass(frozen=True)
class Tfds:
  """A set that TFDS has prepared as ArrayRecord files."""

  dataset: str = field(
    "", "Name of the set in TFDS, such as imagenet2012 or coco_captions."
  )
  data_dir: str = field(
    "~/tensorflow_datasets", "TFDS's data directory that has the set."
  )
  validation_share: float = field(
    0.1,
    "Share of train that is held out for validation where the set has no split"
    " for it.",
    low=0.0,
    high=0.9,
  )
  fit: str = _FIT
  vocab_size: int = _VOCAB_SIZE

  tasks = _PAIRS

  def check(self) -> None:
    """Raises if no set is named."""
    if not self.dataset:
      raise ValueError(
        "dataset must be the name of a set in TFDS, such as cifar10; got ''."
      )
