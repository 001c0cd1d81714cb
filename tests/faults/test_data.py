"""Other people's data: what is bad is counted and listed, and nothing hangs."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data.sets.folder import reading
from contrastive_jax.training.runs import runner
from contrastive_jax.training.trainer import checkpoints
from tests.training import tiny

_RTL = "قطة حمراء صغيرة"


@pytest.fixture(name="root")
def fixture_root(tmp_path):
  return tiny.write_folder(tmp_path / "images", 100, labels=True)


def add_rows(root, *rows):
  with (root / "captions.jsonl").open("a", encoding="utf-8") as file:
    file.writelines(json.dumps(row) + "\n" for row in rows)


def settings(root, **changes):
  return tiny.make_config(
    data="folder",
    data__path=str(root),
    steps=2,
    evaluation=("retrieval", "zero_shot", "geometry"),
    evaluation__plots=False,
    **changes,
  )


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  tiny.use_devices(monkeypatch, 1)


def picture(root, name, mode, **options):
  image = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  )
  if mode == "I;16":
    image = Image.fromarray(np.asarray(image, np.uint16)[..., 0] * 257)
  else:
    image = image.convert(mode)
  image.save(root / name, **options)
  return {"image": name, "caption": f"a picture named {name}"}


def test_a_folder_with_all_kinds_of_faults_trains_and_lists_them(
  root, tmp_path
):
  # Odd rows that can be read: modes, an animation, another suffix, texts.
  frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
  frames[0].save(root / "a.gif", save_all=True, append_images=frames[1:])
  shutil.copy(root / "000.png", root / "no_jpeg.jpg")
  good = [
    picture(root, "cmyk.jpg", "CMYK"),
    picture(root, "palette.gif", "P"),
    picture(root, "deep.png", "I;16"),
    {"image": "a.gif", "caption": "two colours"},
    {"image": "no_jpeg.jpg", "caption": "of another format than its name"},
    {"image": "001.png", "caption": _RTL},
    {"image": "002.png", "caption": "long " * 200_000},
  ]
  # Rows that cannot be read.
  (root / "empty.png").write_bytes(b"")
  (root / "cut.png").write_bytes((root / "003.png").read_bytes()[:99])
  Image.new("1", (10_000, 10_000)).save(root / "large.png")
  bad = [
    {"image": "empty.png", "caption": "no byte"},
    {"image": "cut.png", "caption": "half of it"},
    {"image": "large.png", "caption": "100 megapixels"},
    {"image": "absent.png", "caption": "not there"},
    {"image": "004.png"},
  ]
  add_rows(root, *good, *bad)
  with (root / "captions.jsonl").open("ab") as file:
    file.write(b'{"image": "005.png", "caption": "caf\xe9"}\n')
  results = runner.train(
    settings(root, data__max_bad_share=0.06),
    tmp_path / "run",
    report=lambda line: None,
  )
  assert results["train/steps"] == 2
  lines = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
  listed = [row for row in map(json.loads, lines) if row["skipped"]]
  names = {row["image"] for row in listed}
  assert {row["image"] for row in bad} <= names and len(listed) == 6
  assert any("UTF-8" in row["problem"] for row in listed)
  assert any(
    "100000000" in row["problem"] or "10000" in row["problem"] for row in listed
  )


def test_above_the_stated_share_nothing_is_trained(root, tmp_path):
  add_rows(root, *[{"image": f"no{i}.png", "caption": "x"} for i in range(9)])
  with pytest.raises(reading.DataError, match="max_bad_share"):
    runner.train(
      settings(root, data__max_bad_share=0.05),
      tmp_path / "run",
      report=lambda line: None,
    )
  assert not (tmp_path / "run" / "checkpoints").exists()


def test_images_that_change_end_the_run_which_goes_on_with_the_old_ones(
  root, tmp_path, monkeypatch
):
  """Where they do not fit into memory they are read when they are needed."""
  scan = reading.scan_folder
  monkeypatch.setattr(
    reading, "scan_folder", functools.partial(scan, cache_bytes=0)
  )
  config, workdir = settings(root, checkpoint_every=1), tmp_path / "run"
  config = dataclasses.replace(config, steps=20)
  kept = {path: path.read_bytes() for path in root.glob("*.png")}

  save = checkpoints.Checkpoints.save

  def spoil(*args, **kwargs):
    save(*args, **kwargs)
    for path, content in kept.items():
      path.write_bytes(content[:30])

  with monkeypatch.context() as patch:
    patch.setattr(checkpoints.Checkpoints, "save", spoil)
    with pytest.raises(reading.DataError, match=f"{root}/.*.png "):
      runner.train(config, workdir, report=lambda line: None)
  for path, content in kept.items():
    path.write_bytes(content)
  lines = []
  assert runner.train(config, workdir, report=lines.append)["train/steps"] == 20
  assert any(line.startswith("Resuming") for line in lines)
