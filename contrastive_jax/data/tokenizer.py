"""A byte-level BPE tokenizer: any language, nothing unknown, fixed length."""

import pathlib
import uuid
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

PAD_ID = 0
_SPECIAL = ("[PAD]", "[START]", "[END]")


class Tokenizer:
  """Turns texts into rows of token ids.

  A row is [START] pieces... [END], padded with `PAD_ID` (0). A text that is too
  long loses pieces, never its end token. Text is NFKC-normalised, lower-cased
  and its white space collapsed; pieces are learned byte pairs, so that a text
  in any script has ids and no unknown token exists. A text that holds the name
  of a special token, such as "[PAD]", is text like any other.
  """

  def __init__(self, backend: tokenizers.Tokenizer):
    """Wraps a tokenizer of the `tokenizers` library made by `train`."""
    missing = [t for t in _SPECIAL if backend.token_to_id(t) is None]
    if missing:
      raise ValueError(
        f"The tokenizer lacks the special tokens {missing}; make it with"
        " Tokenizer.train."
      )
    if backend.token_to_id("[PAD]") != PAD_ID:
      raise ValueError("The tokenizer's [PAD] must have id 0.")
    # Else "[PAD]" within a user's caption would become padding. The library
    # does not save this property.
    backend.encode_special_tokens = True
    self._backend = backend
    self.start_id = int(backend.token_to_id("[START]"))  # pyrefly: ignore
    self.end_id = int(backend.token_to_id("[END]"))  # pyrefly: ignore

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
    """Reads a tokenizer that `save` wrote.

    Args:
      path: the JSON file.

    Returns:
      The tokenizer.

    Raises:
      ValueError: if the file is no tokenizer of this kind.
      FileNotFoundError: if there is no such file.
    """
    content = pathlib.Path(path).read_bytes()
    try:
      return cls(tokenizers.Tokenizer.from_str(content.decode("utf-8")))
    except Exception as error:  # The library raises bare Exception.
      raise ValueError(f"{path} is not a tokenizer file: {error}") from error

  def save(self, path: str | pathlib.Path) -> None:
    """Writes the tokenizer as JSON."""
    path = pathlib.Path(path)
    # Written aside and moved: neither a killed run nor several hosts that
    # write the same file leave half of one.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_text(self._backend.to_str(), encoding="utf-8")
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
    rows: np.ndarray = np.full((len(texts), length), PAD_ID, np.int32)
    encodings = self._backend.encode_batch([_well_formed(t) for t in texts])
    for row, encoding in zip(rows, encodings):
      ids = [self.start_id, *encoding.ids[: length - 2], self.end_id]
      row[: len(ids)] = ids
    return rows

  def decode(self, ids: Sequence[int]) -> str:
    """The (normalised) text of a row of ids."""
    return self._backend.decode(
      [int(i) for i in ids], skip_special_tokens=True
    ).strip()

  def __getstate__(self) -> str:
    """Pickles as JSON, for Grain's worker processes."""
    return self._backend.to_str()

  def __setstate__(self, state: str) -> None:
    """Restores a pickled tokenizer."""
    self.__init__(tokenizers.Tokenizer.from_str(state))


def _well_formed(text: str) -> str:
  """`text`, its lone surrogates (JSON allows them, UTF-8 does not) as "?"."""
  return text.encode("utf-8", "replace").decode("utf-8")
