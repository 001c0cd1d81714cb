"""Embeddings of many pictures: written part by part, resumed, read."""

import io
import json
import tarfile

import jax
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from contrastive_jax import inference
from contrastive_jax.data import benchmarks
from contrastive_jax.data.sets.folder.folder_rows import DataError
from contrastive_jax.inference import embedding_files, inputs
from tests.data.tfds_sets import write_sets
from tests.inference import tiny_model


@pytest.fixture(scope="module", name="model")
def fixture_model(tmp_path_factory):
  folder = tiny_model.write(tmp_path_factory.mktemp("model"))
  return inference.load(folder, batch_size=4, devices=jax.devices()[:1])


@pytest.fixture(name="few_rows", autouse=True)
def fixture_few_rows(monkeypatch):
  monkeypatch.setattr(inputs, "_ROWS", 5)


def embed(model, given, out, **options):
  given = [str(path) for path in given]
  options = {"report": lambda line: None, **options}
  return embedding_files.embed(model, given, out, **options)


def read(folder):
  """Keys and embeddings of all parts."""
  keys, found = [], []
  for names, array in embedding_files.read(folder):
    keys += names
    found.append(array)
  return keys, np.concatenate(found)


def test_sets_that_tfds_has_prepared(model, tmp_path):
  root = write_sets(tmp_path)
  counts = embed(model, [root / "cifar10:test"], tmp_path / "out")
  assert counts == {"pictures": 12, "skipped": 0}
  keys, found = read(tmp_path / "out")
  assert keys == [f"cifar10/test/{i}" for i in range(12)]
  rows = benchmarks.load("cifar10", str(root), image_size=32).test
  expected = model.encode_image([rows[i]["image"] for i in range(12)])
  np.testing.assert_allclose(found, expected, atol=1e-6)
  parts = list(inputs.parts([str(root / "cifar10")]))
  assert sum(part.count for part in parts) == 52
  assert len({part.digest for part in parts}) == len(parts) == 11
  with pytest.raises(ValueError, match="nowhere"):
    list(inputs.parts([str(root / "cifar10:nowhere")]))


def test_a_folder_becomes_parts(model, tmp_path):
  paths = tiny_model.pictures(tmp_path / "pictures", 12)
  counts = embed(model, [tmp_path / "pictures"], tmp_path / "out")
  assert counts == {"pictures": 12, "skipped": 0}
  files = sorted(path.name for path in (tmp_path / "out").glob("*.parquet"))
  assert files == ["000000.parquet", "000001.parquet", "000002.parquet"]
  table = parquet.read_table(tmp_path / "out" / files[0])
  assert table.schema.field("key").type == pyarrow.string()
  assert table.schema.field("embedding").type == pyarrow.list_(
    pyarrow.float32(), 16
  )
  keys, found = read(tmp_path / "out")
  assert keys == list(map(str, paths))
  np.testing.assert_allclose(found, model.encode_image(paths), atol=1e-6)
  assert embedding_files.to_npz(tmp_path / "out", tmp_path / "all.npz") == 12
  with np.load(tmp_path / "all.npz") as saved:
    assert saved["key"].tolist() == keys
    np.testing.assert_array_equal(saved["embedding"], found)


def test_it_goes_on_where_it_was_stopped(model, tmp_path, monkeypatch):
  paths = tiny_model.pictures(tmp_path / "pictures", 12)
  arguments = model, [tmp_path / "pictures"], tmp_path / "out"
  encode, calls = model.encode_image, []

  def counted(images, **options):
    if len(images) and len(calls) == 3:
      raise KeyboardInterrupt
    calls.append(len(images))
    return encode(images, **options)

  with monkeypatch.context() as patch:
    patch.setattr(model, "encode_image", counted)
    with pytest.raises(KeyboardInterrupt):
      embed(*arguments)
  assert len(list((tmp_path / "out").glob("*.parquet"))) == 1
  again = []
  with monkeypatch.context() as patch:
    patch.setattr(
      model,
      "encode_image",
      lambda images, **options: (
        again.append(len(images)) or encode(images, **options)
      ),
    )
    embed(*arguments)
    assert sum(again) == 7
    # What has changed is embedded again, with its part alone.
    del again[:]
    tiny_model.pictures(tmp_path / "pictures", 1, start=50)
    (tmp_path / "pictures" / "050.png").replace(paths[11])
    embed(*arguments)
    assert sum(again) == 2
  keys, found = read(tmp_path / "out")
  assert keys == list(map(str, paths))
  np.testing.assert_allclose(found, encode(paths), atol=1e-6)


