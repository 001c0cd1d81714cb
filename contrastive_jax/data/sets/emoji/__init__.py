"""The embedded image-text data set: emoji by five artists, in 25 languages."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from contrastive_jax.choices import field
from contrastive_jax.data import sources
from contrastive_jax.data.files import prepare
from contrastive_jax.data.sets import prepared
from contrastive_jax.data.sets.choices import DATA_DIR, PAIRS, Request

_TOKENIZER = pathlib.Path(__file__).with_name("tokenizer.json")
PROMPTS = (
  "{}",
  "a drawing of {}",
  "an icon of {}",
  "a picture showing {}",
  "{} emoji",
)


@dataclasses.dataclass(frozen=True)
class Emoji:
  """The embedded emoji: drawings with names and keywords in six languages."""

  languages: tuple[str, ...] = field(
    ("en", "de", "es", "fr", "ja", "zh"), "Languages of the captions."
  )
  data_dir: str = DATA_DIR

  tasks = PAIRS
  licence = (
    "Apache-2.0, MIT, CC-BY-4.0 and Unicode-3.0,"
    " see the package's data/sets/emoji/NOTICE.md"
  )

  def open(self, request: Request) -> sources.PairData:
    """The splits that the TFDS builder names, prepared once.

    Drawings of the few concepts that have a name in none of the languages are
    left out.

    Raises:
      ValueError: if a language is not one of the data set's.
    """
    # TFDS takes seconds to import: only who opens a data set pays for it.
    import numpy as np

    from contrastive_jax.data.sets.emoji import emoji_dataset_builder as emoji
    from contrastive_jax.data.text import tokenizer as tokenizer_lib

    unknown = sorted(set(self.languages) - set(emoji.LANGUAGES))
    if unknown or not self.languages:
      raise ValueError(
        f"languages must be some of {', '.join(emoji.LANGUAGES)}; got"
        f" {', '.join(unknown) or 'none'}."
      )
    captions = {
      c["concept_id"]: _captions(c, self.languages) for c in emoji.concepts()
    }
    splits = {}
    for split, rows in prepared.rows(
      functools.partial(emoji.Emoji, config="images"),
      prepare.data_dir(self.data_dir) / f"emoji-{emoji.fingerprint()}",
      "the emoji data",
      request.report,
    ):
      rows = [row for row in rows if captions[int(row["concept_id"])]]
      splits[split] = sources.ArraySource(
        np.stack([row["image"] for row in rows]),
        [
          {
            "index": int(row["index"]),
            "concept_id": int(row["concept_id"]),
            "captions": captions[int(row["concept_id"])],
            "label": row["subcategory"].decode(),
          }
          for row in rows
        ],
      )
    return sources.PairData(
      name="emoji",
      splits=splits,
      languages=self.languages,
      tokenizer=request.tokenizer or tokenizer_lib.Tokenizer.load(_TOKENIZER),
      fingerprint=emoji.fingerprint(),
      prompts=PROMPTS,
    )


def _captions(
  concept: Mapping[str, Any], languages: Sequence[str]
) -> tuple[sources.Caption, ...]:
  return tuple(
    sources.Caption(text, kind, language)
    for language in languages
    if language in concept["names"]
    for kind, texts in (
      ("name", [concept["names"][language]]),
      ("keyword", concept["keywords"][language]),
    )
    for text in texts
  )
