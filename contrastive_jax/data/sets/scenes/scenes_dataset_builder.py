"""TFDS builder of the scenes; needs no TensorFlow, no network.

A config is a task. Its records are images (of `nlvr2` pairs of them) with all
their texts, so that no image is stored twice. The splits are train, validation,
test and test_unseen_pairs; the last has colours on shapes that the others never
have together, `graph.HELD_OUT`.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from contrastive_jax.data.sets.scenes import generation, graph, rendering
from contrastive_jax.data.sets.scenes import settings as settings_lib

_DESCRIPTIONS = {
  "captions": "Images with captions.",
  "vqa": "Images with questions and answers.",
  "nlvr2": "Pairs of images with statements that are true or false.",
  "entailment": "Images, some half covered, with hypotheses.",
}
# The fields of each text.
_FIELDS = {
  "captions": ("text",),
  "vqa": ("question", "answer", "kind", "attributes"),
  "nlvr2": ("statement", "label", "kind"),
  "entailment": ("hypothesis", "label", "kind"),
}


class Scenes(tfds.core.GeneratorBasedBuilder):
  """Drawn scenes of a few things, with texts; see the module's docstring."""

  VERSION = tfds.core.Version(settings_lib.VERSION)
  RELEASE_NOTES = {settings_lib.VERSION: "Eight shapes in eight colours."}
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name=name, description=description)
    for name, description in _DESCRIPTIONS.items()
  ]

  def __init__(
    self, *, settings: settings_lib.SceneSettings | None = None, **kwargs: Any
  ):
    """Takes the settings; None is the default ones."""
    self._settings = settings or settings_lib.SceneSettings()
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    side = self._settings.image_size
    text = tfds.features.Text()
    image = tfds.features.Image(shape=(side, side, 3), encoding_format="png")
    task = self.builder_config.name
    features: Any = {"index": np.int64, "image": image, "scene": text}
    if task == "nlvr2":
      features |= {"second_image": image, "second_scene": text}
    features["texts"] = tfds.features.Sequence(
      {name: np.int64 if name == "label" else text for name in _FIELDS[task]}
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      features=tfds.features.FeaturesDict(features),
      license="Apache-2.0",
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
    del dl_manager  # Everything is drawn here.
    return {s: self._generate_examples(s) for s in settings_lib.SPLITS}

  def _generate_examples(self, split: str) -> Iterator[Any]:
    stop = getattr(self._settings.sizes, split)
    task = self.builder_config.name
    rows = generation.rows(self._settings, task, split, stop)
    for index, row in enumerate(rows):
      record: dict[str, Any] = {"index": index, "texts": row.texts}
      for prefix, scene in zip(("", "second_"), row.scenes):
        record[f"{prefix}image"] = _png(scene, self._settings.image_size)
        record[f"{prefix}scene"] = scene.dumps()
      yield index, record


def _png(scene: graph.Scene, side: int) -> io.BytesIO:
  png = io.BytesIO()
  # Flat drawings are small whatever the effort.
  image = Image.fromarray(rendering.render(scene, side))
  image.save(png, "png", compress_level=1)
  png.seek(0)
  return png
