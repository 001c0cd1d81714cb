"""SentencePiece's files: the ids are its own, and files are data."""

import functools
import io
import pickle
import random
import sys

import numpy as np
import pytest
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2

from contrastive_jax.data.text import published_tokenizers
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.runs import initial_weights

HARD = [
  *(
    "",
    " ",
    "   ",
    "\n\t",
    "a",
    "\x00",
    "a\x00b\x1f\x7f",
    "\u200b\u200d\ufeff",
  ),
  "  many   spaces\u00a0\u3000here  ",
  "A photo of a CAT, sitting on the mat!",
  "😀👍🏽👨‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ❤️ 5️⃣",
  "猫は可愛い ﾊﾟｿｺﾝ ＡＢＣ １２３ ㎏ ① ㍻",
  "한국어 가각 ㅁ̉ ㄱㅏ",
  "שָׁלוֹם עולם مرحبا بالعالم لا ﷺ",
  "नमस्ते क़ คำ",
  "ﬁne ½ x² ™ ©️ № Å Å e\u0301 a\u0308\u0323 o\u031b\u0323",
  "Ⓐ̈ ㌪̈ ㈂̴ 2\u20df",
  "▁ ▁▁ a▁▁▁b <mask> <start_of_turn> [x]",
  "</s> <pad> <unk> <eos> <0x41>",
  "\ud800 lone \udfff",
  "zażółć 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff \ue000",
  "word " * 400,
  "x" * 3000,
]
LENGTH = 64


def trained(**options):
  """A model of SentencePiece's trainer, on words and some of other scripts."""
  rng = random.Random(0)
  letters = "abcdefghijklmnopqrstuvwxyz"
  words = [
    "".join(rng.choices(letters, k=rng.randint(2, 7))) for _ in range(300)
  ]
  texts = [" ".join(rng.choices(words, k=8)) for _ in range(400)]
  texts += [text for text in HARD[9:16] for _ in range(10)]
  file = io.BytesIO()
  spm.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_writer=file,
    minloglevel=2,
    hard_vocab_limit=False,
    num_threads=1,
    **options,
  )
  return file.getvalue()


@functools.cache
def model(kind):
  """Small models with the settings of the published ones."""
  if kind == "siglip":  # T5's of c4_en.
    return trained(
      model_type="unigram",
      vocab_size=400,
      normalization_rule_name="nmt_nfkc",
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=-1,
    )
  return trained(  # Gemma's.
    model_type="bpe",
    vocab_size=800,
    normalization_rule_name="identity",
    byte_fallback=True,
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    allow_whitespace_only_pieces=True,
    user_defined_symbols=["<mask>", "<start_of_turn>", "\n", "▁▁", "▁▁▁"],
    pad_id=0,
    eos_id=1,
    bos_id=2,
    unk_id=3,
    eos_piece="<eos>",
    bos_piece="<bos>",
  )


def assert_same_ids(kind, ours, texts):
  theirs = spm.SentencePieceProcessor(model_proto=model(kind))
  rows = ours.encode(texts, LENGTH)
  for text, row in zip(texts, rows):
    ids = theirs.encode(tokenizer_lib._canonical(text))[: LENGTH - 1]
    expected = [*ids, ours.end_id] + [ours.pad_id] * (LENGTH - 1 - len(ids))
    assert row.tolist() == expected, ascii(text)


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_ids_of_hard_texts_are_those_of_the_library(kind):
  ours = published_tokenizers.sentencepiece(model(kind))
  assert ours.kind == kind and ours.start_id is None and ours.end_id == 1
  assert ours.pad_id == (1 if kind == "siglip" else 0)
  theirs = spm.SentencePieceProcessor(model_proto=model(kind))
  assert ours.vocab_size == theirs.vocab_size()
  assert_same_ids(kind, ours, HARD)
  text = "a photo of a cat"
  assert ours.decode(ours.encode([text], LENGTH)[0]) == text


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_saved_and_pickled_it_is_the_same(kind, tmp_path):
  ours = published_tokenizers.sentencepiece(model(kind))
  expected = ours.encode(HARD, LENGTH)
  ours.save(tmp_path / "tokenizer.json")
  for copy in (
    published_tokenizers.load(tmp_path),
    pickle.loads(pickle.dumps(ours)),
  ):
    assert copy.kind == kind
    np.testing.assert_array_equal(copy.encode(HARD, LENGTH), expected)


@pytest.mark.parametrize(
  "name", ["sentencepiece.model", "spiece.model", "tokenizer.model"]
)
def test_it_is_found_in_its_folder(tmp_path, name):
  (tmp_path / name).write_bytes(model("siglip"))
  assert published_tokenizers.load(tmp_path).kind == "siglip"


def same_piece(found):
  found.pieces[5].piece = found.pieces[4].piece


def no_unknown(found):
  found.pieces[2].type = 1


def another_end(found):
  found.pieces[1].piece = "<end>"


def damaged_table(found):
  table = bytearray(found.normalizer_spec.precompiled_charsmap)
  table[4:12] = b"\xff" * 8
  found.normalizer_spec.precompiled_charsmap = bytes(table)


@pytest.mark.parametrize(
  "edit, message",
  [
    (same_piece, "already defined"),
    (no_unknown, "unk is not defined"),
    (another_end, "special tokens of a known kind"),
    (damaged_table, "precompiled_charsmap"),
  ],
)
def test_what_is_not_read_is_named(tmp_path, edit, message):
  found = sentencepiece_model_pb2.ModelProto.FromString(model("siglip"))
  edit(found)
  path = tmp_path / "x.model"
  path.write_bytes(found.SerializeToString())
  with pytest.raises(ValueError, match=f"x.model.*{message}"):
    published_tokenizers.load(path)


def test_pieces_that_are_no_utf8(tmp_path):
  path = tmp_path / "x.model"
  content = model("siglip")
  piece = spm.SentencePieceProcessor(model_proto=content).id_to_piece(7)
  name = piece.encode()
  path.write_bytes(content.replace(name, b"\xff" * len(name), 1))
  with pytest.raises(ValueError, match="x.model.*utf-8"):
    published_tokenizers.load(path)


def test_without_the_library_its_extra_is_named(tmp_path, monkeypatch):
  """Both for a published file and for a run that has kept one."""
  path, kept = tmp_path / "x.model", tmp_path / "tokenizer.json"
  path.write_bytes(model("siglip"))
  published_tokenizers.load(path).save(kept)
  monkeypatch.setitem(sys.modules, "sentencepiece", None)
  config = config_lib.parse({"tokenizer": str(path)})
  with pytest.raises(config_lib.ConfigError, match=r"x.model: .*\[sentencep"):
    initial_weights.take_tokenizer(
      config.initial, config.tokenizer, tmp_path / "run"
    )
  with pytest.raises(
    workdirs.WorkdirError, match=r"tokenizer.json: .*\[sentencep"
  ):
    workdirs.read_tokenizer(kept)


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_damaged_files_are_named(tmp_path, kind):
  path = tmp_path / "x.model"
  whole = model(kind)
  for content in (b"", b"\x80\x04\x95cos\nsystem\n", b"\xff" * 40, whole[:-7]):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.model .*vocabulary"):
      published_tokenizers.load(path)
  # Whatever is in it, it is read or refused, and never ends the process.
  rng = random.Random(2)
  for _ in range(20):
    content = bytearray(whole)
    for _ in range(20):
      content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content)
    try:
      published_tokenizers.load(path).encode(HARD[:20], 8)
    except ValueError as error:
      assert "x.model" in str(error)
