"""Rebuilds the embedded emoji data set from the packages that it is made of.

The drawings come from five icon packages, the names and keywords from CLDR, the
categories and subcategories from emojibase. Fetch them with npm, then rebuild:

  mkdir sources && cd sources
  npm pack @iconify-json/noto@1.2.9 @iconify-json/noto-v1@1.2.5 \
    @iconify-json/fluent-emoji-flat@1.2.6 @iconify-json/fxemoji@1.2.2 \
    @iconify-json/twemoji@1.2.5 cldr-annotations-full@48.2.0 \
    cldr-annotations-derived-full@48.2.0 emojibase-data@17.0.0
  pip install resvg-py
  cd .. && python -m tools.rebuild_emoji --sources=sources

It takes about a minute and writes `images.zip`, `concepts.json.gz` and
`tokenizer.json` (byte pairs of the training captions) into
`contrastive_jax/data/sets/emoji`; the same packages give the same bytes.
"""

import collections
import gzip
import hashlib
import io
import json
import pathlib
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags
from PIL import Image

from contrastive_jax.data.sets import emoji
from contrastive_jax.data.sets.emoji.emoji_dataset_builder import (
  LANGUAGES,
  VENDORS,
)
from contrastive_jax.data.text import tokenizer as tokenizer_lib

_TEST_CONCEPTS = 200
_VALIDATION_CONCEPTS = 100
_VOCABULARY = 24_576
# English is the main language of training: nearly all of its words stay whole.
_ENGLISH_WEIGHT = 10
_SKIN_TONE = re.compile("1f3f[b-f]")


class Package:
  """The members of one npm package, read from its archive."""

  def __init__(self, folder: pathlib.Path, stem: str):
    found = sorted(folder.glob(f"{stem}-[0-9]*.tgz"))
    if len(found) != 1:
      raise app.UsageError(
        f"--sources={folder} must hold exactly one {stem}-VERSION.tgz; it"
        f" holds {len(found)}."
      )
    self._tar = tarfile.open(found[0])  # noqa: SIM115
    self._names = set(self._tar.getnames())

  def load(self, path: str) -> Any:
    """Parses one JSON member; an absent one is empty."""
    if f"package/{path}" not in self._names:
      return {}
    member = self._tar.extractfile(f"package/{path}")
    assert member is not None
    return json.load(member)


def _character(codepoints: str) -> str:
  return "".join(chr(int(c, 16)) for c in codepoints.split("-"))


def _drawings(
  icons: dict[str, dict[str, Any]], characters: dict[str, dict[str, str]]
) -> dict[str, dict[str, str]]:
  """{codepoints: {vendor: icon name}}, without skin tones."""
  table: dict[str, dict[str, str]] = collections.defaultdict(dict)
  by_name: dict[str, str] = {}
  for vendor in VENDORS:
    for codepoints, name in characters[vendor].items():
      codepoints = codepoints.lower().replace("-fe0f", "")
      if not _SKIN_TONE.search(codepoints):
        table[codepoints][vendor] = name
        by_name.setdefault(name, codepoints)
  for vendor in VENDORS:
    # Two packages name no codepoints: they join by the icon's name.
    if characters[vendor]:
      continue
    for name in [*icons[vendor]["icons"], *icons[vendor].get("aliases", {})]:
      if name in by_name:
        table[by_name[name]].setdefault(vendor, name)
  return table


