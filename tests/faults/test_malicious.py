"""Data, vocabularies and workdirs that mean harm: refused by name, nothing run.

Names and headers of archives are in tests/data/test_record_inputs.py, paths of a folder
in tests/data/test_folder.py.
"""

import io
import json
import pathlib
import tarfile

import numpy as np
import pytest

from contrastive_jax.data import pipeline, sources
from contrastive_jax.data.sets.folder import reading
from contrastive_jax.data.sets.records import conversion, tars
from contrastive_jax.data.sets.records import source as record_source
from contrastive_jax.data.text import eda, published_tokenizers
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from contrastive_jax.models import pretrained
from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.evaluators import embeddings, zero_shot
from contrastive_jax.training.runs import (
  cached_features,
  initial_weights,
  results_file,
  runner,
)
from contrastive_jax.training.trainer import metric_log
from tests.data import pairs
from tests.faults.harm import ARRAYS, command, refused

# Archives of pairs.


@pytest.mark.parametrize(
  "kind",
  [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
  + [tarfile.FIFOTYPE, tarfile.DIRTYPE],
)
def test_members_that_are_no_files(place, kind):
  shard = place / "a.tar"
  with tarfile.open(shard, "w") as archive:
    for name, data in pairs.pair("good", pairs.RED, "red"):
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
    evil = tarfile.TarInfo("evil.png")
    evil.type, evil.linkname = kind, "../beside/precious"
    evil.devmajor, evil.devminor = 1, 5  # /dev/zero
    archive.addfile(evil)
    evil.name = "evil.txt"
    archive.addfile(evil)
  out, _ = pairs.converted(place, shard, max_bad_share=1.0)
  assert "no regular file" in pairs.problems(out)["evil.png"]
  assert len(pairs.read(out)) == 1


def test_a_name_in_a_header_of_its_own(place):
  """PAX: the name that counts is not the one in the plain header."""
  shard = place / "a.tar"
  with tarfile.open(shard, "w", format=tarfile.PAX_FORMAT) as archive:
    for name, data in pairs.pair("x", pairs.RED, "red"):
      info = tarfile.TarInfo(name)
      info.size = len(data)
      info.pax_headers = {"path": f"../../beside/{name}"}
      archive.addfile(info, io.BytesIO(data))
  out, _ = pairs.converted(place, shard)
  assert pairs.read(out)[0]["captions"] == ("red",)


def test_texts_of_an_archive_are_bounded(place, monkeypatch):
  monkeypatch.setattr(tars, "_MAX_TEXT", 1000)
  members = [("a.png", pairs.RED), ("a.json", b'{"caption": [' + b"0," * 999)]
  shard = pairs.write_tar(place / "a.tar", members)
  found = list(tars.read(shard))
  assert [f.problem for f in found][:1] == ["too large: 2,011 bytes"]


TEXTS = (
  "{0.__class__.__init__.__globals__}",
  "{} {} {missing}",
  "%s %(name)s %n",
  "${HOME} $(touch canary) `touch canary`",
  "!!python/object/apply:os.system ['touch canary']",
  "__import__('os').system('touch canary')",
  "{{7*7}} <script>alert(1)</script>",
)


@pytest.mark.parametrize("form", ["tar", "parquet", "jsonl"])
def test_captions_are_texts_and_nothing_else(place, form):
  if form == "tar":
    members = [
      m for i, t in enumerate(TEXTS) for m in pairs.pair(str(i), pairs.RED, t)
    ]
    made = pairs.write_tar(place / "a.tar", members)
  elif form == "parquet":
    columns = {"image": [pairs.RED] * len(TEXTS), "caption": list(TEXTS)}
    made = pairs.write_parquet(place / "a.parquet", columns)
  else:
    (place / "a.png").write_bytes(pairs.RED)
    made = place / "a.jsonl"
    rows = [{"image": "a.png", "caption": t, "label": t} for t in TEXTS]
    made.write_text("".join(json.dumps(row) + "\n" for row in rows))
  out, _ = pairs.converted(place, made)
  assert [row["captions"] for row in pairs.read(out)] == [(t,) for t in TEXTS]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_in_prompts_and_classes_are_not_formats(text):
  sampler = pipeline.CaptionSampler(
    languages={"en": 1.0}, name=0.0, prompt=1.0, prompts=("a picture of {}",)
  )
  caption = sources.Caption(text, "name", "en")
  drawn = sampler([caption], np.random.default_rng(0))
  assert drawn == f"a picture of {text}"
  seen = []

  class Encoder:
    """Keeps the texts."""

    def texts(self, state, texts):
      seen.extend(texts)
      return np.eye(len(texts), dtype=np.float32)

  images = embeddings.Embedded(np.eye(2, dtype=np.float32), None, None)
  zero_shot.zero_shot(
    Encoder(), None, images, ["x", text], np.array([0, 1]), prompts=("no {}",)
  )
  assert seen == ["no x", f"no {text}"]


# Vocabularies.


TOKENIZERS = {
  "deep": "[" * 200_000,
  "object": '{"a": ' * 50_000,
  "python": "!!python/object/apply:os.system ['touch canary']",
  "other": json.dumps({"version": "1.0", "model": {"type": "Evil"}}),
  "template": json.dumps({"chat_template": "{{ ''.__class__ }}"}),
  "pickle": "\x80\x02cos\nsystem\n.",
  "panic": json.dumps(
    {
      "version": "1.0",
      "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
      "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
  ),
  "sentencepiece": json.dumps({"sentencepiece": "gASVY29zCnN5c3RlbQou"}),
  "sentencepiece base": json.dumps({"sentencepiece": "%%%"}),
  "sentencepiece type": json.dumps({"sentencepiece": ["a"]}),
  "sentencepiece deep": '{"sentencepiece": ' + "[" * 200_000,
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_vocabularies(place, kind):
  path = place / "tokenizer.json"
  path.write_text(TOKENIZERS[kind], encoding="latin-1")
  message = refused(path, ValueError, published_tokenizers.load)
  assert "is not a tokenizer file" in message and len(message) < 1000
  refused(path, workdirs.WorkdirError, workdirs.read_tokenizer)
  refused(
    path,
    config_lib.ConfigError,
    lambda _: initial_weights.take_tokenizer(None, str(path), place / "w"),
  )


def test_a_vocabulary_whose_numbers_point_nowhere(place):
  own = tokenizer_lib.Tokenizer.train(["a red cup"], vocab_size=259)
  own.save(place / "good.json")
  content = json.loads((place / "good.json").read_text())
  content["model"]["merges"] = [["no", "such"]]
  path = place / "tokenizer.json"
  path.write_text(json.dumps(content))
  assert "is not a tokenizer file" in refused(
    path, ValueError, published_tokenizers.load
  )


# Files of a workdir and of a conversion.


def test_features_of_a_run_that_are_something_else(place):
  path = place / "features.npy"
  for content in (
    ARRAYS["objects"](command(place)),
    ARRAYS["header"](command(place)),
    ARRAYS["size"](""),
    b"PK\x03\x04" + bytes(40),
  ):
    path.write_bytes(content)
    assert cached_features.load(path, 1) is None
  with open(path, "wb") as file:
    np.savez(file, a=np.zeros((1, 2)))
  assert cached_features.load(path, 1) is None


JSONS = {
  "deep": "[" * 100_000,
  "digits": '{"a": ' + "9" * 100_000 + "}",
  "python": "!!python/object/apply:os.system ['touch canary']",
  "bytes": "\x80\x02cos\nsystem\n.",
}


@pytest.mark.parametrize("kind", JSONS)
def test_json_that_is_none(place, kind):
  path = place / "results.json"
  path.write_text(JSONS[kind], encoding="latin-1")
  refused(path, workdirs.WorkdirError, workdirs.read_json)
  refused(path, ValueError, eda.load_synonyms)
  config = config_lib.default_config()
  config.data = "official"
  for field in ("model.overrides", "data.options"):
    with pytest.raises(config_lib.ConfigError, match=f"^config.{field} "):
      config.assign(field, JSONS[kind])
  (place / "metrics.jsonl").write_text(f'{JSONS[kind]}\n{{"step": 1}}\n')
  assert metric_log.read_metrics(place) == [{"step": 1}]


@pytest.mark.parametrize(
  "values",
  [
    {"\x1b]0;owned\x07": 1.0},
    {"a\nError: run this": 1.0},
    {"a": 10**400},
    {"a": "__import__('os')"},
    {"a": {"b": 1}},
  ],
  ids=["escapes", "lines", "digits", "text", "nested"],
)
def test_results_that_would_write_to_the_terminal(place, values):
  (place / "results.json").write_text(json.dumps(values))
  with pytest.raises(workdirs.WorkdirError, match=r"results\.json.*numbers"):
    results_file.read(place)


@pytest.mark.parametrize(
  "values, said",
  [
    (
      {"data": {"name": "__import__('os').system('touch canary')"}},
      "config.data ",
    ),
    ({"loss": {"name": "os:system"}}, "config.loss .*'os:system'"),
    ({"objective": "!!python/object/apply:os.system"}, "objective"),
    ({"__class__": {"__init__": 1}}, "__class__"),
    ({"model": {"__reduce__": ["os.system", "x"]}}, "__reduce__"),
    ({"steps": {"$ref": "file:///etc/passwd"}}, "steps"),
    ({"model": {"preset": "../../etc/passwd"}}, "preset"),
  ],
)
def test_a_configuration_names_nothing_that_is_run(place, values, said):
  (place / "config.json").write_text(json.dumps(values))
  with pytest.raises(config_lib.ConfigError, match=said):
    runner.restore(place, report=lambda line: None)


@pytest.mark.parametrize("kind", ["file", "folder", "dangling", "circle"])
@pytest.mark.parametrize("where", [".", "checkpoints/4/state"])
def test_links_that_lead_out_of_a_workdir(place, kind, where):
  inside = place / where
  inside.mkdir(parents=True, exist_ok=True)
  beside = place.parent / "beside"
  target = {
    "file": beside / "precious",
    "folder": beside,
    "dangling": beside / "new",
    "circle": inside / "metrics.jsonl",
  }[kind]
  (inside / "metrics.jsonl").symlink_to(target)
  with pytest.raises(workdirs.WorkdirError) as caught:
    runner.train(config_lib.parse({}), place, report=lambda line: None)
  assert str(inside / "metrics.jsonl") in str(caught.value)


def test_links_that_stay_and_a_workdir_that_is_one(place):
  (place / "w").mkdir()
  (place / "w" / "a").write_text("x")
  (place / "w" / "b").symlink_to("a")
  (place / "w" / "c").symlink_to(place / "w" / "a")
  (place / "linked").symlink_to(place / "w")
  workdirs.check_links(place / "linked")
  # Written aside first: not through a link that lies there.
  (place / "w" / "results.tmp").symlink_to("a")
  workdirs.write_json(place / "w" / "results.json", {"a": 1})
  assert (place / "w" / "a").read_text() == "x"
  assert workdirs.read_json(place / "w" / "results.json") == {"a": 1}


def test_a_conversion_with_links(place):
  shard = pairs.write_tar(place / "a.tar", pairs.pair("x", pairs.RED, "red"))
  out, _ = pairs.converted(place, shard)
  for path in (out / "units").iterdir():
    path.unlink()
  (out / "test").symlink_to(place.parent / "beside")
  with pytest.raises(reading.DataError) as caught:
    pairs.converted(place, shard)
  assert str(out / "test") in str(caught.value)


DATASETS = {
  "path": {"number": "../../beside/precious"},
  "count": {"examples": "x"},
  "none": {"examples": None},
  "content": {"content": [1]},
  "sizes": {"bytes": {"a": 1}},
}


@pytest.mark.parametrize("kind", [*DATASETS, "list", "deep", "infinite"])
def test_a_conversion_that_lies_about_itself(place, kind):
  shard = pairs.write_tar(place / "a.tar", pairs.pair("x", pairs.RED, "red"))
  out, _ = pairs.converted(place, shard)
  path = out / conversion.DATASET_FILE
  known = json.loads(path.read_text())
  known["splits"]["train"][0] |= DATASETS.get(kind, {})
  text = json.dumps(known)
  if kind == "deep":
    text = "[" * 100_000
  elif kind == "list":
    text = "[1, 2]"
  elif kind == "infinite":
    text = text.replace('"number": 0', '"number": 1e999')
  path.write_text(text)
  refused(
    path,
    reading.DataError,
    lambda _: record_source.load(str(out), image_size=4),
  )


# Names in messages.


@pytest.mark.parametrize(
  "name, shown",
  [
    ("a\nError: all is well", r"a\nError: all is well"),
    ("\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07"),
    ("a\rError: none", r"a\rError: none"),
    ("\u202egnp.exe", r"\u202egnp.exe"),
    ("\udcff.pt", r"\udcff.pt"),
    ("größe 日本.pt", "größe 日本.pt"),
  ],
)
def test_names_of_files_are_shown_and_not_obeyed(capsys, place, name, shown):
  path = pathlib.Path(place, name)
  path.write_bytes(b"no weights")
  with pytest.raises(pretrained.WeightFileError) as caught:
    pretrained.read_tensors(path)
  with pytest.raises(SystemExit):
    flags_lib._stop(str(caught.value))
  said = capsys.readouterr().err
  assert shown in said and said.count("\n") == 1
  assert said.removesuffix("\n").isprintable()
