"""Tests of contrastive_jax.training.trainer.loop and its checkpoints."""

import gc
import io
import logging
import shutil
import sys

import jax
import numpy as np
import pytest

from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.trainer import (
  checkpoints,
  clock,
  loop,
  nonfinite,
)
from contrastive_jax.training.trainer import state as state_lib
from contrastive_jax.training.trainer.optimizer_choices import Cosine
from tests.training import tiny
from tests.training.toy import (
  Toy,
  fit,
  make_batches,
  make_settings,
  restore,
  restored,
  rows_of,
  steps_in,
)


class Killed(BaseException):
  """Ends a run in the middle, as a signal would."""


def kill_at(step):
  """An evaluator that does."""

  def run(state):
    if int(state.step) == step:
      raise Killed
    return {"dummy/loss": float(step)}

  return loop.Evaluator(every=step, run=run)


@pytest.fixture(name="seen")
def fixture_seen(monkeypatch):
  """The `index` fields of the batches that the loop takes."""
  seen = []
  put = sharding.put_batch

  def record(batch, mesh):
    seen.append((batch["index"].tolist(), batch["tokens"].tolist()))
    return put(batch, mesh)

  monkeypatch.setattr(sharding, "put_batch", record)
  return seen


# Runs of a whole model.


class TestClip:
  """24 images in batches of 8: a checkpoint at 4 is within an epoch."""

  @pytest.fixture(scope="class")
  def config(self):
    return tiny.make_config()

  @pytest.fixture(scope="class")
  def undisturbed(self, config, data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    state, numbers = tiny.fit(
      config,
      workdir,
      data,
      evaluators=[loop.Evaluator(6, lambda s: {"dummy/loss": 6.0})],
    )
    return workdir, jax.device_get(state), numbers

  def test_it_learns_and_reports(self, undisturbed, config):
    workdir, state, numbers = undisturbed
    rows = rows_of(workdir)
    trained = [r for r in rows if "train/loss" in r]
    assert [r["step"] for r in trained] == list(range(1, 9))
    assert [r["step"] for r in rows if "dummy/loss" in r] == [6]
    assert set(trained[-1]) == {
      "step",
      *(
        f"train/{name}"
        for name in (
          "loss",
          "logit_scale",
          "learning_rate",
          "gradient_norm",
          "parameter_norm",
        )
      ),
    }
    assert numbers["train/examples_per_second"] > 0
    assert 0 <= numbers["train/input_wait"] <= 1
    assert int(state.step) == 8
    differing = jax.tree.map(
      lambda a, b: bool(np.any(a != b)), state.params, state.ema_params
    )
    assert any(jax.tree.leaves(differing))

  def test_killed_in_mid_epoch_it_ends_with_the_same_bits(
    self, undisturbed, config, data, tmp_path
  ):
    with pytest.raises(Killed):
      tiny.fit(config, tmp_path, data, evaluators=[kill_at(6)])
    assert steps_in(tmp_path) == [4]
    # It had gone on, and logged, after the checkpoint.
    assert rows_of(tmp_path)[-1]["step"] == 6
    lines = []
    state, numbers = tiny.fit(
      config,
      tmp_path,
      data,
      evaluators=[loop.Evaluator(6, lambda s: {"dummy/loss": 6.0})],
      report=lines.append,
    )
    assert lines[0] == f"Resuming {tmp_path} at step 4."
    workdir, expected, _ = undisturbed
    tiny.assert_same(jax.device_get(state), expected)
    assert rows_of(tmp_path) == rows_of(workdir)
    assert steps_in(tmp_path) == [4, 8]
    assert numbers["train/examples_per_second"] > 0

  def test_a_checkpoint_is_the_state(self, undisturbed, config, data):
    workdir, state, _ = undisturbed
    # On another number of devices than it was saved on.
    abstract = tiny.abstract_state(config, tiny.make_objective(config, data))
    loaded = restore(workdir, abstract)
    tiny.assert_same(jax.device_get(loaded), state)
    before = restore(workdir, abstract, step=4)
    assert int(before.step) == 4
    with pytest.raises(FileNotFoundError, match=r"\b5\b"):
      restore(workdir, abstract, step=5)


# Runs of a toy, for speed.


@pytest.mark.parametrize("killed_at", [1, 4, 5, 8])
def test_killed_anywhere_it_makes_the_same_run(
  tmp_path, seen, killed_at, monkeypatch
):
  settings = dict(steps=9, checkpoint_every=4, log_every=2)
  last = loop.Evaluator(killed_at, lambda s: {"dummy/loss": float(killed_at)})
  whole, _ = fit(tmp_path / "whole", evaluators=[last], **settings)
  all_seen = list(seen)
  assert len(all_seen) == 9 and len({str(s) for s in all_seen}) == 9
  seen.clear()
  with pytest.raises(Killed):
    fit(tmp_path / "killed", evaluators=[kill_at(killed_at)], **settings)
  first = len(seen)
  assert first == killed_at
  resumed, _ = fit(tmp_path / "killed", evaluators=[last], **settings)
  # At a checkpoint's own step the evaluators come first: their line of the
  # log is not lost when the run is killed between the two.
  start = 4 if killed_at > 4 else 0
  assert seen[:first] == all_seen[:first]
  assert seen[first:] == all_seen[start:]
  tiny.assert_same(jax.device_get(resumed), jax.device_get(whole))
  assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
  logged = [r["step"] for r in rows_of(tmp_path / "whole") if "train/loss" in r]
  assert logged == [2, 4, 6, 8, 9]


def test_started_again_when_all_is_trained_it_changes_nothing(tmp_path, seen):
  state, numbers = fit(tmp_path, steps=3, checkpoint_every=2)
  rows, files = rows_of(tmp_path), steps_in(tmp_path)
  seen.clear()
  again, same = fit(tmp_path, steps=3, checkpoint_every=2)
  assert not seen
  tiny.assert_same(jax.device_get(again), jax.device_get(state))
  assert rows_of(tmp_path) == rows and steps_in(tmp_path) == files
  # The speed of the training is known from the log.
  assert set(same) == set(numbers)
  assert same["train/examples_per_second"] > 0


def test_resuming_makes_no_state_of_its_own(tmp_path, monkeypatch):
  """It would take the memory twice while the saved one is read."""
  settings = dict(steps=3, checkpoint_every=3)
  expected, _ = fit(tmp_path, **settings)
  given = []
  restore = checkpoints.Checkpoints.restore

  def record(self, state, *args, **kwargs):
    given.extend(jax.tree.leaves(state))
    return restore(self, state, *args, **kwargs)

  monkeypatch.setattr(checkpoints.Checkpoints, "restore", record)
  state, _ = fit(tmp_path, **settings)
  tiny.assert_same(jax.device_get(state), jax.device_get(expected))
  assert given
  assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in given)


