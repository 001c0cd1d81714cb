"""Features of the emoji data by published encoders that stay as they are.

EfficientNet-Lite0 of the drawings at 112 px and MiniLM of the English names, as the
recipe `lit_emoji` has them (extra `pretrained`): two minutes on a CPU, once. What
the studies train on are their leading principal components.
"""

import hashlib
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from contrastive_jax import recipes
from contrastive_jax.data import sources
from contrastive_jax.data.files import prepare
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.runs import (
  cached_features,
  runner,
)
from contrastive_jax.training.runs import run as run_lib

RECIPE = "lit_emoji"
COMPONENTS = 128
# Splits by the name that the studies give them.
SPLITS = {
  "catalogue": "train",
  "unseen artist": "unseen_style",
  "unseen things": "test",
  "validation": "validation",
}
# Divisible by every number of drawings that a thing has, 1 to 4: each drawing is
# as often in a thing's row as any other.
DRAWINGS = 12
_BATCH = 128


class Task(NamedTuple):
  """Images to be found among names.

  Attributes:
    image: [M, C] float32, features of images.
    text: [T, C] float32, features of the names they are looked for among.
    own: [M] int32, the place of each image's own name.
  """

  image: np.ndarray
  text: np.ndarray
  own: np.ndarray


class Inputs(NamedTuple):
  """Inputs that the studies train and judge on.

  Attributes:
    image: [D, C] float32, the training drawings.
    text: [n, C] float32, the names of the n training things.
    drawings: [n, 12] int32, rows of `image` that show a thing.
    tasks: by name: "unseen artist", "unseen things", "validation".
  """

  image: np.ndarray
  text: np.ndarray
  drawings: np.ndarray
  tasks: dict[str, Task]


def load(
  folder: str = "", report: Callable[[str], None] = print
) -> tuple[Inputs, dict[str, Any]]:
  """The inputs, from the cache or made, and where they come from.

  Args:
    folder: of the cache; "" is the data sets' own.
    report: receives lines for the user.

  Returns:
    `Inputs`, and their provenance: recipe, data, digests of weights.

  Raises:
    ConfigError: if the weights are not there, naming the extra to install.
  """
  config = config_lib.parse(recipes.load(RECIPE))
  provenance = _provenance(config)
  digest = hashlib.sha256(repr(sorted(provenance.items())).encode())
  name = f"emoji-features-{digest.hexdigest()[:16]}.npz"
  path = prepare.data_dir(folder) / name
  if not path.exists():
    report(f"Features of the emoji data, kept in {path} (about two minutes).")
    found: dict[str, Any] = {"provenance": repr(provenance)}
    found |= extract(config, report)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
      np.savez(file, **found)
    partial.replace(path)
  with np.load(path, allow_pickle=False) as stored:
    raw = {key: stored[key] for key in stored.files}
  raw.pop("provenance")
  provenance["features_sha256"] = _digest_of(raw)
  return inputs(raw), provenance


def extract(
  config: config_lib.Config, report: Callable[[str], None] = print
) -> dict[str, np.ndarray]:
  """Raw features of all splits.

  Args:
    config: of a recipe on frozen towers.
    report: receives lines for the user.

  Returns:
    For each split of `SPLITS`: NAME/image [N, width] float32, NAME/concept [N],
    and NAME/text [concepts, width] of the names of the sorted concepts.
  """
  found = {}
  with tempfile.TemporaryDirectory() as folder:
    run = runner.open_run(config, pathlib.Path(folder), report=report)
    assert isinstance(run, run_lib.PairRun)
    image, text = run.encoders()
    for name, split in SPLITS.items():
      source = run.data.splits[split]
      names = _names(source)
      cached = cached_features.CachedFeatures(
        cached_features.of_images(source, image, _BATCH, report),
        run.data.tokenizer,
        text,
        _BATCH,
      )
      found[f"{name}/image"] = cached.images.astype(np.float32)
      found[f"{name}/text"] = cached.of_texts(
        [names[concept] for concept in sorted(names)],
        config.model.context_length,
      )
      found[f"{name}/concept"] = np.array(
        [int(source.fields(i)["concept_id"]) for i in range(len(source))]
      )
  return found


def inputs(raw: Mapping[str, np.ndarray]) -> Inputs:
  """Whitened features, by statistics of the training things alone.

  Args:
    raw: by `extract`.
  """
  concepts, place = np.unique(raw["catalogue/concept"], return_inverse=True)
  image, text = raw["catalogue/image"], raw["catalogue/text"]
  of_image, of_text = _whitening(image), _whitening(text)
  drawings = np.stack(
    [
      np.resize(np.flatnonzero(place == i), DRAWINGS)
      for i in range(len(concepts))
    ]
  )
  names = of_text(text)
  tasks = {}
  for name in SPLITS:
    if name == "catalogue":
      continue
    concept, own = raw[f"{name}/concept"], None
    among = of_text(raw[f"{name}/text"])
    if name == "unseen artist":  # The same things, so among all their names.
      among, own = names, np.searchsorted(concepts, concept)
    else:
      own = np.unique(concept, return_inverse=True)[1]
    tasks[name] = Task(
      of_image(raw[f"{name}/image"]), among, own.astype(np.int32)
    )
  return Inputs(of_image(image), names, drawings.astype(np.int32), tasks)


def _whitening(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
  """Leading principal components, each divided by the root of its deviation.

  Half-way to white: small components say less, but are not mere noise. The
  training rows then have a mean squared norm of 1.
  """
  mean = x.mean(0, dtype=np.float64)
  _, values, directions = np.linalg.svd(x - mean, full_matrices=False)
  kept = slice(min(COMPONENTS, len(values)))
  deviation = values[kept] / np.sqrt(len(x))
  matrix = directions[kept].T / np.sqrt(deviation)
  matrix /= np.sqrt(np.sum(deviation))  # The mean squared norm until here.
  return lambda y: ((y - mean) @ matrix).astype(np.float32)


def _names(source: sources.Source) -> dict[int, str]:
  """The English name of each concept of a split."""
  rows = (source.fields(i) for i in range(len(source)))
  return {
    int(row["concept_id"]): next(
      c.text for c in row["captions"] if c.kind == "name"
    )
    for row in rows
  }


def _provenance(config: config_lib.Config) -> dict[str, Any]:
  """Facts that the raw features depend on: recipe, data, sizes, weights."""
  from contrastive_jax.data.sets.emoji import emoji_dataset_builder

  found = {
    "recipe": RECIPE,
    "data": emoji_dataset_builder.fingerprint(),
    "image_size": config.model.image_size,
    "context_length": config.model.context_length,
  }
  for field in ("image_weights", "text_weights"):
    path = pathlib.Path(getattr(config.initial, field))
    if path.is_file():  # Opening the run reports a missing one.
      found[field] = hashlib.sha256(path.read_bytes()).hexdigest()
  return found


def _digest_of(arrays: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name in sorted(arrays):
    digest.update(name.encode())
    digest.update(np.ascontiguousarray(arrays[name]).tobytes())
  return digest.hexdigest()
