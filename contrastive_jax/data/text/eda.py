"""Easy data augmentation: small random edits of a caption, on the host.

Wei and Zou, "EDA: easy data augmentation techniques for boosting performance on
text classification tasks", 2019. The latent-structure paper takes its augmented
captions from it.
"""

import collections
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np

from contrastive_jax.data import sources

Synonyms = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class EasyDataAugmentation:
  """Edits a text in one of four ways, drawn at random.

  With l words and n = max(1, floor(share * l)):

  * synonym replacement: n words that have synonyms are replaced by one of them;
  * random insertion: a synonym of some word goes to a random place, n times;
  * random swap: two words change places, n times;
  * random deletion: each word goes with probability `share`; one stays.

  A way that cannot change this text (a single word has no other to swap with,
  and no word a synonym) is not drawn. Text between commas that has synonyms as a
  whole ("roller coaster") counts as one word, as does what a language writes
  without spaces. Commas are dropped, as published; words that carry no meaning
  are left alone where, as in data's own synonyms, they have none.

  Attributes:
    synonyms: of words and phrases in lower case; see `synonyms`.
    share: of the words that is edited; the published alpha.
  """

  synonyms: Synonyms
  share: float = 0.1

  def __post_init__(self):
    """Checks the share."""
    if not 0.0 < self.share <= 1.0:
      raise ValueError(f"share must be in (0, 1]; got {self.share}.")

  def __call__(self, text: str, rng: np.random.Generator) -> str:
    """The text, edited; as it is if nothing can be."""
    words = self._words(text)
    known = [w for w in words if self.synonyms.get(w.lower())]
    ways = []
    if known:
      ways += [self._replace, self._insert]
    if len(words) > 1:
      ways += [self._swap, self._delete]
    if not ways:
      return text
    return " ".join(ways[rng.integers(len(ways))](words, known, rng))

  def _words(self, text: str) -> list[str]:
    words = []
    for part in text.split(","):
      part = part.strip()
      whole = bool(self.synonyms.get(part.lower()))
      words += [part] if whole else part.split()
    return words

  def _count(self, words: Sequence[str]) -> int:
    return max(1, int(self.share * len(words)))

  def _synonym(self, word: str, rng: np.random.Generator) -> str:
    found = self.synonyms[word.lower()]
    return found[int(rng.integers(len(found)))]

  def _replace(self, words, known, rng):
    chosen = rng.permutation(sorted(set(known)))[: self._count(words)].tolist()
    new = {word: self._synonym(word, rng) for word in chosen}
    return [new.get(word, word) for word in words]

  def _insert(self, words, known, rng):
    words = list(words)
    for _ in range(self._count(words)):
      new = self._synonym(known[rng.integers(len(known))], rng)
      words.insert(rng.integers(len(words) + 1), new)
    return words

  def _swap(self, words, known, rng):
    del known
    words = list(words)
    for _ in range(self._count(words)):
      i, j = rng.choice(len(words), 2, replace=False)
      words[i], words[j] = words[j], words[i]
    return words

  def _delete(self, words, known, rng):
    del known
    stay = rng.random(len(words)) >= self.share
    if not stay.any():
      stay[rng.integers(len(words))] = True
    return [w for w, s in zip(words, stay) if s]


def synonyms(
  source: sources.Source, languages: Sequence[str] = ()
) -> dict[str, tuple[str, ...]]:
  """Finds words that mean the same in a data set's captions.

  A name's synonyms are the keywords of its example in the same language, and the
  example's names in the other languages. Captions without keywords in one
  language, such as those of a user's folder, tell none.

  Args:
    source: the training split; others would leak what they name.
    languages: those whose names are taken; empty takes all.

  Returns:
    Sorted texts by name in lower case; no name is among its own.
  """
  found: dict[str, set[str]] = collections.defaultdict(set)
  for i in range(len(source)):
    captions = [
      c
      for c in source.fields(i)["captions"]
      if not languages or c.language in (*languages, sources.ANY_LANGUAGE)
    ]
    for name in captions:
      if name.kind != "name":
        continue
      same = {
        c.text
        for c in captions
        if (c.kind == "keyword") == (c.language == name.language)
      }
      same = {text for text in same if text.lower() != name.text.lower()}
      if same:
        found[name.text.lower()] |= same
  return {name: tuple(sorted(texts)) for name, texts in sorted(found.items())}


def load_synonyms(path: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
  """Reads a file {"word": ["synonym", ...], ...}.

  Args:
    path: JSON, UTF-8.

  Returns:
    Synonyms by word in lower case.

  Raises:
    ValueError: if it is anything else, naming the file and the word.
    OSError: if it cannot be read.
  """
  with open(path, encoding="utf-8") as file:
    try:
      values = json.load(file)
    except (ValueError, RecursionError) as error:
      raise ValueError(f"{path} is not valid JSON ({error}).") from error
  if not isinstance(values, dict):
    raise ValueError(f"{path} must hold an object of words and lists.")
  for word, texts in values.items():
    if not isinstance(texts, list) or not all(
      isinstance(t, str) and t.strip() for t in texts
    ):
      raise ValueError(
        f"{path}: the synonyms of {word!r} must be a list of texts; got"
        f" {texts!r}."
      )
  return {word.lower(): tuple(texts) for word, texts in values.items()}
