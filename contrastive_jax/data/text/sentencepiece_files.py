"""Vocabularies in SentencePiece's `.model` files, read by its own library.

Kudo and Richardson, SentencePiece, 2018. The library is the extra `sentencepiece`; only
these files need it.
"""

import base64
import binascii
import json
from collections.abc import Sequence

FIELD = "sentencepiece"


class Pieces:
  """The pieces of a `.model` file of any type (unigram, BPE, word, char)."""

  def __init__(self, content: bytes):
    """Reads the content of a file, which is data: a protocol buffer.

    Raises:
      ValueError: if the file is damaged.
      ImportError: if the library is not installed.
    """
    try:
      import sentencepiece
    except ImportError as error:
      raise ImportError(
        "SentencePiece's vocabularies need the package sentencepiece; run"
        " `pip install contrastive_jax[sentencepiece]`"
      ) from error
    self._content = content
    self._model = sentencepiece.SentencePieceProcessor()
    try:
      self._model.LoadFromSerializedProto(content)
      # The library finds bytes that are no UTF-8 only when it returns them.
      self._model.id_to_piece(list(range(self.get_vocab_size())))
    except (RuntimeError, UnicodeDecodeError) as error:
      raise ValueError(f"it is no SentencePiece model ({error})") from error

  @classmethod
  def from_str(cls, text: str) -> "Pieces | None":
    """The pieces that `to_str` wrote; None if the text is something else.

    Raises:
      ValueError: if they are damaged.
      ImportError: if the library is not installed.
    """
    # Other vocabularies are not parsed for it: they may be large, or bombs.
    if not text.startswith(f'{{"{FIELD}"'):
      return None
    try:
      content = base64.b64decode(json.loads(text)[FIELD], validate=True)
    except (TypeError, binascii.Error, RecursionError) as error:
      raise ValueError(f"{FIELD!r} must be in base64 ({error})") from error
    return cls(content)

  def to_str(self) -> str:
    """The whole file as JSON."""
    return json.dumps({FIELD: base64.b64encode(self._content).decode()})

  def get_vocab_size(self) -> int:
    """Number of ids."""
    return self._model.get_piece_size()

  def token_to_id(self, token: str) -> int | None:
    """The id of a piece; None if there is no such piece."""
    number = self._model.piece_to_id(token)
    return number if self._model.id_to_piece(number) == token else None

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, without special tokens."""
    return self._model.encode(list(texts), num_threads=1)

  def decode(self, ids: Sequence[int]) -> str:
    """The text of ids, without special tokens."""
    return self._model.decode(list(ids))
