"""Accuracy of answers to questions about images, as VQA v2 scores them."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from contrastive_jax.answers import normalize_answer

# Three annotators who agree make an answer right.
_ENOUGH = 3


def vqa_accuracy(
  predictions: Sequence[str],
  annotations: Sequence[Sequence[Any]],
  kinds: Sequence[str] | None = None,
  *,
  leave_one_out: bool = True,
  normalize: bool = True,
) -> dict[str, float]:
  """Accuracy of answers by how many annotators gave them.

  With N annotators of a question (VQA v2: 10), n of whom gave the predicted
  answer, the question's accuracy is the mean over the subsets that leave one
  annotator out,

  `a = n/N min((n - 1)/3, 1) + (N - n)/N min(n/3, 1)`,

  which is 0, 0.3, 0.6, 0.9 and 1 for n = 0, 1, 2, 3 and more of 10; or, without
  `leave_one_out`, `a = min(n/3, 1)`. The accuracy is the mean over the
  questions.

  The official code leaves answers as they are where all annotators gave the
  same. Here they are normalised there too, as those that VQA v2 publishes
  already are: a prediction "2." would miss ten times "2" otherwise.

  Args:
    predictions: an answer a question.
    annotations: of each question, the answers of its annotators, one text each;
      or `data.tasks.Answer`s, whose `count` is the number of annotators.
    kinds: a text a question; scores are then also given by kind. Those of ""
      are in no kind.
    leave_one_out: whether as the official code does, or by the simple formula.
    normalize: whether to bring all answers to the form of `normalize_answer`
      first.

  Returns:
    `accuracy`, and `accuracy/{kind}` for each kind, 0 to 1.

  Raises:
    ValueError: other lengths, no question, a question without annotators, or
      one annotator where one is to be left out.

  Reference:
    Antol et al., VQA: visual question answering, 2015, and
    https://visualqa.org/evaluation.html.

  >>> votes = [["2"] * 3 + ["3"] * 7, ["yes"] * 10]
  >>> scores = vqa_accuracy(["two", "Yes"], votes, ["number", "yes_no"])
  >>> {name: round(score, 3) for name, score in scores.items()}
  {'accuracy': 0.95, 'accuracy/number': 0.9, 'accuracy/yes_no': 1.0}
  >>> vqa_accuracy(["two"], votes[:1], leave_one_out=False)
  {'accuracy': 1.0}
  """
  if isinstance(predictions, str) or not len(predictions):
    raise ValueError(
      "predictions must hold at least one question's answer, got"
      f" {predictions!r}."
    )
  if len(annotations) != len(predictions):
    raise ValueError(
      f"annotations must have one entry for each of {len(predictions)}"
      f" predictions, got {len(annotations)}."
    )
  known: dict[str, str] = {}

  def form(text: Any) -> str:
    if not isinstance(text, str):
      raise ValueError(f"answers must be texts, got {text!r}.")
    if not normalize:
      return text
    if text not in known:
      known[text] = normalize_answer(text)
    return known[text]

  scores = []
  for i, (prediction, given) in enumerate(zip(predictions, annotations)):
    votes = _votes(given, i, form)
    total = sum(votes.values())
    if total < 1 + leave_one_out:
      raise ValueError(
        f"annotations[{i}] must be of at least {1 + leave_one_out}"
        f" annotator(s), got {total}."
      )
    same = votes.get(form(prediction), 0)
    scores.append(_score(same, total, leave_one_out))
  return accuracy_by_kind(scores, kinds)


def accuracy_by_kind(
  scores: Sequence[float], kinds: Sequence[str] | None = None
) -> dict[str, float]:
  """The mean of all scores, and of each kind's.

  Args:
    scores: of each prediction, 0 to 1; or whether it is right.
    kinds: a text a prediction; None is no kind. Scores of "" are in no kind.

  Returns:
    `accuracy`, and `accuracy/{kind}` for each kind.

  Raises:
    ValueError: without scores, or with kinds of another number.

  >>> accuracy_by_kind([True, False, True], ["colour", "colour", ""])
  {'accuracy': 0.6666666666666666, 'accuracy/colour': 0.5}
  """
  if not len(scores):
    raise ValueError("scores must hold at least one score, got none.")
  if kinds is None:
    kinds = [""] * len(scores)
  if len(kinds) != len(scores):
    raise ValueError(
      f"kinds must have one entry for each of {len(scores)} predictions, got"
      f" {len(kinds)}."
    )
  found: dict[str, list[float]] = {"accuracy": [*scores]}
  for score, kind in zip(scores, kinds):
    if kind:
      found.setdefault(f"accuracy/{kind}", []).append(score)
  return {name: sum(values) / len(values) for name, values in found.items()}


def _votes(
  given: Sequence[Any], i: int, form: Callable[[Any], str]
) -> Mapping[str, int]:
  """How many annotators gave each answer."""
  if isinstance(given, str):
    raise ValueError(
      f"annotations[{i}] must be a sequence of answers, got {given!r}."
    )
  votes: collections.Counter[str] = collections.Counter()
  for answer in given:
    # A str has a `count` as well, but another one.
    if isinstance(answer, str):
      votes[form(answer)] += 1
      continue
    text, count = getattr(answer, "text", None), getattr(answer, "count", None)
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
      raise ValueError(
        f"annotations[{i}] must hold texts, or answers with the number of their"
        f" annotators as count, got {answer!r}."
      )
    votes[form(text)] += count
  return votes


def _score(same: int, total: int, leave_one_out: bool) -> float:
  if not leave_one_out:
    return min(same / _ENOUGH, 1.0)
  # `same` subsets lack one who agrees, the others one who does not.
  lacking = min((same - 1) / _ENOUGH, 1.0) if same else 0.0
  return (same * lacking + (total - same) * min(same / _ENOUGH, 1.0)) / total