def test_no_batch_is_read_but_those_of_the_steps(tmp_path):
  batches = make_batches(make_settings())
  taken = []

  class Counted:
    get_state = batches.get_state
    set_state = batches.set_state

    def __next__(self):
      taken.append(1)
      return next(batches)

  def skip(self, *args, **kwargs):
    del self, args, kwargs  # Orbax knows Grain's own iterators alone.

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(checkpoints.Checkpoints, "save", skip)
    fit(tmp_path, steps=3, iterator=Counted())
  assert len(taken) == 3


def test_checkpoints_are_closed_where_restoring_fails(tmp_path, monkeypatch):
  fit(tmp_path, steps=1)
  closed = []
  close = checkpoints.Checkpoints.close

  def fail(self, *args, **kwargs):
    raise checkpoints.CheckpointError("damaged")

  def record(self):
    closed.append(1)
    close(self)

  monkeypatch.setattr(checkpoints.Checkpoints, "restore", fail)
  monkeypatch.setattr(checkpoints.Checkpoints, "close", record)
  with pytest.raises(checkpoints.CheckpointError, match="damaged"):
    fit(tmp_path, steps=1)
  assert closed == [1]


def test_an_error_begins_a_line_on_a_terminal(tmp_path, monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  terminal = Terminal()
  monkeypatch.setattr(sys, "stdout", terminal)
  with pytest.raises(nonfinite.NonFiniteError):
    fit(tmp_path, objective=Toy(bad="loss", bad_step=3), steps=9)
  text = terminal.getvalue()
  assert "step 3/9" in text and text.endswith("\n")


def test_a_single_step_runs(tmp_path):
  state, numbers = fit(tmp_path, steps=1)
  assert int(state.step) == 1
  assert [r["step"] for r in rows_of(tmp_path)] == [1]
  assert steps_in(tmp_path) == [1]
  assert numbers == {}  # Only the step that compiles: nothing was measured.


@pytest.mark.parametrize(
  "keep, every, expected",
  [(1, 2, [7]), (2, 2, [6, 7]), (3, 3, [3, 6, 7]), (9, 5, [5, 7])],
)
def test_the_newest_checkpoints_stay(tmp_path, keep, every, expected):
  fit(tmp_path, steps=7, checkpoint_every=every, keep_checkpoints=keep)
  assert steps_in(tmp_path) == expected


def test_evaluators_run_at_their_own_cadence(tmp_path):
  calls = {2: [], 3: [], 0: []}

  def evaluator(every):
    def run(state):
      calls[every].append(int(state.step))
      return {f"every_{every}/recall": 0.5}

    return loop.Evaluator(every, run)

  fit(
    tmp_path,
    steps=6,
    log_every=5,
    evaluators=[evaluator(2), evaluator(3), evaluator(0)],
  )
  # The last step is left to the evaluation at the end.
  assert calls == {2: [2, 4], 3: [3], 0: []}
  rows = rows_of(tmp_path)
  assert [
    (r["step"], *sorted(r)[:1]) for r in rows if "train/loss" not in r
  ] == [
    (2, "every_2/recall"),
    (3, "every_3/recall"),
    (4, "every_2/recall"),
  ]
  assert [r["step"] for r in rows if "train/loss" in r] == [5, 6]


def test_the_headline_is_shown_and_all_numbers_are_logged(tmp_path, capsys):
  evaluator = loop.Evaluator(
    2,
    lambda state: {"a/x": 0.25, "a/y": 1.0},
    lambda numbers: {"a/x": numbers["a/x"]},
  )
  fit(tmp_path, steps=3, evaluators=[evaluator])
  assert "\n  step 2: a/x 0.250\n" in capsys.readouterr().out
  assert {"step": 2, "a/x": 0.25, "a/y": 1.0} in rows_of(tmp_path)


def test_the_averaged_parameters_are_what_evaluators_see(tmp_path):
  seen = []
  evaluator = loop.Evaluator(
    2, lambda s: seen.append(jax.device_get(s.eval_params)) or {"x": 0.0}
  )
  state, _ = fit(tmp_path, steps=3, evaluators=[evaluator], ema_decay=0.5)
  assert len(seen) == 1
  assert np.any(seen[0]["w"] != np.asarray(state.params["w"]))


def test_the_step_is_compiled_once(tmp_path, caplog):
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    fit(
      tmp_path,
      steps=9,
      checkpoint_every=3,
      evaluators=[loop.Evaluator(2, lambda s: {"x": 0.0})],
    )
  found = [
    r.getMessage()
    for r in caplog.records
    if "Compiling" in r.getMessage() and "train_step" in r.getMessage()
  ]
  assert len(found) == 1


def test_nothing_is_compiled_late(tmp_path):
  """After the second checkpoint nothing is new to the compiler."""
  late = []
  started = []

  def listen(name, seconds, **unused):
    if "backend_compile" in name and started:
      late.append(name)

  evaluator = loop.Evaluator(6, lambda s: started.append(1) or {"x": 0.0})
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    fit(tmp_path, steps=12, checkpoint_every=2, evaluators=[evaluator])
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert started and not late


def test_speed_and_input_wait(tmp_path, monkeypatch):
  """With a clock of our own: a batch takes 3 s, a step 1 s, a pause 100 s."""
  now = [0.0]
  monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])

  def passes(seconds, result=None):
    now[0] += seconds
    return result

  class Progress:
    paused = 0.0

    def pause(self, seconds):
      self.paused += seconds

  progress = Progress()
  timer = clock.Clock()
  timer.wait_for(lambda: passes(50.0))
  passes(1000.0)  # It compiles.
  timer.restart()
  assert timer.rates(8) == {} and timer.overall(8) == {}
  for _ in range(2):
    for _ in range(5):
      assert timer.wait_for(lambda: passes(3.0, "batch")) == "batch"
      passes(1.0)
      with timer.pause(progress):
        passes(100.0)
    assert timer.rates(8) == {
      "examples_per_second": pytest.approx(2.0),
      "input_wait": pytest.approx(0.75),
    }
  timer.wait_for(lambda: None)
  passes(40.0)
  assert timer.rates(8)["input_wait"] == 0.0
  assert timer.overall(8) == {
    "examples_per_second": pytest.approx(11 * 8 / 80.0),
    "input_wait": pytest.approx(30.0 / 80.0),
  }
  assert progress.paused == 1000.0


