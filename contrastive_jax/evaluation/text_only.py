"""What the texts alone give away: the score of a model that sees no image."""

import collections
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from contrastive_jax.evaluation import vqa

# What is asked of an image, by task.
_TEXTS = {"vqa": "question", "nlvr2": "statement", "entailment": "hypothesis"}


def text_only_accuracy(
  train_texts: Sequence[str],
  train_labels: Sequence[Hashable],
  test_texts: Sequence[str],
  test_labels: Sequence[Hashable],
) -> dict[str, float]:
  """Accuracy of the most frequent training label of each text.

  A test text that no training text equals gets the label that is most frequent
  of all. Of labels that are equally frequent the first in training counts. A
  model that looks at its images must do better than this.

  Args:
    train_texts: questions, statements or hypotheses.
    train_labels: their answers or classes.
    test_texts: those that are scored.
    test_labels: their answers or classes.

  Returns:
    `accuracy`; `majority_accuracy`, of the most frequent label for all; and
    `seen_texts`, the share of test texts that are training texts too. 0 to 1.

  Raises:
    ValueError: no text, or other numbers of texts and labels.

  >>> train = ["dog?", "dog?", "cat?", "what?"], ["no", "no", "yes", "red"]
  >>> text_only_accuracy(*train, ["cat?", "why?"], ["yes", "red"])
  {'accuracy': 0.5, 'majority_accuracy': 0.0, 'seen_texts': 0.5}
  """
  for name, texts, labels in (
    ("train", train_texts, train_labels),
    ("test", test_texts, test_labels),
  ):
    if not len(texts) or len(texts) != len(labels):
      raise ValueError(
        f"{name}_texts and {name}_labels must be as many, and at least one; got"
        f" {len(texts)} and {len(labels)}."
      )
  guess = _Guess((t, label, 1.0) for t, label in zip(train_texts, train_labels))
  return {
    "accuracy": _mean(
      guess.of(text) == label for text, label in zip(test_texts, test_labels)
    ),
    "majority_accuracy": _mean(guess.any == label for label in test_labels),
    "seen_texts": _mean(guess.knows(text) for text in test_texts),
  }


def task_text_only_accuracy(data: Any, split: str = "test") -> dict[str, float]:
  """The same for a data set of a task, as the task is scored.

  Answers to questions weigh as they do in training, and are scored by
  `vqa_accuracy`, which is plain accuracy if a question has a single answer.

  Args:
    data: `data.tasks.TaskData` with a split "train".
    split: that is scored.

  Returns:
    As `text_only_accuracy`, and `accuracy/{kind}` for each kind of question.

  Raises:
    ValueError: the data lacks a split, or answers in one.
  """
  if data.task not in _TEXTS:
    raise ValueError(
      f"data must be of the task {', '.join(_TEXTS)}, got {data.task!r}."
    )
  for name in ("train", split):
    if name not in data.splits or not len(data.splits[name]):
      raise ValueError(
        f"data must have records in the split {name!r}, got the splits"
        f" {', '.join(data.splits)}."
      )
  key = _TEXTS[data.task]
  train, test = (
    [data.splits[name].fields(i) for i in range(len(data.splits[name]))]
    for name in ("train", split)
  )
  for name, records in (("train", train), (split, test)):
    if data.task == "vqa" and not all(r["answers"] for r in records):
      raise ValueError(
        f"every question of the split {name!r} must have an answer, got one"
        " without."
      )
  guess = _Guess(
    (r[key], label, weight) for r in train for label, weight in _labels(r)
  )
  kinds = [r["kind"] for r in test]

  def score(guesses: list[Any]) -> dict[str, float]:
    if data.task == "vqa":
      return vqa.vqa_accuracy(guesses, [r["answers"] for r in test], kinds)
    right: dict[str, list[bool]] = collections.defaultdict(list)
    for guessed, record in zip(guesses, test):
      right["accuracy"].append(guessed == record["label"])
      if record["kind"]:
        right[f"accuracy/{record['kind']}"].append(guessed == record["label"])
    return {name: _mean(values) for name, values in right.items()}

  return {
    **score([guess.of(r[key]) for r in test]),
    "majority_accuracy": score([guess.any] * len(test))["accuracy"],
    "seen_texts": _mean(guess.knows(r[key]) for r in test),
  }


class _Guess:
  """The heaviest label of each text, and of all."""

  def __init__(self, examples: Iterable[tuple[str, Hashable, float]]):
    totals: dict[str, dict[Hashable, float]] = collections.defaultdict(
      lambda: collections.defaultdict(float)
    )
    everything: dict[Hashable, float] = collections.defaultdict(float)
    for text, label, weight in examples:
      totals[text][label] += weight
      everything[label] += weight
    self._best = {text: _heaviest(found) for text, found in totals.items()}
    self.any = _heaviest(everything)

  def knows(self, text: str) -> bool:
    return text in self._best

  def of(self, text: str) -> Hashable:
    return self._best.get(text, self.any)


def _heaviest(totals: Mapping[Hashable, float]) -> Hashable:
  # `max` takes the first of equals, and dicts keep their order.
  return max(totals, key=lambda label: totals[label])


def _labels(record: Any) -> list[tuple[Hashable, float]]:
  if "answers" in record:
    return [(answer.text, answer.weight) for answer in record["answers"]]
  return [(record["label"], 1.0)]


def _mean(values: Iterable[bool]) -> float:
  listed = list(values)
  return sum(listed) / len(listed)
