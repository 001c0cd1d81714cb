"""The door: a configuration becomes objects here, and nothing behind it takes one."""

import dataclasses
from typing import Any

import jax

from contrastive_jax.training.config import Config
from contrastive_jax.training.objectives.parts import Parts
from contrastive_jax.training.trainer.settings import TrainerSettings


def build_objective(
  config: Config, *, vocab_size: int, num_examples: int, mesh: jax.sharding.Mesh
) -> Any:
  """The objective of a configuration.

  Args:
    config: the run, resolved.
    vocab_size: of the data's tokenizer.
    num_examples: the largest `index` of a training example, plus 1.
    mesh: the devices.
  """
  return config.objective.build(
    Parts(
      model=config.model,
      augment=config.augment,
      loss=config.loss,
      structure=config.structure,
      other_view=config.other_view,
      augmented_sides=config.augmented_sides,
      vocab_size=vocab_size,
      num_examples=num_examples,
      mesh=mesh,
      steps=config.steps,
      batch_size=config.batch_size,
      microbatches=config.microbatches or 1,
      log_every=config.log_every,
    )
  )


def trainer_settings(config: Config) -> TrainerSettings:
  """The numbers by which a configuration's loop trains, logs and saves."""
  names = {f.name for f in dataclasses.fields(TrainerSettings)}
  return TrainerSettings(
    **{name: getattr(config, name) for name in names if hasattr(config, name)}
    | {
      "microbatches": config.microbatches or 1,
      "images_per_concept": config.objective.images_per_concept,
    }
  )
