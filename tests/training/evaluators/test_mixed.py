"""Images and texts in one set."""

import numpy as np
import pytest

from contrastive_jax.training.evaluators import embeddings, mixed
from tests.training.evaluators import oracle
from tests.training.evaluators.oracle import Oracle, direction


class Apart(Oracle):
  """Knows everything, but its modalities lie apart."""

  gap = np.float32(2.0) * direction(1000)

  def images(self, state, split, *, head="shared"):
    found = super().images(state, split, head=head)
    moved = found.images + self.gap
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    return embeddings.Embedded(moved, found.concept_ids, found.labels)

  def texts(self, state, texts):
    moved = super().texts(state, texts) - self.gap
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


class Sorted(Apart):
  """Things of a label look alike."""

  def images(self, state, split, *, head="shared"):
    found = super().images(state, split, head=head)
    kinds = [500 + "ab".index(label) for label in found.labels]
    return embeddings.Embedded(
      self._near(kinds, self.gap), found.concept_ids, found.labels
    )

  def texts(self, state, texts):
    super().texts(state, texts)
    things = [
      next(c for w, c in self._meanings.items() if w in t) for t in texts
    ]
    return self._near([500 + thing % 2 for thing in things], -self.gap)

  def _near(self, kinds, gap):
    moved = np.stack([direction(kind) for kind in kinds]) + gap
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def split(first, count):
  """Things of two labels, each with two captions of which "w" names it."""
  return oracle.source(
    *(
      oracle.record(
        first + i,
        (f"w{first + i}.", "en"),
        (f"also w{first + i}.", "en"),
        label="ab"[(first + i) % 2],
      )
      for i in range(count)
    )
  )


MEANINGS = {f"w{i}.": i for i in range(60)}


def data(**changes):
  splits = {
    "train": split(0, 4),
    "validation": split(10, 12),
    "test": split(30, 12),
    **changes,
  }
  return oracle.pair_data(**splits)


def measured(model, **changes):
  return oracle.final(data(**changes), model(MEANINGS), ("mixed",))


def test_without_a_gap_everything_is_found():
  numbers, lines = measured(Oracle)
  assert not lines
  assert oracle.groups(numbers) == {"mixed", "mixed_centred"}
  for kind in ("", "images_", "texts_"):
    assert numbers[f"mixed/{kind}recall_at_1"] == 1.0
  assert {"mixed/homogeneity", "mixed/completeness"} <= set(numbers)


def test_a_gap_hides_images_and_centring_shows_them():
  numbers, _ = measured(Apart)
  assert numbers["mixed/texts_recall_at_1"] == 1.0
  # Every text comes before any image.
  assert numbers["mixed/images_recall_at_1"] == 0.0
  assert numbers["mixed/recall_at_1"] == pytest.approx(0.5)
  assert numbers["mixed_centred/images_recall_at_1"] > 0.8
  assert numbers["mixed_centred/texts_recall_at_1"] == 1.0


def test_a_gap_makes_clusters_of_modalities_and_centring_those_of_labels():
  numbers, _ = measured(Sorted)
  assert numbers["mixed/v_measure"] < 0.1
  assert numbers["mixed_centred/v_measure"] == pytest.approx(1.0)


def test_what_is_missing_is_left_out():
  numbers, lines = measured(Oracle, validation=oracle.source())
  assert oracle.groups(numbers) == {"mixed"}
  assert any("validation is empty" in line for line in lines)
  numbers, lines = measured(Oracle, test=oracle.source())
  assert not numbers and any("test is empty" in line for line in lines)
  single = oracle.source(
    *(
      oracle.record(30 + i, (f"w{30 + i}.", "en"), label="ab"[i % 2])
      for i in range(6)
    )
  )
  numbers, _ = measured(Oracle, test=single)  # No second captions.
  assert {name.split("/")[1] for name in numbers} == {
    *("homogeneity", "completeness", "v_measure")
  }


def test_numbers_by_hand():
  """Things 3, 5, 7: the second is a text, which the third's query finds first."""
  images = np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
  texts = np.float32([[1, 0, 0], [0, 1, 0], [0, 0.9, 0.1]])
  found = mixed.mixed(
    images,
    texts,
    np.array([3, 5, 7]),
    np.array(["", "", ""]),
    others=np.float32([[0, 1, 0]]),
    other_rows=np.array([1]),
  )
  assert found == {
    "recall_at_1": pytest.approx(2 / 3),
    "recall_at_10": 1.0,
    "images_recall_at_1": 0.5,
    "images_recall_at_10": 1.0,
    "texts_recall_at_1": 1.0,
    "texts_recall_at_10": 1.0,
  }
