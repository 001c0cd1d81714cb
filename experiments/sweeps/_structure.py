"""What the sweeps over latent structure share: data, towers, scores."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from contrastive_jax.recipes import structure_emoji

BATCH = 128
WEIGHTS = (0.1, 0.25, 0.5, 1.0)
RATE = 2e-3
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
VALIDATION = "retrieval_validation/image_to_text/recall_at_10"
METRICS = {
  "retrieval/image_to_text/recall_at_10": "unseen things, R@10",
  "retrieval_unseen_style/image_to_text/recall_at_10": "unseen style, R@10",
  "zero_shot/accuracy_top1": "unseen style, zero-shot",
  "few_shot/accuracy_4_shot": "4-shot, subcategories",
  "linear_probe/accuracy": "linear probe, subcategories",
  "linear_probe_concatenated/accuracy": "linear probe, both heads",
}

# CyCLIP: consistency without the terms of other views.
CYCLIP: Mapping[str, Any] = {
  "structure.consistency_augmented": 0.0,
  "structure.consistency_paired": 0.0,
}


# Open Clip Art has no unseen style; its labels are the folders.
OPENCLIPART_METRICS = {
  "retrieval/image_to_text/recall_at_10": "unseen things, R@10",
  "zero_shot/accuracy_top1": "folders, zero-shot",
  "few_shot/accuracy_4_shot": "4-shot, folders",
  "linear_probe/accuracy": "linear probe, folders",
  "linear_probe_concatenated/accuracy": "linear probe, both heads",
}


def config() -> ml_collections.ConfigDict:
  """A CLIP model on emoji in English, one caption an image."""
  values = structure_emoji.get_config()
  # What costs time and changes no score.
  values.log_every = values.checkpoint_every = 100_000
  values.evaluation.plots = False
  return values
