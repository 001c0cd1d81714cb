"""Prompts for the names of classes, as published with CLIP.

Radford et al., Learning transferable visual models from natural language
supervision, 2021, and its notebooks; those of SVHN and PatchCamelyon are of later
comparisons of CLIP models.
"""

from collections.abc import Sequence


def _both(templates: Sequence[str]) -> tuple[str, ...]:
  """Each template with "a", then each with "the"."""
  return (
    *(t.format(article="a", name="{}") for t in templates),
    *(t.format(article="the", name="{}") for t in templates),
  )


PHOTO = ("a photo of a {}.",)
PHOTO_BOTH = _both(("a photo of {article} {name}.",))

# Prompts of ImageNet that come with "a" and with "the", as most do.
_OBJECTS = (
  "a bad photo of {article} {name}.",
  "a sculpture of {article} {name}.",
  "a photo of {article} hard to see {name}.",
  "a low resolution photo of {article} {name}.",
  "a rendering of {article} {name}.",
  "graffiti of {article} {name}.",
  "a cropped photo of {article} {name}.",
  "a tattoo of {article} {name}.",
  "{article} embroidered {name}.",
  "a bright photo of {article} {name}.",
  "a photo of {article} clean {name}.",
  "a photo of {article} dirty {name}.",
  "a dark photo of {article} {name}.",
  "a drawing of {article} {name}.",
  "{article} plastic {name}.",
  "a photo of {article} cool {name}.",
  "a close-up photo of {article} {name}.",
  "a black and white photo of {article} {name}.",
  "a painting of {article} {name}.",
  "a pixelated photo of {article} {name}.",
  "a jpeg corrupted photo of {article} {name}.",
  "a blurry photo of {article} {name}.",
  "a photo of {article} {name}.",
  "a good photo of {article} {name}.",
  "{article} {name} in a video game.",
  "a doodle of {article} {name}.",
  "{article} origami {name}.",
  "a sketch of {article} {name}.",
  "{article} toy {name}.",
  "a rendition of {article} {name}.",
  "a photo of {article} large {name}.",
  "a photo of {article} nice {name}.",
  "a photo of {article} weird {name}.",
  "{article} cartoon {name}.",
  "art of {article} {name}.",
  "{article} plushie {name}.",
  "a photo of {article} small {name}.",
  "itap of {article} {name}.",
)
IMAGENET = (
  *_both(_OBJECTS),
  "a photo of many {}.",
  "a photo of my {}.",
  "a photo of one {}.",
  "itap of my {}.",
)
CIFAR = _both(
  (
    "a photo of {article} {name}.",
    "a blurry photo of {article} {name}.",
    "a black and white photo of {article} {name}.",
    "a low contrast photo of {article} {name}.",
    "a high contrast photo of {article} {name}.",
    "a bad photo of {article} {name}.",
    "a good photo of {article} {name}.",
    "a photo of {article} small {name}.",
    "a photo of {article} big {name}.",
  )
)
CALTECH101 = _both(
  (
    "a photo of {article} {name}.",
    "a painting of {article} {name}.",
    "{article} plastic {name}.",
    "a sculpture of {article} {name}.",
    "a sketch of {article} {name}.",
    "a tattoo of {article} {name}.",
    "{article} toy {name}.",
    "a rendition of {article} {name}.",
    "{article} embroidered {name}.",
    "{article} cartoon {name}.",
    "{article} {name} in a video game.",
    "{article} plushie {name}.",
    "{article} origami {name}.",
    "art of {article} {name}.",
    "graffiti of {article} {name}.",
    "a drawing of {article} {name}.",
    "a doodle of {article} {name}.",
  )
)
CARS = (
  *PHOTO_BOTH,
  "a photo of my {}.",
  "i love my {}!",
  "a photo of my dirty {}.",
  "a photo of my clean {}.",
  "a photo of my new {}.",
  "a photo of my old {}.",
)
DTD = _both(
  tuple(
    f"a photo of {{article}} {{name}} {what}."
    for what in ("texture", "pattern", "thing", "object")
  )
)
EUROSAT = (
  "a centered satellite photo of {}.",
  "a centered satellite photo of a {}.",
  "a centered satellite photo of the {}.",
)
FLOWERS = ("a photo of a {}, a type of flower.",)
FOOD = ("a photo of {}, a type of food.",)
MNIST = ('a photo of the number: "{}".',)
PETS = ("a photo of a {}, a type of pet.",)
PATCH_CAMELYON = ("this is a photo of {}",)
RESISC45 = tuple(
  f"{view} of {article}{{}}."
  for article in ("", "a ", "the ")
  for view in (
    "satellite imagery",
    "aerial imagery",
    "satellite photo",
    "aerial photo",
    "satellite view",
    "aerial view",
  )
)
SVHN = (
  'a photo of the number "{}" written on a sign',
  'an outdoor house number "{}"',
  'the number "{}" in the center of the image',
  'an outdoor number "{}" written on a sign',
  'an outdoor number "{}"',
  'a centered image of the number "{}"',
)

# Names of classes within a sentence, where a set's own names are none.
EUROSAT_CLASSES = (
  "annual crop land",
  "forest",
  "brushland or shrubland",
  "highway or road",
  "industrial buildings or commercial buildings",
  "pasture land",
  "permanent crop land",
  "residential buildings or homes or apartments",
  "river",
  "lake or sea",
)
PATCH_CAMELYON_CLASSES = (
  "lymph node",
  "lymph node containing metastatic tumor tissue",
)
