"""A run on a page that needs no other file."""

import html
import json
import re

import numpy as np

from contrastive_jax.training.evaluators import html_pages

RESULTS = {"retrieval/recall": 0.25, "geometry/gap": -3.5, "train/steps": 1400}


def make(**changes):
  options = {
    "headlines": ("retrieval/recall", "absent/score"),
    "pictures": {"Curves": b"png"},
    "config": {"seed": 3, "name": "</script><b>"},
    "command": "train --x='<a>'",
    **changes,
  }
  return html_pages.page(
    "clip on <data>", ["a & b"], RESULTS, {"retrieval/recall": 12}, **options
  )


def points(count=3):
  return html_pages.Points(
    np.arange(2.0 * count).reshape(count, 2),
    ["one", "</script>", "three"][:count],
    ["a", "", "a"][:count],
    np.zeros((count, 8, 8, 3), np.uint8),
  )


def test_scores_come_with_their_items():
  page = make()
  first, rest = page.split("<details>", 1)
  assert "retrieval/recall" in first and "0.25" in first and ">12<" in first
  assert "geometry/gap" not in first and "absent/score" not in page
  assert "-3.5" in rest and "1,400" in rest
  assert "width:25.0%" in first


def test_what_a_user_named_stands_as_text():
  page = make(points=points())
  assert "<data>" not in page and html.escape("clip on <data>") in page
  assert "a &amp; b" in page and "<a>" not in page
  # Data end no script.
  (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
  data = json.loads(script.partition("const DATA=")[2].partition(";const")[0])
  assert data["titles"] == ["one", "</script>", "three"]
  assert data["xy"][0] == [0, 0] and data["xy"][2] == [1, 1]


def test_it_needs_no_other_file():
  page = make(points=points())
  places = re.findall(r'(?:src|href)="([^"]{5})', page)
  assert places and set(places) == {"data:"}
  assert "http" not in page


def test_without_anything_to_show():
  page = html_pages.page("title", [], {}, {}, points=points(1))
  assert "<canvas" not in page and "<table" not in page
