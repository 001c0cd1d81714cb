"""A whole run in a workdir: data, training, evaluation, plots, results."""

import contextlib
import math
import os
import pathlib
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import optax

from contrastive_jax.data import sources, task_pipeline
from contrastive_jax.data.files import locks, stores
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import loggers
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.distributed import processes, sharding
from contrastive_jax.training.evaluators import embeddings
from contrastive_jax.training.objectives import base
from contrastive_jax.training.runs import (
  build,
  hits_file,
  initial_weights,
  model_folder,
  open_data,
  results_file,
  same_run,
)
from contrastive_jax.training.runs.run import PairRun, Run, TaskRun
from contrastive_jax.training.trainer import (
  checkpoints,
  loop,
  optimizers,
)
from contrastive_jax.training.trainer import state as state_lib
from contrastive_jax.training.types import Report


def open_run(
  config: config_lib.Config,
  workdir: pathlib.Path,
  *,
  data: Any = None,
  report: Report = print,
) -> Run:
  """Opens the data and builds the model of a configuration.

  Args:
    config: the run.
    workdir: an existing directory.
    data: opened already, as of `open_data.open_data`; None opens those of `config`.
    report: receives lines for the user.

  Returns:
    The run, nothing of it trained.

  Raises:
    UserError: if the configuration describes no model, or the workdir's
      vocabulary cannot be read.
    DataError: if the data cannot be used.
  """
  with sharding.main_process_first("tokenizer"):
    initial_weights.take_tokenizer(
      config.initial, config.tokenizer or "", workdir
    )
  has_captions = config.objective.task in ("captions", "images")
  feed: Any = (
    build.caption_feed(config) if has_captions else build.task_batches(config)
  )
  if has_captions:
    feed.own_synonyms()  # A mistake in it must show before data are opened.
  if data is None:
    with sharding.main_process_first("data"):
      data = open_data.open_data(config, workdir, report)
  train = data.splits[sources.TRAIN]
  mesh = sharding.make_mesh()
  with workdirs.mistakes_of_config():
    objective = build.build_objective(
      config,
      vocab_size=data.tokenizer.vocab_size,
      num_examples=train.index_bound,
      # A split that is absent has all that there were.
      examples=len(train) or None,
      mesh=mesh,
      special_ids=data.tokenizer.special_ids,
    )
  initial_weights.check_tokenizer(
    objective.model, data.tokenizer, config.model.preset
  )
  fields: dict[str, Any] = {
    "config": config,
    "data": data,
    "mesh": mesh,
    "objective": objective,
    "workdir": workdir,
    "report": report,
    "chosen": config.objective,
    "initial": config.initial,
    "evaluators": config.evaluation.evaluators,
    "steps": config.steps,
    "seed": config.seed,
    "batch_size": config.evaluation.batch_size,
    "image_size": config.model.image_size,
    "context_length": config.model.context_length,
    "feed": feed,
    "encoder": None,
    "reader": None,
  }
  if not has_captions:
    fields["reader"] = task_pipeline.Encoder(
      data.task,
      data.tokenizer,
      config.model.context_length,
      getattr(config.objective, "answer_length", 0),
    )
    return TaskRun(**fields)
  if hasattr(objective, "has_text"):
    fields["encoder"] = embeddings.Encoder(
      objective,
      data,
      context_length=config.model.context_length,
      batch_size=config.evaluation.batch_size,
      mesh=mesh,
    )
  views = base.Views(config.augment, config.model.image_size)
  return PairRun(**fields, plain=views.plain)


