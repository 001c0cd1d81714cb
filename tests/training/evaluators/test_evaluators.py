"""Tests of contrastive_jax.training.evaluators on images and captions."""

import dataclasses

import numpy as np
import pytest

from contrastive_jax import choices as choices_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.evaluators import (
  base,
  classification,
  retrieval,
)
from tests.training import tiny
from tests.training.evaluators.oracle import (
  ALL,
  Oracle,
  State,
  built,
  final,
  groups,
  labelled,
  opened,
  pair_data,
  record,
  source,
)

# Names.


def test_names_are_distinct_and_ordered_by_concept():
  split = source(
    record(3, ("cat", "en"), ("Katze", "de"), ("pet", "en", "keyword")),
    record(1, ("dog", "en"), ("hound", "en")),
    record(3, ("cat", "en")),
    record(2, ("a", "en", "keyword")),
  )
  texts, ids = retrieval.names_of(split)
  assert texts == ["dog", "hound", "cat"] and ids.tolist() == [1, 1, 3]
  texts, ids = retrieval.names_of(split, "de")
  assert texts == ["Katze"] and ids.tolist() == [3]
  texts, ids = retrieval.names_of(split, "fr")
  assert texts == [] and ids.shape == (0,)


def test_names_may_be_followed_by_the_keywords_of_their_language():
  split = source(
    record(
      0,
      ("cat", "en"),
      ("pet", "en", "keyword"),
      ("fur", "en", "keyword"),
      ("Katze", "de"),
      ("Tier", "de", "keyword"),
    ),
    record(1, ("dog", "en")),
  )
  texts, ids = retrieval.names_of(split, keywords=True)
  assert texts == ["cat, pet, fur", "dog"] and ids.tolist() == [0, 1]
  assert retrieval.names_of(split, "de", keywords=True)[0] == ["Katze, Tier"]
  oracle = Oracle({"pet": 0, "dog": 1})
  found = retrieval.retrieval(oracle, None, split, name="x", keywords=True)
  assert oracle.asked == [["cat, pet, fur", "dog"]]
  assert found["x/image_to_text/recall_at_1"] == 1.0


def test_without_a_language_each_example_gives_its_first():
  split = source(
    record(0, ("Hund", "de"), ("dog", "en")), record(1, ("cat", "en"))
  )
  assert retrieval.names_of(split)[0] == ["Hund", "cat"]


def test_one_name_of_two_concepts_counts_for_both():
  split = source(record(0, ("bat", "en")), record(1, ("bat", "en")))
  texts, ids = retrieval.names_of(split)
  assert texts == ["bat", "bat"] and ids.tolist() == [0, 1]


# Retrieval.

RAGGED = source(
  record(0, ("cat", "en"), ("kitty", "en"), ("Katze", "de")),
  record(1, ("dog", "en")),
  record(1, ("dog", "en"), ("Hund", "de")),
  record(2, ("fish", "en")),
)
MEANINGS = dict(cat=0, kitty=0, Katze=0, dog=1, Hund=1, fish=2)


def test_retrieval_of_ragged_names():
  found = retrieval.retrieval(Oracle(MEANINGS), None, RAGGED, name="here")
  assert set(found) == {
    f"here/{way}/{metric}"
    for way in ("image_to_text", "text_to_image")
    for metric in ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank")
  }
  assert all(value == 1.0 for value in found.values())
  # "kitty" is taken for a fish: the cat still has a right first name.
  wrong = Oracle({**MEANINGS, "kitty": 2})
  found = retrieval.retrieval(wrong, None, RAGGED, name="x")
  assert found["x/text_to_image/recall_at_1"] == pytest.approx(3 / 4)
  # The fish ties between "fish" and "kitty", which counts against it.
  assert found["x/image_to_text/recall_at_1"] == pytest.approx(3 / 4)


