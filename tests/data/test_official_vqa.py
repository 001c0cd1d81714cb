"""Official files of questions about images."""

import json

import numpy as np
import pytest

from contrastive_jax.data import tasks
from contrastive_jax.data.sets.folder import reading
from contrastive_jax.evaluation import vqa
from tests.data.official_files import SIDE, all_fields, load, save, write


@pytest.fixture(name="root")
def fixture_root(tmp_path):
  path = tmp_path / "images"
  path.mkdir()
  return path


# VQA v2.


def annotation(question_id, answers, kind="other"):
  return {
    "question_id": question_id,
    "question_type": "what",
    "answer_type": kind,
    "multiple_choice_answer": max(answers, key=answers.count),
    "answers": [{"answer": a, "answer_id": i} for i, a in enumerate(answers)],
  }


def question(question_id, image_id, text="What?"):
  return {"question_id": question_id, "image_id": image_id, "question": text}


def write_vqa(root, subset, questions, annotations=None):
  path = write(
    root / f"v2_OpenEnded_mscoco_{subset}_questions.json",
    {"data_subtype": subset, "questions": questions},
  )
  if annotations is not None:
    write(
      root / f"v2_mscoco_{subset}_annotations.json",
      {"annotations": annotations},
    )
  return path


@pytest.fixture(name="vqa_folder")
def fixture_vqa_folder(tmp_path, root):
  """Two training images with three questions, one of validation and test."""
  save(root / "train2014" / "COCO_train2014_000000000009.jpg")
  save(root / "train2014" / "COCO_train2014_000000000025.jpg")
  save(root / "COCO_val2014_000000000042.jpg")
  save(root / "test2015" / "COCO_test2015_000000000001.jpg")
  files = tmp_path / "vqa"
  write_vqa(
    files,
    "train2014",
    [
      question(9000, 9, "How many\n dogs?"),
      question(25000, 25),
      question(9001, 9, "Is it a dog?"),
    ],
    [
      annotation(9001, ["yes"] * 10, "yes/no"),
      annotation(25000, ["red", "blue"] * 5),
      annotation(9000, ["2", "two", "Two.", "3"] + ["4"] * 6, "number"),
    ],
  )
  write_vqa(
    files, "val2014", [question(42000, 42)], [annotation(42000, ["red"] * 10)]
  )
  write_vqa(files, "test2015", [question(1000, 1)])
  write_vqa(files, "test-dev2015", [question(1000, 1)])
  return files


def test_vqa_v2(vqa_folder, root):
  lines = []
  data = load(
    "vqa", "vqa_v2", vqa_folder, root, min_count=1, report=lines.append
  )
  assert (data.name, data.task) == ("vqa_v2", "vqa")
  assert list(data.splits) == ["train", "validation", "test", "test_dev"]
  train = all_fields(data.splits["train"])
  assert train[0] == {
    "index": 0,
    "image_id": 0,
    "question_id": 9000,
    "question": "How many dogs?",
    "answers": (
      tasks.Answer("4", 0.6, 6),
      tasks.Answer("2", 0.3, 3),
      tasks.Answer("3", 0.1, 1),
    ),
    "kind": "number",
    "dataset": "vqa",
  }
  # Questions of an image follow each other.
  assert [r["question_id"] for r in train] == [9000, 9001, 25000]
  assert [r["image_id"] for r in train] == [0, 0, 1]
  assert [r["index"] for r in train] == [0, 2, 1]
  assert train[1]["kind"] == "yes_no"
  assert train[1]["answers"] == (tasks.Answer("yes", 1.0, 10),)
  assert train[2]["answers"] == (
    tasks.Answer("red", 0.5, 5),
    tasks.Answer("blue", 0.5, 5),
  )
  assert data.answers == ("4", "red", "yes")
  assert data.splits["validation"].fields(0)["index"] == 3
  (test,) = all_fields(data.splits["test"])
  assert test["index"] == 4
  assert (test["answers"], test["kind"]) == ((), "")
  assert sum("cannot be scored" in line for line in lines) == 2
  assert data.splits["test_dev"][0]["image"].shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("answers", [["red", "blue"], ["red", "red", "blue"]])
