"""The embedded data: complete, licensed, split as told, without TensorFlow."""

import collections
import errno
import io
import json
import pathlib
import re
import shutil
import unicodedata
import zipfile

import numpy as np
import pytest
from absl import app, flags
from PIL import Image

from contrastive_jax.data import pipeline
from contrastive_jax.data.sets.choices import Request
from contrastive_jax.data.sets.emoji import PROMPTS, Emoji
from contrastive_jax.data.sets.emoji import emoji_dataset_builder as emoji
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from tests.data import prepared
from tools import rebuild_emoji

FOLDER = pathlib.Path(emoji.__file__).parent
PREPARED = f"emoji-{emoji.fingerprint()}"
MANY = ("en", "ar", "de", "hi", "ja", "th", "vi", "zh")


def load(data_dir, *, languages=("en",), report=lambda line: None):
  chosen = Emoji(languages=languages, data_dir=str(data_dir))
  return chosen.open(Request(report=report))


@pytest.fixture(name="data", scope="module")
def fixture_data(emoji_dir):
  lines = []
  data = load(emoji_dir, languages=MANY, report=lines.append)
  assert not lines  # It was prepared already.
  return data


@pytest.fixture(name="split_sizes", scope="module")
def fixture_split_sizes():
  """Drawings of each split, counted in the shipped table."""
  sizes = collections.Counter()
  for concept in emoji.concepts():
    train = concept["split"] == "train"
    unseen = "unseen_style" if train else f"{concept['split']}_unseen_style"
    for drawing in concept["drawings"]:
      new = drawing["vendor"] == "fluent-emoji-flat"
      sizes[unseen if new else concept["split"]] += 1
  return dict(sizes)


def concept_ids(data, split):
  return {r["concept_id"] for r in data.splits[split].records}


def test_split_sizes(data, split_sizes):
  sizes = {name: len(split) for name, split in data.splits.items()}
  assert sizes == split_sizes
  assert len(sizes) == 6
  assert sum(sizes.values()) == 6609
  assert sum(n for s, n in sizes.items() if s.endswith("unseen_style")) == 1594
  assert data.name == "emoji"
  assert data.languages == MANY
  assert data.prompts == PROMPTS


def test_prepared_folder_holds_nothing_unfinished(emoji_dir):
  folder = emoji_dir / PREPARED / "emoji" / "images"
  assert [p.name for p in folder.iterdir()] == ["1.0.0"]


@pytest.mark.parametrize(
  "error",
  [
    FileExistsError("Cannot rename: the destination exists."),
    OSError(errno.ENOTEMPTY, "Directory not empty"),  # Between look and rename.
  ],
)
def test_data_that_another_process_prepared_meanwhile(
  emoji_dir, split_sizes, tmp_path, monkeypatch, error
):
  def too_late(builder):
    assert not builder.is_prepared()
    shutil.copytree(
      emoji_dir / PREPARED, tmp_path / PREPARED, dirs_exist_ok=True
    )
    raise error

  monkeypatch.setattr(emoji.Emoji, "download_and_prepare", too_late)
  lines = []
  data = load(tmp_path, report=lines.append)
  assert len(data.splits["test"]) == split_sizes["test"]
  assert len(lines) == 1


def test_what_another_version_prepared_is_not_opened(emoji_dir, monkeypatch):
  class AnewError(Exception):
    pass

  def prepare(builder):
    assert not builder.is_prepared()
    raise AnewError

  monkeypatch.setattr(emoji.Emoji, "download_and_prepare", prepare)
  load(emoji_dir)  # The one of this version is.
  monkeypatch.setattr(emoji, "fingerprint", lambda: "another")
  with pytest.raises(AnewError):
    load(emoji_dir)


def test_fingerprint_follows_the_table_and_the_drawings(tmp_path, monkeypatch):
  def fingerprint(table, drawings):
    (tmp_path / "concepts.json.gz").write_bytes(table)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as images:
      for name, content in drawings.items():
        images.writestr(name, content)
    return emoji.fingerprint.__wrapped__()

  monkeypatch.setattr(emoji, "_CONCEPTS", tmp_path / "concepts.json.gz")
  monkeypatch.setattr(emoji, "_IMAGES", tmp_path / "images.zip")
  drawings = {"noto/1f600.webp": b"face", "noto/1f601.webp": b"grin"}
  first = fingerprint(b"table", drawings)
  assert fingerprint(b"table", drawings) == first
  others = [
    fingerprint(b"other", drawings),
    fingerprint(b"table", {**drawings, "noto/1f601.webp": b"GRIN"}),
    fingerprint(b"table", {"noto/1f600.webp": b"face"}),
    fingerprint(
      b"table", {k.replace("1", "2"): v for k, v in drawings.items()}
    ),
  ]
  assert len({first, *others}) == 5


