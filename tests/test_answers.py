"""The form in which answers are compared."""

import hypothesis
import pytest
from hypothesis import strategies as st

from contrastive_jax.answers import normalize_answer


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("Yes", "yes"),
    (" red\tand\nblue ", "red and blue"),
    # Marks become spaces, unless one like it stands beside a space.
    ("black/white", "black white"),
    ("black / white", "black white"),
    ("black-white -red", "blackwhite red"),
    ("x-ray machine", "x ray machine"),
    ("what?!", "what"),
    ('"stop" [sign]', "stop sign"),
    # A comma in a number takes all marks away without a space.
    ("1,000", "1000"),
    ("1,000 b-c", "1000 bc"),
    ("red, blue", "red blue"),
    ("red,blue", "red blue"),
    # Periods stay in decimals alone.
    ("3.5", "3.5"),
    (".5", ".5"),
    ("3.", "3"),
    ("u.s.a.", "usa"),
    ("mr. x", "mr x"),
    # Words of numbers and articles, once all marks are gone.
    ("Two", "2"),
    ("none", "0"),
    ("ten-ten", "10 10"),
    ("twenty", "twenty"),
    ("The dog and a cat", "dog and cat"),
    ("a", ""),
    # Colons and apostrophes stay.
    ("10:35", "10:35"),
    ("dog's", "dog's"),
    # Contractions.
    ("dont", "don't"),
    ("DONT", "don't"),
    ("couldnt've", "couldn't've"),
    ("couldn'tve", "couldn't've"),
    ("couldntve", "couldntve"),
    ("'ow'sat", "'ow's'at"),
    ("twas", "'twas"),
    ("oclock", "o'clock"),
    ("somebody'd", "somebodyd"),
    ("somebodyd", "somebodyd"),
    # These are words of their own, or are there in capitals alone.
    ("its", "its"),
    ("well", "well"),
    ("shed", "shed"),
    ("lets", "lets"),
    ("Im", "im"),
  ],
)
def test_normal_form(text, expected):
  assert normalize_answer(text) == expected


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(st.text() | st.text(alphabet="a1Tb,.;/-'? \n", max_size=30))
def test_the_normal_form_is_its_own(text):
  normal = normalize_answer(text)
  assert normalize_answer(normal) == normal
  assert normal == " ".join(normal.split())


def test_no_text():
  with pytest.raises(ValueError, match="text must .*None"):
    normalize_answer(None)
