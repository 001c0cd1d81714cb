"""The finished parts that an objective is built of."""

import dataclasses
from typing import Any

import jax

from contrastive_jax.training.config import sections
from contrastive_jax.training.objectives import contrasts
from contrastive_jax.training.objectives.structure_choices import Structure


@dataclasses.dataclass(frozen=True)
class Parts:
  """Parts of an objective, beside its own fields.

  Attributes:
    model: preset, sizes and types of the model.
    augment: random changes of images.
    loss: the contrastive loss; None for objectives without one.
    structure: regularisers; None for objectives without them.
    other_view: a choice of `views.OTHER_VIEWS`; None if nothing takes one.
    augmented_sides: modalities whose inputs a step sees in another view as well.
    vocab_size: of the data's tokenizer.
    special_ids: of the data's tokenizer those tokens that are no pieces of texts;
      () where they are not known.
    num_examples: the largest `index` of a training example, plus 1.
    examples: training examples, fewer where the split is a part of a set; None
      if they are as many.
    mesh: the devices.
    steps: of the run.
    batch_size: examples a step.
    microbatches: parts that encoders take one by one.
    log_every: steps between two log lines.
  """

  model: sections.Model
  augment: sections.Augment
  loss: contrasts.Loss | None
  structure: Structure | None
  other_view: Any
  augmented_sides: tuple[str, ...]
  vocab_size: int
  num_examples: int
  mesh: jax.sharding.Mesh
  steps: int
  batch_size: int
  microbatches: int
  log_every: int
  special_ids: tuple[int, ...] = ()
  examples: int | None = None
