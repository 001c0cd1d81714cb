"""Vocabularies in SentencePiece's files, which are data: protocol buffers.

Kudo and Richardson, SentencePiece, 2018. The fields that are read are declared here:
code that is generated for them is bound to versions of protobuf.
"""

import functools
from typing import Any

import tokenizers
from google.protobuf import (
  descriptor_pb2,
  descriptor_pool,
  message,
  message_factory,
)
from tokenizers import decoders, models, normalizers

from contrastive_jax.data.text import charsmap

_SPACE = "▁"
# Kinds of models and of pieces, by their numbers in the files.
_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
# Protobuf's numbers of types and labels.
_TYPES = {"bool": 8, "bytes": 12, "float": 2, "int32": 5}
_MESSAGE, _ONE, _MANY = 11, 1, 3
# Message -> field -> (number, type, default); a message's own name is its type.
_FIELDS = {
  "Piece": {
    "piece": (1, "bytes", ""),
    "score": (2, "float", "0"),
    "type": (3, "int32", "1"),
  },
  "Trainer": {
    "model_type": (3, "int32", "1"),
    "treat_whitespace_as_suffix": (24, "bool", "false"),
    "byte_fallback": (35, "bool", "false"),
  },
  "Normalizer": {
    "precompiled_charsmap": (2, "bytes", ""),
    "add_dummy_prefix": (3, "bool", "true"),
    "remove_extra_whitespaces": (4, "bool", "true"),
    "escape_whitespaces": (5, "bool", "true"),
  },
  "Model": {
    "pieces": (1, "Piece", None),
    "trainer": (2, "Trainer", None),
    "normalizer": (3, "Normalizer", None),
  },
}


def read(content: bytes) -> tokenizers.Tokenizer:
  """The vocabulary of a `.model` file, with SentencePiece's ids.

  Of BPE, pieces that are marked as unused are never made.

  Args:
    content: of the file.

  Returns:
    A tokenizer of the `tokenizers` library: unigram or BPE.

  Raises:
    ValueError: if it is damaged, or of a kind that is not read.
  """
  model: Any = _model_class()()
  try:
    model.ParseFromString(content)
  except message.DecodeError as error:
    raise ValueError(f"it is no SentencePiece model ({error})") from error
  # Of two equal pieces one would have no id.
  pieces = [piece.piece.decode() for piece in model.pieces]
  if not pieces or len(set(pieces)) != len(pieces):
    raise ValueError(
      f"it must have pieces, each once; it has {len(pieces)}, of which"
      f" {len(set(pieces))} are different"
    )
  types = [piece.type for piece in model.pieces]
  if types.count(_UNKNOWN) != 1:
    raise ValueError(
      f"it must have one unknown piece; it has {types.count(_UNKNOWN)}"
    )
  if model.trainer.treat_whitespace_as_suffix:
    raise ValueError("it has spaces after words, which is not read")
  normalizer = _normalizer(model.normalizer)
  added = [p for p, kind in zip(pieces, types) if kind == _USER_DEFINED]
  if model.trainer.model_type == _UNIGRAM:
    backend = _unigram(model, pieces, types)
  elif model.trainer.model_type == _BPE:
    backend = _bpe(model, pieces, types)
  else:
    raise ValueError(
      "it must be of model type 1 (unigram) or 2 (BPE); it is of"
      f" {model.trainer.model_type}"
    )
  backend.normalizer = normalizer
  backend.decoder = decoders.Sequence(
    [
      decoders.Replace(_SPACE, " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
    ]
  )
  special = (_UNKNOWN, _CONTROL)
  backend.add_special_tokens(
    [p for p, kind in zip(pieces, types) if kind in special]
  )
  # They are cut out before all others, once spaces are theirs.
  backend.add_tokens([tokenizers.AddedToken(p, normalized=True) for p in added])
  return backend


def _unigram(
  model: Any, pieces: list[str], types: list[int]
) -> tokenizers.Tokenizer:
  known = (_NORMAL, _UNKNOWN, _CONTROL, _BYTE)
  if others := set(types) - set(known):
    raise ValueError(
      f"of a unigram model pieces must be of types {', '.join(map(str, known))};"
      f" some are of {', '.join(map(str, sorted(others)))}"
    )
  scores = [piece.score for piece in model.pieces]
  return tokenizers.Tokenizer(
    models.Unigram(
      list(zip(pieces, scores)),
      types.index(_UNKNOWN),
      model.trainer.byte_fallback,
    )
  )


def _bpe(
  model: Any, pieces: list[str], types: list[int]
) -> tokenizers.Tokenizer:
  settings = model.normalizer
  if _USER_DEFINED in types and (
    settings.precompiled_charsmap or settings.add_dummy_prefix
  ):
    raise ValueError(
      "it has pieces that a user defined, which are read without a table of"
      " characters and a space before the text alone"
    )
  ids = {piece: number for number, piece in enumerate(pieces)}
  parts = {p for p, t in zip(pieces, types) if t in (_NORMAL, _USER_DEFINED)}
  # Any two neighbours become one piece if there is one, that of the best score
  # first.
  merges = [
    (-model.pieces[ids[piece]].score, ids[left], ids[right], left, right)
    for piece in parts
    for cut in range(1, len(piece))
    if (left := piece[:cut]) in parts and (right := piece[cut:]) in parts
  ]
  return tokenizers.Tokenizer(
    models.BPE(
      ids,
      [(left, right) for *_, left, right in sorted(merges)],
      unk_token=pieces[types.index(_UNKNOWN)],
      fuse_unk=True,
      byte_fallback=model.trainer.byte_fallback,
    )
  )


def _normalizer(settings: Any) -> normalizers.Sequence:
  """What is done to a text, in SentencePiece's order."""
  steps: list[normalizers.Normalizer] = []
  if settings.precompiled_charsmap:
    charsmap.Charsmap(settings.precompiled_charsmap)  # Raises if it is none.
    try:
      steps.append(normalizers.Precompiled(settings.precompiled_charsmap))
    except Exception as error:  # The library raises bare Exception.
      raise ValueError(
        f"its table of characters is damaged ({error})"
      ) from error
  if settings.remove_extra_whitespaces:
    steps += [
      normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
      # Of spaces alone: other white space is what the table has left.
      normalizers.Replace(tokenizers.Regex(r"\A | \z"), ""),
    ]
  if settings.add_dummy_prefix:
    steps.append(normalizers.Prepend(" "))
  if settings.escape_whitespaces:
    steps.append(normalizers.Replace(" ", _SPACE))
  return normalizers.Sequence(steps)


@functools.cache
def _model_class() -> Any:
  """The message of a file, of a pool of its own: others declare it as well."""
  file = descriptor_pb2.FileDescriptorProto(
    name="sentencepiece_files.proto", package="files", syntax="proto2"
  )
  for name, fields in _FIELDS.items():
    declared = file.message_type.add(name=name)
    for field, (number, kind, default) in fields.items():
      made: Any = declared.field.add(name=field, number=number, label=_ONE)
      if kind in _FIELDS:
        made.type, made.type_name = _MESSAGE, f".files.{kind}"
        made.label = _MANY if field == "pieces" else _ONE
      else:
        made.type, made.default_value = _TYPES[kind], default
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(
    pool.FindMessageTypeByName("files.Model")
  )
