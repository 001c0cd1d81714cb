"""Weight files: every format, whole, broken and malicious."""

import json
import os
import pickle
import re
import zipfile

import ml_dtypes
import numpy as np
import pytest

from contrastive_jax.models import pretrained
from contrastive_jax.models.pretrained import files, torch_files
from tests.models import make_golden_pretrained as golden

TABLE = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("name", ["torch.pt", "legacy.pth"])
def test_torch_files_hold_what_was_saved(name):
  found = pretrained.read_tensors(golden.FOLDER / name)
  expected = {
    "table": TABLE,
    "turned": TABLE.T,
    "corner": TABLE[1:, 2:],
    "scalar": np.float64(2.5),
    "empty": np.zeros((0, 3), np.float32),
    "half": TABLE.astype(np.float16),
    "brain": TABLE.astype(ml_dtypes.bfloat16),
    "whole": np.array([-1, 2]),
    "yes": np.array([True, False]),
  }
  assert set(found) == set(expected)
  for key, value in expected.items():
    assert found[key].dtype == value.dtype, key
    np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_torchscript_is_read_as_its_tensors():
  found = pretrained.read_tensors(golden.FOLDER / "script.pt")
  assert set(found) == {"inner.weight", "inner.bias", "whole"}
  np.testing.assert_array_equal(
    found["inner.weight"], np.arange(6, dtype=np.float32).reshape(2, 3)
  )


def test_safetensors_and_npz_come_back(tmp_path):
  path, brain = tmp_path / "weights", TABLE.astype(ml_dtypes.bfloat16)
  pretrained.write_safetensors(
    path, {"a": TABLE.T, "b": np.float32(1), "c": brain}
  )
  found = pretrained.read_tensors(path)
  assert found["c"].dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(found["a"], TABLE.T)
  assert found["b"].shape == ()
  np.savez(tmp_path / "weights.npz", **{"module.a": TABLE})
  found = pretrained.read_tensors(tmp_path / "weights.npz")
  assert list(found) == ["a"]  # Without what parallel training put before it.


def test_folders_and_shards(tmp_path):
  with pytest.raises(
    pretrained.WeightFileError, match=r"\bmodel\.safetensors\b.*got none"
  ):
    pretrained.read_tensors(tmp_path)
  for name in "ab":
    pretrained.write_safetensors(
      tmp_path / f"{name}.safetensors", {name: TABLE}
    )
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(
    '{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}'
  )
  assert set(pretrained.read_tensors(tmp_path)) == {"a", "b"}
  for name in ('"../a.safetensors"', '".."', '""', "5", f'"{index.name}"'):
    index.write_text(f'{{"weight_map": {{"a": {name}}}}}')
    wrong = re.escape(f" {json.loads(name)!r},")
    with pytest.raises(pretrained.WeightFileError, match=wrong):
      pretrained.read_tensors(tmp_path)
  for content in ("[]", "{", "[" * 100_000):
    index.write_text(content)
    with pytest.raises(
      pretrained.WeightFileError, match=r"\.index\.json .*\bshards\b"
    ):
      pretrained.read_tensors(tmp_path)


