"""Opens the images and captions that a configuration names."""

import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from contrastive_jax.data import sources
from contrastive_jax.data.text import tokenizer
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.runs import official_data

Report = Callable[[str], None]

# Seconds between two lines on a folder that is being checked.
_REPORT_EVERY = 5.0


def open_data(
  config: config_lib.Config, workdir: pathlib.Path, report: Report
) -> sources.PairData:
  """Opens the data set with the vocabulary that the workdir keeps.

  Args:
    config: the configuration.
    workdir: where it keeps its vocabulary, and lists what cannot be used.
    report: receives lines for the user.

  Returns:
    The data set.

  Raises:
    UserError: if fields are wrong together.
    DataError: if the data cannot be used.
  """
  kept = workdir / "tokenizer.json"
  known = workdirs.read_tokenizer(kept)
  if config.data.name == "folder":
    return sources.load_folder(
      os.path.expanduser(config.data.path),
      image_size=config.model.image_size,
      report_path=workdir / "skipped.jsonl",
      tokenizer_path=kept,
      vocab_size=config.data.vocab_size,
      max_bad_share=config.data.max_bad_share,
      report=report,
      progress=_image_counter(report),
      fit=config.data.fit,
    )
  if config.data.name == "fashion_mnist":
    data = sources.load_fashion_mnist(
      os.path.expanduser(config.data.path),
      class_concepts=config.objective not in ("simclr", "moco_v3"),
    )
  elif config.data.name == "openclipart":
    # Its builder's class needs TFDS, which takes seconds to import.
    from contrastive_jax.data.sets import openclipart

    data = openclipart.load(
      os.path.expanduser(config.data.path),
      os.path.expanduser(config.data.data_dir) or None,
      side=openclipart.SIDE
      * (1 + (config.model.image_size > openclipart.SIDE)),
      report=report,
    )
  elif config.data.name == "scenes":
    from contrastive_jax.data.sets import scenes

    data = scenes.load_pairs(
      os.path.expanduser(config.data.data_dir) or None,
      settings=scenes_settings(config),
      report=report,
    )
  elif config.data.name == "official":
    data = _open_official(config, workdir, known, report)
  elif config.data.name == "records":
    data = _open_records(config, known)
  elif config.data.name == "tfds":
    data = _open_tfds(config, known)
  elif config.data.name == "easy_vqa":
    raise config_lib.ConfigError(
      "config.data=easy_vqa has questions alone: set config.objective=vqa; got"
      f" {config.objective!r}."
    )
  else:
    data = _open_emoji(config, report)
  # A copy stays with the run: its parameters mean nothing under another
  # vocabulary, which a newer version of the package may ship.
  if known is not None:
    return dataclasses.replace(data, tokenizer=known)
  data.tokenizer.save(kept)
  return data


def scenes_settings(config: config_lib.Config) -> Any:
  """The settings of `config.data.name=scenes`.

  Raises:
    ConfigError: if a field is out of their range.
  """
  from contrastive_jax.data.sets import scenes

  try:
    return scenes.Settings(
      image_size=config.model.image_size,
      sizes=scenes.Sizes(train=config.data.scenes),
      private=tuple(
        name.strip()
        for name in config.data.scenes_private.split(",")
        if name.strip()
      ),
    )
  except ValueError as error:
    names = {"image_size": "model.", "private": "data.scenes_"}
    place = names.get(str(error).split(" ")[0], "data.scenes: ")
    raise config_lib.ConfigError(f"config.{place}{error}") from error


def _open_official(
  config: config_lib.Config,
  workdir: pathlib.Path,
  known: tokenizer.Tokenizer | None,
  report: Report,
) -> sources.PairData:
  """Captions as others publish them; the vocabulary is learned on them."""
  splits: Any = official_data.load(config, "captions", workdir, report)
  if not config.steps:
    _score_what_is_there(splits, report)
  train = splits[sources.TRAIN]
  for name in (sources.VALIDATION, sources.TEST):
    if name not in splits:
      splits[name] = sources.ArraySource(np.zeros((0, 1, 1, 3), np.uint8), [])
  if known is None:
    known = tokenizer.Tokenizer.train(
      (
        caption.text
        for row in range(len(train))
        for caption in train.fields(row)["captions"]
      ),
      vocab_size=config.data.vocab_size,
    )
  return sources.PairData(
    name="official",
    splits=splits,
    languages=(sources.ANY_LANGUAGE,),
    tokenizer=known,
    fingerprint=train.fingerprint,
    prompts=sources.FOLDER_PROMPTS,
  )


def _score_what_is_there(splits: dict[str, Any], report: Report) -> None:
  """Fills the splits of a run of no steps, which is there to be scored."""
  names = sources.TEST, sources.VALIDATION, sources.TRAIN
  found = next(name for name in names if len(splits.get(name, ())))
  if found != sources.TEST:
    report(f"Note: there is no split test; scores are of {found}.")
  splits[sources.TEST] = splits[found]
  splits.setdefault(sources.TRAIN, splits[found])


def _open_records(
  config: config_lib.Config, known: tokenizer.Tokenizer | None
) -> sources.PairData:
  """Converted pairs, of one folder or several."""
  paths = [p.strip() for p in config.data.path.split(",") if p.strip()]
  if not paths:
    raise config_lib.ConfigError(
      "config.data=records needs config.data.path, what python -m"
      " experiments.convert_pairs wrote (several separated by commas)."
    )
  try:
    weights = [float(w) for w in config.data.mixture.split(",") if w.strip()]
  except ValueError:
    weights = [-1.0]
  if weights and (
    len(weights) != len(paths)
    or not all(math.isfinite(w) and w > 0 for w in weights)
  ):
    raise config_lib.ConfigError(
      "config.data.mixture must be a number above 0 for each folder of"
      f" config.data.path ({len(paths)}); got {config.data.mixture!r}."
    )
  return sources.load_records(
    paths,
    weights=weights,
    image_size=config.model.image_size,
    fit=config.data.fit,
    tokenizer=known,
    vocab_size=config.data.vocab_size,
  )


def _open_tfds(
  config: config_lib.Config, known: tokenizer.Tokenizer | None
) -> sources.PairData:
  """A set that TFDS has prepared."""
  from contrastive_jax.data.sets import tfds_pairs

  texts = config.objective not in ("simclr", "moco_v3")
  return tfds_pairs.load(
    config.data.path,
    config.data.data_dir or config.evaluation.benchmarks_dir,
    # Of a part of it a random crop makes a whole image.
    stored_size=config.model.image_size
    * (1 + config.augment.random_resized_crop),
    fit=config.data.fit,
    validation_share=config.data.validation_share,
    class_concepts=texts,
    need_names=texts,
    tokenizer=known,
    vocab_size=config.data.vocab_size,
  )


def _open_emoji(config: config_lib.Config, report: Report) -> sources.PairData:
  languages = [part.strip() for part in config.data.languages.split(",")]
  try:
    return sources.load_emoji(
      os.path.expanduser(config.data.data_dir) or None,
      languages=languages,
      report=report,
    )
  except ValueError as error:
    raise config_lib.ConfigError(f"config.data: {error}") from error


def _image_counter(report: Report) -> Callable[[int, int], None]:
  """Tells every few seconds how many images of a folder are checked."""
  last = time.monotonic()

  def progress(done: int, total: int) -> None:
    nonlocal last
    now = time.monotonic()
    if now - last >= _REPORT_EVERY:
      last = now
      report(f"Checked {done:,} of {total:,} images.")

  return progress
