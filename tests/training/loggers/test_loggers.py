"""Tests of contrastive_jax.training.loggers."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from contrastive_jax.choices import field
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.loggers import choices, tensorboard
from contrastive_jax.training.runs import runner
from contrastive_jax.training.trainer import metric_log
from tests.training import tiny


@dataclasses.dataclass(frozen=True)
class Lines:
  """A user's own: lines in a file."""

  file: str = field("lines", "File in the workdir.")

  def open(self, workdir, config):
    return _Lines(workdir / self.file, config)


class _Lines:
  def __init__(self, path, config):
    self.path, self.config = path, config

  def begin(self, step):
    self.file = self.path.open("a")
    self._say("begin", step, self.config["seed"])

  def write(self, step, numbers):
    self._say("write", step, sorted(numbers))

  def finish(self, step, results, pictures):
    self._say("finish", step, results, [p.name for p in pictures])

  def close(self):
    self._say("close")
    self.file.close()

  def _say(self, *what):
    self.file.write(json.dumps(what) + "\n")


@pytest.fixture(name="data", scope="module")
def fixture_data(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  tiny.write_folder(root, 40)
  return root


@pytest.fixture(name="wandb_files")
def fixture_wandb_files(tmp_path, monkeypatch):
  """Where Weights & Biases keeps what it would send."""
  wandb = pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_SILENT", "true")
  monkeypatch.setenv("WANDB_DIR", str(tmp_path))
  yield tmp_path / "wandb"
  wandb.teardown()  # It reads the environment once.


def _config(data, *loggers, **fields):
  return tiny.make_config(
    data="folder",
    data__path=str(data),
    data__vocab_size=tiny.VOCABULARY,
    logging=",".join(loggers),
    **{"steps": 4, "log_every": 2, "evaluation": "", **fields},
  )


def test_a_users_own_logger_hears_all_of_a_run(data, tmp_path):
  own = f"{__name__}:Lines"
  config = _config(data, own, **{f"logging.{own}.file": "mine", "seed": 3})
  results = runner.train(config, tmp_path, report=lambda line: None)
  first, *written, finish, close = [
    json.loads(line) for line in (tmp_path / "mine").read_text().splitlines()
  ]
  assert first == ["begin", 0, 3] and close == ["close"]
  rows = metric_log.read_metrics(tmp_path)
  assert [x[1] for x in written] == [row["step"] for row in rows]
  assert all("train/loss" in x[2] for x in written if x[1] % 2 == 0)
  assert finish[:3] == ["finish", 4, results]
  assert not (tmp_path / "tensorboard").exists()
  # What it is logged to may change when a run goes on; then it is the same run.
  more = _config(data, own, "tensorboard", steps=6, seed=3)
  runner.train(more, tmp_path, report=lambda line: None)
  lines = (tmp_path / "lines").read_text().splitlines()
  assert json.loads(lines[0]) == ["begin", 4, 3]
  assert list((tmp_path / "tensorboard").iterdir())


def test_a_logger_is_closed_when_training_fails(data, tmp_path, monkeypatch):
  own = f"{__name__}:Lines"
  monkeypatch.setattr(runner.loop, "fit", lambda *args, log, **kw: _fail(log))
  with pytest.raises(ZeroDivisionError):
    runner.train(_config(data, own), tmp_path, report=lambda line: None)
  assert json.loads((tmp_path / "lines").read_text().splitlines()[-1]) == [
    "close"
  ]
  assert not (tmp_path / "results.json").exists()


def _fail(log):
  log.begin(0)
  raise ZeroDivisionError


def test_an_absent_package_is_said_before_the_data(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  config = _config(tmp_path / "nowhere", "wandb")
  with pytest.raises(config_lib.ConfigError, match=r"config\.logging\.wandb"):
    runner.train(config, tmp_path / "run", report=lambda line: None)
  # A workdir that another machine has logged so is readable here.
  assert config_lib.parse(config.to_dict()) == config


def test_weights_and_biases_has_the_run(data, tmp_path, wandb_files):
  config = _config(data, "wandb", **{"logging.wandb.mode": "offline"})
  workdir = tmp_path / "run"
  runner.train(config, workdir, report=lambda line: None)
  name = (workdir / "wandb_id").read_text()
  (kept,) = wandb_files.glob(f"offline-run-*/run-{name}.wandb")
  content = kept.read_bytes()
  for row in metric_log.read_metrics(workdir):
    for key in row:
      assert key.encode() in content
  # It goes on under the same name.
  more = _config(data, "wandb", steps=6, **{"logging.wandb.mode": "offline"})
  runner.train(more, workdir, report=lambda line: None)
  assert (workdir / "wandb_id").read_text() == name
  assert len(list(wandb_files.glob("offline-run-*"))) == 2


@pytest.mark.parametrize("finished", [False, True])
def test_weights_and_biases_marks_what_was_stopped(
  tmp_path, monkeypatch, wandb_files, finished
):
  Image.new("RGB", (6, 4)).save(tmp_path / "curves.png")
  log = choices.Wandb(mode="offline").open(tmp_path, {"seed": 3})
  log.begin(0)
  codes, finish = [], log._run.finish
  monkeypatch.setattr(
    log._run,
    "finish",
    lambda exit_code: (codes.append(exit_code), finish(exit_code)),
  )
  log.write(1, {"train/loss": 2.0})
  if finished:
    log.finish(1, {"knn/accuracy": 0.5}, [tmp_path / "curves.png"])
  log.close()
  assert codes == [0 if finished else 1]
  media = [p for p in wandb_files.rglob("*.png") if p.is_file()]
  assert len({p.resolve() for p in media}) == finished


def test_values_that_are_not_finite_do_not_reach_tensorboard(tmp_path):
  log = tensorboard.Log(tmp_path, {})
  log.begin(0)
  log.write(1, {"sound": 1.0, "unsound": float("inf")})
  log.close()
  (events,) = (tmp_path / "tensorboard").iterdir()
  assert b"unsound" not in events.read_bytes()
  assert b"sound" in events.read_bytes()


def test_tensorboard_does_not_import_torch(tmp_path):
  """Where it is installed, that would take seconds and much memory."""
  (tmp_path / "torch.py").write_text("print('torch is imported')")
  code = (
    "import pathlib\n"
    "from contrastive_jax.training.loggers import tensorboard\n"
    f"log = tensorboard.Log(pathlib.Path({str(tmp_path)!r}), {{}})\n"
    "log.begin(0)\n"
    "log.write(1, {'a': 1.0})\n"
    "log.close()\n"
    "print('written')\n"
    "import torch\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"},
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.split("\n")[:2] == ["written", "torch is imported"]
  assert list((tmp_path / "tensorboard").iterdir())


def test_a_finished_run_is_in_tensorboard(tmp_path):
  from tensorboardX import proto  # Not before the test of what it imports.

  Image.new("RGB", (6, 4), "red").save(tmp_path / "curves.png")
  log = tensorboard.Log(tmp_path, {"seed": 3, "model": {"preset": "tiny"}})
  log.begin(6)
  results = {
    "retrieval/recall": 0.5,
    "train/seconds": 3.0,
    "bad/nan": float("nan"),
  }
  log.finish(7, results, [tmp_path / "curves.png"])
  log.close()
  (events,) = (tmp_path / "tensorboard").iterdir()
  found = {}
  for record in _records(events.read_bytes()):
    event = proto.event_pb2.Event.FromString(record)
    for value in event.summary.value:
      found[value.tag] = event.step, value
  assert found["retrieval/recall"][0] == 7
  assert found["retrieval/recall"][1].simple_value == 0.5
  assert (found["plots/curves"][1].image.width) == 6
  text = found["config/text_summary"][1].tensor.string_val[0].decode()
  assert '"preset": "tiny"' in text
  assert not {"train/seconds", "bad/nan"} & set(found)


def _records(data):
  """Records of a file of events: length, checksum, content, checksum."""
  while data:
    length = int.from_bytes(data[:8], "little")
    yield data[12 : 12 + length]
    data = data[16 + length :]
