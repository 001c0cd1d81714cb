"""Conversion as a whole, and what is read back."""

import gzip
import io
import multiprocessing
import os
import pathlib
import pickle
import re
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import pipeline
from contrastive_jax.data.sets.choices import Request
from contrastive_jax.data.sets.folder import reading
from contrastive_jax.data.sets.records import (
  Records,
  caption_tables,
  conversion,
  items,
  tars,
)
from contrastive_jax.data.sets.records import source as record_source
from contrastive_jax.training import config as config_lib
from tests.data.pairs import (
  BLUE,
  RED,
  converted,
  files,
  pair,
  picture,
  read,
  shards,
  write_tar,
)


def test_processes_make_what_one_makes(tmp_path):
  pattern = shards(tmp_path)
  one, _ = converted(tmp_path / "a", pattern)
  two, _ = converted(tmp_path / "b", pattern, workers=2)
  assert files(one) == files(two)


def test_a_conversion_that_was_stopped_goes_on(tmp_path, monkeypatch):
  pattern = shards(tmp_path)
  whole, _ = converted(tmp_path / "whole", pattern)
  real, done = conversion._Writer.close, []

  def close(self):
    if len(done) == 2:
      raise KeyboardInterrupt
    done.append(self)
    real(self)

  monkeypatch.setattr(conversion._Writer, "close", close)
  with pytest.raises(KeyboardInterrupt):
    converted(tmp_path, pattern)
  assert len(list((tmp_path / "out" / "units").iterdir())) == 2
  monkeypatch.setattr(conversion._Writer, "close", real)
  made = []
  monkeypatch.setattr(
    conversion._Writer,
    "__init__",
    lambda self, *args, init=conversion._Writer.__init__: (
      made.append(args[-1]),
      init(self, *args),
    )[1],
  )
  out, _ = converted(tmp_path, pattern)
  assert made == [2, 3]
  assert files(out) == files(whole)
  # A file that is cut short afterwards is found and made again.
  path = out / "train" / "00001.image.array_record"
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(reading.DataError, match="00001.image.* 100 bytes"):
    record_source.load(str(out), image_size=4)
  converted(tmp_path, pattern)
  assert files(out) == files(whole)


def test_an_input_that_changed_is_converted_again(tmp_path):
  pattern = shards(tmp_path)
  out, _ = converted(tmp_path, pattern)
  before = record_source.load(str(out), image_size=4)["train"].fingerprint
  write_tar(tmp_path / "1.tar", pair("a", RED, "another"))
  _, summary = converted(tmp_path, pattern)
  assert summary.examples["train"] == 10
  source = record_source.load(str(out), image_size=4)["train"]
  assert source.fields(3)["captions"][0].text == "another"
  assert source.fingerprint != before


def test_other_settings_need_another_folder(tmp_path):
  pattern = shards(tmp_path)
  converted(tmp_path, pattern)
  with pytest.raises(reading.DataError, match="shorter_side=0.* 4"):
    converted(tmp_path, pattern, shorter_side=4)
  occupied = tmp_path / "occupied"
  (occupied / "out").mkdir(parents=True)
  (occupied / "out" / "precious").write_text("x")
  with pytest.raises(reading.DataError, match="occupied/out"):
    converted(occupied, pattern)


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(format="zip"), "^format .*'zip'"),
    (dict(shorter_side=-1), "^shorter_side .*-1"),
    (dict(validation=0.6, test=0.5), "validation .*0.6 and 0.5"),
    (dict(validation=-0.1), "validation .*-0.1"),
  ],
)
def test_settings_out_of_range(options, message):
  with pytest.raises(ValueError, match=message):
    conversion.ConversionSettings(("x",), **options)


