"""Open Clip Art: what is kept of the package's files, and how it is split."""

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import sources
from contrastive_jax.data.sets.choices import Request
from contrastive_jax.data.sets.folder import reading
from contrastive_jax.data.sets.openclipart import OpenClipart
from contrastive_jax.data.sets.openclipart import (
  openclipart_dataset_builder as openclipart,
)
from contrastive_jax.data.text import eda
from tests.data.clip_art import SVG, add, write


@pytest.fixture(name="root", scope="module")
def fixture_root(tmp_path_factory):
  root = tmp_path_factory.mktemp("openclipart")
  write(root)
  return root


def load(root, data_dir, **request):
  chosen = OpenClipart(str(root), str(data_dir))
  return chosen.open(Request(**{"report": lambda line: None, **request}))


@pytest.fixture(name="data", scope="module")
def fixture_data(root, tmp_path_factory):
  return load(root, tmp_path_factory.mktemp("prepared"))


def records(data):
  return [
    (name, split.fields(i))
    for name, split in data.splits.items()
    for i in range(len(split))
  ]


def test_larger_drawings_are_the_same_ones(root, data, tmp_path):
  lines = []
  large = load(root, tmp_path, image_size=65, report=lines.append)
  for name, split in data.splits.items():
    assert len(large.splits[name]) == len(split)
    for i in range(len(split)):
      assert large.splits[name].fields(i) == split.fields(i)
  assert large.splits["train"][0]["image"].shape == (128, 128, 3)
  # Prepared beside the small ones, and another data set.
  assert large.fingerprint == f"{data.fingerprint}-128"
  assert large.fingerprint in lines[0]


def test_keeps_what_is_of_use(root, data):
  found = records(data)
  assert sorted(r["index"] for _, r in found) == list(range(60))
  assert {r["label"] for _, r in found} == {"animals", "food", ""}
  assert all(
    split.images.shape[1:] == (64, 64, 3) for split in data.splits.values()
  )
  kept = {drawing.path for drawing in openclipart.drawings(root)}
  assert len(kept) == 60 and all("/a" in path for path in kept)


def test_titles_are_concepts_of_one_split(data):
  homes = {}
  for name, record in records(data):
    title = record["captions"][0].text.lower()
    homes.setdefault(title, set()).add((name, record["concept_id"]))
  assert len(homes) == 40
  assert all(len(found) == 1 for found in homes.values())
  assert {name for ((name, _),) in homes.values()} == {
    "train",
    "validation",
    "test",
  }


def test_shares_of_the_splits():
  names = [openclipart.split_of(f"title {i}") for i in range(4000)]
  shares = [names.count(s) / 4000 for s in ("train", "validation", "test")]
  np.testing.assert_allclose(shares, (0.77, 0.08, 0.15), atol=0.02)
  assert openclipart.split_of("Cat") == openclipart.split_of("cAT")


def test_texts():
  svg = SVG.format(
    title="A <b>cat</b> &amp;\n dog",
    words="<rdf:li>hash(0x81)</rdf:li><rdf:li>Wild_Cat</rdf:li>"
    "<rdf:li>icons</rdf:li><rdf:li>wild_cat</rdf:li><rdf:li/>",
  )
  assert openclipart.texts_of(svg) == ("A cat & dog", ("wild cat",))
  assert openclipart.texts_of("<svg><dc:title>page</dc:title></svg>") == (
    "",
    (),
  )


def test_a_drawing_is_centred_on_white(root):
  add(root, "zz/wide", "Zz wide", level=10, size=(128, 32))
  path = root / "png/zz/wide.png"
  picture = Image.open(path)
  picture.putalpha(255)
  picture.save(path)
  image = next(
    d.image for d in openclipart.drawings(root) if d.path == "zz/wide"
  )
  (root / "svg/zz/wide.svg").unlink()
  assert (image[:24] == 255).all() and (image[40:] == 255).all()
  assert (image[24:40] == 10).all()


def test_keywords_are_synonyms(data):
  found = eda.synonyms(data.splits[sources.TRAIN], data.languages)
  assert found and all("wide bird" in texts for texts in found.values())


def test_is_prepared_once(root, tmp_path):
  lines = []
  first = load(root, tmp_path, report=lines.append)
  again = load(root, tmp_path, report=lines.append)
  assert len(lines) == 1 and "Preparing Open Clip Art" in lines[0]
  assert first.fingerprint == again.fingerprint
  (root / "svg/food/a01.svg").write_text(
    SVG.format(title="A quite different title", words="")
  )
  other = load(root, tmp_path, report=lines.append)
  assert other.fingerprint != first.fingerprint and len(lines) == 2


@pytest.mark.parametrize("parts", [(), ("svg",), ("png",)])
def test_a_folder_that_is_not_the_packages(tmp_path, parts):
  for part in parts:
    (tmp_path / part).mkdir()
  with pytest.raises(reading.DataError, match="config.data.path "):
    load(tmp_path, tmp_path)
