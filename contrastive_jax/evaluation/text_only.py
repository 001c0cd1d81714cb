"""Text-only baseline: the score of a model that sees no image."""

import collections
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from contrastive_jax.evaluation import vqa


def text_only_accuracy(
  train_texts: Sequence[str],
  train_labels: Sequence[Hashable],
  test_texts: Sequence[str],
  test_labels: Sequence[Hashable],
  kinds: Sequence[str] | None = None,
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
    kinds: a text for each of the test; scores are then also given by kind.
      Records of "" are in no kind.

  Returns:
    `accuracy`, and `accuracy/{kind}` for each kind; `majority_accuracy`, of the
    most frequent label for all; and `seen_texts`, the share of test texts that
    are training texts too. 0 to 1.

  Raises:
    ValueError: no text, or other numbers of texts and labels.

  >>> train = ["dog?", "dog?", "cat?", "what?"], ["no", "no", "yes", "red"]
  >>> text_only_accuracy(*train, ["cat?", "why?"], ["yes", "red"])
  {'accuracy': 0.5, 'majority_accuracy': 0.0, 'seen_texts': 0.5}
  """
  return _text_only(
    train_texts,
    [[(label, 1.0)] for label in train_labels],
    test_texts,
    test_labels,
    lambda guesses: vqa.accuracy_by_kind(
      [guess == label for guess, label in zip(guesses, test_labels)], kinds
    ),
  )


def vqa_text_only_accuracy(
  train_texts: Sequence[str],
  train_answers: Sequence[Sequence[tuple[str, float]]],
  test_texts: Sequence[str],
  test_answers: Sequence[Sequence[Any]],
  kinds: Sequence[str] | None = None,
) -> dict[str, float]:
  """The same of questions with several answers each.

  The guesses are scored by `vqa_accuracy`, which is plain accuracy if a
  question has a single answer.

  Args:
    train_texts: questions.
    train_answers: of each question, answers with their weights in training.
    test_texts: those that are scored.
    test_answers: of each of them, the `annotations` of `vqa_accuracy`.
    kinds: as of `text_only_accuracy`.

  Returns:
    As `text_only_accuracy`.

  Raises:
    ValueError: no question, other numbers of questions and answers, or a
      question without an answer.

  >>> train = ["dog?", "cat?"], [[("yes", 0.6), ("no", 0.4)], [("no", 0.9)]]
  >>> vqa_text_only_accuracy(*train, ["dog?"], [["yes"] * 10])["accuracy"]
  1.0
  """
  for name, answers in (("train", train_answers), ("test", test_answers)):
    if not all(answers):
      raise ValueError(
        f"{name}_answers must hold an answer to every question, got one"
        " without."
      )
  return _text_only(
    train_texts,
    train_answers,
    test_texts,
    test_answers,
    lambda guesses: vqa.vqa_accuracy(guesses, test_answers, kinds),
  )


def _text_only(
  train_texts: Sequence[str],
  train_labels: Sequence[Sequence[tuple[Any, float]]],
  test_texts: Sequence[str],
  test_labels: Sequence[Any],
  score: Callable[[Sequence[Any]], dict[str, float]],
) -> dict[str, float]:
  """Scores the heaviest training label of each text, and that of all."""
  for name, texts, labels in (
    ("train", train_texts, train_labels),
    ("test", test_texts, test_labels),
  ):
    if not len(texts) or len(texts) != len(labels):
      raise ValueError(
        f"{name}_texts must be as many as their labels or answers, and at least"
        f" one; got {len(texts)} and {len(labels)}."
      )
  totals: dict[str, dict[Any, float]] = collections.defaultdict(
    lambda: collections.defaultdict(float)
  )
  everything: dict[Any, float] = collections.defaultdict(float)
  for text, weighted in zip(train_texts, train_labels):
    for label, weight in weighted:
      totals[text][label] += weight
      everything[label] += weight
  # `max` takes the first of equals, and dicts keep their order.
  best = {
    text: max(found, key=found.__getitem__) for text, found in totals.items()
  }
  usual = max(everything, key=everything.__getitem__)
  return {
    **score([best.get(text, usual) for text in test_texts]),
    "majority_accuracy": score([usual] * len(test_texts))["accuracy"],
    "seen_texts": sum(text in best for text in test_texts) / len(test_texts),
  }