def test_concepts_of_splits_are_disjoint(data):
  held_out = {}
  for split in ("train", "validation", "test"):
    held_out[split] = concept_ids(data, split)
    style = "unseen_style" if split == "train" else f"{split}_unseen_style"
    assert concept_ids(data, style) <= held_out[split]
  assert {k: len(v) for k, v in held_out.items()} == {
    "train": 1614,
    "validation": 100,
    "test": 200,
  }
  assert len(set().union(*held_out.values())) == 1914


def test_unseen_style_is_in_its_own_splits_alone(data):
  vendor_of = {
    d["index"]: d["vendor"] for c in emoji.concepts() for d in c["drawings"]
  }
  for name, split in data.splits.items():
    vendors = {vendor_of[r["index"]] for r in split.records}
    if name.endswith("unseen_style"):
      assert vendors == {"fluent-emoji-flat"}
    else:
      assert vendors == {"noto", "noto-v1", "fxemoji", "twemoji"}


def test_records(data, split_sizes):
  concepts = {c["concept_id"]: c for c in emoji.concepts()}
  for name, split in data.splits.items():
    assert split.images.shape == (split_sizes[name], 64, 64, 3)
    assert split.images.dtype == np.uint8
    indices = [r["index"] for r in split.records]
    assert indices == sorted(set(indices))
    for record in split.records:
      concept = concepts[record["concept_id"]]
      assert record["label"] == concept["subcategory"]
      names = {c.language: c.text for c in record["captions"] if c[1] == "name"}
      assert names == {
        lang: concept["names"][lang]
        for lang in MANY
        if lang in concept["names"]
      }
      assert record["captions"][0].language == "en"


