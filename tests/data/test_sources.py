"""Sources of records; a user's folder as a data set. Emoji: test_emoji.py."""

import json

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import pipeline, sources
from contrastive_jax.data.files import prepare
from contrastive_jax.data.sets import folder
from contrastive_jax.data.sets.choices import Request
from contrastive_jax.data.sets.folder import reading
from contrastive_jax.data.text import tokenizer as tokenizer_lib


def test_array_source():
  images = np.arange(2 * 12, dtype=np.uint8).reshape(2, 2, 2, 3)
  source = sources.ArraySource(images, [{"index": 7}, {"index": 9}])
  assert len(source) == 2
  assert source[1]["index"] == 9
  np.testing.assert_array_equal(source[1]["image"], images[1])
  assert source.index_bound == 10 and source.bounds == (0, 2)
  assert source.weights is None and source.fingerprint == ""
  for index in (-1, 2):
    with pytest.raises(IndexError):
      source[index]
    with pytest.raises(IndexError):
      source.fields(index)


def test_records_may_share_their_images():
  images = np.arange(2 * 12, dtype=np.uint8).reshape(2, 2, 2, 3)
  records = [{"index": i, "label": label} for i, label in enumerate("ab")]
  records.append({"index": 2, "label": ""})
  source = sources.ArraySource(
    images, records, rows=[1, 1, 0], second_images=images[::-1]
  )
  assert len(source) == 3 and source.labels == {"a", "b"}
  first, second, third = (source[i] for i in range(3))
  assert np.shares_memory(first["image"], second["image"])
  np.testing.assert_array_equal(first["image"], images[1])
  np.testing.assert_array_equal(first["second_image"], images[0])
  np.testing.assert_array_equal(third["image"], images[0])
  with pytest.raises(ValueError, match="read-only"):
    first["image"][:] = 0


def test_an_empty_source():
  empty = sources.ArraySource(np.zeros((0, 2, 2, 3), np.uint8), [])
  assert empty.index_bound == 0 and empty.labels == set()


def test_array_source_of_different_lengths():
  with pytest.raises(ValueError, match="^images and records .*3 and 1"):
    sources.ArraySource(np.zeros((3, 2, 2, 3), np.uint8), [{}])


def test_prepared_data_are_in_the_users_cache(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  for absent in (None, ""):
    if absent is None:
      monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
      monkeypatch.setenv("XDG_CACHE_HOME", absent)
    expected = tmp_path / ".cache" / "contrastive_jax"
    assert prepare.data_dir() == expected
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
  assert prepare.data_dir() == tmp_path / "other" / "contrastive_jax"
  monkeypatch.setenv("HOME", str(tmp_path))
  assert prepare.data_dir("~/kept") == tmp_path / "kept"
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


def load(root, *, report=lambda line: None, tokenizer=None, **fields):
  fields = {"vocab_size": 300, "max_bad_share": 0.5, **fields}
  request = Request(
    image_size=8, workdir=root.parent, tokenizer=tokenizer, report=report
  )
  return folder.Folder(path=str(root), **fields).open(request)


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
  assert "1 of 6 rows" in lines[-1] and f"{root.parent}/skipped" in lines[-1]
  (entry,) = (root.parent / "skipped.jsonl").read_text().splitlines()
  assert json.loads(entry)["image"] == "lost.png"


def test_without_a_workdir_nothing_is_written(root):
  lines = []
  request = Request(image_size=8, report=lines.append)
  data = folder.Folder(path=str(root), max_bad_share=0.5).open(request)
  assert len(data.splits["train"]) == 3 and "1 of 6 rows" in lines[-1]
  assert [path.name for path in root.parent.iterdir()] == ["photos"]
  with pytest.raises(reading.DataError, match="max_bad_share"):
    folder.Folder(path=str(root)).open(request)


def test_a_large_folder_tells_how_far_it_is(root, monkeypatch):
  monkeypatch.setattr(folder, "_REPORT_EVERY", 0.0)
  lines = []
  load(root, report=lines.append)
  assert lines[:5] == [f"Checked {i + 1} of 5 images." for i in range(5)]


def test_progress_is_not_told_all_the_time(monkeypatch):
  clock = iter([0.0, 1.0, 6.0, 7.0])
  monkeypatch.setattr(folder.time, "monotonic", lambda: next(clock))
  lines = []
  progress = folder._image_counter(lines.append)
  for done in (1, 2000, 3000):
    progress(done, 5000)
  assert lines == ["Checked 2,000 of 5,000 images."]


def test_folder_with_too_many_bad_rows(root):
  with pytest.raises(reading.DataError, match=r"0.1 \(max_bad_share\)"):
    load(root, max_bad_share=0.1)


def test_tokenizer_is_learned_on_training_captions_alone(root):
  data = load(root)
  # "train" came often enough to become one piece; "validation" did not.
  rows = data.tokenizer.encode(["train", "test", "validation"], 20)
  pieces = (rows != tokenizer_lib.PAD_ID).sum(1) - 2
  assert pieces[0] == 1
  assert pieces[1] >= 3 and pieces[2] >= 6
  assert data.tokenizer.vocab_size <= 300


def test_a_tokenizer_that_is_given_is_taken(root):
  given = tokenizer_lib.Tokenizer.train(["another"], vocab_size=270)
  assert load(root, tokenizer=given).tokenizer is given


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
  texts = [*sources.caption_texts(train)]
  assert texts[:2] == ["train cup 0", "train mug 0"] and len(texts) == 6
  # Texts of two of three examples, at even distances.
  assert [*sources.caption_texts(train, 2)] == texts[:2] + texts[4:]
