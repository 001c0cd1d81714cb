r"""Searches embedded pictures by a sentence or a picture.

  python -m experiments.search --embeddings=embedded --model=runs/clip_emoji \
      --query="a red cup" --html=found.html
  python -m experiments.search --embeddings=embedded --model=runs/clip_emoji \
      --queries=sentences.txt --out=found.jsonl

All embeddings are compared, in parts: they need not fit into memory.
"""

import json
import pathlib
from typing import Any

from absl import flags

from contrastive_jax.data.files import stores
from contrastive_jax.programs import command_line, model_flags
from contrastive_jax.training.config import errors

_FLAGS = flags.FlagValues()
_MODEL = model_flags.model(_FLAGS)
_EMBEDDINGS = flags.DEFINE_string(
  "embeddings", "", "Folder that embed has written.", flag_values=_FLAGS
)
_QUERY = flags.DEFINE_multi_string(
  "query",
  [],
  "Sentence to search by; may be given several times.",
  flag_values=_FLAGS,
)
_IMAGE = flags.DEFINE_multi_string(
  "image",
  [],
  "Picture file to search by; may be given several times.",
  flag_values=_FLAGS,
)
_QUERIES = flags.DEFINE_string(
  "queries",
  "",
  "Text file with a sentence to search by in each line.",
  flag_values=_FLAGS,
)
_K = flags.DEFINE_integer(
  "k", 10, "Pictures that each query finds.", lower_bound=1, flag_values=_FLAGS
)
_OUT = flags.DEFINE_string(
  "out",
  "",
  "File that receives a JSON object a query, with keys and scores; none if empty.",
  flag_values=_FLAGS,
)
_HTML = flags.DEFINE_string(
  "html",
  "",
  "Page that shows the pictures, one file that needs no other; none if empty.",
  flag_values=_FLAGS,
)
_PRINTED = 20  # Queries that a terminal shows.


def main() -> None:
  """Runs the program."""
  model_flags.given(_EMBEDDINGS)
  sentences = [*_QUERY.value, *_lines()]
  if not sentences and not _IMAGE.value:
    raise errors.UserError(
      "--query, --image or --queries must say what is searched for; see --help."
    )
  for sentence in sentences:
    if not sentence.strip():
      raise errors.UserError(
        f"--query must be a sentence; got {sentence!r}, which is empty."
      )
  import numpy as np

  from contrastive_jax import inference
  from contrastive_jax.inference import embedding_files, search

  try:
    folder = stores.local(_EMBEDDINGS.value)
    head = embedding_files.about(folder)["head"]
    model = inference.load(_MODEL.value)
    embedding_files.check_model(folder, model)
    parts = []
    if sentences:
      parts.append(model.encode_text(sentences, head=head))
    if _IMAGE.value:
      parts.append(model.encode_image(_IMAGE.value, head=head))
    hits = search.in_folder(folder, np.concatenate(parts), _K.value)
  except ValueError as error:
    raise errors.UserError(str(error)) from error
  queries = [*sentences, *_IMAGE.value]
  # Before anything is printed, whose reader may be gone.
  written = []
  if _OUT.value:
    lines = "".join(_line(q, h) for q, h in zip(queries, hits))
    written.append(_write(_OUT.value, lines))
  if _HTML.value:
    written.append(_write(_HTML.value, search.sheet(queries, hits)))
  for query, found in list(zip(queries, hits))[:_PRINTED]:
    print(f"\n{query}")
    for hit in found:
      print(f"  {hit.score:6.3f}  {hit.key}")
  if len(queries) > _PRINTED:
    print(f"\nand {len(queries) - _PRINTED:,} queries more.")
  for path in written:
    print(f"\nWrote {path}.")


def _lines() -> list[str]:
  """The sentences of --queries."""
  if not _QUERIES.value:
    return []
  path = pathlib.Path(_QUERIES.value).expanduser()
  try:
    text = path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise errors.UserError(
      f"--queries={path} cannot be read: {error}."
    ) from error
  return [line.strip() for line in text.splitlines() if line.strip()]


def _line(query: str, hits: Any) -> str:
  found = [{"key": hit.key, "score": round(hit.score, 6)} for hit in hits]
  return json.dumps({"query": query, "found": found}, ensure_ascii=False) + "\n"


def _write(name: str, text: str) -> pathlib.Path:
  path = pathlib.Path(name).expanduser()
  try:
    path.write_text(text, encoding="utf-8")
  except OSError as error:
    raise errors.UserError(
      f"{path} cannot be written: {error.strerror}."
    ) from error
  return path


def start() -> None:
  """Parses the command line and runs the program."""
  command_line.run(
    main, flag_values=_FLAGS, usage=__doc__, addresses=("model", "embeddings")
  )


if __name__ == "__main__":
  start()
