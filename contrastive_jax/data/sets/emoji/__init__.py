"""The embedded image-text data set: emoji by five artists, in 25 languages."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from contrastive_jax.choices import field
from contrastive_jax.data import sources
from contrastive_jax.data.files import prepare
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
    # A package with other drawings or names must not open what an earlier one
    # prepared: TFDS knows its version alone.
    folder = prepare.data_dir(self.data_dir) / f"emoji-{emoji.fingerprint()}"
    builder = prepare.prepared(
      functools.partial(
        emoji.Emoji,
        config="images",
        data_dir=str(folder),
        file_format="array_record",
      ),
      "the emoji data",
      report=request.report,
    )
    captions = {
      c["concept_id"]: _captions(c, self.languages) for c in emoji.concepts()
    }
    splits = {}
    for split in builder.info.splits:
      rows = sorted(
        (
          row
          for row in builder.as_data_source(split=split)
          if captions[int(row["concept_id"])]
        ),
        key=lambda row: int(row["index"]),
      )
      splits[split] = sources.ArraySource(
        np.stack([row["image"] for row in rows]),
        [
          {
            "index": int(row["index"]),
            "concept_id": int(row["concept_id"]),
            "captions": captions[int(row["concept_id"])],
            "label": row["subcategory"].decode()
            if isinstance(row["subcategory"], bytes)
            else str(row["subcategory"]),
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
  captions = []
  for language in languages:
    if language in concept["names"]:
      captions.append(
        sources.Caption(concept["names"][language], "name", language)
      )
      captions.extend(
        sources.Caption(keyword, "keyword", language)
        for keyword in concept["keywords"][language]
      )
  return tuple(captions)
