"""What texts alone score."""

import collections

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from contrastive_jax.data import sources, tasks
from contrastive_jax.evaluation import text_only

PAIRS = st.lists(
  st.tuples(st.sampled_from("pqrs"), st.integers(0, 3)), min_size=1, max_size=30
)


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(PAIRS, PAIRS)
def test_is_that_of_the_majority_by_text(train, test):
  def majority(labels):
    best = max(collections.Counter(labels).values())
    return next(c for c in labels if labels.count(c) == best)

  everything = [label for _, label in train]

  def guess(text):
    seen = [label for t, label in train if t == text]
    return majority(seen or everything)

  found = text_only.text_only_accuracy(*zip(*train), *zip(*test))
  assert found == pytest.approx(
    {
      "accuracy": np.mean([guess(t) == label for t, label in test]),
      "majority_accuracy": np.mean(
        [majority(everything) == label for _, label in test]
      ),
      "seen_texts": np.mean([t in dict(train) for t, _ in test]),
    }
  )


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
  found = text_only.task_text_only_accuracy(data)
  assert found == pytest.approx(
    {
      "accuracy": (1 + 0.6 + 1) / 3,
      "accuracy/x": 1.0,
      "accuracy/y": 0.8,
      "majority_accuracy": 2 / 3,
      "seen_texts": 2 / 3,
    }
  )
  assert text_only.task_text_only_accuracy(data, "validation")["accuracy"] == 1


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
  assert text_only.task_text_only_accuracy(data) == pytest.approx(
    {
      "accuracy": 2 / 3,
      "accuracy/x": 0.5,
      "majority_accuracy": 1 / 3,
      "seen_texts": 2 / 3,
    }
  )


def test_wrong_arguments():
  with pytest.raises(
    ValueError, match=r"\btrain_texts and train_labels\b.*got 0 and 0"
  ):
    text_only.text_only_accuracy([], [], ["a"], [1])
  with pytest.raises(ValueError, match="test_texts .* got 1 and 2"):
    text_only.text_only_accuracy(["a"], [1], ["a"], [1, 2])
  rows = {"train": [("p", answer("a"), "")], "test": [("p", (), "")]}
  data = task_data("vqa", "question", rows)
  with pytest.raises(ValueError, match=r"\bsplit 'test'.*answer"):
    text_only.task_text_only_accuracy(data)
  with pytest.raises(ValueError, match=r"\bdata\b.*'dev'.*train, test"):
    text_only.task_text_only_accuracy(data, "dev")
  with pytest.raises(ValueError, match=r"\bdata\b.*got 'pretrain'"):
    text_only.task_text_only_accuracy(task_data("pretrain", "x", rows))
