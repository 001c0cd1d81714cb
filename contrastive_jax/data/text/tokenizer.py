"""Texts as rows of token ids: a vocabulary of one's own, or a published one."""

import dataclasses
import html
import pathlib
import string
import uuid
from collections.abc import Callable, Iterable, Sequence

import ftfy
import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from contrastive_jax.data.text import sentencepiece_files

PAD_ID = 0
_SPECIAL = ("[PAD]", "[START]", "[END]")
_Backend = tokenizers.Tokenizer | sentencepiece_files.Pieces


def _well_formed(text: str) -> str:
  """`text`, its lone surrogates (JSON allows them, UTF-8 does not) as "?"."""
  return text.encode("utf-8", "replace").decode("utf-8")


def _mended(text: str) -> str:
  """`text` with HTML's entities and broken encodings as they were meant."""
  return html.unescape(html.unescape(ftfy.fix_text(_well_formed(text))))


def _lower(text: str) -> str:
  return " ".join(_mended(text).split()).lower()


def _canonical(text: str) -> str:
  """`text` in lower case without punctuation, as SigLIP is trained on it."""
  text = _mended(text).replace("_", " ")
  text = text.translate(str.maketrans("", "", string.punctuation))
  return " ".join(text.lower().split())


@dataclasses.dataclass(frozen=True)
class _Kind:
  """A family of vocabularies, known by the names of its special tokens.

  Attributes:
    name: of the family.
    start: the token before a text; None is none.
    end: the token after it.
    pad: the token that fills a row, or its id where that is a word's too.
    clean: what is done to a text before it is cut into pieces.
  """

  name: str
  start: str | None
  end: str
  pad: str | int
  clean: Callable[[str], str]


_KINDS = (
  _Kind("own", "[START]", "[END]", "[PAD]", _well_formed),
  _Kind("clip", "<start_of_text>", "<end_of_text>", 0, _lower),
  _Kind("clip", "<|startoftext|>", "<|endoftext|>", 0, _lower),
  _Kind("bert", "[CLS]", "[SEP]", "[PAD]", _well_formed),
  _Kind("siglip2", None, "<eos>", "<pad>", _canonical),
  _Kind("siglip", None, "</s>", "</s>", _canonical),
)


def _kind_of(backend: _Backend) -> _Kind:
  for kind in _KINDS:
    names = [kind.start, kind.end, kind.pad]
    if all(
      backend.token_to_id(name) is not None
      for name in names
      if isinstance(name, str)
    ):
      return kind
  known = ", ".join(f"{kind.start or 'none'} {kind.end}" for kind in _KINDS)
  raise ValueError(
    f"The tokenizer must have special tokens of a known kind ({known}); it has"
    " none of them: make one with Tokenizer.train."
  )


