"""CLIP's vocabulary: the pairs of pieces that its byte-level BPE joins.

`merges.txt.gz` holds the first 48,894 pairs of `bpe_simple_vocab_16e6.txt`, those that
CLIP uses, as OpenAI and open_clip distribute them (MIT, see `LICENSES`).
"""

import gzip
import pathlib


def merges() -> str:
  """The pairs, one a line, after a line that says what they are."""
  path = pathlib.Path(__file__).parent / "merges.txt.gz"
  return gzip.decompress(path.read_bytes()).decode("utf-8")
