"""The tokenizer: any script, fixed length, nothing lost but what is cut."""

import pickle

import numpy as np
import pytest
import tokenizers

from contrastive_jax.data.text import tokenizer as tokenizer_lib

# Letters, accents, right-to-left, tone marks, no spaces, joined symbols.
TEXTS = (
  "a drawing of a grinning face",
  "Ein Mädchen mit Gepäck, größer als 3 Äpfel",
  "лицо со слезами радости",
  "وجه مبتسم بعينين كبيرتين",
  "מכונית משטרה",
  "मुस्कुराता चेहरा",
  "หน้ายิ้มแฉ่ง",
  "笑っている顔",
  "笑脸",
  "웃는 얼굴",
  "family: 👩‍👩‍👧‍👦",
)


@pytest.fixture(name="tokenizer", scope="module")
def fixture_tokenizer():
  return tokenizer_lib.Tokenizer.train(TEXTS * 3, vocab_size=400)


def test_row_is_start_pieces_end_padding(tokenizer):
  rows = tokenizer.encode(["a face", "grinning"], 40)
  assert rows.shape == (2, 40)
  assert rows.dtype == np.int32
  for row in rows:
    end = int(np.flatnonzero(row == tokenizer.end_id)[0])
    assert end >= 2
    assert row[0] not in (tokenizer_lib.PAD_ID, tokenizer.end_id)
    assert (row[1:end] > tokenizer.end_id).all()
    assert (row[end + 1 :] == tokenizer_lib.PAD_ID).all()
  assert rows[0, 0] == rows[1, 0]


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip_of_any_script(tokenizer, text):
  (row,) = tokenizer.encode([text], 200)
  assert tokenizer.decode(row) == text.lower()


def test_scripts_that_training_never_saw(tokenizer):
  text = "ქართული ᓀᐦᐃᔭᐍᐏᐣ 𓀀 ☃"
  (row,) = tokenizer.encode([text], 100)
  assert tokenizer.decode(row) == text


def test_text_is_normalised(tokenizer):
  forms = [
    "Café ﬁne",
    "cafe\u0301 fine",
    "  CAFÉ \n\t\u3000 FINE\u00a0",
    "ｃａｆé fine",
  ]
  rows = tokenizer.encode(forms, 20)
  assert (rows == rows[0]).all()
  assert tokenizer.decode(rows[0]) == "café fine"


def test_too_long_keeps_the_end_token(tokenizer):
  text = "a drawing of a grinning face " * 10
  long = tokenizer.encode([text], 200)[0]
  for length in (2, 3, 8):
    (row,) = tokenizer.encode([text], length)
    assert row.tolist() == [*long[: length - 1].tolist(), tokenizer.end_id]


def test_exact_fit_has_neither_cut_nor_padding(tokenizer):
  long = tokenizer.encode(["grinning face"], 50)[0]
  needed = int((long != tokenizer_lib.PAD_ID).sum())
  (row,) = tokenizer.encode(["grinning face"], needed)
  np.testing.assert_array_equal(row, long[:needed])


@pytest.mark.parametrize("text", ["", "   ", "\n\u3000"])
def test_empty_text_is_start_and_end(tokenizer, text):
  (row,) = tokenizer.encode([text], 4)
  start = tokenizer.encode(["face"], 4)[0, 0]
  assert row.tolist() == [start, tokenizer.end_id, 0, 0]
  assert tokenizer.decode(row) == ""


def test_no_texts(tokenizer):
  assert tokenizer.encode([], 7).shape == (0, 7)


@pytest.mark.parametrize("name", ["[PAD]", "[START]", "[END]"])
def test_names_of_special_tokens_are_text(tokenizer, name):
  text = f"press {name} now"
  (row,) = tokenizer.encode([text], 60)
  used = row[row != tokenizer_lib.PAD_ID]
  assert (used[1:-1] > tokenizer.end_id).all()
  assert tokenizer.decode(row) == text.lower()
  # The library forgets the property when it saves; the class does not.
  copy = pickle.loads(pickle.dumps(tokenizer))
  np.testing.assert_array_equal(copy.encode([text], 60)[0], row)


