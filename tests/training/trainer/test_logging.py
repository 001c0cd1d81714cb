"""Tests of contrastive_jax.training.trainer.metric_log."""

import io
import json

import pytest

from contrastive_jax.training.trainer import metric_log


def test_lines_are_json_objects_in_order(tmp_path):
  log = metric_log.MetricLog(tmp_path)
  log.write(1, {"train/loss": 2.5})
  # Readable while the run is at work.
  assert metric_log.read_metrics(tmp_path) == [{"step": 1, "train/loss": 2.5}]
  log.write(3, {"a": 0.0, "b": -1.0})
  log.close()
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {"step": 1, "train/loss": 2.5},
    {"step": 3, "a": 0.0, "b": -1.0},
  ]


def test_resuming_drops_later_lines_and_half_lines(tmp_path):
  path = tmp_path / "metrics.jsonl"
  rows = [{"step": s, "x": s / 2} for s in (2, 4, 4, 6)]
  text = "".join(json.dumps(r) + "\n" for r in rows)
  path.write_text(text + '{"step": 8, "tr', encoding="utf-8")
  assert [r["step"] for r in metric_log.read_metrics(tmp_path)] == [2, 4, 4, 6]
  log = metric_log.MetricLog(tmp_path, resume_step=4)
  log.write(6, {"x": 9.0})
  log.close()
  assert metric_log.read_metrics(tmp_path) == [
    {"step": 2, "x": 1.0},
    {"step": 4, "x": 2.0},
    {"step": 4, "x": 2.0},
    {"step": 6, "x": 9.0},
  ]
  # A fresh run begins an empty file.
  metric_log.MetricLog(tmp_path).close()
  assert path.read_text() == ""


@pytest.mark.parametrize(
  "junk", [b"\xff\xfe\x00\n", b"[1, 2]\n", b"3\n", b'{"loss": 1}\n', b"\n"]
)
def test_lines_that_are_no_rows_are_left_out(tmp_path, junk):
  good = b'{"step": 1, "x": 2.0}\n'
  (tmp_path / "metrics.jsonl").write_bytes(good + junk + good)
  assert metric_log.read_metrics(tmp_path) == [{"step": 1, "x": 2.0}] * 2
  metric_log.MetricLog(tmp_path, resume_step=1).close()
  assert (tmp_path / "metrics.jsonl").read_bytes() == good + good


def test_no_log_is_an_empty_one(tmp_path):
  assert metric_log.read_metrics(tmp_path) == []


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture(name="now")
def fixture_now(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(metric_log.time, "monotonic", lambda: now[0])
  return now


def test_progress_in_a_file_is_a_line_each(now):
  stream = io.StringIO()
  progress = metric_log.Progress(100, start=40, stream=stream)
  now[0] += 60.0  # Compilation.
  progress.begin(41)
  progress.show(41, loss=3.0)
  now[0] += 25.0
  progress.pause(5.0)
  progress.show(61, loss=1.23456, examples_per_second=1234.5, input_wait=0.25)
  progress.say("a note")
  assert stream.getvalue().splitlines() == [
    "step 41/100  loss 3.0000",
    # 20 s for 20 steps: 39 s for the other 39.
    "step 61/100  loss 1.2346  1,234 examples/s  input wait 25.0%  ETA 0:39",
    "a note",
  ]


def test_progress_on_a_terminal_stays_on_its_line(now):
  stream = Terminal()
  progress = metric_log.Progress(2, stream=stream)
  now[0] += 1.0
  rates = {"examples_per_second": 8.0, "input_wait": 0.0}
  progress.show(1, loss=1.0, **rates)
  progress.say("a note")
  progress.show(2, loss=0.5, **rates)
  text = stream.getvalue()
  assert text.count("\n") == 2 and text.endswith("\n")
  assert text.count("\r\x1b[2K") == 3
  assert "step 2/2  loss 0.5000" in text


def test_what_follows_the_progress_has_a_line_of_its_own(now):
  stream = Terminal()
  progress = metric_log.Progress(9, stream=stream)
  progress.close()
  assert stream.getvalue() == ""
  progress.show(1, loss=1.0)
  assert not stream.getvalue().endswith("\n")
  progress.close()
  assert stream.getvalue().endswith("ETA 0:00\n")
  progress.close()
  progress.say("a note")
  progress.close()
  progress.show(9, loss=1.0)
  progress.close()
  assert stream.getvalue().count("\n") == 3
  # A file has each on a line of its own already.
  stream = io.StringIO()
  progress = metric_log.Progress(9, stream=stream)
  progress.show(1, loss=1.0)
  progress.close()
  assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize(
  "seconds, text",
  [
    (0, "0:00"),
    (59.6, "1:00"),
    (61, "1:01"),
    (3599.4, "59:59"),
    (3723, "1:02:03"),
    (-3, "0:00"),
    (100 * 3600, "100:00:00"),
  ],
)
def test_seconds(seconds, text):
  assert metric_log.format_seconds(seconds) == text


def test_other_hosts_write_nothing(tmp_path):
  log = metric_log.MetricLog(tmp_path, active=False)
  log.write(1, {"x": 1.0})
  log.close()
  assert not list(tmp_path.iterdir())
