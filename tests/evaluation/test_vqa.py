"""The official accuracy of answers to questions, against counting by hand."""

import itertools

import hypothesis
import pytest
from hypothesis import strategies as st

from contrastive_jax.answers import normalize_answer
from contrastive_jax.data import tasks
from contrastive_jax.evaluation import vqa

WORDS = ("yes", "no", "2", "two", "a dog", "dog", "dont", "don't", "")


def by_subsets(prediction, answers):
  """The mean over the subsets of all annotators but one."""
  scores = [
    min(sum(answer == prediction for answer in subset) / 3, 1)
    for subset in itertools.combinations(answers, len(answers) - 1)
  ]
  return sum(scores) / len(scores)


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(
  st.lists(
    st.tuples(
      st.sampled_from("abcd"),
      st.lists(st.sampled_from("abcd"), min_size=2, max_size=12),
      st.sampled_from(("", "x", "y")),
    ),
    min_size=1,
    max_size=8,
  )
)
def test_leave_one_out_is_the_mean_over_subsets(questions):
  predictions, answers, kinds = zip(*questions)
  found = vqa.vqa_accuracy(predictions, answers, kinds, normalize=False)
  single = [by_subsets(p, a) for p, a, _ in questions]
  assert found["accuracy"] == pytest.approx(sum(single) / len(single))
  assert set(found) == {"accuracy"} | {f"accuracy/{k}" for k in kinds if k}
  for kind in set(kinds) - {""}:
    of_kind = [s for s, k in zip(single, kinds) if k == kind]
    assert found[f"accuracy/{kind}"] == pytest.approx(
      sum(of_kind) / len(of_kind)
    )


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(
  st.sampled_from(WORDS),
  st.lists(st.sampled_from(WORDS), min_size=2, max_size=12),
)
def test_answers_are_compared_in_their_normal_form(prediction, answers):
  normal = [normalize_answer(answer) for answer in answers]
  expected = by_subsets(normalize_answer(prediction), normal)
  found = vqa.vqa_accuracy([prediction], [answers])["accuracy"]
  assert found == pytest.approx(expected)


@pytest.mark.parametrize(
  ("votes", "official", "simple"),
  [
    (0, 0.0, 0.0),
    (1, 0.3, 1 / 3),
    (2, 0.6, 2 / 3),
    (3, 0.9, 1.0),
    (4, 1.0, 1.0),
    (10, 1.0, 1.0),
  ],
)
def test_the_scores_of_ten_annotators(votes, official, simple):
  answers = [["red"] * votes + ["blue"] * (10 - votes)]
  assert vqa.vqa_accuracy(["red"], answers)["accuracy"] == pytest.approx(
    official
  )
  found = vqa.vqa_accuracy(["red"], answers, leave_one_out=False)
  assert found["accuracy"] == pytest.approx(simple)


def test_answers_with_counts_are_as_good_as_single_ones():
  answers = (tasks.Answer("red", 0.3, 3), tasks.Answer("blue", 0.7, 7))
  singly = ["red"] * 3 + ["blue"] * 7
  for prediction in ("red", "blue", "green"):
    assert vqa.vqa_accuracy([prediction], [answers]) == vqa.vqa_accuracy(
      [prediction], [singly]
    )
  assert vqa.vqa_accuracy(["x"], [[tasks.Answer("x")]])["accuracy"] == 1.0


def test_equal_forms_count_together():
  answers = ["2", "two", "Two.", "3", "3", "3", "3", "3", "3", "3"]
  assert vqa.vqa_accuracy(["TWO"], [answers])["accuracy"] == pytest.approx(0.9)
  found = vqa.vqa_accuracy(["2"], [answers], normalize=False)["accuracy"]
  assert found == pytest.approx(0.3)


@pytest.mark.parametrize(
  ("arguments", "options", "message"),
  [
    (([], []), {}, r"\bpredictions\b.*got \[\]"),
    (("no", [["no"] * 10] * 2), {}, r"\bpredictions\b.*got 'no'"),
    ((["a"], []), {}, r"\bannotations\b.*\b1\b.*got 0"),
    ((["a"], [["a"] * 2], ["x", "y"]), {}, r"\bkinds\b.*got 2"),
    ((["a"], [["a"]]), {}, r"\bannotations\[0\].*\b2\b.*got 1"),
    (
      (["a"], [[]]),
      {"leave_one_out": False},
      r"\bannotations\[0\].*\b1\b.*got 0",
    ),
    ((["a"], ["yes"]), {}, r"\bannotations\[0\].*got 'yes'"),
    ((["a"], [[1, 2]]), {}, r"\bannotations\[0\].*got 1"),
    (([3], [["a", "b"]]), {}, r"\banswers\b.*got 3"),
    (
      (["a"], [[tasks.Answer("a", 1.0, -1)]]),
      {},
      r"\bannotations\[0\].*got Answer\(text='a', weight=1\.0, count=-1\)",
    ),
    ((["a"], [[tasks.Answer(None)]]), {}, r"\banswers\b.*got None"),
  ],
)
def test_wrong_arguments(arguments, options, message):
  with pytest.raises(ValueError, match=message):
    vqa.vqa_accuracy(*arguments, **options)


def test_one_annotator_is_enough_for_the_simple_formula():
  found = vqa.vqa_accuracy(["a"], [["a"]], leave_one_out=False)
  assert found["accuracy"] == pytest.approx(1 / 3)
