"""A whole run in a workdir: data, training, evaluation, plots, results."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import jax

from contrastive_jax.data import eda, pipeline, sources, tokenizer
from contrastive_jax.training import (
  checkpoints,
  evaluators,
  loop,
  objectives,
  processes,
  sharding,
  suites,
)
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import state as state_lib

Report = Callable[[str], None]

# Seconds between two lines on a folder that is being checked.
_REPORT_EVERY = 5.0


class WorkdirError(config_lib.UserError):
  """The workdir belongs to another run, or to none."""


@dataclasses.dataclass
class Run:
  """What a run is made of, opened.

  Attributes:
    config: the configuration.
    workdir: where it keeps its files.
    data: the data set.
    mesh: the devices.
    objective: what is trained.
    encoder: embeds splits and texts.
  """

  config: config_lib.Config
  workdir: pathlib.Path
  data: sources.PairData
  mesh: jax.sharding.Mesh
  objective: objectives.Objective
  encoder: evaluators.Encoder

  def batches(self) -> grain.DatasetIterator:
    """The training batches (this host's parts), from the beginning."""
    config = self.config
    view = "text" in config.augmented_sides
    another = view and config.structure.text_view == "caption"
    return pipeline.train_batches(
      self.data.splits[sources.TRAIN],
      tokenizer=self.data.tokenizer,
      sampler=caption_sampler(config, self.data),
      context_length=config.model.context_length,
      batch_size=config.batch_size,
      seed=config.seed,
      captions_per_example=config.data.captions_per_example,
      edit=caption_edit(config, self.data),
      another_caption=another,
      images_per_concept=config.data.images_per_concept,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      num_threads=config.data.num_threads,
    )


def caption_sampler(
  config: config_lib.Config, data: sources.PairData
) -> pipeline.CaptionSampler:
  """Draws captions as the configuration says."""
  first, *others = data.languages
  share = config.data.main_language_share if others else 1.0
  languages = {first: share}
  languages |= {lang: (1.0 - share) / len(others) for lang in others}
  return pipeline.CaptionSampler(
    languages=languages,
    name=config.data.name_weight,
    keyword=config.data.keyword_weight,
    keywords=config.data.keywords_weight,
    prompt=config.data.prompt_weight,
    full=config.data.full_weight,
    prompts=data.prompts,
  )


def caption_edit(
  config: config_lib.Config, data: sources.PairData
) -> eda.EasyDataAugmentation | None:
  """What makes a caption's other view; None if no term takes an edited one.

  Raises:
    UserError: if the file of synonyms cannot be used.
  """
  structure = config.structure
  if "text" not in config.augmented_sides or structure.text_view != "eda":
    return None
  synonyms = eda.synonyms(data.splits[sources.TRAIN], data.languages)
  for word, texts in _own_synonyms(config).items():
    synonyms[word] = (*synonyms.get(word, ()), *texts)
  return eda.EasyDataAugmentation(synonyms, structure.edited_share)


def _own_synonyms(config: config_lib.Config) -> dict[str, tuple[str, ...]]:
  """Those of the user's file, if there is one."""
  if not config.data.synonyms:
    return {}
  try:
    return eda.load_synonyms(os.path.expanduser(config.data.synonyms))
  except (OSError, ValueError) as error:
    raise config_lib.ConfigError(f"config.data.synonyms: {error}") from error


def open_run(
  config: config_lib.Config,
  workdir: pathlib.Path,
  *,
  report: Report = print,
) -> Run:
  """Opens the data and builds the model of a configuration.

  Args:
    config: the run.
    workdir: an existing directory.
    report: receives lines for the user.

  Returns:
    The run, nothing of it trained.

  Raises:
    UserError: if the configuration describes no model, or the workdir's
      vocabulary cannot be read.
    DataError: if the data cannot be used.
  """
  _own_synonyms(config)  # A mistake in it must show before data are opened.
  with sharding.main_process_first("data"):
    data = _open_data(config, workdir, report)
  mesh = sharding.make_mesh()
  with _mistakes_of_config():
    objective = objectives.create(
      config,
      vocab_size=data.tokenizer.vocab_size,
      num_examples=sources.index_bound(data.splits[sources.TRAIN]),
      mesh=mesh,
    )
  encoder = evaluators.Encoder(
    objective,
    data,
    context_length=config.model.context_length,
    batch_size=config.evaluation.batch_size,
    mesh=mesh,
  )
  return Run(config, workdir, data, mesh, objective, encoder)


def train(
  config: config_lib.Config,
  workdir: str | os.PathLike[str],
  *,
  report: Report = print,
  dead_after: float = 30.0,
) -> dict[str, float]:
  """Trains and evaluates; resumes where an earlier call was stopped.

  Args:
    config: the run.
    workdir: is made if absent. Afterwards it holds `config.json`,
      `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `plots/` and
      `results.json`.
    report: receives lines for the user.
    dead_after: seconds without an answer after which another process is taken
      for gone, and this one stops; see `processes`.

  Returns:
    The content of `results.json`.

  Raises:
    WorkdirError: if the workdir holds a run of another configuration.
    loop.NonFiniteError: if a tensor became infinite or NaN.
  """
  workdir = pathlib.Path(workdir)
  began = time.monotonic()
  if jax.process_index() > 0:
    report = _say_nothing
  fresh = _is_fresh(workdir, config)
  finished = read_results(workdir)
  if finished is not None:
    report(
      f"{workdir} holds a finished run; its results are in"
      f" {workdir / 'results.json'}. Choose another --workdir to train anew."
    )
    return finished
  # Before the data, which may take minutes to check.
  mesh = sharding.make_mesh()
  with _mistakes_of_config():
    sharding.check_batch_size(
      config.batch_size,
      config.microbatches,
      mesh,
      images_per_concept=config.data.images_per_concept,
    )
  if fresh and jax.process_index() == 0:
    # What a first try with other data left must not be taken for ours.
    for name in ("tokenizer.json", "data.json"):
      (workdir / name).unlink(missing_ok=True)
  if jax.process_index() == 0 and jax.process_count() > 1:
    processes.clear(workdir)
  # No other process may look for what this one is about to remove, or take
  # its workdir for one that was there.
  sharding.wait_for_all("workdir")
  with processes.watch(workdir, dead_after=dead_after):
    return _train(config, workdir, fresh, began, report)


def _train(
  config: config_lib.Config,
  workdir: pathlib.Path,
  fresh: bool,
  began: float,
  report: Report,
) -> dict[str, float]:
  """See `train`, which has made the workdir ready."""
  run = open_run(config, workdir, report=report)
  _abstract_state(run)  # Raises on a model that cannot be built.
  _check_data(run, begins=True)
  if fresh and jax.process_index() == 0:
    # Only now: a mistake in the configuration does not claim the workdir.
    _write_json(workdir / "config.json", config.to_dict())
  train_split = run.data.splits[sources.TRAIN]
  edit = caption_edit(config, run.data)
  if edit is not None and not any(edit.synonyms.values()):
    report(
      "No synonyms are known: captions are edited by swaps and deletions alone;"
      " config.data.synonyms=FILE adds some."
    )
  report(
    f"{run.data.name}: {len(train_split):,} training images,"
    f" {run.data.tokenizer.vocab_size:,} tokens; {run.mesh.size}"
    f" {jax.devices()[0].platform} device(s)."
  )
  every = config.evaluation.retrieval_every
  watch = []
  if len(run.data.splits[sources.VALIDATION]):
    watch.append(loop.Evaluator(every, lambda s: validation(run, s)))
  # Its threads would read ahead until the process ends.
  with contextlib.closing(run.batches()) as batches:
    state, numbers = loop.fit(
      config,
      objective=run.objective,
      iterator=batches,
      mesh=run.mesh,
      workdir=workdir,
      evaluators=tuple(watch),
      report=report,
    )
  if config.evaluation.final:
    report("Evaluating ...")
    numbers |= evaluate(run, state, report=report)
    if config.evaluation.plots:
      from contrastive_jax.training import sheets

      # All processes embed; one keeps the pictures.
      with tempfile.TemporaryDirectory() as unwanted:
        main = jax.process_index() == 0
        sheets.draw(run, state, folder=None if main else pathlib.Path(unwanted))
  numbers |= {
    "train/steps": config.steps,
    "train/seconds": time.monotonic() - began,
  }
  if jax.process_index() == 0:
    _write_json(workdir / "results.json", numbers)
  return numbers


def _say_nothing(line: str) -> None:
  del line


def evaluate(
  run: Run, state: state_lib.TrainState, *, report: Report = print
) -> dict[str, float]:
  """All evaluations that the data set allows, and the sets that are asked for."""
  evaluation = run.config.evaluation
  results = evaluators.final(
    run.encoder,
    state,
    run.data,
    seed=run.config.seed,
    classify=evaluation.classification,
    concatenated=evaluation.concatenated,
    report=report,
  )
  return results | suites.benchmarks(
    run.encoder,
    state,
    evaluation.benchmark_names,
    data_dir=evaluation.benchmarks_dir,
    image_size=run.config.model.image_size,
    classify=evaluation.classification,
    concatenated=evaluation.concatenated,
    report=report,
  )


def validation(run: Run, state: state_lib.TrainState) -> dict[str, float]:
  """Retrieval on the validation split; of images alone, kNN."""
  if not run.encoder.has_text:
    return evaluators.nearest_neighbours(
      run.encoder, state, run.data, name="knn_validation"
    )
  return evaluators.retrieval(
    run.encoder,
    state,
    run.data.splits[sources.VALIDATION],
    name="retrieval_validation",
    keywords=True,
  )


def restore(
  workdir: str | os.PathLike[str],
  *,
  step: int | None = None,
  report: Report = print,
) -> tuple[Run, state_lib.TrainState]:
  """Opens a workdir's run with the state of one of its checkpoints.

  Args:
    workdir: of an earlier run.
    step: which checkpoint; None is the newest.
    report: receives lines for the user.

  Returns:
    The run and the state.

  Raises:
    WorkdirError: if the workdir holds no run or no checkpoint, or the data
      has changed since the run began.
  """
  workdir = pathlib.Path(workdir)
  if not (workdir / "config.json").exists():
    raise WorkdirError(
      f"{workdir} holds no run (no config.json): train one first with python"
      f" -m experiments.train --workdir={workdir}"
    )
  config = config_lib.parse(read_json(workdir / "config.json"))
  # Before the data, which may take minutes to check.
  saved = checkpoints.Checkpoints(workdir, keep=None)
  try:
    saved.check(step)
    run = open_run(config, workdir, report=report)
    _check_data(run)
    return run, saved.restore(_abstract_state(run), step=step)
  except FileNotFoundError as error:
    raise WorkdirError(str(error)) from error
  finally:
    saved.close()


def read_results(workdir: pathlib.Path) -> dict[str, float] | None:
  """The content of `results.json`; None if the run is not finished."""
  path = workdir / "results.json"
  if not path.exists():
    return None
  results = read_json(path)
  if not all(isinstance(v, (int, float)) for v in results.values()):
    raise WorkdirError(
      f"{path} must hold names and numbers: restore it, or choose another"
      " --workdir."
    )
  return results


def table(results: Mapping[str, float]) -> str:
  """Results as an aligned text table, a group of names a block."""
  width = max(map(len, results), default=0)
  lines, group = [], None
  for name in sorted(results):
    if group not in (None, name.split("/")[0]):
      lines.append("")
    group = name.split("/")[0]
    value = results[name]
    text = f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
    lines.append(f"{name:<{width}}  {text:>10}")
  return "\n".join(lines)


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Parses a file of the workdir.

  Raises:
    WorkdirError: if it is not a JSON object.
  """
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:  # No JSON, or no UTF-8.
    raise WorkdirError(
      f"{path} is not valid JSON ({error}): restore it, or choose another"
      " --workdir."
    ) from error
  if not isinstance(value, dict):
    raise WorkdirError(
      f"{path} is not a JSON object: restore it, or choose another --workdir."
    )
  return value


def _abstract_state(run: Run) -> state_lib.TrainState:
  """Shapes, types and shardings of a run's state; nothing is computed."""
  with _mistakes_of_config():
    return loop.abstract_state(run.config, run.objective, run.mesh)


@contextlib.contextmanager
def _mistakes_of_config() -> Iterator[None]:
  """Turns a `ValueError` into a `ConfigError`.

  For what only the configuration decides, such as the form of the model. What
  runs later must not be here: there a `ValueError` is a bug.
  """
  try:
    yield
  except config_lib.UserError:
    raise
  except ValueError as error:
    raise config_lib.ConfigError(str(error)) from error


def _is_fresh(workdir: pathlib.Path, config: config_lib.Config) -> bool:
  """Makes the workdir; False if it holds a run of this configuration."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise WorkdirError(
      f"--workdir={workdir} cannot be made: {error.strerror}."
    ) from error
  path = workdir / "config.json"
  if not path.exists():
    for name in ("results.json", "checkpoints"):
      if (workdir / name).exists():
        raise WorkdirError(
          f"{workdir} holds {name} of a run, but no config.json: restore it,"
          " or choose another --workdir."
        )
    return True
  try:
    # Fields that are newer than the run have the default there.
    earlier = config_lib.parse(read_json(path))
  except config_lib.ConfigError as error:
    raise WorkdirError(
      f"{path} is not a configuration of this version ({error}): restore it,"
      " or choose another --workdir."
    ) from error
  difference = config_lib.first_difference(config.to_dict(), earlier.to_dict())
  if difference:
    name, new, old = difference
    raise WorkdirError(
      f"{workdir} holds a run with config.{name}={old!r}, and now it is"
      f" {new!r}: choose another --workdir, or the same configuration."
    )
  return False


def _write_json(path: pathlib.Path, value: Any) -> None:
  # Written aside and moved: a killed run leaves no half file.
  temporary = path.with_suffix(".tmp")
  temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
  temporary.replace(path)


def _open_data(
  config: config_lib.Config, workdir: pathlib.Path, report: Report
) -> sources.PairData:
  """Opens the data set with the vocabulary that the workdir keeps."""
  kept = workdir / "tokenizer.json"
  known = _read_tokenizer(kept)
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
    )
  if config.data.name == "fashion_mnist":
    data = sources.load_fashion_mnist(
      os.path.expanduser(config.data.path),
      class_concepts=config.objective == "clip",
    )
  elif config.data.name == "openclipart":
    # Its builder's class needs TFDS, which takes seconds to import.
    from contrastive_jax.data import openclipart

    data = openclipart.load(
      os.path.expanduser(config.data.path),
      os.path.expanduser(config.data.data_dir) or None,
      report=report,
    )
  else:
    data = _open_emoji(config, report)
  # A copy stays with the run: its parameters mean nothing under another
  # vocabulary, which a newer version of the package may ship.
  if known is not None:
    return dataclasses.replace(data, tokenizer=known)
  data.tokenizer.save(kept)
  return data


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


def _read_tokenizer(path: pathlib.Path) -> tokenizer.Tokenizer | None:
  """The vocabulary in a file; None if there is no such file."""
  if not path.exists():
    return None
  try:
    return tokenizer.Tokenizer.load(path)
  except ValueError as error:
    raise WorkdirError(
      f"{' '.join(str(error).split())}: restore it, or choose another"
      " --workdir."
    ) from error


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


def _check_data(run: Run, *, begins: bool = False) -> None:
  """Raises if the workdir's run began on other training data.

  Args:
    run: the run, opened.
    begins: whether this may be where it begins, and what data it has is
      written; a reader writes nothing.

  Raises:
    WorkdirError: if it has.
  """
  path = run.workdir / "data.json"
  ours = {"name": run.data.name, "fingerprint": run.data.fingerprint}
  own_synonyms = _own_synonyms(run.config)
  if own_synonyms:
    text = json.dumps(own_synonyms, sort_keys=True)
    ours["synonyms"] = hashlib.sha256(text.encode()).hexdigest()
  if not path.exists():
    if begins and jax.process_index() == 0:
      _write_json(path, ours)
  elif read_json(path) != ours:
    raise WorkdirError(
      f"The training data of {run.workdir} has changed since the run began, so"
      " it can neither go on nor be evaluated: restore the data, or choose"
      " another --workdir."
    )
