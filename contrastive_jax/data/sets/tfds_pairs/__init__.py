"""Sets that TFDS has prepared, as images with captions to train on.

| set | train | validation | test | captions |
|---|---|---|---|---|
| `coco_captions` | `train+restval` | `val` | `test` (Karpathy's splits) | its five |
| one of `benchmarks.BENCHMARKS` | its `train` | its own, or some of `train` | its `test` | the name of its class |
| another with `image` and `label` | `train` | `validation`, or some of `train` | `test`, or else `validation` | the same |

Read as `benchmarks` reads them: at random, without TensorFlow and without the set's
code; what is not there is named with the command that prepares it.
"""

import dataclasses

from contrastive_jax.choices import field
from contrastive_jax.data import sources
from contrastive_jax.data.sets.choices import FIT, PAIRS, VOCAB_SIZE, Request


@dataclasses.dataclass(frozen=True)
class Tfds:
  """A set that TFDS has prepared as ArrayRecord files."""

  dataset: str = field(
    "", "Name of the set in TFDS, such as imagenet2012 or coco_captions."
  )
  data_dir: str = field(
    "~/tensorflow_datasets",
    "TFDS's data directory that has the set.",
    place=True,
  )
  validation_share: float = field(
    0.1,
    "Share of train that is held out for validation where the set has no split"
    " for it.",
    low=0.0,
    high=0.9,
  )
  fit: str = FIT
  vocab_size: int = VOCAB_SIZE

  tasks = PAIRS

  def check(self) -> None:
    """Raises if no set is named."""
    if not self.dataset:
      raise ValueError(
        "dataset must be the name of a set in TFDS, such as cifar10; got ''."
      )

  def open(self, request: Request) -> sources.PairData:
    """The splits of the table above; validation and test may be empty.

    `dataset` has its config after a slash if the set has several, or is a name in
    `benchmarks.BENCHMARKS`. With captions all images of a class show one concept,
    of images alone each is one of its own. A vocabulary is learned on the names of
    classes in all prompts, or on the captions of at most 20,000 training images.
    Images are twice as large as the model's if random crops make them smaller.

    Raises:
      BenchmarkError: if the set is not prepared, cannot be read at random, has
        nothing to train on, or neither classes nor captions.
    """
    from contrastive_jax.data.sets.tfds_pairs import splits

    return splits.load(self, request)
