"""An encoder gets the same gradients on any number of devices and processes."""

import functools
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from contrastive_jax import losses
from tests import compiling
from tests.losses import encoder_gradients


@pytest.fixture(name="expected", scope="module")
def fixture_expected():
  params, batch = encoder_gradients.make_inputs()
  mean_loss = functools.partial(encoder_gradients.mean_loss, losses.clip)
  grads = jax.jit(jax.grad(mean_loss))(params, batch)
  return [np.asarray(x) for x in jax.tree.leaves(grads)]


def check(actual, expected):
  assert len(actual) == len(expected) == 7
  for a, b in zip(actual, expected):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())


@pytest.mark.parametrize(
  "rows, columns", [(1, 1), (1, 2), (2, 2), (1, 4), (2, 4), (8, 1)]
)
def test_devices(rows, columns, expected):
  grads = encoder_gradients.gradients(rows, columns)
  check(jax.tree.leaves(grads), expected)


@pytest.mark.parametrize("count", [2, 4])
def test_processes(count, expected, tmp_path):
  with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
  out = tmp_path / "gradients.npz"
  command = [sys.executable, "-m", "tests.losses.encoder_gradients"]
  # With two processes, two devices each.
  flag = compiling.xla_flags(4 // count)
  running = [
    subprocess.Popen(
      [*command, f"localhost:{port}", str(count), str(index), str(out)],
      env={**os.environ, "XLA_FLAGS": flag},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index in range(count)
  ]
  for process in running:
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
  saved = np.load(out)
  check([saved[name] for name in saved.files], expected)
