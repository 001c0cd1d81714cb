"""Scores on classification sets that others publish, as TFDS prepares them."""

from collections.abc import Callable, Sequence

import numpy as np

from contrastive_jax import evaluation
from contrastive_jax.data import benchmarks as benchmarks_lib
from contrastive_jax.training import evaluators
from contrastive_jax.training import state as state_lib


def benchmarks(
  encoder: evaluators.Encoder,
  state: state_lib.TrainState,
  names: Sequence[str],
  *,
  data_dir: str,
  image_size: int,
  fit: str = "pad",
  classify: bool = True,
  concatenated: bool = False,
  report: Callable[[str], None] = print,
) -> dict[str, float]:
  """Zero-shot classification and linear probe on each set.

  Args:
    encoder: embeds.
    state: the model.
    names: of the sets, `data.benchmarks.BENCHMARKS`.
    data_dir: TFDS's data directory.
    image_size: side of the model's images.
    fit: how pictures become squares, see `folder_images.decode`.
    classify: whether a linear probe is among it, which embeds the training split.
    concatenated: whether the probe sees the features of all heads.
    report: receives a line for each set that is left out.

  Returns:
    `benchmark_{name}/zero_shot/accuracy_top1` and
    `benchmark_{name}/linear_probe/accuracy` and so on.
  """
  out = {}
  for name in names:
    scores = {}
    try:
      splits = benchmarks_lib.load(
        name, data_dir, image_size=image_size, fit=fit
      )
      report(f"Scoring {name}, {len(splits.test):,} images.")
      prompts = benchmarks_lib.BENCHMARKS[name].prompts
      if encoder.has_text and prompts:
        scores |= _zero_shot(encoder, state, splits, name, prompts)
      if classify and splits.train is not None:
        scores |= _probe(encoder, state, splits, concatenated)
    except benchmarks_lib.BenchmarkError as error:
      report(f"Left out: {name}. {error}")
    out |= {f"benchmark_{name}/{key}": value for key, value in scores.items()}
  return out


def _zero_shot(
  encoder: evaluators.Encoder,
  state: state_lib.TrainState,
  splits: benchmarks_lib.Splits,
  name: str,
  prompts: Sequence[str],
) -> dict[str, float]:
  images = encoder.images(state, splits.test)
  choices = np.arange(len(splits.classes))
  if benchmarks_lib.BENCHMARKS[name].occurring:
    choices = np.unique(images.labels)
  return evaluators.zero_shot(
    encoder,
    state,
    images,
    [splits.classes[i] for i in choices],
    np.searchsorted(choices, images.labels),
    prompts=prompts,
  )


def _probe(
  encoder: evaluators.Encoder,
  state: state_lib.TrainState,
  splits: benchmarks_lib.Splits,
  concatenated: bool,
) -> dict[str, float]:
  parts = []
  for source in (splits.train, splits.validation, splits.test):
    assert source is not None
    images = encoder.images(state, source, concatenated=concatenated)
    parts += [images.images, images.labels]
  scores = evaluation.linear_probe(*parts)
  return {f"linear_probe/{key}": float(v) for key, v in scores.items()}