# NaN and infinity.


@pytest.mark.parametrize(
  "kind, at, said",
  [
    ("loss", 5, "Step 5: loss is not finite"),
    ("embedding", 3, "Step 3: image embedding is not finite"),
    ("gradient", 5, "Step 5: gradient of w is not finite"),
    ("parameter", 1, "Step 1: parameter w is not finite"),
    # It shows nowhere but in the state itself, when that is to be saved.
    ("state", 5, "Step 6: objective state mean after the update is not"),
  ],
)
def test_the_first_tensor_that_is_not_finite_is_named(tmp_path, kind, at, said):
  objective = Toy(bad=kind, bad_step=at - 1)
  settings = dict(steps=9, checkpoint_every=2, keep_checkpoints=9)
  with pytest.raises(nonfinite.NonFiniteError) as caught:
    fit(tmp_path, objective=objective, **settings)
  assert str(caught.value).startswith(said)
  good = [step for step in (2, 4) if step < at]
  assert steps_in(tmp_path) == good
  # No line of the log holds a NaN, as JSON knows none.
  text = (tmp_path / "metrics.jsonl").read_text()
  assert "NaN" not in text and "Infinity" not in text
  if good:
    # The last checkpoint is sound, and a run can go on from it.
    state = restored(tmp_path)
    assert all(jax.device_get(state_lib.finite(state)).values())
    with pytest.raises(nonfinite.NonFiniteError) as caught:
      fit(tmp_path, objective=objective, **settings)
    assert str(caught.value).startswith(said)
    healed, _ = fit(tmp_path, **settings)
    assert int(healed.step) == 9
    assert steps_in(tmp_path) == [2, 4, 6, 8, 9]