def test_the_answer_that_the_file_names_is_first(tmp_path, root, answers):
  save(root / "COCO_train2014_000000000009.jpg")
  entry = annotation(1, answers)
  entry["multiple_choice_answer"] = "Blue"
  write_vqa(tmp_path, "train2014", [question(1, 9)], [entry])
  data = load("vqa", "vqa_v2", tmp_path, root, min_count=1)
  first = data.splits["train"].fields(0)["answers"][0]
  assert first.text == "blue" and data.answers == ("blue",)


def test_vqa_v2_scores_by_its_answers(vqa_folder, root):
  data = load("vqa", "vqa_v2", vqa_folder, root, min_count=1)
  train = all_fields(data.splits["train"])
  scores = vqa.vqa_accuracy(
    ["two", "No", "red"],
    [r["answers"] for r in train],
    [r["kind"] for r in train],
  )
  assert scores["accuracy/number"] == pytest.approx(0.9)
  assert scores["accuracy/yes_no"] == 0.0
  assert scores["accuracy/other"] == 1.0


def test_vqa_v2_from_named_files(vqa_folder, root, tmp_path):
  name = "v2_OpenEnded_mscoco_{}_questions.json"
  other = tmp_path / "elsewhere.json"
  (vqa_folder / "v2_mscoco_val2014_annotations.json").rename(other)
  files = {
    "train": [vqa_folder / name.format(s) for s in ("train2014", "val2014")]
  }
  with pytest.raises(reading.DataError, match="1 of 4 .*annotations"):
    load("vqa", "vqa_v2", files, root)
  beside = vqa_folder / "v2_mscoco_train2014_annotations.json"
  data = load(
    "vqa",
    "vqa_v2",
    files,
    root,
    annotations={"train": [beside, other]},
    min_count=2,
  )
  assert data.answers == ("red",) and len(data.splits["train"]) == 4
  with pytest.raises(ValueError, match="^annotations .*2 file.*got 1"):
    load("vqa", "vqa_v2", files, root, annotations={"train": other})
  with pytest.raises(ValueError, match="^annotations .*train, got test"):
    load("vqa", "vqa_v2", files, root, annotations={"test": other})


def test_vqa_v2_candidates_of_two_splits(vqa_folder, root):
  both = load(
    "vqa",
    "vqa_v2",
    vqa_folder,
    root,
    min_count=2,
    answer_splits=("train", "validation"),
  )
  assert both.answers == ("red",)
  with pytest.raises(reading.DataError, match="min_count"):
    load("vqa", "vqa_v2", vqa_folder, root, min_count=2)


@pytest.mark.parametrize(
  ("questions", "annotations", "problem"),
  [
    ([question(1, 9), question(2, 9)], [annotation(1, ["a"])], "no annotation"),
    ([question(1, "9")], [annotation(1, ["a"])], '"image_id" is text'),
    ([question(1, 9, " ")], [annotation(1, ["a"])], "empty text"),
    ([question(1, 9)], [annotation(1, [" "])], "no answer"),
    ([question(1, 9)], [{"question_id": 1}], 'there is no "answers"'),
    ([question(1, 9)], [annotation(1, ["a"]), 7], "it is a number"),
    ([question(1, 10)], [annotation(1, ["a"])], "missing file"),
    ([question(True, 9)], [annotation(1, ["a"])], '"question_id" is true or'),
  ],
)
def test_bad_questions(tmp_path, root, questions, annotations, problem):
  save(root / "COCO_train2014_000000000009.jpg")
  write_vqa(tmp_path, "train2014", questions, annotations)
  with pytest.raises(reading.DataError, match=problem):
    load("vqa", "vqa_v2", tmp_path, root)


