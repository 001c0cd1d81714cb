"""Published vocabularies: the ids that their own libraries give."""

import gzip
import json
import pickle
import zlib

import numpy as np
import pytest

from contrastive_jax.data.text import clip, published_tokenizers
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from tests.data import make_golden_tokens as golden


@pytest.fixture(name="made", scope="module")
def fixture_made():
  return {
    "clip": published_tokenizers.clip(clip.merges()),
    "bert": published_tokenizers.bert("\n".join(golden.PIECES) + "\n"),
  }


@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_ids_are_those_of_the_library(kind, made):
  expected = np.array(json.loads(golden.PATH.read_text())[kind])
  actual = made[kind].encode(golden.TEXTS, golden.LENGTH)
  assert actual.dtype == np.int32
  for text, ours, theirs in zip(golden.TEXTS, actual, expected):
    np.testing.assert_array_equal(ours, theirs, err_msg=repr(text))


def test_kinds(made):
  ours = made["clip"]
  assert (ours.kind, ours.vocab_size, ours.pad_id) == ("clip", 49_408, 0)
  assert (ours.start_id, ours.end_id) == (49_406, 49_407)
  assert ours.special_ids == (0, 49_406, 49_407)
  assert ours.decode(ours.encode(["A photo of Köln!"], 12)[0]) == (
    "a photo of köln !"
  )
  ours = made["bert"]
  assert (ours.kind, ours.start_id, ours.end_id) == ("bert", 2, 3)
  # The name of a special token is a text like any other.
  assert 3 not in ours.encode(["[SEP] cat"], 12)[0][1:5]


@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_saved_and_pickled_they_are_the_same(kind, made, tmp_path):
  made[kind].save(tmp_path / "tokenizer.json")
  expected = made[kind].encode(golden.TEXTS, 20)
  for copy in (
    tokenizer_lib.Tokenizer.load(tmp_path / "tokenizer.json"),
    published_tokenizers.load(tmp_path),
    pickle.loads(pickle.dumps(made[kind])),
  ):
    assert copy.kind == kind
    np.testing.assert_array_equal(copy.encode(golden.TEXTS, 20), expected)


def test_files_as_they_are_published(made, tmp_path):
  # Some pieces are ends of lines to others.
  pieces = [*golden.PIECES, "\u2028", "\x85", "last"]
  text = "\r\n".join(pieces)
  (tmp_path / "vocab.txt").write_bytes(text.encode())
  assert published_tokenizers.load(tmp_path).vocab_size == len(pieces)
  (tmp_path / "vocab.txt").write_text("\n".join(golden.PIECES))
  assert published_tokenizers.load(tmp_path).kind == "bert"
  path = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
  # The published file has more pairs than CLIP takes.
  content = clip.merges() + "i zz\n" * 5
  path.write_bytes(gzip.compress(content.encode()))
  np.testing.assert_array_equal(
    published_tokenizers.load(path).encode(golden.TEXTS, 20),
    made["clip"].encode(golden.TEXTS, 20),
  )


def test_siglip_has_no_start_and_no_punctuation(tmp_path):
  import tokenizers

  words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "cat": 4, "hat": 5}
  backend = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(words, unk_token="<unk>")
  )
  backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  # As published files have it; rows are made by us.
  backend.enable_padding(length=7)
  backend.enable_truncation(3)
  backend.save(str(tmp_path / "tokenizer.json"))
  ours = published_tokenizers.load(tmp_path)
  assert (ours.kind, ours.start_id, ours.pad_id) == ("siglip", None, 1)
  assert ours.special_ids == (1,)
  rows = ours.encode(["A cat, a hat!", "a_cat", ""], 6)
  assert rows.tolist() == [[3, 4, 3, 5, 1, 1], [3, 4, 1, 1, 1, 1], [1] * 6]


def test_bad_files_are_named(tmp_path):
  with pytest.raises(ValueError, match=f"{tmp_path} .*tokenizer.json"):
    published_tokenizers.load(tmp_path)
  with pytest.raises(ValueError, match="none.txt"):
    published_tokenizers.load(tmp_path / "none.txt")
  (tmp_path / "vocab.txt").write_text("a\nb\n")
  with pytest.raises(ValueError, match=r"\[PAD\], \[UNK\]"):
    published_tokenizers.load(tmp_path)
  path = tmp_path / "merges.txt.gz"
  path.write_bytes(gzip.compress(b"#version\ni n\n"))
  with pytest.raises(ValueError, match="48894 pairs.*got 1"):
    published_tokenizers.load(path)
  content = bytearray(gzip.compress(clip.merges().encode()))
  content[5000:5100] = bytes(100)
  path.write_bytes(content)
  with pytest.raises(ValueError, match="merges.txt.gz") as caught:
    published_tokenizers.load(path)
  assert isinstance(caught.value.__cause__, zlib.error)
  lines = clip.merges().replace("\nt h\n", "\nnone such\n", 1)
  with pytest.raises(ValueError, match="pairs of pieces of its own"):
    published_tokenizers.clip(lines)
  path.write_bytes(gzip.compress(clip.merges().encode())[:5000])
  with pytest.raises(ValueError, match="merges.txt.gz") as caught:
    published_tokenizers.load(path)
  assert isinstance(caught.value.__cause__, EOFError)
  (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
  with pytest.raises(ValueError, match="vocab.txt") as caught:
    published_tokenizers.load(tmp_path / "vocab.txt")
  assert isinstance(caught.value.__cause__, UnicodeDecodeError)