def test_a_part_that_is_cut_off_is_made_again(model, tmp_path):
  tiny_model.pictures(tmp_path / "pictures", 3)
  embed(model, [tmp_path / "pictures"], tmp_path / "out")
  path = tmp_path / "out" / "000000.parquet"
  whole = path.read_bytes()
  path.write_bytes(whole[:-20])
  with pytest.raises(DataError, match="000000.parquet"):
    read(tmp_path / "out")
  embed(model, [tmp_path / "pictures"], tmp_path / "out")
  assert path.read_bytes() == whole


def test_processes_share_the_parts(model, tmp_path):
  paths = tiny_model.pictures(tmp_path / "pictures", 12)
  for process in (1, 0):
    embed(
      model,
      [tmp_path / "pictures"],
      tmp_path / "out",
      process_index=process,
      process_count=2,
    )
    if process:
      assert read(tmp_path / "out")[0] == list(map(str, paths[5:10]))
  assert read(tmp_path / "out")[0] == list(map(str, paths))


def test_what_cannot_be_read_is_listed(model, tmp_path):
  paths = tiny_model.pictures(tmp_path / "pictures", 8)
  paths[2].write_bytes(b"no picture")
  arguments = model, [tmp_path / "pictures"], tmp_path / "out"
  with pytest.raises(DataError, match=r"1 of 8.*skipped\.jsonl"):
    embed(*arguments)
  assert embed(*arguments, max_bad_share=0.2) == {"pictures": 7, "skipped": 1}
  line = json.loads((tmp_path / "out" / "000000.skipped.jsonl").read_text())
  assert line["key"] == str(paths[2])
  assert str(paths[2]) not in read(tmp_path / "out")[0]


def test_other_embeddings_are_not_mixed_in(model, tmp_path):
  tiny_model.pictures(tmp_path / "pictures", 2)
  given = [tmp_path / "pictures"]
  embed(model, given, tmp_path / "out")
  tiny_model.pictures(tmp_path / "others", 2)
  with pytest.raises(DataError, match="inputs.*others"):
    embed(model, [tmp_path / "others"], tmp_path / "out")
  folder = tiny_model.write(tmp_path / "second", independent_head="linear")
  second = inference.load(folder, batch_size=4)
  with pytest.raises(DataError, match="model"):
    embed(second, given, tmp_path / "out")
  with pytest.raises(DataError, match="digest"):
    embedding_files.check_model(tmp_path / "out", second)
  embedding_files.check_model(tmp_path / "out", model)
  with pytest.raises(ValueError, match="head"):
    embed(model, given, tmp_path / "both", head="both")
  embed(second, given, tmp_path / "both", head="both")
  assert read(tmp_path / "both")[1].shape == (2, 32)


def test_archives_tables_and_lists(model, tmp_path):
  paths = tiny_model.pictures(tmp_path / "pictures", 4)
  with tarfile.open(tmp_path / "shard.tar", "w") as archive:
    archive.add(paths[0], "000.png")  # Without captions.
    about = tarfile.TarInfo("000.json")
    about.size = 2
    archive.addfile(about, io.BytesIO(b"{["))
    archive.add(paths[1], "001.png")
  table = {"image": [path.read_bytes() for path in paths], "id": [*"abcd"]}
  parquet.write_table(pyarrow.table(table), tmp_path / "table.parquet")
  (tmp_path / "names.txt").write_text("pictures/003.png\n\npictures/000.png\n")
  given = [
    tmp_path / name for name in ("shard.tar", "table.parquet", "names.txt")
  ]
  assert embed(model, given, tmp_path / "out")["skipped"] == 0
  keys, found = read(tmp_path / "out")
  assert keys == ["000", "001", *"abcd", str(paths[3]), str(paths[0])]
  expected = model.encode_image([*paths[:2], *paths, paths[3], paths[0]])
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_inputs_without_a_picture(model, tmp_path):
  (tmp_path / "empty").mkdir()
  with pytest.raises(DataError, match="empty"):
    embed(model, [tmp_path / "empty"], tmp_path / "out")
  with pytest.raises(DataError, match="none.txt"):
    embed(model, [tmp_path / "none.txt"], tmp_path / "out")
  with pytest.raises(DataError, match="embeddings.json"):
    embedding_files.about(tmp_path / "empty")
