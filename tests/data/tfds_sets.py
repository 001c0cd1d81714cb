"""Sets that TFDS has prepared, for tests."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

with tfds.core.registered.skip_registration():

  class Tiny(tfds.core.GeneratorBasedBuilder):
    """A set of squares: the colour is the class."""

    VERSION = tfds.core.Version("1.2.0")

    def __init__(self, *, classes, sizes, **kwargs):
      self._classes, self._sizes = classes, sizes
      super().__init__(**kwargs)

    def _info(self):
      label = tfds.features.ClassLabel(names=self._classes)
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {"image": tfds.features.Image(encoding_format="png"), "label": label}
        ),
      )

    def _split_generators(self, dl_manager):
      return {
        name: self._generate_examples(size)
        for name, size in self._sizes.items()
      }

    def _generate_examples(self, size):
      for i in range(size):
        label = i % min(3, len(self._classes))
        file = io.BytesIO()
        colour = tuple(int(c == label) * 200 + i % 50 for c in range(3))
        Image.new("RGB", (40, 20), colour).save(file, "png")
        file.seek(0)
        yield i, {"image": file, "label": label}

  class TinySeveral(Tiny):
    """Its images show one class or two, some another that is difficult."""

    def _info(self):
      several = tfds.features.Sequence(
        tfds.features.ClassLabel(names=self._classes)
      )
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {
            "image": tfds.features.Image(encoding_format="png"),
            "labels": several,
            "labels_no_difficult": several,
          }
        ),
      )

    def _generate_examples(self, size):
      for i in range(size):
        shown = [i % 3] if i % 2 else [i % 3, (i + 1) % 3]
        image = np.zeros((20, 40, 3), np.uint8)
        for side, label in ((0, shown[0]), (1, shown[-1])):
          image[:, 20 * side : 20 * side + 20, label] = 200 + i % 50
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png")
        file.seek(0)
        difficult = [(i + 2) % 3] if i % 5 == 0 else []
        yield (
          i,
          {
            "image": file,
            "labels": sorted({*shown, *difficult}),
            "labels_no_difficult": shown if i else [],
          },
        )

  class Captioned(tfds.core.GeneratorBasedBuilder):
    """Images with captions, in the form of coco_captions."""

    VERSION = tfds.core.Version("1.1.0")

    def __init__(self, *, captions, **kwargs):
      self._captions = captions
      super().__init__(**kwargs)

    def _info(self):
      features = {
        "image": tfds.features.Image(encoding_format="png"),
        "image/id": np.int64,
        "captions": tfds.features.Sequence({"text": np.str_, "id": np.int64}),
        "objects": tfds.features.Sequence({"area": np.int64}),
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      return {
        split: self._generate_examples(texts)
        for split, texts in self._captions.items()
      }

    def _generate_examples(self, texts):
      for i, captions in enumerate(texts):
        file = io.BytesIO()
        Image.new("RGB", (40, 20), (i, 0, 0)).save(file, "png")
        file.seek(0)
        yield (
          i,
          {
            "image": file,
            "image/id": i,
            "captions": [{"text": t, "id": k} for k, t in enumerate(captions)],
            "objects": [{"area": 3}] * (i % 3),
          },
        )


def prepare(root, name, classes, *, builder_class=Tiny, **sizes):
  """A set in the place where TFDS keeps that of this name."""
  with tfds.core.registered.skip_registration():
    builder = builder_class(
      classes=classes,
      sizes=sizes,
      data_dir=root / "made",
      file_format="array_record",
    )
  builder.download_and_prepare()
  target = root / name
  target.mkdir(parents=True)
  (root / "made" / builder.name / "1.2.0").rename(target / "1.2.0")


def prepare_captions(root, captions):
  """A set in the place where TFDS keeps COCO's captions."""
  with tfds.core.registered.skip_registration():
    builder = Captioned(
      captions=captions, data_dir=root / "made", file_format="array_record"
    )
  builder.download_and_prepare()
  target = root / "coco_captions" / "2014"
  target.mkdir(parents=True)
  (root / "made/captioned/1.1.0").rename(target / "1.1.0")


def write_sets(root):
  """Three of `benchmarks.BENCHMARKS`."""
  names = ["red_thing", "green", "blue"]
  prepare(root, "cifar10", names, train=40, test=12)
  imagenet = ["n01440764", "n01443537", "n01484850", "n01491361"]
  prepare(root, "imagenet_a", imagenet, test=9)
  several = {"builder_class": TinySeveral, "validation": 10}
  prepare(root, "voc/2007", names, **several, train=20, test=12)
  return root
