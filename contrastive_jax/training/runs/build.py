"""The door: a configuration becomes objects here, and nothing behind it takes one."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import grain
import jax

from contrastive_jax.data import task_pipeline
from contrastive_jax.training.config import Config, sections
from contrastive_jax.training.objectives import views
from contrastive_jax.training.objectives.parts import Parts
from contrastive_jax.training.runs.caption_feed import CaptionFeed
from contrastive_jax.training.trainer.settings import TrainerSettings


def build_objective(
  config: Config,
  *,
  vocab_size: int,
  num_examples: int,
  mesh: jax.sharding.Mesh,
  special_ids: tuple[int, ...] = (),
  examples: int | None = None,
) -> Any:
  """The objective of a configuration.

  Args:
    config: the run, resolved.
    vocab_size: of the data's tokenizer.
    num_examples: the largest `index` of a training example, plus 1.
    mesh: the devices.
    special_ids: of the tokenizer; see `Parts`.
    examples: training examples; see `Parts`.
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
      special_ids=special_ids,
      examples=examples,
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


def caption_feed(config: Config) -> CaptionFeed:
  """How a configuration's batches of images and captions are made up."""
  text_view = None
  if "text" in config.augmented_sides:
    # A momentum encoder's view says nothing of texts: a loss of other inputs has
    # the usual one then.
    text_view = getattr(config.other_view, "text", views.Eda())
  return CaptionFeed(
    captions=config.captions or sections.Captions(),
    text_view=text_view,
    captions_per_example=config.objective.captions_per_example,
    images_per_concept=config.objective.images_per_concept,
    context_length=config.model.context_length,
    batch_size=config.batch_size,
    seed=config.seed,
    num_threads=config.num_threads,
  )


def task_batches(config: Config) -> Callable[..., grain.DatasetIterator]:
  """`task_pipeline.train_batches` of this host, as a configuration says."""
  return functools.partial(
    task_pipeline.train_batches,
    batch_size=config.batch_size,
    seed=config.seed,
    texts_per_image=config.objective.texts_per_image,
    answers_per_text=getattr(config.objective, "answers_per_question", 1),
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    num_threads=config.num_threads,
  )
