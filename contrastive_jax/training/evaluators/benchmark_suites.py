"""Scores on sets that others publish, one by one and in suites."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from contrastive_jax.data import benchmarks as benchmarks_lib
from contrastive_jax.data import sources
from contrastive_jax.data.sets import official
from contrastive_jax.data.sets.folder import reading
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.evaluators import (
  base,
  embeddings,
  few_shot,
  retrieval,
  zero_shot,
)
from contrastive_jax.training.trainer import state as state_lib
from contrastive_jax.training.types import Report

# Columns of the table, by the kind of suite.
_COLUMNS = {
  "zero_shot": (
    "zero_shot/accuracy_top1",
    "zero_shot/accuracy_top5",
    "zero_shot/mean_average_precision",
  ),
  "probe": ("linear_probe/accuracy", "linear_probe/mean_per_class_accuracy"),
  **{
    kind: (
      "zero_shot",
      *(f"{kind}/{shots}_shot" for shots in few_shot.SHOTS),
      f"{kind}/full",
    )
    for kind in ("few_shot", "fine_tune")
  },
  "retrieval": (
    *(
      f"retrieval/{way}/recall_at_{k}"
      for way in ("image_to_text", "text_to_image")
      for k in (1, 5, 10)
    ),
    "images",
  ),
}


class BenchmarksMeasure(base.Measure):
  """Scores on the sets that a run names."""

  def final(self, state: state_lib.TrainState) -> dict[str, float]:
    """See `benchmarks`."""
    return benchmarks(
      self.run.encoder,
      state,
      self.chosen.sets,
      data_dir=self.chosen.data_dir,
      image_size=self.run.image_size,
      fit=self.chosen.fit,
      classify=self.chosen.classification,
      concatenated=self.chosen.concatenated,
      report=self.run.report,
    )


def benchmarks(
  encoder: embeddings.Encoder,
  state: state_lib.TrainState,
  names: Sequence[str],
  *,
  data_dir: str,
  image_size: int,
  fit: str = "pad",
  classify: bool = True,
  concatenated: bool = False,
  report: Report = print,
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
  encoder: embeddings.Encoder,
  state: state_lib.TrainState,
  splits: benchmarks_lib.Splits,
  name: str,
  prompts: Sequence[str],
) -> dict[str, float]:
  images = encoder.images(state, splits.test)
  if benchmarks_lib.BENCHMARKS[name].multi_label:
    return zero_shot.zero_shot(
      encoder, state, images, splits.classes, images.labels, prompts=prompts
    )
  choices = np.arange(len(splits.classes))
  if benchmarks_lib.BENCHMARKS[name].occurring:
    choices = np.unique(images.labels)
  return zero_shot.zero_shot(
    encoder,
    state,
    images,
    [splits.classes[i] for i in choices],
    np.searchsorted(choices, images.labels),
    prompts=prompts,
  )


def _probe(
  encoder: embeddings.Encoder,
  state: state_lib.TrainState,
  splits: benchmarks_lib.Splits,
  concatenated: bool,
) -> dict[str, float]:
  parts = []
  for source in (splits.train, splits.validation, splits.test):
    assert source is not None
    images = encoder.images(state, source, concatenated=concatenated)
    parts += [images.images, images.labels]
  scores = few_shot.probe_of(parts[1])(*parts)
  return {f"linear_probe/{key}": float(v) for key, v in scores.items()}


def run(
  name: str,
  encoder: embeddings.Encoder,
  state: state_lib.TrainState,
  path: pathlib.Path,
  *,
  data_dir: str,
  image_size: int,
  fit: str = "pad",
  seed: int = 0,
  report: Report = print,
) -> dict[str, dict[str, float]]:
  """Scores a suite set by set; those that `path` has already are not done again.

  Args:
    name: of the suite, `data.benchmarks.SUITES`.
    encoder: embeds.
    state: the model.
    path: JSON file of the scores, written after every set.
    data_dir: TFDS's data directory; of retrieval the folder with `coco` and
      `flickr30k`, each with Karpathy's file and the images below `images`.
    image_size: side of the model's images.
    fit: how pictures become squares, see `folder_images.decode`.
    seed: of the draws of few-shot classification.
    report: receives a line a set.

  Returns:
    Set -> its scores; without those that are left out.

  Raises:
    ValueError: if the suite is unknown, needs texts that the model has not, or
      trains an image tower that is frozen.
    WorkdirError: if `path` holds something else.
  """
  if name not in benchmarks_lib.SUITES:
    raise ValueError(
      f"suite must be one of {', '.join(benchmarks_lib.SUITES)}; got {name!r}."
    )
  suite = benchmarks_lib.SUITES[name]
  if suite.kind in ("zero_shot", "retrieval") and not encoder.has_text:
    raise ValueError(f"suite {name!r} needs a model with texts; this has none.")
  if suite.kind == "fine_tune" and not encoder.trains_images:
    raise ValueError(
      f"suite {name!r} trains the image tower; config.objective.frozen keeps this"
      " one as it is: score 'elevater' instead."
    )
  known: dict[str, Any] = workdirs.read_json(path) if path.exists() else {}
  for each, reason in suite.missing.items():
    report(f"Left out: {each}. It cannot be had: {reason}.")
  for number, each in enumerate(suite.sets, 1):
    if each in known:
      report(f"{each} ({number} of {len(suite.sets)}): known, from {path}.")
      continue
    try:
      report(f"{each} ({number} of {len(suite.sets)}) ...")
      if suite.kind == "retrieval":
        scores = _pairs(
          encoder, state, each, data_dir, image_size=image_size, fit=fit
        )
      else:
        splits = benchmarks_lib.load(
          each, data_dir, image_size=image_size, fit=fit
        )
        scores = _score(
          suite.kind,
          encoder,
          state,
          splits,
          each,
          image_size=image_size,
          seed=seed,
          report=report,
        )
    except reading.DataError as error:
      report(f"Left out: {each}. {error}")
      continue
    known[each] = scores
    workdirs.write_json(path, known)
  return {each: known[each] for each in suite.sets if each in known}


def _score(
  kind: str,
  encoder: embeddings.Encoder,
  state: state_lib.TrainState,
  splits: benchmarks_lib.Splits,
  name: str,
  *,
  image_size: int,
  seed: int,
  report: Report,
) -> dict[str, float]:
  if kind == "probe":
    return _probe(encoder, state, splits, concatenated=False)
  prompts = benchmarks_lib.BENCHMARKS[name].prompts
  scores = {}
  if encoder.has_text and prompts:
    scores = _zero_shot(encoder, state, splits, name, prompts)
  if kind == "zero_shot":
    return scores
  if scores:
    metric = few_shot.headline(name, "accuracy_top1")
    scores["zero_shot"] = scores[f"zero_shot/{metric}"]
  if kind == "few_shot":
    return scores | few_shot.probes(encoder, state, splits, name, seed=seed)
  return scores | few_shot.fine_tuned(
    encoder,
    state,
    splits,
    name,
    image_size=image_size,
    seed=seed,
    report=report,
  )


def _pairs(
  encoder: embeddings.Encoder,
  state: state_lib.TrainState,
  name: str,
  data_dir: str,
  *,
  image_size: int,
  fit: str,
) -> dict[str, float]:
  """Retrieval both ways on Karpathy's test split, with all captions."""
  root = pathlib.Path(data_dir).expanduser() / name
  found: Any = official.load(
    "captions",
    "karpathy",
    root / benchmarks_lib.RETRIEVAL[name],
    root / "images",
    image_size=image_size,
    fit=fit,
    only=sources.TEST,
    max_bad_share=0.0,  # A smaller gallery would be another, easier task.
    report=lambda line: None,
  )
  source = found[sources.TEST]
  scores = retrieval.retrieval(encoder, state, source, name="retrieval")
  return scores | {"images": float(len(source))}


def table(name: str, scores: Mapping[str, Mapping[str, float]]) -> str:
  """A suite's scores in Markdown, a row a set, and their mean."""
  suite = benchmarks_lib.SUITES[name]
  columns = [
    column
    for column in _COLUMNS[suite.kind]
    if any(column in row for row in scores.values())
  ]
  lines = [
    "| set | " + " | ".join(columns) + " |",
    "|---" * (len(columns) + 1) + "|",
  ]

  def cells(row: Mapping[str, float]) -> str:
    return " | ".join(f"{row[c]:.4g}" if c in row else "" for c in columns)

  for each in suite.sets:
    if each in scores:
      lines.append(f"| {each} | {cells(scores[each])} |")
  if scores:
    means, counts = {}, []
    for column in columns:
      values = [row[column] for row in scores.values() if column in row]
      means[column] = float(np.mean(values))
      counts.append(len(values))
    of = "/".join(map(str, dict.fromkeys(counts)))
    lines.append(f"| mean of {of} | {cells(means)} |")
  absent = [each for each in suite.sets if each not in scores]
  if absent or suite.missing:
    lines += ["", f"Not here: {', '.join([*absent, *suite.missing])}."]
  return "\n".join(lines) + "\n"