def train(
  config: config_lib.Config,
  workdir: str | os.PathLike[str],
  *,
  report: Report = print,
  dead_after: float = 30.0,
  command: str = "",
  saved: Callable[[], None] = lambda: None,
) -> dict[str, float]:
  """Trains and evaluates; resumes where an earlier call was stopped.

  Args:
    config: the run.
    workdir: is made if absent. Afterwards it holds `config.json`,
      `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `plots/`, `report.html`,
      `hits.npz`, `model/` and `results.json`.
    report: receives lines for the user.
    dead_after: seconds without an answer after which another process is taken
      for gone, and this one stops; see `processes`.
    command: that started the run, for its page.
    saved: called after each checkpoint, such as to copy it elsewhere.

  Returns:
    The content of `results.json`.

  Raises:
    WorkdirError: if the workdir holds a run of another configuration.
    finite.NonFiniteError: if a tensor became infinite or NaN.
    errors.Stopped: after SIGTERM or SIGINT; the step is finished and saved.
  """
  if stores.is_address(workdir):
    raise workdirs.WorkdirError(
      f"workdir must be a path of this host; got {workdir}: train within"
      " contrastive_jax.data.files.stores.writable(ADDRESS)."
    )
  workdir = pathlib.Path(workdir)
  began = time.monotonic()
  if jax.process_index() > 0:
    report = _say_nothing
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise workdirs.WorkdirError(
      f"--workdir={workdir} cannot be made: {error.strerror}."
    ) from error
  workdirs.check_links(workdir)
  with _only_run(workdir, report):
    fresh = same_run.is_fresh(workdir, config)
    finished = results_file.read(workdir)
    if finished is not None and finished.get("train/steps") != config.steps:
      report(
        f"Going on from step {finished.get('train/steps'):,.0f} to"
        f" {config.steps:,}: schedules are those of a run of so many steps."
      )
    elif finished is not None:
      report(
        f"{workdir} holds a finished run; its results are in"
        f" {workdir / 'results.json'}. Choose another --workdir to train again."
      )
      return finished
    # Before the data, which may take minutes to check.
    log = _log(config, workdir)
    mesh = sharding.make_mesh()
    with workdirs.mistakes_of_config():
      sharding.check_batch_size(
        config.batch_size,
        config.microbatches or 1,
        mesh,
        images_per_concept=config.objective.images_per_concept,
      )
    if fresh and jax.process_index() == 0:
      # Files that a first try with other data left must not be taken for ours.
      for name in ("tokenizer.json", "data.json"):
        (workdir / name).unlink(missing_ok=True)
    if jax.process_index() == 0 and jax.process_count() > 1:
      processes.clear(workdir)
    # No other process may look for what this one is about to remove, or take
    # its workdir for one that was there.
    sharding.wait_for_all("workdir")
    with processes.watch(workdir, dead_after=dead_after):
      with contextlib.closing(log):
        return _train(
          config, workdir, fresh, began, report, command, log, saved
        )


@contextlib.contextmanager
def _only_run(workdir: pathlib.Path, report: Report) -> Iterator[None]:
  """Raises `WorkdirError`, in all processes, if one cannot work there alone."""
  lock = workdir / "run.lock"
  with contextlib.ExitStack() as stack:
    problem = workdirs.unwritable(workdir)
    if not problem and jax.process_index() == 0:  # It holds it for all.
      try:
        locked = stack.enter_context(locks.held(lock))
      except locks.LockedError as error:
        problem = (
          f"{workdir} is being trained by {error}: wait for it, or choose another"
          f" --workdir; if it is gone for good, delete {lock}."
        )
      except OSError as error:
        problem = workdirs.cannot_write(lock, error)
      else:
        if not locked:
          report(
            f"Note: {lock} cannot be locked on this file system: start no other"
            " run on this workdir."
          )
    if sharding.any_process(bool(problem)):
      raise workdirs.WorkdirError(
        problem
        or f"{workdir} cannot be used: another process of the run says why."
      )
    yield


def _train(
  config: config_lib.Config,
  workdir: pathlib.Path,
  fresh: bool,
  began: float,
  report: Report,
  command: str,
  log: loggers.Together,
  saved: Callable[[], None],
) -> dict[str, float]:
  """See `train`, which has made the workdir ready."""
  run = open_run(config, workdir, report=report)
  # Raises on a model that cannot be built, or not begun as it should be.
  optimizer = _optimizer(config, run)
  abstract = _abstract_state(config, run)
  initial, model = run.initial, run.objective.model
  if fresh:
    initial_weights.check(initial, model, abstract)
  same_run.check_data(run, begins=True)
  if jax.process_index() == 0:
    # Only now: a mistake in the configuration does not claim the workdir. When a
    # run goes on, how it is logged and saved may be new.
    workdirs.write_json(workdir / "config.json", config.to_dict())
    # Of fewer steps, if there are any: now the run is not finished.
    (workdir / "results.json").unlink(missing_ok=True)
  model_folder.begin(run)
  run.announce()
  report(_header(run, abstract))
  # Its threads would read ahead until the process ends.
  with contextlib.closing(run.batches()) as batches:
    state, numbers = loop.fit(
      build.trainer_settings(config),
      objective=run.objective,
      optimizer=optimizer,
      learning_rate=optimizers.learning_rate(config.optimizer, config.steps),
      iterator=batches,
      mesh=run.mesh,
      workdir=workdir,
      evaluators=run.validations(),
      begin=lambda state: initial_weights.begin(
        initial, run.mesh, model, state, report
      ),
      log=log,
      saved=saved,
      report=report,
    )
  measures = run.final_measures()
  if measures:
    report("Evaluating ...")
    numbers |= run.evaluate(state, measures)
  numbers |= {
    "train/steps": config.steps,
    "train/seconds": time.monotonic() - began,
  }
  # Embeddings are drawn where they are measured; curves alone cost nothing.
  if config.evaluation.plots and (measures or run.encoder is None):
    # All processes embed; one keeps the pictures.
    with tempfile.TemporaryDirectory() as unwanted:
      main = jax.process_index() == 0
      folder = workdir / "plots" if main else pathlib.Path(unwanted)
      run.draw(state, folder)
      page = run.page(state, numbers, folder, command=command)
      if main:
        (workdir / "report.html").write_text(page, encoding="utf-8")
  if jax.process_index() == 0:
    if run.hits:
      hits_file.save(workdir, run.hits)
  # Before the results, which mark a finished run.
  model_folder.write(run, state, numbers)
  if jax.process_index() == 0:
    workdirs.write_json(workdir / "results.json", numbers)
    pictures = sorted((workdir / "plots").glob("*.png"))
    log.finish(config.steps, numbers, pictures)
  return numbers


