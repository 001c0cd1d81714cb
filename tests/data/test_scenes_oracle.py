"""The reader of texts about scenes reads some texts itself."""

import pytest

from tests.data import scenes_oracle as oracle


def _thing(text, x, y):
  return {**oracle.description(text), "x": x, "y": y}


# A red circle and a red star on the left, below it; a blue ring on the right.
SCENE = {
  "background": 120,
  "cover": "",
  "things": [
    _thing("large striped red circle", 0.2, 0.2),
    _thing("small plain red star", 0.3, 0.8),
    _thing("small dotted blue ring", 0.8, 0.6),
  ],
}
OTHER = {**SCENE, "things": SCENE["things"][1:]}


@pytest.mark.parametrize(
  ("question", "expected"),
  [
    ("is there a red ring?", "no"),
    ("does the picture show a small plain star?", "yes"),
    ("how many red things can you see?", "2"),
    ("what number of crosses is in the picture?", "0"),
    ("what colour is the dotted thing?", "blue"),
    ("which shape does the large thing have?", "circle"),
    ("is the red star small or large?", "small"),
    ("what texture does the circle have?", "striped"),
    ("is the star plain, striped or dotted?", "plain"),
    ("is the background dark, grey or light?", "grey"),
    ("are there more red things than blue things?", "yes"),
    ("are there fewer rings than stars?", "no"),
    ("is the circle larger than the star?", "yes"),
    ("is the circle smaller than the star?", "no"),
    ("do the star and the circle have the same colour?", "yes"),
    ("are the ring and the circle of the same size?", "no"),
    ("is the circle above the star?", "yes"),
    ("is the ring left of the star?", "no"),
    ("what shape is the lowest thing?", "star"),
    ("which colour does the rightmost thing have?", "blue"),
    ("what shape is the thing left of the star?", "circle"),
    ("how many things are below the circle?", "2"),
    ("is there a small thing right of the star?", "yes"),
    ("is there a red thing right of the star?", "no"),
  ],
)
def test_reads_questions(question, expected):
  assert oracle.answer(question, SCENE) == expected


def test_refuses_what_is_not_clear():
  for question in (
    "what shape is the red thing?",
    "is the heart above the star?",
    "what shape is the thing right of the circle?",
    "why is there a star?",
  ):
    with pytest.raises(AssertionError):
      oracle.answer(question, SCENE)


@pytest.mark.parametrize(
  ("statement", "expected"),
  [
    ("both images have a blue ring.", True),
    ("both images have a circle.", False),
    ("only one of the images has a circle.", True),
    ("neither of the images has a heart.", True),
    ("the left image has a circle and the right one has not.", True),
    ("the right image has a circle and so has the left one.", False),
    ("the left image has a star and so has the right one.", True),
    ("at least one of the images has exactly one red thing.", True),
    ("there are exactly three red things in the two images together.", True),
    (
      "there are more red things in the right image than in the left one.",
      False,
    ),
    (
      "there are fewer stars in the left image than rings in the right one.",
      False,
    ),
    ("both images have the same number of small things.", True),
    ("in the left image a star is below a circle.", True),
    ("in the right image a star is below a circle.", False),
  ],
)
def test_reads_statements(statement, expected):
  assert oracle.truth(statement, SCENE, OTHER) == expected


@pytest.mark.parametrize(
  ("hypothesis", "bare", "covered"),
  [
    # Without a cover, and with one over the left half.
    ("there is a red circle in the left half.", 2, 1),
    ("there is a heart in the left half.", 0, 1),
    ("there is no heart in the left half.", 2, 1),
    ("there is a ring in the picture.", 2, 2),
    ("there is no ring in the picture.", 0, 0),
    ("there is a star in the right half.", 0, 0),
    ("there is a star in the bottom half.", 2, 1),
    ("there are at least two red things in the picture.", 2, 1),
    ("there is exactly one ring in the picture.", 2, 1),
    ("all things in the picture are red.", 0, 0),
    ("all things in the right half are rings.", 2, 2),
    ("all things in the bottom half are small.", 2, 1),
    ("there are more stars than rings in the picture.", 0, 1),
    ("there are more rings than stars in the right half.", 2, 2),
    ("a red thing is left of a ring.", 2, 1),
    ("a ring is above a circle.", 0, 1),
  ],
)
def test_reads_hypotheses(hypothesis, bare, covered):
  assert oracle.judge(hypothesis, SCENE) == bare
  assert oracle.judge(hypothesis, {**SCENE, "cover": "left"}) == covered