@pytest.mark.filterwarnings("ignore:overflow")
def test_an_update_that_overflows_is_not_saved(tmp_path):
  """Loss and gradient are sound, the new parameters are not."""
  with pytest.raises(nonfinite.NonFiniteError) as caught:
    fit(
      tmp_path,
      steps=4,
      checkpoint_every=1,
      optimizer={"learning_rate": 1e39, "schedule": Cosine(0.0)},
    )
  assert "Step 1: parameter" in str(caught.value)
  assert "after the update is not finite" in str(caught.value)
  assert steps_in(tmp_path) == []


def test_a_huge_learning_rate_stops_and_keeps_what_is_good(tmp_path):
  with pytest.raises(nonfinite.NonFiniteError, match="learning_rate"):
    fit(
      tmp_path,
      steps=12,
      checkpoint_every=1,
      keep_checkpoints=20,
      optimizer={"learning_rate": 1e38},
    )
  kept = steps_in(tmp_path)
  for step in kept:
    state = restored(tmp_path, step)
    assert all(jax.device_get(state_lib.finite(state)).values())


# Checkpoints that are damaged.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("finished")
  state, _ = fit(workdir, steps=4, checkpoint_every=2)
  return workdir, jax.device_get(state)


# Orbax leaves a coroutine behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("what", ["state", "cut", "data"])
def test_a_damaged_checkpoint_is_named(tmp_path, finished, what):
  workdir = tmp_path / "run"
  shutil.copytree(finished[0], workdir)
  # As if killed before they were written; see tests/faults.
  shutil.rmtree(workdir / "checksums")
  broken = workdir / "checkpoints" / "4"
  if what == "cut":
    for path in (broken / "state").rglob("*"):
      if path.is_file() and path.stat().st_size > 20:
        path.write_bytes(path.read_bytes()[:10])
  else:
    shutil.rmtree(broken / what)
  with pytest.raises(checkpoints.CheckpointError) as caught:
    fit(workdir, steps=4, checkpoint_every=2)
  message = str(caught.value)
  reason = message.partition("(")[2].rpartition("). If")[0]
  assert str(broken) in message and reason
  assert what == "cut" or what in reason.replace(str(broken), "")
  assert "\n" not in message
  if what == "state":
    with pytest.raises(checkpoints.CheckpointError) as caught:
      checkpoints.Checkpoints(workdir, keep=None).variable_forms()
    assert str(broken) in str(caught.value) and what in str(caught.value)
  # As it says:
  shutil.rmtree(broken)
  state, _ = fit(workdir, steps=4, checkpoint_every=2)
  tiny.assert_same(jax.device_get(state), finished[1])
  # Now, and not in a test where it would be reported.
  del caught
  gc.collect()


def test_an_unfinished_checkpoint_is_no_checkpoint(tmp_path, finished):
  workdir = tmp_path / "run"
  shutil.copytree(finished[0], workdir)
  folder = workdir / "checkpoints"
  # As Orbax names what it is writing.
  (folder / "4").rename(folder / "4.orbax-checkpoint-tmp")
  reader = checkpoints.Checkpoints(workdir, keep=None)
  assert reader.latest_step == 2
  reader.close()
  # A reader leaves it alone, as it may be a run's that is at work.
  assert (folder / "4.orbax-checkpoint-tmp").exists()
  state, _ = fit(workdir, steps=4, checkpoint_every=2)
  tiny.assert_same(jax.device_get(state), finished[1])
  assert steps_in(workdir) == [2, 4]


def test_there_is_no_checkpoint(tmp_path):
  with pytest.raises(FileNotFoundError, match=str(tmp_path)):
    restored(tmp_path)


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"^config\.batch_size .*1 x 2.* 9"):
    fit(tmp_path, batch_size=9)
