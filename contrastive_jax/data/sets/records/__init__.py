"""Image-text pairs at scale: converted once, then read at random.

Tar shards (WebDataset, img2dataset), parquet files and lists of captions become
ArrayRecord files with stable indices, by `conversion.convert` or

  python -m experiments.convert_pairs --inputs=shards --out=pairs
"""

import dataclasses

from contrastive_jax.data.files import stores
from contrastive_jax.choices import field
from contrastive_jax.data import sources
from contrastive_jax.data.sets.choices import FIT, PAIRS, VOCAB_SIZE, Request
from contrastive_jax.data.sets.folder.folder_rows import SPLITS, DataError

# Examples of a large data set whose captions a vocabulary is learned on.
_CAPTIONS_TO_LEARN = 200_000


@dataclasses.dataclass(frozen=True)
class Records:
  """Pairs that `convert` has written as ArrayRecord files."""

  path: tuple[str, ...] = field(
    (), "Folders that the program convert has written.", place=True
  )
  mixture: tuple[float, ...] = field(
    (),
    "Weights by which training draws from each folder; () draws by size.",
    low=0,
  )
  fit: str = FIT
  vocab_size: int = VOCAB_SIZE

  tasks = PAIRS

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

  def open(self, request: Request) -> sources.PairData:
    """The splits of all folders.

    Validation and test have all examples of all folders. A vocabulary is learned
    on the captions of at most 200,000 training examples.

    Raises:
      DataError: if a folder cannot be used.
    """
    from contrastive_jax.data.sets.records import source

    found = [
      source.load(
        stores.local(path, request.report),
        image_size=request.image_size,
        fit=self.fit,
        images_alone=request.task == "images",
      )
      for path in self.path
    ]
    splits: dict[str, sources.Source] = {}
    for name in SPLITS:
      parts = [folder[name] for folder in found]
      splits[name] = parts[0]
      if len(parts) > 1:
        weights = self.mixture if name == sources.TRAIN else ()
        splits[name] = source.Mixture(parts, weights or None)
    for path, folder in zip(self.path, found):
      if not len(folder[sources.TRAIN]):
        raise DataError(
          f"{path} has no training examples; convert some, or leave it out."
        )
    train = splits[sources.TRAIN]
    return sources.PairData(
      name="records",
      splits=splits,
      languages=(sources.ANY_LANGUAGE,),
      tokenizer=request.learned(
        sources.caption_texts(train, _CAPTIONS_TO_LEARN), self.vocab_size
      ),
      fingerprint=train.fingerprint,
      prompts=sources.PHOTO_PROMPTS,
    )
