"""Pictures become squares as `config.data.fit` asks, wherever they come from."""

import pytest

from tests.data import official_files
from tests.data.folders import RED, row, save, scan, write_jsonl


@pytest.mark.parametrize("cache_bytes", [0, 2**29])
@pytest.mark.parametrize("fit, white", [("pad", True), ("crop", False)])
def test_wide_pictures_of_a_folder(tmp_path, cache_bytes, fit, white):
  root = tmp_path / "photos"
  save(root / "a.png", size=(40, 10))
  write_jsonl(root, [row("a.png")])
  found = scan(root, fit=fit, cache_bytes=cache_bytes).train[0]["image"]
  assert (found[0] == 255).all() == white
  assert tuple(found[8, 8]) == RED


@pytest.mark.parametrize("fit, white", [("pad", True), ("stretch", False)])
def test_wide_pictures_of_official_data(tmp_path, fit, white):
  root = tmp_path / "images"
  save(root / "a.png", size=(40, 10))
  path = official_files.write(
    tmp_path / "ve_train.json",
    [{"image": "a.png", "sentence": "x", "label": "neutral"}],
  )
  data = official_files.load(
    "entailment", "albef", {"train": path}, root, fit=fit
  )
  found = data.splits["train"][0]["image"]
  assert (found[0] == 255).all() == white
  captions = official_files.write(
    tmp_path / "coco_train.json", [{"image": "a.png", "caption": "x"}]
  )
  pairs = official_files.load(
    "captions", "albef", {"train": captions}, root, fit=fit
  )
  assert (pairs["train"][0]["image"][0] == 255).all() == white
