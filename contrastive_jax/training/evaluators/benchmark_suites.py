"""Scores on sets that others publish, one by one and in suites."""

import pathlib
from collections.abc import Callable, Mapping
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
  """Zero-shot classification and linear probe on the sets that a run names."""

  def final(self, state: state_lib.TrainState) -> dict[str, float]:
    """Scores of each set, such as `benchmark_{name}/zero_shot/accuracy_top1`.

    `benchmark_{name}/linear_probe/accuracy` embeds the training split as well.
    """
    run, chosen, out = self.run, self.chosen, {}
    for name in chosen.sets:
      scores = {}
      try:
        splits = benchmarks_lib.load(
          name, chosen.data_dir, image_size=run.image_size, fit=chosen.fit
        )
        run.report(f"Scoring {name}, {len(splits.test):,} images.")
        model = few_shot.ModelOnSet(
          name,
          splits,
          run.encoder,
          state,
          run.image_size,
          run.seed,
          run.report,
        )
        scores |= _zero_shot(model)
        if chosen.classification and splits.train is not None:
          head = "both" if chosen.concatenated else "shared"
          scores |= _probe(model, head)
      except benchmarks_lib.BenchmarkError as error:
        run.report(f"Left out: {name}. {error}")
      out |= {f"benchmark_{name}/{key}": v for key, v in scores.items()}
    return out


def _zero_shot(model: few_shot.ModelOnSet) -> dict[str, float]:
  """Scores the test split; returns {} without prompts or texts."""
  if not model.prompts:
    return {}
  images = model.encoder.images(model.state, model.splits.test)
  classes, labels = model.splits.classes, images.labels
  if benchmarks_lib.BENCHMARKS[model.name].occurring:
    choices = np.unique(labels)
    classes = [classes[i] for i in choices]
    labels = np.searchsorted(choices, labels)
  return zero_shot.zero_shot(
    model.encoder, model.state, images, classes, labels, prompts=model.prompts
  )


def _probe(
  model: few_shot.ModelOnSet, head: str = "shared"
) -> dict[str, float]:
  parts = []
  for embedded in model.embedded(head=head):
    parts += [embedded.images, embedded.labels]
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
        scores = _SCORES[suite.kind](
          few_shot.ModelOnSet(
            each, splits, encoder, state, image_size, seed, report
          )
        )
    except reading.DataError as error:
      report(f"Left out: {each}. {error}")
      continue
    known[each] = scores
    workdirs.write_json(path, known)
  return {each: known[each] for each in suite.sets if each in known}


def _after_zero_shot(
  trained: Callable[[few_shot.ModelOnSet], dict[str, float]],
) -> Callable[[few_shot.ModelOnSet], dict[str, float]]:
  """Zero-shot scores, the headline among them as `zero_shot`, then `trained`."""

  def scores(model: few_shot.ModelOnSet) -> dict[str, float]:
    found = _zero_shot(model)
    if found:
      metric = model.headline("accuracy_top1")
      found["zero_shot"] = found[f"zero_shot/{metric}"]
    return found | trained(model)

  return scores


# Retrieval has sets of another form.
_SCORES: Mapping[str, Callable[[few_shot.ModelOnSet], dict[str, float]]] = {
  "zero_shot": _zero_shot,
  "probe": _probe,
  "few_shot": _after_zero_shot(few_shot.probes),
  "fine_tune": _after_zero_shot(few_shot.fine_tuned),
}


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
