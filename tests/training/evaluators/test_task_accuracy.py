"""Score of the texts alone of a task's data set."""

import numpy as np
import pytest

from contrastive_jax.data import sources, tasks
from contrastive_jax.training.evaluators import task_accuracy


def task_data(task, key, splits):
  """A data set of (text, label or answers, kind) rows without images."""
  field = "answers" if task == "vqa" else "label"
  return tasks.TaskData(
    "toy",
    task,
    {
      name: sources.ArraySource(
        np.zeros((len(rows), 1, 1, 3), np.uint8),
        [{key: text, field: value, "kind": kind} for text, value, kind in rows],
      )
      for name, rows in splits.items()
    },
  )


def answer(text, weight=1.0, count=10):
  return (tasks.Answer(text, weight, count),)


def test_of_questions():
  data = task_data(
    "vqa",
    "question",
    {
      "train": [
        ("p?", answer("yes", 0.4), ""),
        ("p?", answer("yes", 0.4), ""),
        ("p?", answer("no", 1.0), ""),
        ("q?", (*answer("red", 0.3), *answer("blue", 0.7)), ""),
      ],
      "test": [
        ("p?", answer("no"), "x"),
        ("q?", (*answer("blue", 0.2, 2), *answer("red", 0.8, 8)), "y"),
        ("new?", answer("no"), "y"),
      ],
      "validation": [("q?", answer("blue"), "")],
    },
  )
  found = task_accuracy.text_only_accuracy(data)
  assert found == pytest.approx(
    {
      "accuracy": (1 + 0.6 + 1) / 3,
      "accuracy/x": 1.0,
      "accuracy/y": 0.8,
      "majority_accuracy": 2 / 3,
      "seen_texts": 2 / 3,
    }
  )
  assert task_accuracy.text_only_accuracy(data, "validation")["accuracy"] == 1


@pytest.mark.parametrize(
  ("task", "key"), [("nlvr2", "statement"), ("entailment", "hypothesis")]
)
def test_of_statements_and_hypotheses(task, key):
  data = task_data(
    task,
    key,
    {
      "train": [("p", 0, ""), ("q", 1, ""), ("q", 1, "")],
      "test": [("p", 0, "x"), ("q", 0, "x"), ("r", 1, "")],
    },
  )
  assert task_accuracy.text_only_accuracy(data) == pytest.approx(
    {
      "accuracy": 2 / 3,
      "accuracy/x": 0.5,
      "majority_accuracy": 1 / 3,
      "seen_texts": 2 / 3,
    }
  )


def test_a_split_that_is_not_there():
  rows = {"train": [("p", answer("a"), "")], "test": [("p", (), "")]}
  data = task_data("vqa", "question", rows)
  with pytest.raises(ValueError, match=r"\btest_answers\b.*answer"):
    task_accuracy.text_only_accuracy(data)
  with pytest.raises(ValueError, match=r"\bdata\b.*'dev'.*train, test"):
    task_accuracy.text_only_accuracy(data, "dev")
