"""A configuration's requests to its data set, and a workdir's record of it."""

import dataclasses

import pytest

from contrastive_jax.data import sources
from contrastive_jax.data.sets.choices import PAIRS
from contrastive_jax.data.sets.folder.folder_rows import DataError
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.runs import open_data
from tests.data import folders


def opened(config, workdir):
  return open_data.open_data(config, workdir, lambda line: None)


@dataclasses.dataclass(frozen=True)
class Recorder:
  """Notes what it is asked, and raises what it is told to."""

  path: str = ""
  asked: list = dataclasses.field(default_factory=list)
  error: Exception | None = None

  tasks = PAIRS

  def open(self, request):
    """No examples."""
    self.asked.append(request)
    if self.error is not None:
      raise self.error
    return sources.PairData("mine", {}, (), request.learned(["a cup"], 270))


def configured(data, **fields):
  config = config_lib.default_config()
  for name, value in fields.items():
    place, last = config, name.split("__")
    for group in last[:-1]:
      place = getattr(place, group)
    setattr(place, last[-1], value)
  return dataclasses.replace(config_lib.parse(config), data=data)


def test_what_is_asked(tmp_path):
  data = Recorder()
  opened(configured(data), tmp_path)
  opened(
    configured(
      data,
      objective="simclr",
      steps=0,
      model__preset="vit_b16",
      augment__random_resized_crop=False,
    ),
    tmp_path,
  )
  first, second = data.asked
  assert (first.task, second.task) == ("captions", "images")
  assert (first.image_size, second.image_size) == (32, 224)
  assert first.trains and first.random_crops
  assert not second.trains and not second.random_crops
  assert first.workdir == second.workdir == tmp_path
  assert first.tokenizer is None and second.tokenizer is not None


def test_the_vocabulary_is_kept(tmp_path):
  root = tmp_path / "photos"
  folders.write_jsonl(root, folders.many(root, 6))
  config = config_lib.default_config()
  config.data = {"name": "folder", "path": str(root), "vocab_size": 300}
  config = config_lib.parse(config)
  first = opened(config, tmp_path)
  kept = (tmp_path / "tokenizer.json").read_bytes()
  rows = [
    folders.row(f"{i:03}.png", f"entirely new words {i}") for i in range(6)
  ]
  folders.write_jsonl(root, rows)
  second = opened(config, tmp_path)
  texts = ["thing 001", "entirely new words"]
  assert (
    second.tokenizer.encode(texts, 40).tolist()
    == first.tokenizer.encode(texts, 40).tolist()
  )
  assert second.fingerprint != first.fingerprint
  assert (tmp_path / "tokenizer.json").read_bytes() == kept


def test_a_broken_vocabulary_is_named(tmp_path):
  (tmp_path / "tokenizer.json").write_text("half a fi")
  with pytest.raises(workdirs.WorkdirError, match="tokenizer.json"):
    opened(configured(Recorder()), tmp_path)


@pytest.mark.parametrize(
  ("message", "expected"),
  [
    ("path must be a folder.", "config.data.path must be a folder."),
    ("path: no such folder.", "config.data.path: no such folder."),
    ("image_size must be 64.", "config.model.image_size must be 64."),
  ],
)
def test_mistakes_name_the_field(tmp_path, message, expected):
  config = configured(Recorder(error=ValueError(message)))
  with pytest.raises(config_lib.ConfigError) as caught:
    opened(config, tmp_path)
  assert str(caught.value) == expected
  assert not (tmp_path / "tokenizer.json").exists()


@pytest.mark.parametrize(
  "error", [ValueError("axes do not match."), DataError("path is empty.")]
)
def test_what_is_no_mistake_in_a_field_stays_as_it_is(tmp_path, error):
  with pytest.raises(ValueError) as caught:
    opened(configured(Recorder(error=error)), tmp_path)
  assert caught.value is error


def test_the_home_directory_may_be_a_tilde(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  root = tmp_path / "photos"
  folders.write_jsonl(root, folders.many(root, 3))
  config = config_lib.default_config()
  config.data = {"name": "folder", "path": "~/photos", "vocab_size": 270}
  (tmp_path / "run").mkdir()
  data = opened(config_lib.parse(config), tmp_path / "run")
  assert len(data.splits["train"]) == 3


def test_scenes_of_a_size_that_they_do_not_have(tmp_path):
  config = config_lib.default_config()
  config.data = {"name": "scenes", "data_dir": str(tmp_path)}
  config.model.image_size = 16
  with pytest.raises(config_lib.ConfigError) as caught:
    opened(config_lib.parse(config), tmp_path)
  assert str(caught.value).startswith("config.model.image_size ")
  assert not list(tmp_path.iterdir())
