"""SIGTERM and SIGINT: the step is finished, saved, and the run goes on later."""

import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest

from contrastive_jax.training.config import errors
from contrastive_jax.training.distributed import processes, sharding, signals
from contrastive_jax.training.trainer import checkpoints, loop, metric_log
from tests import compiling
from tests.training import program, tiny
from tests.training.toy import fit, rows_of, steps_in

SETTINGS = dict(steps=9, checkpoint_every=4, log_every=2)


@pytest.fixture(autouse=True)
def obeyed():
  """In a background job of a shell Python ignores SIGINT."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


def raising(number, at, then=None):
  """An evaluator during which a signal comes."""

  def run(state):
    if int(state.step) == at:
      signal.raise_signal(number)
      # A launcher passes it on as well.
      signal.raise_signal(number)
      if then is not None:
        time.sleep(0.1)
        signal.raise_signal(then)
    return {"dummy/loss": float(state.step)}

  return loop.Evaluator(1, run)


def undisturbed(state):
  return {"dummy/loss": float(state.step)}


@pytest.mark.parametrize(
  "number, name", [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")]
)
@pytest.mark.parametrize("at", [1, 4, 6])
def test_it_saves_and_goes_on_as_if_nothing_had_been(
  tmp_path, capfd, number, name, at
):
  evaluator = loop.Evaluator(1, undisturbed)
  whole, _ = fit(tmp_path / "whole", evaluators=[evaluator], **SETTINGS)
  stopped = tmp_path / "stopped"
  before = signal.getsignal(number)
  with pytest.raises(errors.Stopped, match=f"{name}.*after step {at} of 9"):
    fit(stopped, evaluators=[raising(number, at)], **SETTINGS)
  assert signal.getsignal(number) == before
  assert "Finishing the step" in capfd.readouterr().err
  assert steps_in(stopped)[-1] == at
  state, _ = fit(stopped, evaluators=[evaluator], **SETTINGS)
  tiny.assert_same(jax.device_get(state), jax.device_get(whole))
  assert rows_of(stopped) == rows_of(tmp_path / "whole")


def test_too_late_for_a_step_it_is_obeyed_after_the_last_one(
  tmp_path, monkeypatch
):
  save = checkpoints.Checkpoints.save

  def signalled(self, step, *args, **kwargs):
    if step == 9:
      signal.raise_signal(signal.SIGINT)
    save(self, step, *args, **kwargs)

  monkeypatch.setattr(checkpoints.Checkpoints, "save", signalled)
  with pytest.raises(KeyboardInterrupt):
    fit(tmp_path, **SETTINGS)
  assert steps_in(tmp_path) == [8, 9]


@pytest.mark.parametrize("numbers", [{"dummy/loss": 1.0}, {}])
def test_a_validation_that_a_signal_cannot_wait_for_is_made_later(
  tmp_path, monkeypatch, numbers
):
  undone = loop.Evaluator(3, lambda state: numbers)
  whole, _ = fit(tmp_path / "whole", evaluators=[undone], **SETTINGS)
  put = sharding.put_batch
  batches = []

  def signalled(batch, mesh):
    batches.append(1)
    if len(batches) == 6:
      signal.raise_signal(signal.SIGTERM)
    return put(batch, mesh)

  stopped = tmp_path / "stopped"
  with monkeypatch.context() as patch:
    patch.setattr(sharding, "put_batch", signalled)
    with pytest.raises(errors.Stopped, match="after step 6"):
      fit(stopped, evaluators=[undone], **SETTINGS)
  found = [r["step"] for r in rows_of(stopped) if "train/loss" not in r]
  assert found == [3]
  state, _ = fit(stopped, evaluators=[undone], **SETTINGS)
  tiny.assert_same(jax.device_get(state), jax.device_get(whole))
  assert rows_of(stopped) == rows_of(tmp_path / "whole")
  # Nor twice: killed after it, and before another checkpoint.
  for step in (8, 9):
    shutil.rmtree(stopped / "checkpoints" / str(step))
  fit(stopped, evaluators=[undone], **SETTINGS)
  assert rows_of(stopped) == rows_of(tmp_path / "whole")


def test_the_second_signal_ends_it_at_once(tmp_path, monkeypatch):
  monkeypatch.setattr(signals, "_ONE_SIGNAL", 0.05)
  evaluators = [raising(signal.SIGTERM, 6, then=signal.SIGINT)]
  with pytest.raises(KeyboardInterrupt):
    fit(tmp_path, evaluators=evaluators, **SETTINGS)
  assert steps_in(tmp_path) == [4]


def test_a_signal_that_is_ignored_stays_so(tmp_path):
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  fit(tmp_path, evaluators=[raising(signal.SIGINT, 4)], **SETTINGS)
  assert steps_in(tmp_path) == [8, 9]


def test_without_a_signal_nothing_is_asked():
  with signals.StopSignals() as stops:
    assert stops.asked(None) == ""
    assert stops.tell({"index": [1]}) == {"index": [1]}


# In programs of their own.


def run_program(folder, workdir, devices, *more):
  """The training program, with its output; a step takes a few milliseconds."""
  return subprocess.Popen(
    program.command(program.fields_of(folder, fsdp=False), workdir, *more),
    env={
      **os.environ,
      "XLA_FLAGS": compiling.xla_flags(devices),
      "PYTHONUNBUFFERED": "1",
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def wait_for_rows(workdir, count, *running):
  deadline = time.monotonic() + 120
  while len(metric_log.read_metrics(workdir)) < count:
    assert time.monotonic() < deadline
    for process in running:
      assert process.poll() is None, process.communicate()[0]
    time.sleep(0.1)


def test_the_program_ends_with_the_code_of_an_unfinished_run(tmp_path):
  folder = tiny.write_folder(tmp_path / "images", 40, labels=True)
  workdir = tmp_path / "run"
  running = run_program(folder, workdir, 1, "--config.steps=1000000")
  wait_for_rows(workdir, 3, running)
  running.send_signal(signal.SIGTERM)
  text, _ = running.communicate(timeout=60)
  assert running.returncode == processes.EXIT_CODE, text
  last = text.splitlines()[-1]
  assert last.startswith("Stopped: SIGTERM: the run is saved after step")
  assert "Traceback" not in text
  assert steps_in(workdir)[-1] >= 3


@pytest.mark.parametrize(
  "number, code, said",
  [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_where_there_are_no_steps_it_ends_at_once(number, code, said):
  code_of_program = (
    "import signal, sys\n"
    "from absl import flags\n"
    "from contrastive_jax.programs import command_line\n"
    "sys.argv = ['program']\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "command_line.run(\n"
    f"  lambda: signal.raise_signal({int(number)}),\n"
    "  flag_values=flags.FlagValues(), usage='',\n"
    "  interrupted='the same command goes on')\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code_of_program],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == code, done.stderr
  assert done.stderr == f"Error: {said}; the same command goes on.\n"


@pytest.mark.exhaustive
def test_one_that_waits_for_the_others_in_vain_says_so(tmp_path):
  alone = run_program(
    tmp_path,
    tmp_path / "run",
    1,
    f"--coordinator=localhost:{program.free_port()}",
    "--process_count=2",
    "--process_id=1",
    "--start_within=3",
  )
  text, _ = alone.communicate(timeout=60)
  assert alone.returncode == processes.EXIT_CODE, text
  assert text.splitlines()[-1].startswith(
    "Stopped: not all processes of the run"
  )
  assert "within 3 s" in text and "Traceback" not in text


@pytest.fixture(name="two")
def fixture_two(tmp_path):
  """Two processes of one run, in the middle of it."""
  folder = tiny.write_folder(tmp_path / "images", 40, labels=True)
  workdir, port = tmp_path / "run", program.free_port()
  running = [
    run_program(
      folder,
      workdir,
      1,
      f"--coordinator=localhost:{port}",
      "--process_count=2",
      f"--process_id={i}",
      "--dead_after=3",
      "--config.steps=1000000",
    )
    for i in range(2)
  ]
  wait_for_rows(workdir, 3, *running)
  yield running
  for process in running:
    process.kill()
    process.communicate()


@pytest.mark.exhaustive
def test_of_two_processes_both_stop_after_the_same_step(two):
  two[1].send_signal(signal.SIGTERM)
  texts = [p.communicate(timeout=120)[0] for p in two]
  for process, text in zip(two, texts):
    assert process.returncode == processes.EXIT_CODE, text
    assert "Stopped: SIGTERM: the run is saved after step" in text
  said = [text[text.index("Stopped:") :].splitlines()[0] for text in texts]
  assert said[0] == said[1]


@pytest.mark.exhaustive
def test_a_frozen_process_is_named(two):
  two[1].send_signal(signal.SIGSTOP)
  began = time.monotonic()
  text, _ = two[0].communicate(timeout=60)
  assert time.monotonic() - began < 60
  assert two[0].returncode == processes.EXIT_CODE, text
  assert "Process 1 of 2 on" in text
  assert "has not answered for 3 s" in text
