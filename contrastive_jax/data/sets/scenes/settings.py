"""Settings of a set of scenes: everything that its records depend on."""

import dataclasses
import hashlib
import json

from contrastive_jax.data import sources

UNSEEN_PAIRS = "test_unseen_pairs"
SPLITS = (sources.TRAIN, sources.VALIDATION, sources.TEST, UNSEEN_PAIRS)
# Facts that captions can be made to leave out: attributes of things, where
# things are, and the shade behind them.
FACTS = (
  "size",
  "texture",
  "colour",
  "shape",
  "rotation",
  "position",
  "background",
)
# With other images or texts from the same settings comes another version, or
# records that an earlier one prepared would be opened as this one's.
VERSION = "1.0.0"


def _check_int(name: str, value: object, least: int, most: int) -> None:
  # A bool is an int to Python, and surely a mistake here.
  fine = isinstance(value, int) and not isinstance(value, bool)
  if not fine or not least <= value <= most:  # pyrefly: ignore
    raise ValueError(
      f"{name} must be an integer from {least} to {most}; got {value!r}."
    )


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Images of each split; of `nlvr2`, pairs of images.

  Attributes:
    train: of training.
    validation: of validation.
    test: of test.
    test_unseen_pairs: of the test with colours on shapes that training lacks.
  """

  train: int = 4000
  validation: int = 500
  test: int = 500
  test_unseen_pairs: int = 500

  def __post_init__(self):
    """Checks the numbers.

    Raises:
      ValueError: if one is not a positive integer.
    """
    for name, value in dataclasses.asdict(self).items():
      _check_int(f"sizes.{name}", value, 1, 10**9)


@dataclasses.dataclass(frozen=True)
class SceneSettings:
  """How scenes are drawn and talked about.

  Attributes:
    image_size: side in pixels; below 64 textures are hard to see.
    sizes: images of each split.
    seed: of everything that is drawn by lot.
    captions_per_image: texts of each image for pre-training and retrieval.
    questions_per_image: of `vqa`.
    statements_per_pair: of `nlvr2`, on average.
    hypotheses_per_image: of `entailment`, on average.
    private: of `FACTS`, those that captions never mention, so that they are in
      the image alone. Questions, statements and hypotheses speak of them all
      the same, but for rotation, of which nothing but captions speaks.
  """

  image_size: int = 64
  sizes: Sizes = Sizes()
  seed: int = 0
  captions_per_image: int = 5
  questions_per_image: int = 8
  statements_per_pair: int = 4
  hypotheses_per_image: int = 3
  private: tuple[str, ...] = ("background", "texture", "rotation")

  def __post_init__(self):
    """Checks the settings.

    Raises:
      ValueError: if one is not possible.
    """
    if not isinstance(self.sizes, Sizes):
      raise ValueError(f"sizes must be Sizes; got {self.sizes!r}.")
    _check_int("image_size", self.image_size, 32, 512)
    _check_int("seed", self.seed, 0, 2**63 - 1)
    _check_int("captions_per_image", self.captions_per_image, 1, 16)
    _check_int("questions_per_image", self.questions_per_image, 1, 16)
    # Not 1: an average of one would leave some images without a text.
    _check_int("statements_per_pair", self.statements_per_pair, 2, 16)
    _check_int("hypotheses_per_image", self.hypotheses_per_image, 2, 8)
    known = ", ".join(FACTS)
    if not isinstance(self.private, tuple):
      raise ValueError(
        f"private must be a tuple of names of {known}; got {self.private!r}."
      )
    for name in self.private:
      if name not in FACTS:
        raise ValueError(f"private must be names of {known}; got {name!r}.")
    # Settings that say the same are equal, and one set on disk.
    ordered = tuple(fact for fact in FACTS if fact in self.private)
    object.__setattr__(self, "private", ordered)

  @property
  def fingerprint(self) -> str:
    """Digest of all settings and of the version."""
    content = [VERSION, dataclasses.asdict(self)]
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
