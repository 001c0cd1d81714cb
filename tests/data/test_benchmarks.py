"""Sets that TFDS has prepared: read without its code."""

import numpy as np
import pytest

from contrastive_jax.data import benchmarks
from tests.data.tfds_sets import write_sets


@pytest.fixture(name="root", scope="module")
def fixture_root(tmp_path_factory):
  return write_sets(tmp_path_factory.mktemp("tfds"))


def test_splits(root):
  found = benchmarks.load("cifar10", str(root), image_size=16)
  assert found.classes == ("red thing", "green", "blue")
  assert [
    len(part) for part in (found.train, found.validation, found.test)
  ] == [
    36,
    4,
    12,
  ]
  record = found.test[5]
  assert record["image"].shape == (16, 16, 3)
  # Fitted on white, the colour that of the class.
  np.testing.assert_array_equal(record["image"][0], 255)
  assert record["image"][8, 8].argmax() == record["label"]
  assert found.test.fields(5)["label"] == record["label"]
  seen = sum((found.train[i]["image"][8, 8].tolist() for i in range(36)), [])
  assert len(set(seen)) > 30


def test_images_of_several_classes(root):
  found = benchmarks.load("voc2007", str(root), image_size=16)
  assert found.classes == ("red thing", "green", "blue")
  sizes = [len(part) for part in (found.train, found.validation, found.test)]
  assert sizes == [20, 10, 12]
  rows = [found.test[i] for i in range(12)]
  labels = np.stack([row["label"] for row in rows])
  assert labels.dtype == np.int8 and labels.shape == (12, 3)
  for row, label in zip(rows, labels):
    shown = {c for c in range(3) if row["image"][8, :, c].max() > 150}
    assert set(np.flatnonzero(row["image"][8].min(0) > 250)) == set()
    colours = {int(row["image"][8, x].argmax()) for x in (2, 13)}
    assert colours <= shown
    if (label == 1).any():
      assert set(np.flatnonzero(label == 1)) == colours
    assert (label == -1).sum() in (0, 1, 3)
  # One has difficult objects alone, and two a difficult one beside others.
  assert sorted((labels == -1).sum(1).tolist())[-3:] == [1, 1, 3]
  fields = benchmarks.load("voc2007", str(root), image_size=16).test.fields(3)
  np.testing.assert_array_equal(fields["label"], labels[3])


def test_pictures_of_a_set_become_squares_as_asked(root):
  found = {
    fit: benchmarks.load("cifar10", str(root), image_size=16, fit=fit).test[0]
    for fit in ("pad", "crop", "stretch")
  }
  assert (found["pad"]["image"][0] == 255).all()
  for fit in ("crop", "stretch"):
    assert (found[fit]["image"].min(axis=-1) < 255).all()


def test_names_of_imagenet(root):
  found = benchmarks.load("imagenet_a", str(root), image_size=16)
  assert found.classes == (
    "tench",
    "goldfish",
    "great white shark",
    "tiger shark",
  )
  assert found.train is None
  names = benchmarks.imagenet_names()
  assert len(names) == len(set(names.values())) == 1000
  assert list(names) == sorted(names)


@pytest.mark.parametrize("version", ["1.10.0", "not.a.version"])
def test_the_newest_version_is_read(root, tmp_path, version):
  folder = tmp_path / "cifar10"
  folder.mkdir()
  for name in ("1.2.0", version):
    (folder / name).symlink_to(root / "cifar10/1.2.0")
  expected = max(("1.2.0", "1.10.0")[: 1 + (version == "1.10.0")], key=len)
  assert benchmarks._version(folder, "").name == expected


def test_what_is_not_there(tmp_path):
  with pytest.raises(benchmarks.BenchmarkError, match="tfds build dtd "):
    benchmarks.load("dtd", str(tmp_path), image_size=16)
  with pytest.raises(benchmarks.BenchmarkError, match="'voc'.* imagenet"):
    benchmarks.load("voc", str(tmp_path), image_size=16)


def test_a_format_without_random_access(root, tmp_path):
  folder = tmp_path / "cifar10/1.2.0"
  folder.mkdir(parents=True)
  for file in (root / "cifar10/1.2.0").iterdir():
    text = file.read_bytes()
    (folder / file.name).write_bytes(text.replace(b"array_record", b"tfrecord"))
  with pytest.raises(benchmarks.BenchmarkError, match="cifar10 .*tfds build"):
    benchmarks.load("cifar10", str(tmp_path), image_size=16)


def test_a_broken_image(root):
  class Broken(list):
    pass

  source = benchmarks.BenchmarkSource(
    Broken([{"image": b"\x89PNG no", "label": 1}]), 16, "cifar10's split test"
  )
  assert source.fields(0)["label"] == 1
  with pytest.raises(benchmarks.BenchmarkError, match="Image 0 of cifar10's"):
    source[0]
