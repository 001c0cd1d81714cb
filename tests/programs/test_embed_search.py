"""The programs that use a model: embed, search, classify, export."""

import csv
import json

import pytest

from contrastive_jax.programs import classify, embed, search
from contrastive_jax.training.config import errors
from tests.inference import tiny_model
from tests.programs.calling import run


@pytest.fixture(scope="module", name="home")
def fixture_home(tmp_path_factory):
  """A model and twelve pictures, embedded."""
  home = tmp_path_factory.mktemp("home")
  tiny_model.write(home / "model")
  tiny_model.pictures(home / "pictures", 12)
  with pytest.MonkeyPatch.context() as patch:
    run(
      patch,
      embed,
      model=home / "model",
      inputs=[str(home / "pictures")],
      out=str(home / "out"),
    )
  return home


def test_a_picture_finds_itself(home, monkeypatch, capsys, tmp_path):
  picture = str(home / "pictures" / "007.png")
  run(
    monkeypatch,
    search,
    model=home / "model",
    embeddings=home / "out",
    image=[picture],
    query=["a red cup"],
    k=3,
    out=tmp_path / "found.jsonl",
    html=tmp_path / "found.html",
  )
  lines = (tmp_path / "found.jsonl").read_text().splitlines()
  sentence, seen = map(json.loads, lines)
  assert sentence["query"] == "a red cup" and len(sentence["found"]) == 3
  assert seen["query"] == picture
  assert seen["found"][0] == {"key": picture, "score": pytest.approx(1.0)}
  assert picture in capsys.readouterr().out
  page = (tmp_path / "found.html").read_text()
  assert page.count("<figure") == 6 and page.count("base64") == 6


def test_many_sentences_come_from_a_file(home, monkeypatch, capsys, tmp_path):
  path = tmp_path / "sentences.txt"
  path.write_text("one\n\ntwo\nthree\n")
  run(
    monkeypatch,
    search,
    model=home / "model",
    embeddings=home / "out",
    queries=path,
    out=tmp_path / "found.jsonl",
  )
  found = [
    json.loads(line)["query"]
    for line in (tmp_path / "found.jsonl").read_text().splitlines()
  ]
  assert found == ["one", "two", "three"]
  del capsys


def test_classes(home, monkeypatch, tmp_path):
  run(
    monkeypatch,
    classify,
    model=home / "model",
    inputs=[str(home / "pictures")],
    labels=["cup", "dog"],
    out=tmp_path / "classes.csv",
  )
  with open(tmp_path / "classes.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 12 and {row["label"] for row in rows} <= {"cup", "dog"}
  assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)


@pytest.mark.parametrize(
  "program, values, named",
  [
    (embed, {}, "--inputs"),
    (embed, {"inputs": ["x"]}, "--out"),
    (embed, {"inputs": ["x"], "out": "y", "process_id": 1}, "--process_id"),
    (embed, {"inputs": ["x"], "out": "y", "model": "/none"}, "/none"),
    (search, {}, "--embeddings"),
    (search, {"embeddings": "x"}, "--query"),
    (search, {"embeddings": "x", "query": [" "]}, "empty"),
    (search, {"embeddings": "/none", "query": ["a"]}, "/none"),
    (search, {"embeddings": "x", "queries": "/none"}, "--queries"),
    (classify, {}, "--inputs"),
    (classify, {"inputs": ["x"]}, "--labels"),
    (classify, {"inputs": ["x"], "labels_file": "/none"}, "--labels_file"),
  ],
)
def test_mistakes_are_named(program, values, named, monkeypatch):
  with pytest.raises((errors.UserError, ValueError), match=named):
    run(monkeypatch, program, **values)
