"""The fields of what is trained and on what: data, views, model, beginning."""

import dataclasses
from typing import Any


def field(default: Any, doc: str, **checks: Any) -> Any:
  """A field with its description and what its values must be."""
  return dataclasses.field(default=default, metadata={"doc": doc, **checks})


@dataclasses.dataclass(frozen=True)
class Data:
  """The data set."""

  name: str = field(
    "emoji",
    "Data set.",
    choices=(
      "emoji",
      "folder",
      "fashion_mnist",
      "openclipart",
      "scenes",
      "easy_vqa",
      "official",
      "records",
      "tfds",
    ),
  )
  path: str = field(
    "",
    "With name=folder: the folder with captions.jsonl. With name=fashion_mnist:"
    " that with its idx.gz files; empty is the 8,000 images that ship. With"
    " name=openclipart: that with png/ and svg/; empty is /usr/share/openclipart."
    " With name=official: that with the lists of examples. With name=records: what"
    " experiments.convert_pairs wrote, several separated by commas. With name=tfds:"
    " a set's name in TFDS, such as imagenet2012, food101 or coco_captions.",
  )
  mixture: str = field(
    "",
    "name=records with several folders: how often each is drawn from, numbers"
    " separated by commas; empty is by their sizes.",
  )
  fit: str = field(
    "pad",
    "How pictures of folder, official, records, tfds and of benchmarks become"
    " squares: pad with white, crop the middle (as CLIP is evaluated), stretch"
    " (SigLIP).",
    choices=("pad", "crop", "stretch"),
  )
  format: str = field(
    "", "name=official: one of contrastive_jax.data.sets.official for the task."
  )
  image_root: str = field(
    "", "name=official: the folder below which images are; empty is path."
  )
  data_dir: str = field(
    "",
    "Where prepared data is kept; empty: user cache, with name=tfds"
    " evaluation.benchmarks_dir.",
  )
  validation_share: float = field(
    0.1,
    "name=tfds: share of train that is kept for validation where the set has no"
    " split for it.",
    low=0.0,
    high=0.9,
  )
  languages: str = field(
    "en,de,es,fr,ja,zh", "Languages of the captions, comma-separated."
  )
  main_language_share: float = field(
    0.5, "Share of captions in the first language.", low=0.0, high=1.0
  )
  name_weight: float = field(0.3, "Weight of names as captions.", low=0.0)
  keyword_weight: float = field(0.2, "Weight of one keyword.", low=0.0)
  keywords_weight: float = field(0.0, "Weight of several keywords.", low=0.0)
  full_weight: float = field(
    0.4, "Weight of names with keywords as captions.", low=0.0
  )
  listed_weight: float = field(
    0.0,
    "Weight of names with all keywords in their own order; few different texts, for"
    " model.cache_features.",
    low=0.0,
  )
  prompt_weight: float = field(0.1, "Weight of names in a prompt.", low=0.0)
  captions_per_example: int = field(
    1,
    "Captions of an image in a step; the first is in the first language.",
    low=1,
  )
  images_per_concept: int = field(
    1, "Rows of a batch that show one concept.", low=1
  )
  synonyms: str = field(
    "",
    'JSON file {"word": ["synonym"]} for edited captions (structure.text_view),'
    " beside what the data tell.",
  )
  scenes: int = field(
    4000, "name=scenes: training images; of nlvr2, pairs.", low=1
  )
  scenes_private: str = field(
    "background,texture,rotation",
    "name=scenes: what captions never mention, comma-separated, of size,"
    " texture, colour, shape, rotation, position, background.",
  )
  official_options: str = field(
    "",
    "name=official: further arguments of the format's function as JSON, such as"
    ' {"path": {"train": FILE}, "min_count": 1}.',
  )
  max_bad_share: float = field(
    0.05, "folder, official: share of bad rows that stops.", low=0.0, high=1.0
  )
  vocab_size: int = field(
    8192,
    "folder, official, records, tfds, easy_vqa: size of the vocabulary that is"
    " learned.",
    low=259,
  )
  num_threads: int = field(2, "Threads that read ahead.", low=1)