def test_images_are_the_shipped_drawings(data):
  concepts = {c["concept_id"]: c for c in emoji.concepts()}
  with zipfile.ZipFile(FOLDER / "images.zip") as images:
    for name, split in data.splits.items():
      for place in (0, len(split) // 2, len(split) - 1):
        record = split[place]
        concept = concepts[record["concept_id"]]
        (vendor,) = [
          d["vendor"]
          for d in concept["drawings"]
          if d["index"] == record["index"]
        ]
        file = images.read(f"{vendor}/{concept['codepoints']}.webp")
        expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
        np.testing.assert_array_equal(record["image"], expected, err_msg=name)
        assert record["image"].std() > 5  # It shows something.


def test_trains_and_evaluates_through_the_pipeline(data):
  iterator = pipeline.train_batches(
    data.splits["train"],
    tokenizer=data.tokenizer,
    sampler=pipeline.CaptionSampler(dict.fromkeys(MANY, 1.0), keywords=0.5),
    context_length=24,
    batch_size=64,
    seed=0,
  )
  batch = next(iterator)
  assert batch["image"].shape == (64, 64, 64, 3)
  assert batch["tokens"].max() < data.tokenizer.vocab_size
  assert len(set(batch["index"].tolist())) == 64
  (first, rows), *_ = pipeline.eval_images(data.splits["test"], 16)
  assert rows == 16
  np.testing.assert_array_equal(first, data.splits["test"].images[:16])


@pytest.mark.parametrize("language", ["id", "sv"])
def test_concepts_without_a_name_in_the_language_are_left_out(
  emoji_dir, language
):
  lacking = {
    c["concept_id"] for c in emoji.concepts() if language not in c["names"]
  }
  assert len(lacking) == 3
  data = load(emoji_dir, languages=(language,))
  everything = set()
  for name in data.splits:
    everything |= concept_ids(data, name)
    assert all(r["captions"] for r in data.splits[name].records)
  assert everything == set(range(1914)) - lacking


@pytest.mark.parametrize(
  ("languages", "got"),
  [
    (("en", "tlh"), "got tlh"),
    (("deu", "EN"), "got EN, deu"),
    ((), "got none"),
  ],
)
def test_unknown_language(tmp_path, languages, got):
  with pytest.raises(ValueError, match=f"^languages .*{got}"):
    load(tmp_path, languages=languages)
  assert not list(tmp_path.iterdir())


def test_captions_config_of_a_language(tmp_path):
  builder = emoji.Emoji(
    config="captions_hi", data_dir=str(tmp_path), file_format="array_record"
  )
  builder.download_and_prepare()
  assert set(builder.info.splits) == {"train", "validation", "test"}
  concepts = {c["concept_id"]: c for c in emoji.concepts()}
  count = 0
  for split in builder.info.splits:
    for row in builder.as_data_source(split=split):
      concept = concepts[int(row["concept_id"])]
      assert concept["split"] == split
      assert row["name"].decode() == concept["names"]["hi"]
      keywords = [k.decode() for k in row["keywords"]]
      assert keywords == concept["keywords"]["hi"]
      count += 1
  assert count == 1913  # One concept has no Hindi name.


def test_every_language_has_a_captions_config():
  names = {config.name for config in emoji.Emoji.BUILDER_CONFIGS}
  assert names == {"images", *(f"captions_{x}" for x in emoji.LANGUAGES)}


def test_languages_are_many_and_nearly_complete():
  assert len(set(emoji.LANGUAGES)) == len(emoji.LANGUAGES) >= 24
  concepts = emoji.concepts()
  for language in emoji.LANGUAGES:
    named = [c for c in concepts if c["names"].get(language, "").strip()]
    assert len(named) >= 0.99 * len(concepts), language
    described = [c for c in named if c["keywords"][language]]
    assert len(described) >= 0.98 * len(concepts), language
  for concept in concepts:
    assert concept["keywords"].keys() == concept["names"].keys()


def test_english_names_are_distinct():
  names = [c["names"]["en"] for c in emoji.concepts()]
  assert len({name.casefold() for name in names}) == len(names) == 1914


def test_indices_are_stable():
  """Concepts by codepoints, a concept's drawings by artist: 0, 1, 2, ..."""
  concepts = emoji.concepts()
  assert [c["concept_id"] for c in concepts] == list(range(1914))
  codepoints = [c["codepoints"] for c in concepts]
  assert codepoints == sorted(set(codepoints))
  drawings = [d for c in concepts for d in c["drawings"]]
  assert [d["index"] for d in drawings] == list(range(6609))
  for concept in concepts:
    vendors = [d["vendor"] for d in concept["drawings"]]
    assert vendors == [v for v in emoji.VENDORS if v in vendors]
  # Some of them, by name: a rebuild must not renumber a published data set.
  indices = {c["names"]["en"]: c["drawings"][0]["index"] for c in concepts}
  assert indices["flag: Egypt"] == 193
  assert indices["grinning face"] == 3595
  assert indices["red heart"] == 6522


def test_archive_holds_just_the_drawings():
  expected = {
    f"{d['vendor']}/{c['codepoints']}.webp"
    for c in emoji.concepts()
    for d in c["drawings"]
  }
  with zipfile.ZipFile(FOLDER / "images.zip") as images:
    assert sorted(images.namelist()) == sorted(expected)
  vendors = collections.Counter(name.split("/")[0] for name in expected)
  assert vendors.keys() == set(emoji.VENDORS)
  assert vendors["noto"] == 1652
  assert vendors["twemoji"] == 1914


def test_repository_holds_less_than_ten_megabytes():
  files = [p for p in FOLDER.rglob("*") if p.is_file() and p.suffix != ".pyc"]
  assert sum(p.stat().st_size for p in files) < 10_000_000


def test_licences_travel_with_the_data():
  notice = (FOLDER / "NOTICE.md").read_text(encoding="utf-8")
  texts = {
    p.name: p.read_text(encoding="utf-8")
    for p in (FOLDER / "LICENSES").iterdir()
  }
  licence_of = {
    "noto": ("Apache-2.0", "Apache License"),
    "noto-v1": ("Apache-2.0", "Apache License"),
    "fluent-emoji-flat": ("MIT", "Copyright (c) Microsoft"),
    # Apache-2.0 is for its code alone.
    "fxemoji": ("CC-BY-4.0", "Attribution 4.0 International"),
    "twemoji": ("CC-BY-4.0", "Attribution 4.0 International"),
  }
  assert licence_of.keys() == set(emoji.VENDORS)
  for vendor, (licence, words) in licence_of.items():
    (row,) = re.findall(rf"^\| `{vendor}/` \|.*$", notice, re.MULTILINE)
    assert f"| {licence} |" in row
    assert f"@iconify-json/{vendor} " in row
    files = [
      name
      for name, text in texts.items()
      if licence in name and words.lower() in text.lower()
    ]
    assert files, vendor
  assert "Unicode-3.0" in notice and "Unicode-3.0.txt" in texts
  assert "emojibase-data" in notice and "emojibase-MIT.txt" in texts
  assert all(len(text) > 1000 for text in texts.values())
  for number in range(1, 9):
    assert f"\nSection {number} – " in texts["CC-BY-4.0.txt"]
  # Demands of CC BY: the authors, the licence, the changes.
  for words in (
    "copyright 2015 Mozilla Foundation",
    "copyright Twitter, Inc.",
    "https://creativecommons.org/licenses/by/4.0/",
    "rasterised from SVG, resized to 64 x 64",
  ):
    assert words in notice


def normalise(text):
  # Letter by letter: the tokenizer knows no final sigma.
  text = "".join(c.lower() for c in unicodedata.normalize("NFKC", text))
  return " ".join(text.split())


@pytest.mark.parametrize("language", emoji.LANGUAGES)
def test_tokenizer_loses_nothing(language):
  tokenizer = tokenizer_lib.Tokenizer.load(FOLDER / "tokenizer.json")
  texts = []
  for concept in emoji.concepts():
    if language in concept["names"]:
      texts.append(concept["names"][language])
      texts.extend(concept["keywords"][language][:2])
  rows = tokenizer.encode(texts, 64)
  assert (rows[:, -1] == tokenizer_lib.PAD_ID).all()
  for text, row in zip(texts, rows):
    assert tokenizer.decode(row) == normalise(text)
  # The default context holds nearly every name whole.
  lengths = (rows != tokenizer_lib.PAD_ID).sum(1)
  assert np.mean(lengths <= 24) > 0.97


def shipped_splits():
  concepts = emoji.concepts()
  return (
    {c["codepoints"]: (c["category"], c["subcategory"]) for c in concepts},
    {c["codepoints"]: c["split"] for c in concepts},
  )


def test_splits_are_those_of_the_rebuild():
  groups, splits = shipped_splits()
  assert rebuild_emoji.assign_splits(groups) == splits
  # In whatever order the packages name them.
  backwards = dict(reversed(groups.items()))
  assert rebuild_emoji.assign_splits(backwards) == splits


def test_splits_are_stratified_by_category_and_subcategory():
  groups, splits = shipped_splits()
  assert len({category for category, _ in groups.values()}) == 9
  for split, count in (("test", 200), ("validation", 100)):
    held_out = [c for c, s in splits.items() if s == split]
    assert len(held_out) == count
    for level in (1, 2):
      totals = collections.Counter(g[:level] for g in groups.values())
      held = collections.Counter(groups[c][:level] for c in held_out)
      for group, total in totals.items():
        share = count * total / len(groups)
        # Rounded within a category, which is rounded itself.
        assert abs(held[group] - share) <= level, (split, group)


def test_a_new_concept_moves_few_others():
  groups, splits = shipped_splits()
  grown = rebuild_emoji.assign_splits({**groups, "1fffe": ("objects", "tool")})
  moved = [c for c in splits if splits[c] != grown[c]]
  assert len(moved) < 0.01 * len(splits)


def make_packages(folder, stems):
  for stem in stems:
    (folder / f"{stem}-1.0.0.tgz").write_bytes(b"")


def test_rebuild_names_the_missing_package(tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  # The one of noto-v1 is not taken for noto's.
  make_packages(tmp_path, ["iconify-json-noto-v1"])
  with pytest.raises(
    app.UsageError,
    match="iconify-json-noto-.* 0",
  ):
    rebuild_emoji.rebuild(tmp_path, out)
  assert not list(out.iterdir())


def test_rebuild_refuses_two_versions(tmp_path):
  for version in ("1.0.0", "1.0.1"):
    (tmp_path / f"emojibase-data-{version}.tgz").write_bytes(b"")
  with pytest.raises(app.UsageError, match="emojibase-data-.* 2"):
    rebuild_emoji.Package(tmp_path, "emojibase-data")


def test_rebuild_program(tmp_path):
  """Run as its docstring says; importing it defines no flag."""
  assert "sources" not in flags.FLAGS
  module = "tools.rebuild_emoji"
  done = prepared.run_python("-m", module, f"--sources={tmp_path}")
  assert done.returncode != 0
  assert "must hold exactly one iconify-json-noto-VERSION.tgz" in done.stderr
  assert "Traceback" not in done.stderr


def test_table_is_plain_json_of_known_fields():
  fields = {
    "concept_id",
    "codepoints",
    "character",
    "category",
    "subcategory",
    "split",
    "drawings",
    "names",
    "keywords",
  }
  for concept in emoji.concepts():
    assert concept.keys() == fields
    code = "-".join(f"{ord(c):04x}" for c in concept["character"])
    assert code == concept["codepoints"]
    assert concept["drawings"]
    json.dumps(concept)
