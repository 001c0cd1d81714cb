"""Tests of contrastive_jax.data.text.eda."""

import collections
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive_jax.data import sources
from contrastive_jax.data.text import eda

SYNONYMS = {"cat": ("feline", "Katze"), "roller coaster": ("big dipper",)}


def edits(text, share=0.1, count=400, synonyms=None):
  """How often each result comes out."""
  edit = eda.EasyDataAugmentation(
    SYNONYMS if synonyms is None else synonyms, share
  )
  rng = np.random.default_rng(0)
  return collections.Counter(edit(text, rng) for _ in range(count))


def test_all_four_ways_are_drawn_about_as_often():
  found = edits("the Cat sat", share=0.3)
  ways = collections.Counter()
  for text, times in found.items():
    words = text.split()
    if sorted(words) == ["Cat", "sat", "the"] and text != "the Cat sat":
      ways["swap"] += times
    elif len(words) > 3:
      ways["insert"] += times
    elif len(words) == 3 and "Cat" not in words:
      ways["replace"] += times
    elif set(words) <= {"the", "Cat", "sat"}:
      ways["delete"] += times  # Or nothing was deleted.
  assert sum(ways.values()) == 400
  assert all(70 <= ways[k] <= 130 for k in ways), ways
  assert set(ways) == {"swap", "insert", "replace", "delete"}


def test_a_lone_word_is_replaced_or_gets_a_neighbour():
  assert set(edits("cat")) == {
    "feline",
    "Katze",
    "cat feline",
    "feline cat",
    "cat Katze",
    "Katze cat",
  }


def test_a_phrase_with_synonyms_is_one_word():
  found = edits("roller coaster, fun")
  assert "big dipper fun" in found
  assert all(
    "roller coaster" in text or "big dipper" in text or text == "fun"
    for text in found
  )


def test_what_cannot_be_edited_stays():
  assert set(edits("tree")) == {"tree"}
  assert set(edits("")) == {""}
  assert set(edits("木")) == {"木"}


def test_a_longer_text_has_more_edits():
  text = " ".join(f"w{i}" for i in range(40))
  deleted = [
    40 - len(t.split())
    for t in edits(text, share=0.2, synonyms={})
    if len(t.split()) < 40
  ]
  assert abs(np.mean(deleted) - 8) < 1
  moved = [
    sum(a != b for a, b in zip(t.split(), text.split()))
    for t in edits(text, share=0.2, synonyms={})
    if len(t.split()) == 40 and t != text
  ]
  assert 10 < np.mean(moved) <= 16


@settings(max_examples=100, deadline=None)
@given(
  st.lists(st.sampled_from(["cat", "a", "b", "roller coaster"]), max_size=6),
  st.floats(0.01, 1.0),
  st.integers(0, 10),
)
def test_a_text_is_never_emptied_and_draws_follow_the_generator(
  words, share, seed
):
  text = ", ".join(words)
  edit = eda.EasyDataAugmentation(SYNONYMS, share)
  first, second = (edit(text, np.random.default_rng(seed)) for _ in range(2))
  assert first == second
  assert bool(first) == bool(text)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_the_share_is_checked(share):
  with pytest.raises(ValueError, match="^share "):
    eda.EasyDataAugmentation({}, share)


def source(*captions):
  """Records with these captions."""
  records = [
    {
      "index": i,
      "concept_id": i,
      "captions": tuple(sources.Caption(*c) for c in own),
      "label": "",
    }
    for i, own in enumerate(captions)
  ]
  return sources.ArraySource(
    np.zeros((len(records), 2, 2, 3), np.uint8), records
  )


def test_synonyms_are_own_keywords_and_names_in_other_languages():
  found = eda.synonyms(
    source(
      [
        ("Lion", "name", "en"),
        ("big cat", "keyword", "en"),
        ("lion", "keyword", "en"),
        ("Löwe", "name", "de"),
        ("Raubtier", "keyword", "de"),
        ("leone", "name", "it"),
      ],
      [("Lion", "name", "en"), ("Leo", "keyword", "en")],
    ),
    ("en", "de"),
  )
  assert found == {
    "lion": ("Leo", "Löwe", "big cat"),
    "löwe": ("Lion", "Raubtier"),
  }


def test_without_languages_all_count():
  found = eda.synonyms(source([("a", "name", "en"), ("b", "name", "it")]))
  assert found == {"a": ("b",), "b": ("a",)}
  assert eda.synonyms(source([("a", "name", ""), ("b", "name", "")])) == {}


def test_all_occurrences_of_a_word_have_one_synonym():
  for text in edits("cat cat cat", count=200):
    words = set(text.split())
    assert words in ({"cat"}, {"feline"}, {"Katze"}) or len(words) == 2
    assert words != {"feline", "Katze"}


def test_a_file_of_synonyms(tmp_path):
  path = tmp_path / "synonyms.json"
  path.write_text(json.dumps({"Cat": ["feline"], "x": []}), encoding="utf-8")
  assert eda.load_synonyms(path) == {"cat": ("feline",), "x": ()}


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("{", "JSON"),
    ("[]", "object"),
    ('{"cat": "feline"}', "'cat'"),
    ('{"cat": [1]}', "'cat'"),
    ('{"cat": [" "]}', "'cat'"),
  ],
)
def test_a_wrong_file_is_named(tmp_path, content, message):
  path = tmp_path / "synonyms.json"
  path.write_text(content, encoding="utf-8")
  with pytest.raises(ValueError, match=message) as error:
    eda.load_synonyms(path)
  assert str(path) in str(error.value)