def test_inputs_that_are_not_there_or_not_known(tmp_path):
  with pytest.raises(reading.DataError, match=r"\*\.tar' "):
    converted(tmp_path, tmp_path / "*.tar")
  (tmp_path / "empty").mkdir()
  with pytest.raises(reading.DataError, match="empty' "):
    converted(tmp_path, tmp_path / "empty")
  (tmp_path / "a.bin").write_bytes(b"x")
  with pytest.raises(reading.DataError, match="a.bin.*--format"):
    converted(tmp_path, tmp_path / "a.bin")


def test_captions_are_held_out_together(tmp_path):
  members = []
  for i in range(300):
    members += pair(f"{i}a", RED, f"caption {i}") + pair(
      f"{i}b", BLUE, f"Caption  {i}"
    )
  shard = write_tar(tmp_path / "a.tar", members)
  out, summary = converted(tmp_path, shard, validation=0.1, test=0.2)
  sizes = summary.examples
  assert 30 < sizes["validation"] < 100 and 80 < sizes["test"] < 160
  texts = {
    split: {r["captions"][0].lower().split()[1] for r in read(out, split)}
    for split in sizes
  }
  assert not texts["train"] & (texts["validation"] | texts["test"])
  assert {split: 2 * len(t) for split, t in texts.items()} == sizes
  ids = [r["concept_id"] for r in read(out)]
  assert ids[0] == ids[1] and len(set(ids)) == len(ids) // 2


def test_larger_images_are_made_smaller(tmp_path):
  shard = write_tar(
    tmp_path / "a.tar",
    [
      *pair("large", picture("red", (90, 60), "JPEG"), "large", "jpg"),
      *pair("small", RED, "small"),
    ],
  )
  out, _ = converted(tmp_path, shard, shorter_side=20)
  stored = record_source.load(str(out), image_size=4)["train"]._files[0]
  with Image.open(io.BytesIO(stored[0])) as image:
    assert image.size == (30, 20) and image.format == "JPEG"
  assert stored[1] == RED