def _render(icons: dict[str, Any], name: str, side: int) -> Image.Image:
  """One icon on white, as a square RGB picture."""
  # Only the rebuild needs it, so it is no dependency.
  import resvg_py  # pyrefly: ignore[missing-import]

  if name not in icons["icons"]:
    name = icons["aliases"][name]["parent"]
  icon = icons["icons"][name]
  width, height = (icon.get(k, icons.get(k, 16)) for k in ("width", "height"))
  svg = (
    '<svg xmlns="http://www.w3.org/2000/svg"'
    ' xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="'
    f'{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">'
    f"{icon['body']}</svg>"
  )
  png = bytes(
    resvg_py.svg_to_bytes(
      svg_string=svg, width=4 * side, skip_system_fonts=True
    )
  )
  picture = Image.open(io.BytesIO(png)).convert("RGBA")
  picture.thumbnail((side, side), Image.Resampling.BOX)
  canvas = Image.new("RGBA", (side, side), "white")
  canvas.alpha_composite(
    picture, ((side - picture.width) // 2, (side - picture.height) // 2)
  )
  return canvas.convert("RGB")


def _texts(
  annotations: Package, derived: Package, language: str
) -> dict[str, tuple[str, list[str]]]:
  """{character without U+FE0F: (name, keywords)} of one language."""
  out = {}
  for package, key in (
    (annotations, "annotations"),
    (derived, "annotationsDerived"),
  ):
    file = package.load(f"{key}/{language}/annotations.json")
    for character, entry in file.get(key, {}).get("annotations", {}).items():
      if "tts" in entry:
        name = entry["tts"][0]
        keywords = [k for k in entry.get("default", []) if k != name]
        out[character.replace("\ufe0f", "")] = (name, keywords)
  return out


def _groups(emojibase: Package) -> dict[str, tuple[str, str]]:
  """{codepoints: (category, subcategory)}."""
  names = emojibase.load("meta/groups.json")
  out = {}
  for entry in emojibase.load("en/data.json"):
    if "group" in entry:
      codepoints = entry["hexcode"].lower().replace("-fe0f", "")
      out[codepoints] = (
        names["groups"][str(entry["group"])],
        names["subgroups"][str(entry["subgroup"])],
      )
  return out


def _shares(sizes: dict[str, int], count: int) -> dict[str, int]:
  """`count` shared out in proportion to sizes, largest remainder first."""
  total = sum(sizes.values())
  exact = {name: count * size / total for name, size in sizes.items()}
  taken = {name: int(share) for name, share in exact.items()}
  order = sorted(exact, key=lambda name: (taken[name] - exact[name], name))
  for name in order[: count - sum(taken.values())]:
    taken[name] += 1
  return taken


def assign_splits(group_of: dict[str, tuple[str, str]]) -> dict[str, str]:
  """Splits concepts by category and, within it, subcategory.

  Both are represented in proportion, so that a split is as hard as the whole;
  within a subcategory the order of a hash decides.

  Args:
    group_of: {codepoints: (category, subcategory)}.

  Returns:
    {codepoints: "train" | "validation" | "test"}.
  """
  split = dict.fromkeys(group_of, "train")
  for name, count in (
    ("test", _TEST_CONCEPTS),
    ("validation", _VALIDATION_CONCEPTS),
  ):
    left: dict[str, dict[str, list[str]]] = {}
    for codepoints in sorted(
      (c for c in split if split[c] == "train"),
      key=lambda c: hashlib.sha256(c.encode()).hexdigest(),
    ):
      category, subcategory = group_of[codepoints]
      inner = left.setdefault(category, {})
      inner.setdefault(subcategory, []).append(codepoints)
    of_category = _shares(
      {c: sum(map(len, inner.values())) for c, inner in left.items()}, count
    )
    for category, inner in left.items():
      of_subcategory = _shares(
        {s: len(members) for s, members in inner.items()},
        of_category[category],
      )
      for subcategory, members in inner.items():
        for codepoints in members[: of_subcategory[subcategory]]:
          split[codepoints] = name
  return split


def _training_texts(concepts: list[dict[str, Any]]) -> Iterator[str]:
  """All texts of the training concepts, English ones several times."""
  for concept in concepts:
    if concept["split"] == "train":
      for language, name in concept["names"].items():
        repeats = _ENGLISH_WEIGHT if language == "en" else 1
        yield from [name, *concept["keywords"][language]] * repeats


def rebuild(source: pathlib.Path, out: pathlib.Path, *, side: int = 64) -> None:
  """Writes `images.zip`, `concepts.json.gz` and `tokenizer.json`.

  Args:
    source: the folder that holds the packages.
    out: the folder to write to.
    side: of the pictures, in pixels.

  Raises:
    app.UsageError: if a package is missing or there several times.
  """
  packages = {v: Package(source, f"iconify-json-{v}") for v in VENDORS}
  icons = {v: p.load("icons.json") for v, p in packages.items()}
  table = _drawings(
    icons, {v: p.load("chars.json") for v, p in packages.items()}
  )
  annotations = Package(source, "cldr-annotations-full")
  derived = Package(source, "cldr-annotations-derived-full")
  texts = {lang: _texts(annotations, derived, lang) for lang in LANGUAGES}
  groups = _groups(Package(source, "emojibase-data"))
  codes = sorted(
    c for c in table if _character(c) in texts["en"] and c in groups
  )
  split = assign_splits({c: groups[c] for c in codes})

  concepts = []
  with zipfile.ZipFile(out / "images.zip", "w", zipfile.ZIP_STORED) as images:
    index = 0
    for concept_id, code in enumerate(codes):
      character = _character(code)
      said = {
        lang: texts[lang][character]
        for lang in LANGUAGES
        if character in texts[lang]
      }
      drawings = []
      # This order is part of the stable index of an image.
      for vendor in VENDORS:
        if vendor not in table[code]:
          continue
        buffer = io.BytesIO()
        # 128 colours cannot be told from the original by eye and store in two
        # thirds of the space; more effort than method 4 gains 1 %.
        _render(icons[vendor], table[code][vendor], side).quantize(
          128, dither=Image.Dither.NONE
        ).convert("RGB").save(buffer, "webp", lossless=True, method=4)
        # A fixed date keeps the archive reproducible.
        images.writestr(
          zipfile.ZipInfo(f"{vendor}/{code}.webp"), buffer.getvalue()
        )
        drawings.append({"index": index, "vendor": vendor})
        index += 1
      concepts.append(
        {
          "concept_id": concept_id,
          "codepoints": code,
          "character": character,
          "category": groups[code][0],
          "subcategory": groups[code][1],
          "split": split[code],
          "drawings": drawings,
          "names": {lang: name for lang, (name, _) in said.items()},
          "keywords": {lang: words for lang, (_, words) in said.items()},
        }
      )
  content = json.dumps(concepts, ensure_ascii=False, separators=(",", ":"))
  (out / "concepts.json.gz").write_bytes(
    gzip.compress(content.encode(), 9, mtime=0)
  )
  tokenizer_lib.Tokenizer.train(
    _training_texts(concepts), vocab_size=_VOCABULARY
  ).save(out / "tokenizer.json")
  print(f"{len(concepts)} concepts, {index} images.")


def main(argv: Sequence[str]) -> None:
  """Runs the program."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected argument {argv[1]!r}.")
  rebuild(
    pathlib.Path(flags.FLAGS.sources),
    pathlib.Path(emoji.__file__).parent,
    side=flags.FLAGS.side,
  )


if __name__ == "__main__":
  # Defined here, so that importing this module leaves the flags of others be.
  flags.DEFINE_string(
    "sources", None, "Folder that holds the packages (*.tgz).", required=True
  )
  flags.DEFINE_integer("side", 64, "Side of the pictures, in pixels.")
  app.run(main)