def test_questions_about_unknown_images(tmp_path, root):
  path = write(tmp_path / "questions.json", {"questions": []})
  with pytest.raises(reading.DataError, match='"data_subtype"'):
    load("vqa", "vqa_v2", path, root)
  with pytest.raises(reading.DataError, match='"questions"'):
    load("vqa", "vqa_v2", write(path, {"x": 1}), root)


def test_the_letter_a_is_an_answer(tmp_path, root):
  save(root / "COCO_train2014_000000000009.jpg")
  answers = ["A"] * 4 + [""] + ["b"] * 5
  write_vqa(tmp_path, "train2014", [question(1, 9)], [annotation(1, answers)])
  data = load("vqa", "vqa_v2", tmp_path, root, min_count=1)
  assert data.splits["train"].fields(0)["answers"] == (
    tasks.Answer("b", 0.5, 5),
    tasks.Answer("a", 0.4, 4),
  )


# Visual Genome.


def genome_rows():
  return [
    {
      "id": i,
      "qas": [
        {"qa_id": 10 * i + j, "question": f"What {j}?", "answer": "Two dogs."}
        for j in range(2)
      ],
    }
    for i in (1, 2, 3)
  ]


def test_visual_genome(tmp_path, root):
  save(root / "VG_100K_2" / "1.jpg", (1, 2, 3))
  save(root / "2.jpg", (4, 5, 6))
  save(root / "other" / "3.jpg", (7, 8, 9))
  write(
    tmp_path / "image_data.json",
    [
      {"image_id": 3, "url": "https://host/x/other/3.jpg"},
      {"id": 9, "url": "https://host/x/other/9.jpg"},
    ],
  )
  path = write(tmp_path / "question_answers.json", genome_rows())
  data = load("vqa", "visual_genome", path, root, min_count=6)
  train = data.splits["train"]
  assert train.fields(1) == {
    "index": 1,
    "image_id": 0,
    "question_id": 11,
    "question": "What 1?",
    "answers": (tasks.Answer("2 dogs", 0.5, 10),),
    "kind": "",
    "dataset": "vg",
  }
  assert data.answers == ("2 dogs",)
  found = [tuple(train[i]["image"][0, 0].tolist()) for i in (0, 2, 4)]
  for pixel, expected in zip(found, [(1, 2, 3), (4, 5, 6), (7, 8, 9)]):
    np.testing.assert_allclose(pixel, expected, atol=3)  # JPEG.


def test_visual_genome_that_is_wrong(tmp_path, root):
  save(root / "1.jpg")
  rows = [{"id": 1, "qas": [{"question": "What?"}, 5]}, {"id": 2}, 7]
  path = write(tmp_path / "question_answers.json", rows)
  report = tmp_path / "skipped.jsonl"
  with pytest.raises(reading.DataError, match="4 of 4 rows"):
    load("vqa", "visual_genome", path, root, report_path=report)
  rows = map(json.loads, report.read_text().splitlines())
  assert [(e["row"], e["problem"].split(":")[0]) for e in rows] == [
    (1, "missing key"),
    (1, "malformed row"),
    (2, "missing key"),
    (3, "malformed row"),
  ]
  write(path, genome_rows())
  write(tmp_path / "image_data.json", [{"image_id": 3}])
  with pytest.raises(reading.DataError, match="Row 1 of .*image_data.json"):
    load("vqa", "visual_genome", path, root)


def test_visual_genome_beside_vqa_v2(vqa_folder, root, tmp_path):
  genome_root = tmp_path / "genome"
  for i in (1, 2, 3):
    save(genome_root / f"{i}.jpg")
  path = write(tmp_path / "question_answers.json", genome_rows())
  data = load(
    "vqa",
    "vqa_v2",
    vqa_folder,
    {"vqa": root, "vg": genome_root},
    visual_genome=path,
    min_count=1,
  )
  train = all_fields(data.splits["train"])
  assert [r["dataset"] for r in train] == ["vqa"] * 3 + ["vg"] * 6
  assert len({r["image_id"] for r in train}) == 5
  assert data.answers == ("4", "red", "yes")  # None of Visual Genome's.
  with pytest.raises(reading.DataError, match="image_root .*'vg'"):
    load("vqa", "vqa_v2", vqa_folder, {"vqa": root}, visual_genome=path)