class Tokenizer:
  """Turns texts into rows of token ids.

  A row is a start token, pieces and an end token, padded with `pad_id`. A text that
  is too long loses pieces, never its end token. A text that holds the name of a
  special token, such as "[PAD]", is text like any other.

  Of a vocabulary that `train` learns, text is NFKC-normalised, lower-cased and its
  white space collapsed; pieces are learned byte pairs, so that a text in any script
  has ids and no unknown token exists; padding is `PAD_ID` (0). Published vocabularies
  (CLIP's, BERT's, SigLIP's) treat text as the models that they belong to expect it;
  SigLIP's have no start token.

  Attributes:
    kind: `own`, `clip`, `bert`, `siglip` or `siglip2`.
    start_id: id of the start token; None if there is none.
    end_id: id of the end token.
    pad_id: id of padding.
    mask_id: id of a token that stands for a hidden one; None if there is none.
  """

  def __init__(self, backend: _Backend):
    """Wraps a tokenizer of the `tokenizers` library, or SentencePiece's pieces.

    Raises:
      ValueError: if its special tokens are of no known kind.
    """
    kind = _kind_of(backend)
    if kind.name == "own" and backend.token_to_id("[PAD]") != PAD_ID:
      raise ValueError("The tokenizer's [PAD] must have id 0.")
    if isinstance(backend, tokenizers.Tokenizer):
      # Rows are made here.
      backend.no_padding()
      backend.no_truncation()
      # Else "[PAD]" within a user's caption would become padding. The library
      # does not save this property.
      backend.encode_special_tokens = True
    self._backend = backend
    self._clean = kind.clean
    self.kind = kind.name

    def number(token: str) -> int:
      return int(backend.token_to_id(token))  # pyrefly: ignore

    self.start_id = None if kind.start is None else number(kind.start)
    self.end_id = number(kind.end)
    self.pad_id = kind.pad if isinstance(kind.pad, int) else number(kind.pad)
    self.mask_id = number("[MASK]") if kind.name == "bert" else None

  @property
  def special_ids(self) -> tuple[int, ...]:
    """Ids of start, end, padding and mask, as far as there are any, in order.

    CLIP's vocabulary pads with the id of a piece ("!"), which is among them.
    """
    ids = (self.start_id, self.end_id, self.pad_id, self.mask_id)
    return tuple(sorted({number for number in ids if number is not None}))

  @classmethod
  def train(cls, texts: Iterable[str], *, vocab_size: int) -> "Tokenizer":
    """Learns a vocabulary of at most `vocab_size` pieces from texts.

    Args:
      texts: the corpus; a text that comes twice counts twice.
      vocab_size: at least 259 (256 bytes and 3 special tokens).

    Returns:
      The tokenizer.

    Raises:
      ValueError: if `vocab_size` is too small.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    smallest = len(alphabet) + len(_SPECIAL)
    if vocab_size < smallest:
      raise ValueError(
        f"vocab_size must be at least {smallest}; got {vocab_size}."
      )
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence(
      [
        normalizers.NFKC(),
        normalizers.Lowercase(),
        normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
        normalizers.Strip(),
      ]
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
      map(_well_formed, texts),
      trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
      ),
    )
    return cls(backend)

  @classmethod
  def load(cls, path: str | pathlib.Path) -> "Tokenizer":
    """Reads a tokenizer that `save` wrote, or a published `tokenizer.json`.

    Args:
      path: the JSON file.

    Returns:
      The tokenizer.

    Raises:
      ValueError: if the file is no tokenizer of this kind.
      FileNotFoundError: if there is no such file.
      ImportError: if it is SentencePiece's, whose library is not installed.
    """
    content = pathlib.Path(path).read_bytes()
    try:
      return cls(_backend(content.decode("utf-8")))
    except ImportError:
      raise
    except BaseException as error:
      # The library raises bare Exception, and Rust's panic, which is none and
      # cannot be imported.
      panic = type(error).__name__ == "PanicException"
      if not (panic or isinstance(error, Exception)):
        raise
      raise ValueError(f"{path} is not a tokenizer file: {error}") from error

  def save(self, path: str | pathlib.Path) -> None:
    """Writes the tokenizer as JSON."""
    path = pathlib.Path(path)
    # Written aside and moved: neither a killed run nor several hosts that
    # write the same file leave half of one.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_text(self.__getstate__(), encoding="utf-8")
    temporary.replace(path)

  @property
  def vocab_size(self) -> int:
    """Number of ids."""
    return self._backend.get_vocab_size()

  def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
    """Token ids of texts.

    Args:
      texts: N texts.
      length: columns L of the result, at least 2.

    Returns:
      [N, L] int32.

    Raises:
      ValueError: if `length` < 2, or `texts` is one text.
    """
    if isinstance(texts, str):
      raise ValueError(f"texts must be a list of texts; got {texts!r}.")
    if length < 2:
      raise ValueError(f"length must be at least 2; got {length}.")
    rows: np.ndarray = np.full((len(texts), length), self.pad_id, np.int32)
    start = [] if self.start_id is None else [self.start_id]
    most = length - len(start) - 1
    for row, pieces in zip(rows, self._pieces(texts)):
      ids = [*start, *pieces[:most], self.end_id]
      row[: len(ids)] = ids
    return rows

  def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
    """All ids of each text, without special tokens."""
    cleaned = [self._clean(text) for text in texts]
    if isinstance(self._backend, sentencepiece_files.Pieces):
      return self._backend.encode(cleaned)
    encodings = self._backend.encode_batch(cleaned, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]

  def decode(self, ids: Sequence[int]) -> str:
    """The (normalised) text of a row of ids, up to its end token."""
    numbers = [int(i) for i in ids]
    if self.end_id in numbers:  # The padding's id may be a word's too.
      numbers = numbers[: numbers.index(self.end_id)]
    # Both libraries leave special tokens out.
    return self._backend.decode(numbers).strip()

  def __getstate__(self) -> str:
    """Pickles as JSON, for Grain's worker processes."""
    return self._backend.to_str()

  def __setstate__(self, state: str) -> None:
    """Restores a pickled tokenizer."""
    self.__init__(_backend(state))


def _backend(state: str) -> _Backend:
  """The saved `state`; raises the errors of the libraries."""
  found = sentencepiece_files.Pieces.from_str(state)
  return tokenizers.Tokenizer.from_str(state) if found is None else found
