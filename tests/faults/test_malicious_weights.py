"""Weight files that mean harm: refused by name, with nothing run.

Objects in pickles and broken files are in tests/models/test_weight_files.py.
"""

import contextlib
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from contrastive_jax.models import pretrained
from contrastive_jax.models.pretrained import files
from tests.faults.harm import ARRAYS, Payload, command, refused


def _text(text):
  return b"X" + struct.pack("<I", len(text)) + text.encode()


def _nest(depth):
  """A tuple of itself twice, and so on: 2^depth of them to hash or to print."""
  return b")" + b"2\x86" * depth


_REBUILD = b"ctorch._utils\n_rebuild_tensor\n"
_STORAGE = (
  b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + b"NK\x04tQ"
)

PICKLES = {
  "system": lambda run: pickle.dumps({"a": Payload((os.system, (run,)))}, 2),
  "eval": lambda run: pickle.dumps(
    {"a": Payload((eval, (f"__import__('os').system({run!r})",)))}, 2
  ),
  # Within a mapping that is allowed, as an argument of what is allowed.
  "nested": lambda run: (
    b"\x80\x02ccollections\nOrderedDict\n]"
    + pickle.dumps([("a", Payload((os.system, (run,))))], 2)[2:-1]
    + b"a\x85R."
  ),
  # getattr of a module, to get at what is not asked for by name.
  "getattr": lambda run: (
    b"\x80\x02c__builtin__\ngetattr\ncos\npath\nX\x02\0\0\0os\x86R."
  ),
  "stack": lambda run: (
    b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + _text(run) + b"\x85R."
  ),
  # An object whose __setstate__ does it: of a class, and of one that is inert.
  "setstate": lambda run: b"\x80\x02cctypes\nCDLL\n)\x81" + _text(run) + b"b.",
  "inert": lambda run: b"\x80\x02c__torch__.x\nY\n)\x81" + _text(run) + b"b.",
  # Objects that pickle itself looks up: a registry that a file may add to, and
  # its codes.
  "copyreg": lambda run: (
    b"\x80\x02ccopyreg\nadd_extension\n"
    + _text("os")
    + _text("system")
    + b"K\x01\x87R0\x82\x01."
  ),
  "extension": lambda run: b"\x80\x02\x84\x01\0\0\0.",
  "torch": lambda run: b"\x80\x02ctorch.hub\nload\n" + _text(run) + b"\x85R.",
  "dotted": lambda run: b"\x80\x04\x8c\x05torch\x8c\x0e_utils.os.system\x93.",
  # Work and memory without end.
  "key": lambda run: b"\x80\x02}" + _nest(32) + b"Ns.",
  "keys": lambda run: b"\x80\x02}(" + _nest(32) + b"Nu.",
  "pairs": lambda run: (
    b"\x80\x02ccollections\nOrderedDict\n]" + _nest(32) + b"N\x86a\x85R."
  ),
  "name": lambda run: (
    b"\x80\x02("
    + _text("storage")
    + b"ctorch\nFloatStorage\n"
    + _nest(27)
    + b"NK\x04tQ."
  ),
  "shape": lambda run: (
    b"\x80\x02"
    + _REBUILD
    + b"("
    + _STORAGE
    + b"K\0"
    + _nest(27)
    + _nest(27)
    + b"tR."
  ),
  "axes": lambda run: (
    b"\x80\x02"
    + _REBUILD
    + b"("
    + _STORAGE
    + b"K\0("
    + b"J\xff\xff\xff\x7f" * 50_000
    + b"t("
    + b"K\x01" * 50_000
    + b"ttR."
  ),
  "itself": lambda run: (
    b"\x80\x02}q\0("
    + b"".join(b"K" + bytes([i]) + b"h\0" for i in range(10))
    + b"u."
  ),
  "marks": lambda run: b"\x80\x02" + b"(" * 300_000 + b".",
  "length": lambda run: b"\x80\x02X\xff\xff\xff\xff}.",
  "frame": lambda run: b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
}


def test_the_payloads_are_real(tmp_path):
  for kind in ("system", "eval", "nested", "stack"):
    with contextlib.suppress(Exception):
      pickle.loads(PICKLES[kind](f"touch {tmp_path / kind}"))
    assert (tmp_path / kind).exists()


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("form", ["archive", "legacy"])
def test_pickles(place, kind, form):
  content, path = PICKLES[kind](command(place)), place / "weights.pt"
  if form == "archive":
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("archive/data.pkl", content)
  else:
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    parts = [pickle.dumps(x, 2) for x in head]
    path.write_bytes(b"".join([*parts, content, pickle.dumps([], 2)]))
  assert len(refused(path)) < 1000


def _tensor(start, stop, shape=(1,), dtype="F32"):
  return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


_ONE = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
HEADERS = {
  "overlapping": {"a": _tensor(0, 8, (2,)), "b": _tensor(4, 12, (2,))},
  "outside": {"a": _tensor(0, 2**40, (2**38,))},
  "before": {"a": _tensor(-4, 0)},
  "gap": {"a": _tensor(4, 8)},
  "reversed": {"a": _tensor(8, 4)},
  "overflow": {"a": _tensor(0, 4, (2**62, 4))},
  "type": {"a": _tensor(0, 4, dtype="__import__('os')")},
  "twice": f'{{"a":{_ONE},"a":{_ONE.replace("[0,4]", "[4,8]")}}}',
  "deep": '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
}


@pytest.mark.parametrize("kind", [*HEADERS, "huge"])
def test_safetensors(place, kind):
  path = place / "model.safetensors"
  if kind == "huge":
    path.write_bytes(struct.pack("<Q", 2**62) + b"{" + bytes(100))
  else:
    header = HEADERS[kind]
    text = header if isinstance(header, str) else json.dumps(header)
    raw = text.encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(12))
  assert "not a whole file of safetensors" in refused(path)


@pytest.mark.parametrize("kind", ARRAYS)
def test_npz(place, kind):
  path = place / "weights.npz"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("a.npy", ARRAYS[kind](command(place)))
  assert "numbers alone" in refused(path)


def test_an_npz_that_unfolds_to_a_thousand_times_its_size(place, monkeypatch):
  monkeypatch.setattr(files, "_LITTLE", 2**16)
  path = place / "weights.npz"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name in "abcd":
      archive.writestr(f"{name}.npy", bytes(2**20))
  assert "it would unfold to 4,194,304 bytes" in refused(path)
  # Little is read however well it compresses.
  np.savez_compressed(path, a=np.zeros(2**13, np.float32))
  assert pretrained.read_tensors(path)["a"].shape == (2**13,)


def test_parts_of_an_archive_that_share_their_bytes(place):
  """Many entries of one part: a little file, as much memory as it likes."""
  path, part = place / "weights.pt", bytes(2**16)
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
    archive.writestr("archive/data/0", part)
    first = archive.getinfo("archive/data/0")
    for i in range(1, 500):
      again = zipfile.ZipInfo(f"archive/data/{i}")
      for name in ("header_offset", "file_size", "compress_size", "CRC"):
        setattr(again, name, getattr(first, name))
      archive.filelist.append(again)
      archive.NameToInfo[again.filename] = again
      archive._didModify = True
  assert "more than the file's" in refused(path)
