"""Score of a model that sees the texts alone."""

import collections

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

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


def test_wrong_arguments():
  with pytest.raises(ValueError, match=r"\btrain_texts\b.*got 0 and 0"):
    text_only.text_only_accuracy([], [], ["a"], [1])
  with pytest.raises(ValueError, match="test_texts .* got 1 and 2"):
    text_only.text_only_accuracy(["a"], [1], ["a"], [1, 2])
  with pytest.raises(ValueError, match="kinds .* got 2"):
    text_only.text_only_accuracy(["a"], [1], ["a"], [1], ["x", "y"])
  with pytest.raises(ValueError, match="test_answers .*got one without"):
    text_only.vqa_text_only_accuracy(["a"], [[("yes", 1.0)]], ["a"], [[]])
