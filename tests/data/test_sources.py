"""Sources of records; a user's folder as a data set. Emoji: test_emoji.py."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import pipeline, sources
from contrastive_jax.data.files import prepare
from contrastive_jax.data.sets.folder import reading
from contrastive_jax.data.text import tokenizer as tokenizer_lib


def test_array_source():
  images = np.arange(2 * 12, dtype=np.uint8).reshape(2, 2, 2, 3)
  source = sources.ArraySource(images, [{"index": 7}, {"index": 9}])
  assert len(source) == 2
  assert source[1]["index"] == 9
  np.testing.assert_array_equal(source[1]["image"], images[1])


def test_array_source_of_different_lengths():
  with pytest.raises(ValueError, match="as many; got 3 and 1"):
    sources.ArraySource(np.zeros((3, 2, 2, 3), np.uint8), [{}])


def test_default_data_dir_is_in_the_users_cache(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  for absent in (None, ""):
    if absent is None:
      monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
      monkeypatch.setenv("XDG_CACHE_HOME", absent)
    expected = tmp_path / ".cache" / "contrastive_jax"
    assert prepare.default_data_dir() == expected
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
  assert prepare.default_data_dir() == tmp_path / "other" / "contrastive_jax"
  assert not list(tmp_path.iterdir())


SPLITS = ("train", "train", "train", "validation", "test")


@pytest.fixture(name="root")
def fixture_root(tmp_path):
  """Five images in the three splits; the last row has no image."""
  root = tmp_path / "photos"
  root.mkdir()
  rows = []
  for i, split in enumerate(SPLITS):
    Image.new("RGB", (20, 20), (40 * i, 0, 255)).save(root / f"{i}.png")
    rows.append(
      {
        "image": f"{i}.png",
        "captions": [f"{split} cup {i}", f"{split} mug {i}"],
        "label": "cup",
        "split": split,
      }
    )
  rows.append({"image": "lost.png", "captions": ["lost"], "split": "train"})
  lines = [json.dumps(row) for row in rows]
  (root / "captions.jsonl").write_text("\n".join(lines))
  return root


def load(root, **options):
  options = {
    "image_size": 8,
    "report_path": root.parent / "skipped.jsonl",
    "tokenizer_path": root.parent / "tokenizer.json",
    "vocab_size": 300,
    "max_bad_share": 0.5,
    "report": lambda line: None,
    **options,
  }
  return sources.load_folder(str(root), **options)


def test_folder_data(root):
  data = load(root)
  assert data.name == "folder"
  assert data.languages == (sources.ANY_LANGUAGE,)
  assert data.prompts == ("{}", "a photo of {}")
  sizes = {name: len(split) for name, split in data.splits.items()}
  assert sizes == {"train": 3, "validation": 1, "test": 1}
  record = data.splits["test"][0]
  assert record["image"].shape == (16, 16, 3)
  assert record["image"].dtype == np.uint8
  assert record["label"] == "cup"
  assert record["captions"] == (
    sources.Caption("test cup 4", "name", sources.ANY_LANGUAGE),
    sources.Caption("test mug 4", "name", sources.ANY_LANGUAGE),
  )


def test_folder_reports_what_it_skips(root):
  lines = []
  load(root, report=lines.append)
  assert f"Note: 1 of 6 rows cannot be used; {root.parent}" in lines[-1]
  (entry,) = (root.parent / "skipped.jsonl").read_text().splitlines()
  assert json.loads(entry)["image"] == "lost.png"


def test_folder_progress(root):
  seen = []
  load(root, progress=lambda done, total: seen.append((done, total)))
  assert seen == [(i + 1, 5) for i in range(5)]


def test_folder_with_too_many_bad_rows_learns_nothing(root):
  with pytest.raises(reading.DataError, match="the allowed share of 0.1"):
    load(root, max_bad_share=0.1)
  assert not (root.parent / "tokenizer.json").exists()


def test_tokenizer_is_learned_on_training_captions_alone(root):
  data = load(root)
  # "train" came often enough to become one piece; "validation" did not.
  rows = data.tokenizer.encode(["train", "test", "validation"], 20)
  pieces = (rows != tokenizer_lib.PAD_ID).sum(1) - 2
  assert pieces[0] == 1
  assert pieces[1] >= 3 and pieces[2] >= 6
  assert data.tokenizer.vocab_size <= 300


def test_tokenizer_is_kept(root):
  first = load(root).tokenizer
  rows = [
    {"image": f"{i}.png", "captions": [f"entirely new words {i}"]}
    for i in range(5)
  ]
  (root / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
  again = load(root).tokenizer
  assert pickle.dumps(again) == pickle.dumps(first)
  other = load(root, tokenizer_path=root.parent / "other.json").tokenizer
  assert pickle.dumps(other) != pickle.dumps(first)


def test_broken_tokenizer_file_is_named(root):
  (root.parent / "tokenizer.json").write_text("half a fi")
  with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
    load(root)


def test_folder_through_the_pipeline(root):
  data = load(root)
  iterator = pipeline.train_batches(
    data.splits["train"],
    tokenizer=data.tokenizer,
    sampler=pipeline.CaptionSampler({sources.ANY_LANGUAGE: 1.0}),
    context_length=24,
    batch_size=6,
    seed=0,
  )
  batch = next(iterator)
  assert batch["image"].shape == (6, 16, 16, 3)
  texts = {data.tokenizer.decode(tokens) for tokens in batch["tokens"][:, 0]}
  known = {t for i in range(3) for t in (f"train cup {i}", f"train mug {i}")}
  assert texts <= known
  assert np.bincount(batch["index"]).tolist() == [2, 2, 2]


def test_split_says_what_it_holds(root):
  data = load(root)
  train = data.splits["train"]
  # Two scans of one folder agree, another split or folder differs.
  assert repr(train) == repr(load(root).splits["train"])
  assert repr(train) != repr(data.splits["test"])
  (root / "captions.jsonl").write_text(
    (root / "captions.jsonl").read_text().replace("train mug 0", "plate")
  )
  assert repr(train) != repr(load(root).splits["train"])
  assert train.captions()[:2] == ["train cup 0", "train mug 0"]
