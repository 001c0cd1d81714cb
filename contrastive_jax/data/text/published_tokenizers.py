"""Vocabularies of published models, from the files that they come in."""

import gzip
import os
import pathlib
import zlib

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from contrastive_jax.data.text import clip as clip_data
from contrastive_jax.data.text import sentencepiece_files
from contrastive_jax.data.text import tokenizer as tokenizer_lib

# How CLIP cuts a text before its pieces.
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CLIP_IDS = 49_408


def load(path: str | pathlib.Path) -> tokenizer_lib.Tokenizer:
  """Reads a published vocabulary.

  Args:
    path: `bpe_simple_vocab_16e6.txt.gz` (CLIP), `vocab.txt` (BERT), a `.model` of
      SentencePiece (SigLIP's c4_en, SigLIP 2's of Gemma), or a `tokenizer.json` of
      CLIP, BERT or SigLIP; or a folder that has one of them.

  Returns:
    The tokenizer.

  Raises:
    ValueError: if there is no such file, or it is none of these.
    ImportError: if it is SentencePiece's, whose library is not installed.
  """
  path = pathlib.Path(os.path.expanduser(path))
  if path.is_dir():
    names = (
      *("tokenizer.json", "vocab.txt", "bpe_simple_vocab_16e6.txt.gz"),
      *("sentencepiece.model", "spiece.model", "tokenizer.model"),
    )
    found = [path / name for name in names if (path / name).exists()]
    if not found:
      raise ValueError(
        f"{path} must hold one of {', '.join(names)}; got none of them."
      )
    path = found[0]
  try:
    if path.suffix == ".json":
      return tokenizer_lib.Tokenizer.load(path)
    if path.suffix == ".model":
      return sentencepiece(path.read_bytes(), str(path))
    if path.suffix == ".gz":
      with gzip.open(path, "rt", encoding="utf-8") as file:
        return clip(file.read())
    return bert(path.read_text(encoding="utf-8"))
  except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
    raise ValueError(
      f"{path} cannot be read as a vocabulary: {error}."
    ) from error


def clip(merges: str | None = None) -> tokenizer_lib.Tokenizer:
  """CLIP's byte-level BPE.

  Args:
    merges: content of `bpe_simple_vocab_16e6.txt`: a line that is passed over, and
      pairs of pieces, of which CLIP takes the first 48,894; None takes the package's.

  Returns:
    The tokenizer.

  Raises:
    ValueError: if there are too few pairs.
  """
  merges = clip_data.merges() if merges is None else merges
  letters = _byte_letters()
  pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
  count = CLIP_IDS - len(pieces) - 2
  pairs = [tuple(line.split()) for line in merges.split("\n")[1 : count + 1]]
  if len(pairs) < count or any(len(pair) != 2 for pair in pairs):
    raise ValueError(
      f"CLIP's vocabulary must have {count} pairs of pieces after its first line;"
      f" got {sum(len(pair) == 2 for pair in pairs)}."
    )
  pieces += ["".join(pair) for pair in pairs]
  special = ["<start_of_text>", "<end_of_text>"]
  try:
    model = models.BPE(
      {piece: number for number, piece in enumerate(pieces + special)},
      [(first, second) for first, second in pairs],
      continuing_subword_prefix="",
      end_of_word_suffix="</w>",
      fuse_unk=False,
    )
  except Exception as error:  # The library raises bare Exception.
    raise ValueError(
      f"CLIP's vocabulary must have pairs of pieces of its own: {error}"
    ) from error
  backend = tokenizers.Tokenizer(model)
  backend.add_special_tokens(special)
  backend.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(
        tokenizers.Regex(_CLIP_WORDS), "removed", invert=True
      ),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  backend.decoder = decoders.Sequence(
    [
      decoders.Replace("</w>", " "),
      decoders.ByteLevel(),
    ]
  )
  return tokenizer_lib.Tokenizer(backend)


def bert(vocabulary: str) -> tokenizer_lib.Tokenizer:
  """BERT's word pieces, uncased.

  Args:
    vocabulary: content of `vocab.txt`, a piece a line.

  Returns:
    The tokenizer.

  Raises:
    ValueError: if it lacks BERT's special tokens.
  """
  # Pieces may be what other functions take for ends of lines.
  lines = vocabulary.removesuffix("\n").split("\n")
  pieces = {piece.rstrip("\r"): number for number, piece in enumerate(lines)}
  special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  missing = [token for token in special if token not in pieces]
  if missing:
    raise ValueError(
      f"BERT's vocabulary must have {', '.join(special)}; it lacks"
      f" {', '.join(missing)}."
    )
  backend = tokenizers.Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
  backend.add_special_tokens(special)
  backend.normalizer = normalizers.BertNormalizer(lowercase=True)
  backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  backend.decoder = decoders.WordPiece()
  return tokenizer_lib.Tokenizer(backend)


def sentencepiece(
  content: bytes, name: str = "The file"
) -> tokenizer_lib.Tokenizer:
  """A vocabulary of SentencePiece, such as SigLIP's c4_en and SigLIP 2's of Gemma.

  Args:
    content: of the `.model` file; nothing in it is executed.
    name: of the file, for messages.

  Returns:
    The tokenizer, with the ids that SentencePiece gives to a text in SigLIP's form:
    lower case, without punctuation.

  Raises:
    ValueError: if it is damaged, or its special tokens are not SigLIP's.
    ImportError: if the library is not installed.
  """
  try:
    return tokenizer_lib.Tokenizer(sentencepiece_files.Pieces(content))
  except ValueError as error:
    reason = str(error).rstrip(".")
    raise ValueError(
      f"{name} cannot be read as a vocabulary: {reason}."
    ) from error


def _byte_letters() -> list[str]:
  """The letters that stand for the 256 bytes, in the order of CLIP's ids."""
  printable = [
    *range(ord("!"), ord("~") + 1),
    *range(ord("\xa1"), ord("\xac") + 1),
    *range(ord("\xae"), ord("\xff") + 1),
  ]
  others = len(set(range(256)) - set(printable))
  return [chr(n) for n in printable] + [chr(256 + n) for n in range(others)]