def test_retrieval_in_a_language_leaves_out_what_has_no_name_in_it():
  oracle = Oracle(MEANINGS)
  found = retrieval.retrieval(oracle, None, RAGGED, name="x", language="de")
  assert oracle.asked == [["Katze", "Hund"]]
  assert found["x/image_to_text/recall_at_1"] == 1.0
  assert found["x/text_to_image/recall_at_1"] == 1.0


@pytest.mark.parametrize("language", ["fr", "x"])
def test_a_language_without_names_gives_nothing(language):
  found = retrieval.retrieval(
    Oracle(MEANINGS), None, RAGGED, name="x", language=language
  )
  assert found == {}


def test_a_larger_gallery_is_harder_and_only_its_own_names_ask():
  other = source(record(5, ("cow", "en")))
  # Images of cats look like cows to this one.
  oracle = Oracle({**MEANINGS, "cow": 0, "cat": 7, "kitty": 7})
  found = retrieval.retrieval(
    oracle, None, RAGGED, name="x", gallery=[RAGGED, other]
  )
  assert oracle.asked == [["cat", "kitty", "dog", "fish", "cow"]]
  assert found["x/image_to_text/recall_at_1"] == pytest.approx(3 / 4)
  assert found["x/text_to_image/recall_at_1"] == pytest.approx(2 / 4)


# Everything.

USUAL = {
  "retrieval",
  "retrieval_validation",
  "zero_shot",
  "few_shot",
  "linear_probe",
  "knn",
  "geometry",
}


def usual(**changes):
  return {
    "train": labelled(0, 12),
    "validation": labelled(20, 6),
    "test": labelled(30, 6),
    **changes,
  }


def test_all_of_a_labelled_data_set():
  numbers, lines = final(pair_data(**usual()))
  assert groups(numbers) == USUAL and not lines
  assert numbers["retrieval/image_to_text/recall_at_1"] == 1.0
  assert numbers["retrieval/text_to_image/recall_at_10"] == 1.0
  assert numbers["geometry/alignment"] == pytest.approx(0.0, abs=1e-6)
  assert numbers["geometry/modality_gap_centroid_distance"] < 1e-6
  assert {
    "zero_shot/accuracy_top1",
    "linear_probe/accuracy",
    "knn/accuracy",
    "few_shot/accuracy_5_shot",
  } <= set(numbers)
  again, _ = final(pair_data(**usual()))
  assert again == numbers


def test_of_images_alone_features_are_judged():
  oracle = Oracle(ALL)
  oracle.has_text = False
  data = pair_data(**usual())
  names = "classification", "geometry"
  numbers, _ = final(data, oracle, names)
  assert groups(numbers) == {"few_shot", "linear_probe", "knn", "geometry"}
  assert not oracle.asked
  (knn,) = built(opened(data, oracle), "knn")
  assert knn.validates and not knn.final(State())
  train, held_out = (
    oracle.images(None, data.splits[name]) for name in ("train", "validation")
  )
  scores = classification.classification(train, held_out, held_out, seed=0)
  found = knn.validate(State())
  assert found == {"knn_validation/accuracy": scores["knn/accuracy"]}
  assert knn.headline(found) == found
  unlabelled = pair_data(**usual(validation=labelled(12, 6)))
  del unlabelled.splits["test"]
  numbers, lines = final(unlabelled, oracle, names)
  assert not numbers and len(lines) == 2
  assert all("the split test is empty" in line for line in lines)


def test_without_classification_no_training_image_is_embedded():
  oracle, data = Oracle(ALL), pair_data(**usual())
  numbers, _ = final(data, oracle, ("retrieval", "zero_shot", "geometry"))
  assert not groups(numbers) & {"few_shot", "linear_probe", "knn"}
  assert data.splits["train"] not in oracle.seen