class Evil:
  """Runs a command when it is unpickled by who lets it."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["archive", "legacy", "inside"])
def test_objects_are_refused_by_name_and_never_made(kind, tmp_path):
  mark, path = tmp_path / "mark", tmp_path / "weights.pt"
  evil = Evil(mark)
  if kind == "archive":
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("archive/data.pkl", pickle.dumps({"a": evil}))
  elif kind == "legacy":
    path.write_bytes(pickle.dumps(evil))
  else:
    head = (torch_files._MAGIC, torch_files._PROTOCOL, {"little_endian": True})
    path.write_bytes(b"".join(pickle.dumps(x, 2) for x in (*head, {"a": evil})))
  # A reader without care would make the folder.
  assert pickle.loads(pickle.dumps({"a": Evil(tmp_path / "made")}))
  assert (tmp_path / "made").exists()
  with pytest.raises(
    pretrained.WeightFileError, match=r"weights\.pt.*\bmkdir\b"
  ):
    pretrained.read_tensors(path)
  assert not mark.exists()


def test_npz_with_objects_is_refused(tmp_path):
  path, mark = tmp_path / "weights.npz", tmp_path / "mark"
  np.savez(path, a=np.array([Evil(mark)], dtype=object))
  with pytest.raises(
    pretrained.WeightFileError, match=r"weights\.npz .*numpy\.savez\b"
  ):
    pretrained.read_tensors(path)
  assert not mark.exists()


def in_archive(path, content, **members):
  """A file of torch.save with this pickle."""
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", content)
    for name, value in members.items():
      archive.writestr(f"archive/data/{name}", value)


# Pickles by hand, as no library writes them.
_BF16 = b"\x80\x02ctorch\nBFloat16Storage\n"
_STATE = pickle.dumps((3, "=", None, None, None, 1, 1, 0), 2)[2:-1]


@pytest.mark.parametrize(
  "content",
  [
    _BF16 + _STATE + b"b.",
    # An attribute of a class, and of a function.
    b"\x80\x02c__torch__.x\nY\n}(X\x04\0\0\0callNtu\x86b.",
    b"\x80\x02ctorch._utils\n_rebuild_tensor\nN}X\x04\0\0\0callNs\x86b.",
    # A call of what is no function, and an object with arguments.
    _BF16 + b")R.",
    b"\x80\x02c__torch__.x\nY\nN\x85\x81.",
    # Operations that make objects of any class.
    b"(ios\nmkdir\n.",
    b"\x80\x02\x82\x01.",
  ],
  ids=["dtype", "class", "function", "call", "arguments", "inst", "extension"],
)
def test_pickles_change_nothing_of_ours(content, tmp_path):
  in_archive(tmp_path / "weights.pt", content)
  with pytest.raises(pretrained.WeightFileError, match="weights.pt"):
    pretrained.read_tensors(tmp_path / "weights.pt")
  assert np.dtype(ml_dtypes.bfloat16).itemsize == 2
  found = pretrained.read_tensors(golden.FOLDER / "script.pt")
  assert set(found) == {"inner.weight", "inner.bias", "whole"}


def test_files_that_would_fill_the_memory_are_refused(tmp_path):
  path = tmp_path / "weights.pt"
  # A memo of four thousand million entries.
  in_archive(path, b"\x80\x02}r\xff\xff\xff\xff.")
  with pytest.raises(
    pretrained.WeightFileError, match=r"weights\.pt.*\btensors\b"
  ):
    pretrained.read_tensors(path)
  # A member that unfolds to a thousand times its size.
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("archive/data.pkl", b"\x80\x02}." + bytes(10**6))
  with pytest.raises(
    pretrained.WeightFileError,
    match=r"weights\.pt.*archive/data\.pkl.*\bcompressed\b",
  ):
    pretrained.read_tensors(path)
  # Mappings in mappings, twice each.
  nested = {}
  for _ in range(60):
    nested = {"a": nested, "b": nested}
  in_archive(path, pickle.dumps(nested, 2))
  with pytest.raises(pretrained.WeightFileError):
    pretrained.read_tensors(path)


def test_views_of_the_same_values_are_bounded():
  storage = torch_files._Storage("0", "FloatStorage", 100)
  state = {
    str(i): torch_files._View(storage, i, (50,), (1,)) for i in range(20)
  }
  with pytest.raises(pretrained.WeightFileError, match="many times over"):
    torch_files._arrays(state, lambda unused: bytes(400))
  # Tied weights are one view, however many names it has.
  tied = {str(i): state["3"] for i in range(20)}
  found = torch_files._arrays(tied, lambda unused: bytes(400))
  assert found["1"] is found["19"]


@pytest.mark.parametrize("name", ["torch.pt", "legacy.pth", "script.pt"])
def test_broken_files_are_named(name, tmp_path):
  """Cut off anywhere, or with bytes changed: an error of ours, or all is well."""
  whole = (golden.FOLDER / name).read_bytes()
  path = tmp_path / name
  rng = np.random.default_rng(0)
  for cut in rng.integers(0, len(whole) - 1, 60):
    path.write_bytes(whole[:cut])
    with pytest.raises(pretrained.WeightFileError, match=name):
      pretrained.read_tensors(path)
  for place, value in zip(
    rng.integers(0, len(whole), 300), rng.integers(0, 256, 300)
  ):
    content = bytearray(whole)
    content[place] = value
    path.write_bytes(content)
    try:
      found = pretrained.read_tensors(path)
    except pretrained.WeightFileError as error:
      assert name in str(error)
    else:
      assert all(isinstance(x, np.ndarray) for x in found.values())


def _view(offset=0, shape=(2,), strides=(1,), size=4):
  storage = torch_files._Storage("0", "FloatStorage", size)
  return torch_files._view(storage, offset, shape, strides)


@pytest.mark.parametrize(
  "fields",
  [
    dict(offset=3),
    dict(shape=(2, 2), strides=(3, 1)),
    # As much memory as the file likes, from four values.
    dict(shape=(10**6, 10**6), strides=(0, 0)),
    dict(shape=(5,), strides=(0,)),
  ],
  ids=str,
)
def test_tensors_beyond_their_storage_are_refused(fields):
  with pytest.raises(pretrained.WeightFileError, match="on 4 values"):
    torch_files._array(_view(**fields), bytes(16))


def test_tensors_of_impossible_form_are_refused():
  for fields in (dict(offset=-1), dict(strides=(-1,)), dict(shape=(1, 2))):
    with pytest.raises(pretrained.WeightFileError, match="of form"):
      _view(**fields)
  with pytest.raises(pretrained.WeightFileError, match="16 bytes; got 15"):
    torch_files._array(_view(), bytes(15))


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", r"/weights\b.*safetensors, .*got\b"),
    (b"some text of a web page", r"/weights\b.*safetensors, .*got\b"),
    (b"\x10\0\0\0\0\0\0\0{" + b"x" * 15, r"/weights\b.*safetensors: .*header"),
    (pickle.dumps([1]), r"/weights: .*torch\.save\b"),
  ],
  ids=["empty", "text", "header", "pickle"],
)
def test_other_files_are_named(content, message, tmp_path):
  path = tmp_path / "weights"
  path.write_bytes(content)
  with pytest.raises(pretrained.WeightFileError, match=message):
    pretrained.read_tensors(path)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(pretrained.WeightFileError, match=r"none\.pt\b"):
    pretrained.read_tensors(tmp_path / "none.pt")


def test_a_file_that_cannot_be_written_leaves_the_old_one(
  tmp_path, monkeypatch
):
  path = tmp_path / "weights.safetensors"
  pretrained.write_safetensors(path, {"a": TABLE})

  def fail(arrays, place, metadata):
    del arrays, metadata
    place.write_bytes(b"half")
    raise OSError("no space left")

  monkeypatch.setattr(files.safetensors.numpy, "save_file", fail)
  with pytest.raises(
    pretrained.WeightFileError, match=r"weights\.safetensors\b.*no space left"
  ):
    pretrained.write_safetensors(path, {"a": TABLE + 1})
  found = pretrained.read_tensors(path)
  np.testing.assert_array_equal(found["a"], TABLE)
  assert [p.name for p in tmp_path.iterdir()] == [path.name]