def test_lone_surrogates_become_question_marks(tokenizer):
  rows = tokenizer.encode(["a\ud800b", "a?b"], 10)
  np.testing.assert_array_equal(rows[0], rows[1])
  tokenizer_lib.Tokenizer.train(["a\ud800b"], vocab_size=300)


def test_pickle_and_file_give_the_same_rows(tokenizer, tmp_path):
  path = tmp_path / "tokenizer.json"
  tokenizer.save(path)
  rows = tokenizer.encode(TEXTS, 24)
  for copy in (
    pickle.loads(pickle.dumps(tokenizer)),
    tokenizer_lib.Tokenizer.load(path),
    tokenizer_lib.Tokenizer.load(str(path)),
  ):
    np.testing.assert_array_equal(copy.encode(TEXTS, 24), rows)
    assert copy.vocab_size == tokenizer.vocab_size
    assert copy.end_id == tokenizer.end_id


def test_save_replaces_and_leaves_no_other_file(tokenizer, tmp_path):
  path = tmp_path / "tokenizer.json"
  path.write_text("half a fi")
  tokenizer.save(path)
  tokenizer_lib.Tokenizer.load(path)
  assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize(
  "content", [b"", b"{}", b"[1, 2]", b"not json", b"\x89PNG\xff\xfe\x00"]
)
def test_bad_file(tmp_path, content):
  path = tmp_path / "broken.json"
  path.write_bytes(content)
  with pytest.raises(ValueError, match="broken.json "):
    tokenizer_lib.Tokenizer.load(path)


def test_absent_file(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"absent\.json"):
    tokenizer_lib.Tokenizer.load(tmp_path / "absent.json")


def test_tokenizer_of_another_kind(tmp_path):
  other = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
  with pytest.raises(ValueError, match=r"special tokens .*\[START\]"):
    tokenizer_lib.Tokenizer(other)
  other.add_special_tokens(["[START]", "[END]", "[PAD]"])
  with pytest.raises(ValueError, match=r"\[PAD\] .* 0"):
    tokenizer_lib.Tokenizer(other)
  other.save(str(tmp_path / "other.json"))
  with pytest.raises(ValueError, match="other.json "):
    tokenizer_lib.Tokenizer.load(tmp_path / "other.json")


@pytest.mark.parametrize("length", [1, 0, -3])
def test_bad_length(tokenizer, length):
  with pytest.raises(ValueError, match=f"^length .*got {length}"):
    tokenizer.encode(["face"], length)


def test_one_text_instead_of_a_list(tokenizer):
  with pytest.raises(ValueError, match="^texts .*'face'"):
    tokenizer.encode("face", 8)


@pytest.mark.parametrize("vocab_size", [258, 0])
def test_bad_vocab_size(vocab_size):
  with pytest.raises(ValueError, match=f"^vocab_size .*259; got {vocab_size}"):
    tokenizer_lib.Tokenizer.train(TEXTS, vocab_size=vocab_size)


def test_vocab_size(tokenizer):
  # Enough text: all ids asked for. Too little: bytes and special tokens.
  assert tokenizer.vocab_size == 400
  for texts in (["ab"], []):
    small = tokenizer_lib.Tokenizer.train(texts, vocab_size=5000)
    assert 259 <= small.vocab_size <= 262
  smallest = tokenizer_lib.Tokenizer.train(TEXTS, vocab_size=259)
  assert smallest.vocab_size == 259
  (row,) = smallest.encode(["笑脸"], 20)
  assert smallest.decode(row) == "笑脸"
  assert tokenizer.encode(TEXTS, 300).max() < tokenizer.vocab_size


def test_repeated_texts_count():
  # Four merges make whole words of the two that come often.
  texts = ["zq xv"] * 50 + ["grin"]
  common = tokenizer_lib.Tokenizer.train(texts, vocab_size=263)
  pieces = (common.encode(["zq", "xv", "grin"], 12) != 0).sum(1) - 2
  assert pieces.tolist() == [1, 1, 5]


def test_training_is_deterministic(tokenizer):
  again = tokenizer_lib.Tokenizer.train(iter(TEXTS * 3), vocab_size=400)
  assert pickle.dumps(again) == pickle.dumps(tokenizer)
