"""Shared by the tests of the trainer."""

import pytest

from tests.training import tiny


@pytest.fixture(scope="session")
def data():
  return tiny.make_data()