@dataclasses.dataclass(frozen=True)
class Augment:
  """Random changes of training images, on the device."""

  random_resized_crop: bool = field(True, "Crop a random box.")
  crop_scale: tuple[float, float] = field(
    (0.5, 1.0), "Range of the box's share of the area."
  )
  crop_ratio: tuple[float, float] = field(
    (0.75, 1.3333333), "Range of the box's width / height."
  )
  flip: float = field(0.0, "Probability of a left-right flip.", low=0, high=1)
  color_jitter: float = field(
    0.8, "Probability of the colour jitter.", low=0, high=1
  )
  brightness: float = field(0.3, "Strength.", low=0)
  contrast: float = field(0.3, "Strength.", low=0)
  saturation: float = field(0.3, "Strength.", low=0)
  hue: float = field(0.0, "Strength, in turns.", low=0, high=0.5)
  grayscale: float = field(0.0, "Probability.", low=0, high=1)
  blur: float = field(0.0, "Probability.", low=0, high=1)
  solarize: float = field(0.0, "Probability.", low=0, high=1)
  second_blur: float = field(
    -1.0,
    "simclr, moco_v3: of the second view; below 0 as of the first.",
    low=-1,
    high=1,
  )
  second_solarize: float = field(-1.0, "The same.", low=-1, high=1)
  randaugment_num_ops: int = field(0, "RandAugment steps; 0 is off.", low=0)
  randaugment_magnitude: float = field(7.0, "Out of 10.", low=0, high=10)
  normalization: str = field(
    "clip",
    "Mean and deviation that levels are made to have: CLIP's, ImageNet's, or"
    " symmetric, -1 to 1. Published weights need their own.",
    choices=("clip", "imagenet", "symmetric"),
  )


@dataclasses.dataclass(frozen=True)
class Model:
  """The model: two towers, or a fusion model."""

  preset: str = field(
    "tiny",
    "Name in contrastive_jax.models.PRESETS, of the fusion objectives in"
    " FUSION_PRESETS.",
  )
  image_size: int = field(
    0, "Side of the images, pixels; 0 is the preset's own.", low=0
  )
  context_length: int = field(
    0, "Tokens of a caption; 0 is the preset's own.", low=0
  )
  tokenizer: str = field(
    "",
    "Published vocabulary: clip, or a vocab.txt, tokenizer.json or SentencePiece's"
    " .model; empty is the data's own.",
  )
  dtype: str = field(
    "float32", "Compute type.", choices=("float32", "bfloat16")
  )
  remat: bool = field(False, "Recompute activations backwards.")
  overrides: str = field(
    "", 'Fields of the preset as JSON, e.g. {"image": {"widths": [32, 64]}}.'
  )
  frozen: str = field(
    "", "clip: towers that are not trained, of image and text, comma-separated."
  )
  cache_features: bool = field(
    False,
    "Both towers frozen: the features of training data are computed once, of"
    " images as they are.",
  )

  @property
  def frozen_towers(self) -> tuple[str, ...]:
    """The towers of `frozen`."""
    towers = (tower.strip() for tower in self.frozen.split(","))
    return tuple(tower for tower in towers if tower)


@dataclasses.dataclass(frozen=True)
class Initial:
  """What a run begins with: a finished run, or published weights."""

  workdir: str = field(
    "", "Fusion models: folder of the finished run; empty begins at random."
  )
  part: str = field(
    "all",
    "What is taken of it: all, or the two encoders alone.",
    choices=("all", "encoders"),
  )
  weights: str = field(
    "",
    "File or folder of published weights of the whole model: safetensors, npz or"
    " torch.",
  )
  image_weights: str = field("", "The same of the image tower alone.")
  text_weights: str = field(
    "",
    "The same of the text tower alone; of a fusion model's layers, of a BERT.",
  )
  allow: str = field(
    "",
    "Of missing, unexpected and misshapen weights those that are no mistake,"
    " comma-separated.",
  )

  @property
  def allowed(self) -> tuple[str, ...]:
    """The kinds of `allow`."""
    kinds = (kind.strip() for kind in self.allow.split(","))
    return tuple(kind for kind in kinds if kind)

  @property
  def has_weights(self) -> bool:
    """Whether there are published weights of any part."""
    return bool(self.weights or self.image_weights or self.text_weights)
