"""The data sets that a run can train on, as choices.

A data set is a frozen dataclass whose `open` gives its splits; see `DataSet`. It
stands in the package that implements it, whose name the table has.
`config.data=my_project.mine:Pairs` takes one of the user's own.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, Protocol

from contrastive_jax.choices import Kind, field

if TYPE_CHECKING:
  from contrastive_jax.data import sources, tasks
  from contrastive_jax.data.text import tokenizer as tokenizer_lib

_SETS = "contrastive_jax.data.sets"
DATA_SETS = Kind(
  "data set",
  {
    "emoji": f"{_SETS}.emoji:Emoji",
    "folder": f"{_SETS}.folder:Folder",
    "fashion_mnist": f"{_SETS}.fashion_mnist:FashionMnist",
    "openclipart": f"{_SETS}.openclipart:OpenClipart",
    "scenes": f"{_SETS}.scenes:Scenes",
    "easy_vqa": f"{_SETS}.easy_vqa:EasyVqa",
    "official": f"{_SETS}.official:Official",
    "records": f"{_SETS}.records:Records",
    "tfds": f"{_SETS}.tfds_pairs:Tfds",
  },
)
# Values of `Request.task`: with captions or of images alone, and with texts and
# labels of their own.
PAIRS = ("captions", "images")
TASKS = ("vqa", "nlvr2", "entailment")

# Fields of several data sets.
FIT = field(
  "pad",
  "How pictures become squares: pad with white, crop the middle (as CLIP is"
  " evaluated), stretch (SigLIP).",
  among=("pad", "crop", "stretch"),
)
VOCAB_SIZE = field(
  8192, "Size of the vocabulary that is learned on the texts.", low=259
)
MAX_BAD_SHARE = field(
  0.05,
  "Largest share of rows that cannot be used; more stop the run.",
  low=0.0,
  high=1.0,
)
DATA_DIR = field(
  "", "Folder for prepared data; empty is the user's cache.", place=True
)


@dataclasses.dataclass(frozen=True)
class Request:
  """A request for the records of a data set.

  Attributes:
    task: the records that are wanted: captions (images with texts), images, vqa,
      nlvr2 or entailment.
    image_size: side of the model's images.
    workdir: receives `skipped.jsonl`, a list of what cannot be used; None writes
      none.
    tokenizer: of the run, if it has one already; None takes the data set's own,
      or learns one on the training texts.
    trains: whether there are steps to train; without, any split will do.
    random_crops: whether training crops images, which may then be stored larger.
    report: receives lines for the user.
  """

  task: str = "captions"
  image_size: int = 64
  workdir: pathlib.Path | None = None
  tokenizer: "tokenizer_lib.Tokenizer | None" = None
  trains: bool = True
  random_crops: bool = True
  report: Callable[[str], None] = print

  def __post_init__(self) -> None:
    """Raises `ValueError` for images of no size."""
    if self.image_size < 1:
      raise ValueError(f"image_size must be at least 1; got {self.image_size}.")

  @property
  def skipped_path(self) -> pathlib.Path | None:
    """The file for the list of what cannot be used; None is no file."""
    return self.workdir and self.workdir / "skipped.jsonl"

  def learned(
    self, texts: Iterable[str], vocab_size: int
  ) -> "tokenizer_lib.Tokenizer":
    """The run's tokenizer, or else one that is learned on texts."""
    from contrastive_jax.data.text import tokenizer as tokenizer_lib

    return self.tokenizer or tokenizer_lib.Tokenizer.train(
      texts, vocab_size=vocab_size
    )


class DataSet(Protocol):
  """A data set: a frozen dataclass with these.

  Its module imports neither JAX nor anything else that is slow: methods import
  what they need.

  Attributes:
    tasks: those of `Request.task` that it has records for.
    licence: of its pictures and texts, for the card of a model; a data set of the
      user's own may lack it.
  """

  tasks: ClassVar[tuple[str, ...]]

  def open(self, request: Request) -> "sources.PairData | tasks.TaskData":
    """The splits: `PairData` for captions and images, else `TaskData`.

    Its tokenizer is `request.tokenizer` if that is given.

    Raises:
      ValueError: naming the field first, if fields are wrong.
      DataError: if the data cannot be used.
    """
    ...
