"""Answers to questions in the form in which VQA v2 compares them.

Data sets bring answers into it, and scores ask for it. It needs the standard
library alone.
"""

import re

_WORDS = "zero one two three four five six seven eight nine ten".split()
_NUMBERS = {"none": "0"} | {word: str(n) for n, word in enumerate(_WORDS)}
_ARTICLES = frozenset(("a", "an", "the"))
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")

# Contractions that are mended if one apostrophe is missing: "dont",
# "couldnt've". The rules have no entry where the result is a word of its own,
# as "well" and "its", and none for "let's" and "she's". Those of "I" are there
# in capitals alone, which no answer has once it is in lower case.
_CONTRACTIONS = """
  ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
  hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd
  it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
  not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
  shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
  someone'll someone's something'd something'd've something'll that's there'd
  there'd've there're there's they'd they'd've they'll they're they've 'twas
  wasn't we'd've we've weren't what'll what're what's what've when's where'd
  where's where've who'd who'd've who'll who's who've why'll why're why's won't
  would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll
  you're you've
""".split()


def _without_one_apostrophe(word: str) -> list[str]:
  places = [i for i, letter in enumerate(word) if letter == "'"]
  return [word[:i] + word[i + 1 :] for i in places]


_MENDED = {
  broken: word
  for word in _CONTRACTIONS
  for broken in _without_one_apostrophe(word)
} | {"somebody'd": "somebodyd"}  # The wrong way round, but so it is scored.


def normalize_answer(text: str) -> str:
  r"""An answer in the form in which VQA v2 compares answers.

  1. Each of ``; / [ ] " { } ( ) = + \ _ - > < @ ` , ? !`` is removed if
     somewhere in the answer it is next to a space, or if a comma is between two
     digits; otherwise a space takes its place.
  2. Periods are removed unless a digit follows.
  3. In lower case, words from "zero" to "ten", and "none", become digits, and
     "a", "an" and "the" are removed.
  4. Contractions get their missing apostrophe.

  Colons and apostrophes stay. Normalising twice is normalising once.

  Args:
    text: the answer.

  Returns:
    Words with single spaces; "" if none is left.

  Raises:
    ValueError: it is no text.

  Reference:
    Antol et al., VQA: visual question answering, 2015; the rules are those of
    the evaluation code at https://visualqa.org/evaluation.html.

  >>> normalize_answer("The two dogs, running.")
  '2 dogs running'
  >>> normalize_answer("1,000 m/s"), normalize_answer("3.5 ft.")
  ('1000 ms', '3.5 ft')
  >>> normalize_answer("dont know")
  "don't know"
  """
  if not isinstance(text, str):
    raise ValueError(f"text must be a text, got {text!r}.")
  text = re.sub(r"[\n\t]", " ", text).strip()
  joined = _COMMA_IN_NUMBER.search(text) is not None
  result = text
  for mark in _MARKS:
    removed = joined or f"{mark} " in text or f" {mark}" in text
    result = result.replace(mark, "" if removed else " ")
  words = _PERIOD.sub("", result).lower().split()
  numbered = [_NUMBERS.get(word, word) for word in words]
  return " ".join(
    _MENDED.get(word, word) for word in numbered if word not in _ARTICLES
  )
