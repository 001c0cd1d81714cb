"""Exact search against comparing everything with everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contrastive_jax.inference import search


def cut(array, length):
  """Parts of embeddings, with their places for keys."""
  for start in range(0, len(array), length):
    part = array[start : start + length]
    yield [str(start + i) for i in range(len(part))], part


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 12), st.data())
def test_top_is_what_a_sort_finds(count, length, k, data):
  # Few different values, so that many are equal.
  draw = st.lists(st.integers(-2, 2), min_size=count * 3, max_size=count * 3)
  array = np.array(data.draw(draw), np.float32).reshape(count, 3)
  queries = np.array([[1, 0, 2], [0, -1, 1]], np.float32)
  found = search.top(cut(array, length), queries, k)
  for query, hits in zip(queries, found):
    scores = array @ query
    order = np.argsort(-scores, kind="stable")[:k]
    assert [hit.key for hit in hits] == [str(i) for i in order]
    assert [hit.score for hit in hits] == scores[order].tolist()


def test_nothing_is_found_in_nothing():
  assert search.top([], np.ones((2, 3)), 4) == [[], []]


def test_wrong_queries():
  parts = [(["a"], np.ones((1, 4), np.float32))]
  with pytest.raises(ValueError, match="3.*4"):
    search.top(parts, np.ones((1, 3)), 1)
  with pytest.raises(ValueError, match="k"):
    search.top(parts, np.ones((1, 4)), 0)
  with pytest.raises(ValueError, match="queries"):
    search.top(parts, np.ones(4), 1)


def test_a_sheet_needs_no_other_file(tmp_path):
  path = tmp_path / "a<b>.png"
  Image.new("RGB", (30, 20), "red").save(path)
  hits = [[search.Hit(0.5, str(path)), search.Hit(0.25, "row 3")]]
  page = search.sheet(["<cup>"], hits)
  assert page.count("data:image/jpeg;base64,") == 1
  assert "&lt;cup&gt;" in page and "<cup>" not in page and "<b>" not in page
  assert "0.500" in page and "row 3" in page
  assert "http" not in page and "<script" not in page
