"""Shared parts of the tests of malicious files."""

import os
import pickle
import struct

import pytest

from contrastive_jax.models import pretrained


class Payload:
  """A pickle's way to call something."""

  def __init__(self, reduced):
    self.reduced = reduced

  def __reduce__(self):
    return self.reduced


def command(place):
  """A command that no file may run."""
  return f"touch {place.parent / 'canary'}"


def refused(path, error=pretrained.WeightFileError, read=None):
  """The message of a reader that must refuse a file and name it."""
  with pytest.raises(error) as caught:
    (read or pretrained.read_tensors)(path)
  assert str(path) in str(caught.value)
  return str(caught.value)


def npy(header, content=b""):
  """A file of numpy.save whose header says what it likes."""
  raw = (header + "\n").encode()
  return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + content


ARRAYS = {
  "objects": lambda run: npy(
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    pickle.dumps(Payload((os.system, (run,)))),
  ),
  "header": lambda run: npy(
    f"{{'descr': __import__('os').system({run!r}), 'shape': (1,)}}"
  ),
  "size": lambda run: npy(
    "{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,)}"
  ),
}