def test_a_validation_has_two_headlines_and_three_curves():
  (measure,) = built(opened(pair_data(**usual())), "retrieval")
  numbers = measure.validate(State())
  name = "retrieval_validation/{}/recall_at_{}"
  ways = "image_to_text", "text_to_image"
  assert measure.headline(numbers) == {
    name.format(way, 1): numbers[name.format(way, 1)] for way in ways
  }
  assert set(measure.curves.values()) < set(numbers)
  empty = pair_data(**usual(validation=source()))
  assert not any(m.validates for m in built(opened(empty), "retrieval", "knn"))


def test_a_state_is_embedded_once_and_no_longer_than_it_lives():
  oracle, data = Oracle(ALL), pair_data(**usual())
  run, state = opened(data, oracle), State()
  first = run.images(state, "test")
  assert run.images(state, "test") is first
  assert run.images(state, "test", head="both") is not first
  assert len(oracle.seen) == 2
  other = State()
  assert run.images(other, "test") is not first and len(oracle.seen) == 3
  del state
  run.images(other, "test")
  assert len(oracle.seen) == 3
  assert run._embedded
  del other
  assert not run._embedded


@dataclasses.dataclass(frozen=True)
class Norms:
  """An evaluator of a user's own, with the least that it needs."""

  scale: float = choices_lib.field(1.0, "Factor of the norm.", low=0.0)

  def build(self, run):
    return NormsMeasure(run)


class NormsMeasure(base.Measure):
  def final(self, state):
    images = self.run.images(state, "test").images
    return {"norms/mean": float(np.linalg.norm(images, axis=1).mean())}


def test_an_evaluator_of_ones_own():
  config = tiny.make_config(evaluation=("retrieval", f"{__name__}:Norms"))
  evaluators = config.evaluation.evaluators
  values = config.to_dict()
  assert config_lib.parse(values).to_dict() == values
  chosen = evaluators[f"{__name__}:Norms"]
  measure = chosen.build(opened(pair_data(**usual())))
  assert measure.final(State()) == {"norms/mean": pytest.approx(1.0)}
  assert measure.validate(State()) == measure.headline({"a": 1.0}) == {}


@pytest.mark.parametrize(
  "objective, evaluator",
  [
    ("simclr", "retrieval"),
    ("clip", "reranked"),
    ("clip", "task"),
    ("vqa", "classification"),
    ("text_assignment", "geometry"),
  ],
)
def test_an_evaluator_that_cannot_measure_an_objective(objective, evaluator):
  draft = config_lib.default_config()
  draft.objective = objective
  draft.data = "scenes" if objective == "vqa" else "emoji"
  draft.evaluation = (evaluator,)
  with pytest.raises(config_lib.ConfigError) as caught:
    config_lib.checked(draft)
  said = str(caught.value)
  assert f"config.evaluation={evaluator}" in said and repr(objective) in said


def test_further_languages_of_the_test_split():
  numbers, _ = final(pair_data(("en", "de", "fr"), **usual()))
  assert numbers["retrieval_de/image_to_text/recall_at_1"] == 1.0
  # No image of the test split has a French name.
  assert groups(numbers) == USUAL | {"retrieval_de"}


def test_an_unseen_style():
  splits = usual(
    unseen_style=labelled(0, 12), test_unseen_style=labelled(30, 6)
  )
  oracle = Oracle(ALL)
  numbers, lines = final(pair_data(**splits), oracle)
  assert groups(numbers) == USUAL | {
    "retrieval_names",
    "retrieval_all_names",
    "retrieval_unseen_style",
    "retrieval_unseen_both",
  }
  assert not lines
  for name in ("names", "all_names", "unseen_style", "unseen_both"):
    assert numbers[f"retrieval_{name}/image_to_text/recall_at_1"] == 1.0
  # Zero-shot is then among all 24 names, not the two labels.
  assert numbers["zero_shot/accuracy_top1"] == 1.0
  zero_shot = [texts for texts in oracle.asked if len(texts) == 24 * 2]
  assert zero_shot and zero_shot[0][:2] == ["word0.", "a photo of word0."]


