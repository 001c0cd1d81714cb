"""Folders of images in the forms in which people have them."""

import json

import pytest

from contrastive_jax.data.sets.folder import folder_rows
from tests.data.folders import BLUE, RED, many, save, scan, texts


@pytest.fixture(name="root")
def fixture_root(tmp_path):
  path = tmp_path / "photos"
  path.mkdir()
  return path


def found(records):
  """Captions by the name of the image, of all splits."""
  out = {}
  for source in records.splits.values():
    for i in range(len(source)):
      out[source._paths["image"][i].rpartition("/")[2]] = texts(source, i)
  return out


@pytest.mark.parametrize(
  "name, content",
  [
    ("metadata.jsonl", '{"file_name": "a.png", "text": "red one"}\n'),
    ("metadata.csv", "file_name,text\na.png,red one\n"),
    ("captions.csv", "filepath,title\na.png,red one\n"),
    ("captions.csv", "filepath\ttitle\na.png\tred one\n"),
    ("captions.jsonl", '{"image_path": "a.png", "caption": "red one"}\n'),
  ],
)
def test_the_usual_names_of_columns(root, name, content):
  save(root / "a.png", RED)
  (root / name).write_text(content)
  assert found(scan(root)) == {"a.png": ("red one",)}


def test_a_list_in_a_cell(root):
  save(root / "a.png", RED)
  save(root / "b.png", BLUE)
  save(root / "c.png", BLUE)
  cells = json.dumps(["a red circle", "circle in red"]).replace('"', '""')
  (root / "captions.csv").write_text(
    f'image,captions\na.png,"{cells}"\nb.png,one|two\nc.png,[sic] three\n'
  )
  assert found(scan(root)) == {
    "a.png": ("a red circle", "circle in red"),
    "b.png": ("one", "two"),
    "c.png": ("[sic] three",),
  }


def test_of_other_names_the_first_counts(root):
  save(root / "a.png", RED)
  row = {"image": "a.png", "text": "this", "title": "not this"}
  (root / "captions.jsonl").write_text(json.dumps(row) + "\n")
  assert found(scan(root)) == {"a.png": ("this",)}


def test_captions_in_files_of_their_own(root):
  for number in range(12):
    save(root / "train" / f"{number}.jpg", RED)
    (root / "train" / f"{number}.txt").write_text(f" thing\n {number}\n")
  save(root / "val" / "a.png", BLUE)
  (root / "val" / "a.txt").write_text("a")
  save(root / "val" / "none.png", BLUE)
  records = scan(root, max_bad_share=0.1)
  assert found(records)["3.jpg"] == ("thing 3",)
  assert [len(s) for s in records.splits.values()] == [12, 1, 0]
  assert records.problems == {"no caption": 1} and records.num_skipped == 1


def test_folders_that_are_classes(root):
  for label in ("grey_wolf", "cat"):
    for number in range(20):
      save(root / label / f"{number}.png", RED)
  records = scan(root)
  sizes = [len(source) for source in records.splits.values()]
  assert sum(sizes) == 40 and min(sizes) > 0
  for source in records.splits.values():
    for i in range(len(source)):
      label = source.fields(i)["label"]
      assert texts(source, i) == (label.replace("_", " "),)
  # A class is one thing to a loss, and yet in more than one split.
  ids = {
    (s.fields(i)["label"], s.fields(i)["concept_id"])
    for s in records.splits.values()
    for i in range(len(s))
  }
  assert len(ids) == 2
  assert records.train.labels == {"grey_wolf", "cat"}
  again = scan(root)
  assert [len(s) for s in again.splits.values()] == sizes


def test_folders_that_are_splits_of_classes(root):
  for split, count in (("train", 4), ("test", 2)):
    for label in ("dog", "cat"):
      for number in range(count):
        save(root / split / label / f"{number}.png", RED)
  save(root / "test" / "emu" / "0.png", BLUE)
  records = scan(root)
  assert [len(s) for s in records.splits.values()] == [8, 0, 5]
  assert records.train.labels == {"dog", "cat"}
  assert any("'emu'" in warning for warning in records.warnings)


def test_images_alone(root):
  for number in range(12):
    save(root / "deep" / str(number % 2) / f"{number}.png", RED)
    save(root / f"{number}.png", BLUE)
  with pytest.raises(folder_rows.DataError, match="24 images"):
    scan(root)
  records = scan(root, images_alone=True)
  assert set(found(records).values()) == {(), ("deep",)}
  assert sum(len(s) for s in records.splits.values()) == 24
  ids = [
    s.fields(i)["concept_id"]
    for s in records.splits.values()
    for i in range(len(s))
  ]
  assert len(set(ids)) == 24


def test_a_table_without_captions_is_enough_for_images(root):
  save(root / "a.png", RED)
  (root / "captions.csv").write_text("filepath,label\na.png,red\n")
  with pytest.raises(folder_rows.DataError, match="filepath, label.*title"):
    scan(root)
  records = scan(root, images_alone=True)
  assert found(records) == {"a.png": ()} and records.train.labels == {"red"}


def test_a_table_that_is_named_itself(root, tmp_path):
  """As open_clip has them: tab-separated, with absolute paths."""
  away = tmp_path / "elsewhere"
  for number in range(3):
    save(away / f"{number}.png", RED)
  lines = [f"{away}/{number}.png\tthing {number}\n" for number in range(3)]
  table = root / "train.csv"
  table.write_text("filepath\ttitle\n" + "".join(lines))
  with pytest.raises(folder_rows.DataError, match="unsafe path"):
    scan(table)
  records = scan(table, follow_links=True)
  assert found(records)["2.png"] == ("thing 2",)


def test_links_are_followed_when_asked(root, tmp_path):
  save(tmp_path / "away.png", RED)
  (root / "a.png").symlink_to(tmp_path / "away.png")
  (root / "captions.jsonl").write_text('{"image": "a.png", "caption": "x"}\n')
  with pytest.raises(folder_rows.DataError, match="unsafe path"):
    scan(root)
  assert found(scan(root, follow_links=True)) == {"away.png": ("x",)}


def test_labels_of_which_training_sees_none(root):
  rows = many(root, 40)
  for row in rows[:3]:
    row |= {"split": "test", "label": "odd"}
  for row in rows[3:]:
    row |= {"split": "train", "label": "even"}
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (root / "captions.jsonl").write_text(text)
  records = scan(root)
  assert any("'odd'" in warning for warning in records.warnings)