@pytest.fixture
def two(tmp_path):
  outs = []
  for name, count in (("a", 4), ("b", 12)):
    (tmp_path / name).mkdir()
    pattern = shards(tmp_path / name, 2, count // 2)
    outs.append(str(converted(tmp_path / name, pattern)[0]))
  return outs


def opened(paths, **fields):
  data = Records(path=tuple(paths), **{"vocab_size": 300, **fields})
  return data.open(Request(image_size=4))


def batches(data, count, **options):
  iterator = pipeline.train_batches(
    data.splits["train"],
    tokenizer=data.tokenizer,
    sampler=pipeline.CaptionSampler(languages={"": 1.0}),
    context_length=8,
    seed=3,
    **{"batch_size": 8, **options},
  )
  return iterator, [next(iterator) for _ in range(count)]


def test_a_mixture_is_drawn_by_its_weights(two):
  data = opened(two, mixture=(3.0, 1.0))
  assert data.splits["train"].index_bound == 16
  _, found = batches(data, 24)
  index = np.concatenate([b["index"] for b in found])
  assert np.sum(index < 4) == 144 and len(index) == 192
  # Each part has epochs of its own.
  for part in (
    index[index < 4].reshape(-1, 4),
    index[index >= 4].reshape(-1, 12),
  ):
    assert all(len(set(epoch)) == len(epoch) for epoch in part)
    assert len({tuple(epoch) for epoch in part}) > 1


def test_without_weights_an_epoch_has_every_pair_once(two):
  data = opened(two)
  _, found = batches(data, 4)
  index = np.concatenate([b["index"] for b in found])
  assert sorted(index[:16]) == list(range(16)) == sorted(index[16:])
  assert data.splits["train"].fields(5)["captions"][0].text == "shard 0 1"


def test_hosts_share_a_mixture_and_its_state_goes_on(two):
  data = opened(two, mixture=(1.0, 1.0))
  iterator, whole = batches(data, 6)
  state = iterator.get_state()
  after = next(iterator)
  parts = [
    batches(data, 6, process_index=i, process_count=2)[1] for i in range(2)
  ]
  for i, batch in enumerate(whole):
    joined = np.concatenate([part[i]["image"] for part in parts])
    np.testing.assert_array_equal(joined, batch["image"])
  again, _ = batches(data, 0)
  again.set_state(state)
  np.testing.assert_array_equal(next(again)["index"], after["index"])


def test_sources_are_read_by_other_processes(two):
  source = record_source.load(two[0], image_size=4)["train"]
  first = source[0]
  copy = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(copy[0]["image"], first["image"])
  assert repr(copy) == repr(source)
  with pytest.raises(IndexError):
    copy[4]


def test_the_fingerprint_follows_content_order_and_weights(tmp_path, two):
  made = [
    opened(two).fingerprint,
    opened(two[::-1]).fingerprint,
    opened(two, mixture=(1.0, 2.0)).fingerprint,
    opened(two[:1]).fingerprint,
  ]
  assert len(set(made)) == len(made)
  assert opened(two).fingerprint == made[0]
  with pytest.raises(ValueError, match="^weights .*got 1 and 2"):
    record_source.Mixture([1, 2], [1.0])


@pytest.mark.parametrize("mixture", [(1.0,), (0.0, 1.0)])
def test_weights_of_a_mixture_are_checked(two, mixture):
  config = config_lib.default_config()
  config.data = {"name": "records", "path": two, "mixture": mixture}
  with pytest.raises(config_lib.ConfigError) as caught:
    config_lib.parse(config)
  assert str(caught.value).startswith("config.data.mixture ")
  assert f"(2); got {mixture!r}" in str(caught.value)


def test_squares_of_a_mixture(two):
  train = opened(two, mixture=(3.0, 1.0), fit="crop").splits["train"]
  assert train.weights == (3.0, 1.0) and train.bounds == (0, 4, 16)
  # Cut to the middle: nothing of it is white.
  assert (train[0]["image"][0] < 250).any(axis=-1).all()


def test_damaged_records_are_named(two):
  root = pathlib.Path(two[0])
  path = root / "train" / "00000.image.array_record"
  data = path.read_bytes()
  place = data.index(b"IHDR")
  path.write_bytes(data[:place] + bytes(40) + data[place + 40 :])
  source = record_source.load(two[0], image_size=4)["train"]
  with pytest.raises(reading.DataError, match="Pair 0 .*00000.image"):
    source[0]
  (root / "dataset.json").write_text("{}")
  with pytest.raises(reading.DataError, match="dataset.json"):
    record_source.load(two[0], image_size=4)
  (root / "dataset.json").unlink()
  with pytest.raises(reading.DataError, match="dataset.json"):
    record_source.load(two[0], image_size=4)


def test_squares_by_padding_cropping_and_stretching(tmp_path):
  image = Image.new("RGB", (16, 8), "red")
  image.paste("blue", (4, 0, 12, 8))
  file = io.BytesIO()
  image.save(file, format="PNG")
  shard = write_tar(tmp_path / "a.tar", pair("a", file.getvalue(), "x"))
  out, _ = converted(tmp_path, shard)
  found = {
    fit: read(out, fit=fit)[0]["image"] for fit in ("pad", "crop", "stretch")
  }
  assert found["pad"][0].tolist() == [[255, 255, 255]] * 4
  # The middle of the picture is blue, its edges are red.
  assert found["crop"][2, 0, 2] > 180 and found["crop"][2, 3, 2] > 180
  assert found["stretch"][2, 0, 0] > 180 and found["stretch"][0, 2, 2] > 180


def test_a_killed_process_is_told(tmp_path, monkeypatch):
  fork = multiprocessing.get_context("fork")
  monkeypatch.setattr(
    conversion.multiprocessing, "get_context", lambda unused: fork
  )
  monkeypatch.setattr(conversion, "_convert_unit", _die)
  with pytest.raises(reading.DataError, match="--workers"):
    converted(tmp_path, shards(tmp_path), workers=2)


def _die(*unused):
  os._exit(9)


def test_compressed_data_that_is_wrong_is_a_problem(tmp_path):
  shard = tmp_path / "a.tar.gz"
  shard.write_bytes(gzip.compress(b"hello" * 1000))
  assert [p.key for p in tars.read(shard)] == ["a.tar.gz"]
  assert caption_tables.USUAL == caption_tables.Columns()


def test_what_is_lost_counts_not_the_lines_that_say_so(tmp_path):
  for i in range(3):
    (tmp_path / f"{i}.tar").write_bytes(b"<html>gone</html>" * 99)
  good = [m for i in range(100) for m in pair(str(i), RED, f"n{i}")]
  write_tar(tmp_path / "9.tar", good)
  with pytest.raises(reading.DataError, match="3 of 4 "):
    converted(tmp_path, tmp_path / "*.tar", max_bad_share=0.5)
  problem = items.Problem("a", "broken parquet: rows 5 to 99", 95)
  result = {"problems": [list(problem)]}
  assert conversion._counted(result) == {
    "problems": {"broken parquet": 95},
    "broken": False,
  }


def test_more_parts_than_a_process_may_open_files(tmp_path):
  out, _ = converted(tmp_path, shards(tmp_path, 40, 1))
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  used = len(os.listdir("/proc/self/fd"))
  resource.setrlimit(resource.RLIMIT_NOFILE, (used + 30, hard))
  try:
    assert len(read(out)) == 40
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_text_that_is_damaged_is_named(two):
  root = pathlib.Path(two[0])
  path = root / "train" / "00000.text.array_record"
  data = bytearray(path.read_bytes())
  data[data.index(b"captions") - 30 : data.index(b"captions") + 30] = bytes(60)
  path.write_bytes(data)
  source = record_source.load(two[0], image_size=4)["train"]
  with pytest.raises(reading.DataError, match="00000.text"):
    source.fields(0)


def test_killed_beside_another_process_it_loses_nothing(tmp_path):
  """Two conversions into one folder, one of them killed in the middle."""
  pattern = shards(tmp_path, 30, 20)
  whole, _ = converted(tmp_path / "whole", pattern)
  out = tmp_path / "out"
  command = [sys.executable, "-m", "experiments.convert_pairs"]
  command += [f"--inputs={pattern}", f"--out={out}", "--workers=1"]
  processes = [
    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for _ in range(2)
  ]
  deadline = time.monotonic() + 60
  while not list(out.glob("units/*.json")) and time.monotonic() < deadline:
    time.sleep(0.002)
  processes[0].kill()
  _, errors = processes[1].communicate(timeout=100)
  processes[0].communicate()
  assert processes[1].returncode == 0, errors
  made = {k: v for k, v in files(out).items() if "/." not in f"/{k}"}
  assert made == files(whole)
  # Files that the killed one left are removed once they are old.
  left = out / "train" / ".00000.image.array_record.12-0123abcd"
  other = out / "train" / ".not-ours"
  for path in (left, other):
    path.write_bytes(b"x")
    os.utime(path, (0, 0))
  converted(tmp_path, pattern)
  assert not left.exists() and other.exists()


def test_progress_is_told_with_the_time_to_go(tmp_path, monkeypatch):
  monkeypatch.setattr(conversion, "_REPORT_EVERY", 0.0)
  lines = []
  converted(tmp_path, shards(tmp_path, 4, 2), report=lines.append)
  assert lines[0].startswith("4 input file(s) to ")
  assert re.fullmatch(
    r"1 of 4 files, 2 examples, 0 bad; [\d,]+ examples/s  ETA \d+ min", lines[1]
  )
  assert lines[4].endswith("ETA 0 min")


def test_a_folder_whose_settings_were_half_written_is_taken(tmp_path):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / ".conversion.json.1-0123abcd").write_text("{")
  out, _ = converted(tmp_path, shards(tmp_path))
  assert len(read(out)) == 12
