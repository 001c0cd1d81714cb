"""Objectives: what is trained, behind one interface that the loop knows.

An objective is made from a `Config` and offers

* `init(key, example_batch) -> (params, state)`,
* `loss(params, state, batch, key) -> (loss, (state, metrics))`,
* `constrain(params) -> params`, applied after every update,
* `encode_image(params, state, images)` and `encode_text(params, state,
  tokens)`, for evaluation; those of the fusion tasks have predictions instead.

The loop knows no objective by name; `create` does. What a state holds under
the name `tables` are tables of one entry an example: they lie split over the
devices (`training.distributed.sharding`), and in checkpoints in the order of the examples.
"""

from typing import Any

import jax

from contrastive_jax.training import config as config_lib
from contrastive_jax.training.objectives.albef import Albef
from contrastive_jax.training.objectives.base import Objective, Params
from contrastive_jax.training.objectives.clip import Clip
from contrastive_jax.training.objectives.moco_v3 import MoCoV3
from contrastive_jax.training.objectives.simclr import SimCLR
from contrastive_jax.training.objectives.tasks import (
  Entailment,
  Nlvr2,
  TextAssignment,
  Vqa,
)

__all__ = [
  "Albef",
  "Clip",
  "Entailment",
  "MoCoV3",
  "Nlvr2",
  "Objective",
  "Params",
  "SimCLR",
  "TextAssignment",
  "Vqa",
  "create",
]


def create(
  config: config_lib.Config,
  *,
  vocab_size: int,
  num_examples: int,
  mesh: jax.sharding.Mesh,
) -> Any:
  """The objective of a configuration.

  Args:
    config: the run.
    vocab_size: of the data's tokenizer.
    num_examples: the largest `index` of a training example, plus 1.
    mesh: the devices.

  Returns:
    The objective: an `Objective`, but that those of the fusion tasks (vqa,
    nlvr2, text_assignment, entailment) embed no images and texts.
  """
  kinds = {
    "clip": Clip,
    "simclr": SimCLR,
    "moco_v3": MoCoV3,
    "albef": Albef,
    "vqa": Vqa,
    "nlvr2": Nlvr2,
    "text_assignment": TextAssignment,
    "entailment": Entailment,
  }
  return kinds[config.objective](
    config, vocab_size=vocab_size, num_examples=num_examples, mesh=mesh
  )