# ALBEF's questions.


def albef_question(i, answer=("2", "two", "3", "3", "3"), dataset="vqa"):
  return {
    "image": f"val2014/{i}.jpg",
    "dataset": dataset,
    "question_id": 100 + i,
    "question": f"How many {i}?",
    "answer": list(answer) if isinstance(answer, tuple) else answer,
  }


def test_albef_questions(tmp_path, root):
  for i in range(4):
    save(root / "val2014" / f"{i}.jpg")
  write(tmp_path / "vqa_train.json", [albef_question(0)])
  write(
    tmp_path / "vg_qa.json",
    [
      {**albef_question(1, "On a table.", "vg"), "question_id": None},
      albef_question(2, ("On a table.",), "vg"),
    ],
  )
  test = albef_question(3)
  del test["answer"]
  write(tmp_path / "vqa_test.json", [test])
  write(tmp_path / "answer_list.json", ["Yes", "the table", "yes", "3"])
  data = load("vqa", "albef", tmp_path, root)
  assert list(data.splits) == ["train", "test"]
  train = all_fields(data.splits["train"])
  assert train[0]["answers"] == (
    tasks.Answer("3", 0.6, 6),
    tasks.Answer("2", 0.4, 4),
  )
  assert train[1]["answers"] == (tasks.Answer("on table", 0.5, 10),)
  assert train[2]["answers"] == train[1]["answers"]
  assert [r["question_id"] for r in train] == [100, 1, 102]
  assert data.answers == ("yes", "table", "3")
  assert data.splits["test"].fields(0)["answers"] == ()
  given = load("vqa", "albef", tmp_path, root, answers=["no", "no", "One"])
  assert given.answers == ("no", "1")


def test_candidates_that_are_none(tmp_path, root):
  save(root / "val2014" / "0.jpg")
  path = write(tmp_path / "vqa_train.json", [albef_question(0)])
  for wrong, message in (
    ({"a": 1}, "must be a list of texts"),
    (["a", 1], "must be a list of texts"),
    ([" "], "must be a list of texts"),
    ([], "at least one answer"),
  ):
    with pytest.raises(reading.DataError, match=message):
      load(
        "vqa", "albef", path, root, answers=write(tmp_path / "a.json", wrong)
      )


@pytest.mark.parametrize(
  ("change", "problem"),
  [
    ({"dataset": "gqa"}, "unknown dataset: 'gqa'"),
    ({"answer": 3}, '"answer" is a number instead of'),
    ({"answer": [3]}, "an answer is no text"),
    ({"answer": []}, "every answer is empty"),
    ({"dataset": "vg", "answer": ["a", "b"]}, "has 1 answer"),
    ({"image": "../../etc/passwd"}, "unsafe path"),
    ({"question": None}, '"question" is null'),
    ({"question_id": []}, '"question_id" is a list'),
  ],
)
def test_bad_questions_of_albef(tmp_path, root, change, problem):
  save(root / "val2014" / "0.jpg")
  path = write(tmp_path / "vqa_train.json", [albef_question(0) | change])
  with pytest.raises(reading.DataError, match=problem):
    load("vqa", "albef", path, root)


def test_options_of_other_formats(tmp_path, root):
  path = write(tmp_path / "vqa_train.json", [albef_question(0)])
  for options in (
    dict(visual_genome=path),
    dict(image_data=path),
    dict(annotations={"train": path}),
  ):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name} .*'albef'"):
      load("vqa", "albef", path, root, **options)
  with pytest.raises(ValueError, match="^min_count .*0"):
    load("vqa", "albef", path, root, min_count=0)
  for task in ("vqa", "nlvr2", "entailment"):
    with pytest.raises(ValueError, match="^format "):
      load(task, "coco", path, root)
