"""Official files as a data set that a run opens."""

import numpy as np
import pytest

from contrastive_jax.data.sets.choices import Request
from contrastive_jax.data.sets.folder.folder_rows import DataError
from contrastive_jax.data.sets.official import Official
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from tests.data.official_files import SIDE, save, write


@pytest.fixture(name="root")
def fixture_root(tmp_path):
  """Captions and hypotheses of images in two splits."""
  for split, count in (("train", 4), ("val", 2)):
    rows = []
    for i in range(count):
      name = f"images/{split}{i}.png"
      save(tmp_path / name, (40 * i, 0, 0))
      label = ("entailment", "neutral", "contradiction")[i % 3]
      text = f"{split} thing {i}"
      rows.append(
        {"image": name, "caption": text, "sentence": text, "label": label}
      )
    write(tmp_path / f"a_{split}.json", rows)
  write(tmp_path / "ve_train.json", rows)
  return tmp_path


def files(root, *splits):
  return {split: str(root / f"a_{split}.json") for split in splits}


def opened(root, options, *, report=lambda line: None, **request):
  chosen = Official(
    path=str(root),
    format="albef",
    options=options,
    vocab_size=300,
    max_bad_share=0.25,
  )
  return chosen.open(Request(image_size=SIDE, report=report, **request))


def test_captions(root):
  data = opened(root, {"path": files(root, "train", "val")})
  sizes = {name: len(split) for name, split in data.splits.items()}
  assert sizes == {"train": 4, "validation": 2, "test": 0}
  assert data.name == "official" and data.languages == ("",)
  assert data.fingerprint == data.splits["train"].fingerprint
  # The vocabulary is of the training captions: "val" has no piece of its own.
  row = data.tokenizer.encode(["train thing 1"], 20)[0]
  assert data.tokenizer.decode(row) == "train thing 1"
  pieces = (data.tokenizer.encode(["train", "val"], 20) > 0).sum(1)
  assert pieces[0] < pieces[1]


def test_a_task(root):
  options = {"path": files(root, "train", "val")}
  data = opened(root, options, task="entailment")
  assert data.task == "entailment" and len(data.splits["validation"]) == 2
  text = data.splits["train"].fields(0)["hypothesis"]
  row = data.tokenizer.encode([text], 20)[0]
  assert data.tokenizer.decode(row) == text
  given = tokenizer_lib.Tokenizer.train(["other"], vocab_size=270)
  again = opened(root, options, task="entailment", tokenizer=given)
  assert again.tokenizer is given


def test_without_training_what_is_there_is_scored(root):
  lines = []
  data = opened(
    root, {"path": files(root, "val")}, trains=False, report=lines.append
  )
  assert len(data.splits["test"]) == len(data.splits["train"]) == 2
  np.testing.assert_array_equal(
    data.splits["test"][0]["image"], data.splits["validation"][0]["image"]
  )
  assert len(lines) == 1 and "test" in lines[0] and "validation" in lines[0]


@pytest.mark.parametrize(
  "request_", [{}, {"task": "entailment"}, {"task": "entailment", "trains": 0}]
)
def test_training_examples_are_needed(root, request_):
  with pytest.raises(ValueError, match="^path .*validation") as caught:
    opened(root, {"path": files(root, "val")}, **request_)
  assert not isinstance(caught.value, DataError)


def test_problems_are_listed_in_the_workdir(root):
  (root / "images" / "train1.png").unlink()
  opened(root, {"path": files(root, "train")}, workdir=root / "run")
  assert "train1.png" in (root / "run" / "skipped.jsonl").read_text()


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"format": "coco"}, "^format .*'coco'"),
    ({"options": {"mincount": 1}}, "^options: .*mincount"),
    ({"options": {"image_size": 1}}, "^options: .*image_size"),
    ({"options": {"max_bad_share": 3}}, "^options: max_bad_share .*3"),
  ],
)
def test_mistakes_name_the_field(root, fields, message):
  chosen = Official(**{"path": str(root), "format": "albef", **fields})
  with pytest.raises(ValueError, match=message):
    chosen.open(Request(task="entailment", image_size=SIDE))


@pytest.mark.parametrize("name", ["path", "format"])
def test_what_must_be_given(name):
  fields = {"path": "x", "format": "coco"} | {name: ""}
  with pytest.raises(ValueError, match=f"^{name} .*''"):
    Official(**fields).check()