def seen(oracle, splits):
  """Names of the splits whose images were embedded, each once."""
  names = [
    name for one in oracle.seen for name in splits if splits[name] is one
  ]
  assert len(names) == len(set(names))
  return set(names)


def test_only_splits_that_something_uses_are_embedded():
  usual_three = {"train", "validation", "test"}
  splits = usual(
    unseen_style=labelled(0, 12),
    validation_unseen_style=labelled(20, 6),
    test_unseen_style=labelled(30, 6),
  )
  oracle = Oracle(ALL)
  final(pair_data(**splits), oracle)
  styles = {"unseen_style", "test_unseen_style"}
  assert seen(oracle, splits) == usual_three | styles

  # Without labels in common, nothing asks for the training images.
  for labels in (("", ""), ("a", "c")):
    splits = usual(
      train=source(record(0, ("word0.", "en"), label=labels[0])),
      test=source(record(1, ("word1.", "en"), label=labels[1])),
    )
    oracle = Oracle(ALL)
    numbers, lines = final(pair_data(**splits), oracle)
    assert "knn" not in groups(numbers)
    assert any("fewer than two labels" in line for line in lines)
    assert seen(oracle, splits) == {"validation", "test"}


def test_zero_shot_uses_the_prompts_of_the_data():
  oracle = Oracle(ALL)
  final(pair_data(**usual()), oracle)
  assert ["a", "a photo of a", "b", "a photo of b"] in oracle.asked


def test_unseen_styles_of_things_without_a_name_are_left_out():
  strange = source(record(3, ("word3.", "en")), record(50, ("word50.", "en")))
  splits = usual(unseen_style=strange)
  numbers, lines = final(pair_data(**splits))
  assert numbers["zero_shot/accuracy_top1"] == 1.0
  assert any("retrieval_unseen_both" in line for line in lines)


def test_no_labels():
  def bare(first, n):
    return source(
      *(record(first + i, (f"word{first + i}.", "en")) for i in range(n))
    )

  numbers, lines = final(
    pair_data(train=bare(0, 12), validation=bare(20, 5), test=bare(30, 5))
  )
  assert groups(numbers) == {"retrieval", "retrieval_validation", "geometry"}
  assert len(lines) == 2 and all(ln.startswith("Left out: ") for ln in lines)


def test_some_labels_and_classes_that_training_lacks():
  test = source(
    record(30, ("word30.", "en"), label="a"),
    record(31, ("word31.", "en"), label="b"),
    record(32, ("word32.", "en"), label=""),
    record(33, ("word33.", "en"), label="unseen"),
  )
  numbers, _ = final(pair_data(**usual(test=test)))
  assert groups(numbers) == USUAL
  # Over the two images with a class that training has.
  assert numbers["knn/accuracy"] in (0.0, 0.5, 1.0)
  assert numbers["linear_probe/accuracy"] in (0.0, 0.5, 1.0)
  # Over the three images with a label.
  top1 = numbers["zero_shot/accuracy_top1"]
  assert top1 * 3 == pytest.approx(round(top1 * 3))


@pytest.mark.parametrize("empty", ["validation", "test"])
def test_an_empty_split(empty):
  numbers, lines = final(pair_data(**usual(**{empty: source()})))
  if empty == "test":
    assert groups(numbers) == {"retrieval_validation"}
  else:
    assert groups(numbers) == {"retrieval", "zero_shot", "geometry"}
  assert any(f"the split {empty} is empty" in line for line in lines)


def test_a_single_image():
  """Uniformity is of pairs; all else has a value."""
  one = source(record(0, ("word0.", "en")))
  numbers, _ = final(pair_data(train=one, validation=one, test=one))
  assert numbers["retrieval/image_to_text/recall_at_1"] == 1.0
  assert numbers["geometry/alignment"] == pytest.approx(0.0, abs=1e-6)
  assert "geometry/uniformity_image" not in numbers
