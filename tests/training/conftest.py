"""Shared by the tests of the trainer.

Compiling takes longer than running here: without the compiler's costly passes
the tests take a third of the time.
"""

import jax
import pytest

from tests.training import tiny


@pytest.fixture(scope="session", autouse=True)
def quick_compilation():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def data():
  return tiny.make_data()