def _log(config: config_lib.Config, workdir: pathlib.Path) -> loggers.Together:
  """The loggers of a run, opened; raises ConfigError on one that cannot be."""
  found = []
  for name, chosen in config.logging.loggers.items():
    try:
      found.append(chosen.open(workdir, config.to_dict()))
    except ValueError as error:
      raise config_lib.ConfigError(f"config.logging.{name} {error}") from error
  return loggers.Together(found)


def _say_nothing(line: str) -> None:
  del line


def restore(
  workdir: str | os.PathLike[str],
  *,
  step: int | None = None,
  changes: Mapping[str, Any] = types.MappingProxyType({}),
  with_data: bool = True,
  report: Report = print,
) -> tuple[Run, state_lib.TrainState]:
  """Opens a workdir's run with the state of one of its checkpoints.

  Args:
    workdir: of an earlier run.
    step: which checkpoint; None is the newest.
    changes: fields that are otherwise now, such as {"data.path": "elsewhere"}; what
      was trained cannot be.
    with_data: whether its data are opened; without, its splits are empty.
    report: receives lines for the user.

  Returns:
    The run and the state.

  Raises:
    WorkdirError: if the workdir holds no run or no checkpoint, or the data
      has changed since the run began.
    ConfigError: if a change is one of what was trained.
  """
  workdir = pathlib.Path(workdir)
  if not (workdir / "config.json").exists():
    raise workdirs.WorkdirError(
      f"{workdir} holds no run (no config.json): train one first with python"
      f" -m experiments.train --workdir={workdir}"
    )
  config = same_run.changed(
    workdirs.read_json(workdir / "config.json"), changes
  )
  # Before the data, which may take minutes to check.
  saved = checkpoints.Checkpoints(workdir, keep=None)
  try:
    saved.check(step)
    data = None if with_data else open_data.absent(config, workdir)
    run = open_run(config, workdir, data=data, report=report)
    if with_data:
      same_run.check_data(run)
    return run, saved.restore(_abstract_state(config, run), step=step)
  except FileNotFoundError as error:
    raise workdirs.WorkdirError(str(error)) from error
  finally:
    saved.close()


def _header(run: Run, abstract: state_lib.TrainState) -> str:
  """How large the model is, and how long the training."""
  config = run.config
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(abstract.params))
  examples = len(run.data.splits[sources.TRAIN])
  epochs = config.steps * config.batch_size / max(examples, 1)
  return (
    f"{config.model.preset}: {count:,} parameters; {config.steps:,} steps of"
    f" {config.batch_size:,} are {epochs:,.1f} epochs."
  )


def _optimizer(
  config: config_lib.Config, run: Run
) -> optax.GradientTransformation:
  """The optimiser of a run's parameters."""
  return optimizers.make_optimizer(
    config.optimizer, steps=config.steps, objective=run.objective
  )


def _abstract_state(
  config: config_lib.Config, run: Run
) -> state_lib.TrainState:
  """Shapes, types and shardings of a run's state; nothing is computed."""
  with workdirs.mistakes_of_config():
    return loop.abstract_state(
      build.trainer_settings(config),
      run.objective,
      _optimizer(config, run),
      run.mesh,
    )
