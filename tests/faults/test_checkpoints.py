"""Checkpoints that are damaged, cannot be written, or are to be kept."""

import json
import resource
import shutil

import jax
import numpy as np
import pytest

from contrastive_jax.training.config import errors
from contrastive_jax.training.distributed import example_tables
from contrastive_jax.training.trainer import checkpoints, integrity, loop
from tests.training import tiny
from tests.training.toy import fit, restored, rows_of, steps_in

SETTINGS = dict(steps=6, checkpoint_every=2, keep_checkpoints=3)


@pytest.fixture(name="finished", scope="module")
def fixture_finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("finished")
  state, _ = fit(workdir, **SETTINGS)
  return workdir, jax.device_get(state)


@pytest.fixture(name="workdir")
def fixture_workdir(finished, tmp_path):
  shutil.copytree(finished[0], tmp_path / "run")
  return tmp_path / "run"


def largest_file(workdir, step):
  folder = workdir / "checkpoints" / str(step)
  files = [p for p in folder.rglob("*") if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def truncate(path):
  path.write_bytes(path.read_bytes()[:-1])


def empty(path):
  path.write_bytes(b"")


def flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def remove(path):
  path.unlink()


def resume(workdir, lines):
  return fit(workdir, report=lines.append, **SETTINGS)[0]


@pytest.mark.parametrize(
  "damage, said",
  [
    (truncate, "bytes instead of"),
    (empty, "has 0 bytes instead of"),
    (flip_a_bit, "has changed"),
    (remove, "is missing"),
  ],
)
def test_the_newest_good_one_is_used_and_the_bad_ones_named(
  workdir, finished, damage, said
):
  for step in (4, 6):
    damage(largest_file(workdir, step))
  lines = []
  state = resume(workdir, lines)
  for line, step in zip(lines, (6, 4)):
    assert f"step {step} is damaged" in line and said in line
    assert str(workdir / "damaged" / str(step)) in line
  assert lines[2] == f"Resuming {workdir} at step 2."
  tiny.assert_same(jax.device_get(state), finished[1])
  assert rows_of(workdir) == rows_of(finished[0])
  assert steps_in(workdir) == [2, 4, 6]
  # Nothing is lost, and the steps trained again are good.
  assert sorted(p.name for p in (workdir / "damaged").iterdir()) == ["4", "6"]
  assert [integrity.problem(workdir, s) for s in (2, 4, 6)] == [""] * 3


def test_damaged_twice_both_are_kept(workdir):
  for _ in range(2):
    flip_a_bit(largest_file(workdir, 6))
    resume(workdir, [])
  assert sorted(p.name for p in (workdir / "damaged").iterdir()) == ["6", "6-2"]


def test_files_may_be_links(workdir, tmp_path):
  path = largest_file(workdir, 6)
  path.symlink_to(path.rename(tmp_path / "elsewhere"))
  assert integrity.problem(workdir, 6) == ""
  flip_a_bit(path)
  assert "has changed" in integrity.problem(workdir, 6)


def test_an_older_bad_one_is_not_in_the_way(workdir):
  flip_a_bit(largest_file(workdir, 2))
  lines = []
  resume(workdir, lines)
  assert lines[0] == f"Resuming {workdir} at step 6."
  with pytest.raises(
    checkpoints.CheckpointError, match=f"^{workdir}/checkpoints/2 .*state"
  ):
    restored(workdir, step=2)


def test_without_a_good_one_it_stops_before_training(workdir):
  for step in (2, 4, 6):
    empty(largest_file(workdir, step))
  lines = []
  with pytest.raises(checkpoints.CheckpointError) as caught:
    resume(workdir, lines)
  assert f"No checkpoint in {workdir / 'checkpoints'} is whole" in str(
    caught.value
  )
  assert "step 6" in str(caught.value) and not lines
  assert steps_in(workdir) == [2, 4, 6]  # They are left as they were.


def test_one_of_a_newer_version_is_refused(workdir):
  path = workdir / "checksums" / "6.json"
  content = json.loads(path.read_text())
  path.write_text(json.dumps({**content, "format": 2}))
  with pytest.raises(checkpoints.CheckpointError, match=r"\b6 .*\b2\b"):
    resume(workdir, [])
  assert steps_in(workdir) == [2, 4, 6]


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', "\0"])
def test_digests_that_cannot_be_read_vouch_for_nothing(workdir, content):
  (workdir / "checksums" / "6.json").write_text(content)
  lines = []
  resume(workdir, lines)
  assert "digests" in lines[0] and "at step 4" in lines[1]


def test_killed_before_the_digests_were_written_it_goes_on(workdir, finished):
  (workdir / "checksums" / "6.json").unlink()
  lines = []
  state = resume(workdir, lines)
  assert lines == [f"Resuming {workdir} at step 6."]
  tiny.assert_same(jax.device_get(state), finished[1])


def test_one_of_several_processes_goes_on_in_one(workdir, finished):
  """Where the data stood is the same in all, and in a file of each."""
  for step in (4, 6):
    shutil.rmtree(workdir / "checkpoints" / str(step))
  (workdir / "checksums" / "2.json").unlink()
  data = workdir / "checkpoints" / "2" / "data"
  shutil.copy(data / "process_0-of-1.json", data / "process_1-of-2.json")
  (data / "process_0-of-1.json").rename(data / "process_0-of-2.json")
  state = resume(workdir, [])
  tiny.assert_same(jax.device_get(state), finished[1])


def test_digests_go_with_their_checkpoints(tmp_path):
  fit(tmp_path, steps=6, checkpoint_every=2, keep_checkpoints=1)
  assert [p.name for p in (tmp_path / "checksums").iterdir()] == ["6.json"]


# Orbax leaves a coroutine behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_leaves_the_earlier_ones(tmp_path, finished, monkeypatch):
  """A limit of the size of files fails as a full disk does, while writing."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  to_file, saves = example_tables.to_file, []

  def limited(state):
    saves.append(1)
    if len(saves) == 3:
      resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    return to_file(state)

  monkeypatch.setattr(example_tables, "to_file", limited)
  try:
    with pytest.raises(checkpoints.CheckpointError) as caught:
      fit(tmp_path, **SETTINGS)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert "checkpoint of step 6 cannot be written" in str(caught.value)
  assert "make room" in str(caught.value)
  monkeypatch.undo()
  state, _ = fit(tmp_path, **SETTINGS)
  tiny.assert_same(jax.device_get(state), finished[1])
  assert steps_in(tmp_path) == [2, 4, 6]


# Checkpoints that stay.


def validation(scores):
  """An evaluator of every step, whose headline are the given scores."""

  def run(state):
    score = scores[int(state.step) - 1]
    return {"a/x": score - 1, "a/y": score + 1, "a/other": -100.0 * score}

  return loop.Evaluator(
    1, run, lambda numbers: {k: numbers[k] for k in ("a/x", "a/y")}
  )


def test_the_best_one_the_newest_and_every_nth_stay(tmp_path):
  scores = [0.1, 0.9, 0.3, 0.2, 0.4, 0.5, 0.6]
  settings = dict(
    steps=8,
    checkpoint_every=4,
    keep_checkpoints=1,
    keep_every=3,
    keep_best=True,
  )
  fit(tmp_path, evaluators=[validation(scores)], **settings)
  assert steps_in(tmp_path) == [2, 3, 6, 8]
  saved = checkpoints.Checkpoints(tmp_path, keep=None)
  assert saved.best_step == 2
  saved.close()


def test_without_a_headline_there_is_no_best_one(tmp_path):
  evaluator = loop.Evaluator(1, lambda state: {"a/x": 1.0}, lambda numbers: {})
  with pytest.raises(errors.ConfigError, match="keep_best.*got a/x"):
    fit(tmp_path, evaluators=[evaluator], keep_best=True)
  fit(tmp_path, evaluators=[evaluator], keep_best=False)


def test_the_best_one_is_known_after_a_restart(tmp_path):
  settings = dict(
    steps=6, checkpoint_every=2, keep_checkpoints=1, keep_best=True
  )
  scores = [0.1, 0.9, 0.3, 0.2, 0.4]

  def interrupted(state):
    if int(state.step) == 5:
      raise KeyboardInterrupt
    return {"a/x": scores[int(state.step) - 1]}

  with pytest.raises(KeyboardInterrupt):
    fit(tmp_path, evaluators=[loop.Evaluator(1, interrupted)], **settings)
  fit(tmp_path, evaluators=[validation(scores)], **settings)
  assert steps_in(tmp_path) == [2, 6]


# On other devices.


@pytest.mark.parametrize("devices", [1, 4])
def test_it_goes_on_with_the_same_losses_on_other_devices(
  finished, workdir, devices
):
  for step in (4, 6):
    shutil.rmtree(workdir / "checkpoints" / str(step))
  fit(workdir, devices=devices, **SETTINGS)
  losses = [
    [r["train/loss"] for r in rows_of(w)] for w in (workdir, finished[0])
  ]
  assert len(losses[0]) == 6
  np.testing.assert_allclose(*losses, rtol=1e-6)
