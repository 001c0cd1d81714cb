"""Fashion-MNIST: a subset that ships with the package, and the full files."""

import dataclasses

from contrastive_jax.data.files import stores
from contrastive_jax.choices import field
from contrastive_jax.data import sources
from contrastive_jax.data.sets.choices import PAIRS, Request

PROMPTS = (
  "{}",
  "a photo of {}",
  "a grey photo of {}",
  "{}, an article of clothing",
)
_VOCABULARY = 512


@dataclasses.dataclass(frozen=True)
class FashionMnist:
  """Fashion-MNIST: the 8,000 images that ship, or all 70,000 from a folder."""

  path: str = field(
    "",
    "Folder with the four idx.gz files; empty is the 8,000 that ship.",
    place=True,
  )

  tasks = PAIRS
  licence = "MIT"

  def open(self, request: Request) -> sources.PairData:
    """Training, validation and test images.

    The 8,000 images that ship are split: 6,000 for training, 1,000 for validation
    and 1,000 for test; all of them are training images of the full data. Of that,
    the last twelfth of the training file (5,000) is for validation, and the test
    file for test. The caption of an image is the name of its class. With
    captions all images of a class show one concept, as they share them; of
    images alone each is a concept of its own, and labels are for evaluation.

    Raises:
      DataError: if a file is missing or wrong.
    """
    import numpy as np

    from contrastive_jax.data.sets.fashion_mnist import files

    if self.path:
      first, test = files.read_folder(stores.local(self.path))
      stop = len(first.labels) - len(first.labels) // 12
    else:
      shipped = files.embedded()
      first, test = shipped.part(0, 7000), shipped.part(7000, 8000)
      stop = 6000
    parts = {
      sources.TRAIN: first.part(0, stop),
      sources.VALIDATION: first.part(stop, len(first.labels)),
      sources.TEST: test,
    }
    names = files.CLASSES
    splits, start = {}, 0
    for split, (images, labels) in parts.items():
      splits[split] = sources.ArraySource(
        # Three channels without three copies.
        np.broadcast_to(images[..., None], (*images.shape, 3)),
        [
          {
            "index": index,
            "concept_id": index if request.task == "images" else label,
            "captions": sources.name_captions([names[label]], "en"),
            "label": names[label],
          }
          for index, label in enumerate(labels.tolist(), start)
        ],
      )
      start += len(labels)
    return sources.PairData(
      name="fashion_mnist",
      splits=splits,
      languages=("en",),
      tokenizer=request.learned(
        [text.format(name) for name in names for text in PROMPTS], _VOCABULARY
      ),
      fingerprint=parts[sources.TRAIN].fingerprint,
      prompts=PROMPTS,
    )
