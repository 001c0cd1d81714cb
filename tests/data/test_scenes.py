"""Scenes: how they are drawn, prepared and opened."""

import hashlib
import itertools
import json
import random

import numpy as np
import pytest

from contrastive_jax.data import sources, tasks
from contrastive_jax.data.sets import scenes
from contrastive_jax.data.sets.choices import TASKS, Request
from contrastive_jax.data.sets.scenes import (
  generation,
  graph,
  phrases,
  rendering,
)
from tests.data import prepared
from tests.data.scene_sets import SETTINGS, SIZES, digest


class Prepared:
  """A folder with every task, and the lines that were reported."""

  def __init__(self, root):
    self.root, self.lines = str(root), []
    self.pairs = self.load_pairs()
    self.tasks = {task: self.load_task(task) for task in TASKS}

  def load_pairs(self, settings=SETTINGS):
    return scenes.load_pairs(
      self.root, settings=settings, report=self.lines.append
    )

  def load_task(self, task, settings=SETTINGS):
    return scenes.load_task(
      task, self.root, settings=settings, report=self.lines.append
    )


@pytest.fixture(name="data", scope="module")
def fixture_data(tmp_path_factory):
  return Prepared(tmp_path_factory.mktemp("scenes"))


def thing(shape="circle", colour="red", size="large", texture="plain", **rest):
  return graph.Thing(
    shape, colour, size, texture, **{"rotation": 0, "x": 0.5, "y": 0.5, **rest}
  )


def alone(item, background=125):
  return graph.Scene(background, (item,))


def records(split):
  return [split[i] for i in range(len(split))]


@pytest.mark.parametrize("side", [64, 97])
def test_colour_at_the_centre(side):
  palette = np.array(list(rendering.COLOURS.values()), np.float32)
  kinds = itertools.product(
    graph.VALUES["shape"], graph.VALUES["size"], graph.VALUES["texture"]
  )
  for number, (shape, size, texture) in enumerate(kinds):
    colour = graph.VALUES["colour"][number % 8]
    for rotation in graph.ROTATIONS:
      item = thing(shape, colour, size, texture, rotation=rotation)
      image = rendering.render(alone(item), side)
      # A ring has a hole there, but up and to the right it has none.
      away = round((shape == "ring") * 0.5 * graph.RADIUS[size] * side)
      pixel = image[side // 2 - away, side // 2 + away].astype(np.float32)
      nearest = np.argmin(np.abs(palette - pixel).sum(-1))
      assert graph.VALUES["colour"][nearest] == colour, (shape, size, texture)


def test_kinds_of_things_look_different():
  """Each shape, size and texture from each other, on each background."""
  for background in (40, 125, 230):
    images = [
      rendering.render(
        alone(thing(shape, "blue", size, texture), background), 64
      ).astype(np.float32)
      for shape, size, texture in itertools.product(
        graph.VALUES["shape"], graph.VALUES["size"], graph.VALUES["texture"]
      )
    ]
    flat = np.stack(images).reshape(len(images), -1)
    apart = np.abs(flat[:, None] - flat[None]).sum(-1)
    np.fill_diagonal(apart, np.inf)
    # As much as some ten pixels that change from blue to white.
    assert apart.min() > 4000


def test_sizes_in_pixels():
  for shape in graph.VALUES["shape"]:
    widths = []
    for size in ("small", "large"):
      image = rendering.render(alone(thing(shape, size=size)), 64)
      rows, columns = np.nonzero((image != 125).any(-1))
      assert abs(rows.mean() - 31.5) < 2.5 and abs(columns.mean() - 31.5) < 1
      widths.append(np.ptp(rows) + 1)
    assert 11 <= widths[0] <= 17 and 17 <= widths[1] <= 25, (shape, widths)
    assert widths[1] / widths[0] > 1.35


def test_edges_are_smooth():
  image = rendering.render(alone(thing()), 64)
  values = np.unique(image[..., 0])
  assert values.min() == 125 and values.max() == 222 and len(values) > 6


def test_rotation_is_drawn():
  for shape in graph.VALUES["shape"]:
    upright, tilted = (
      rendering.render(alone(thing(shape, rotation=angle)), 64)
      for angle in (0, 15)
    )
    same = (upright == tilted).all()
    assert same == (shape in ("circle", "ring"))


@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize("clear_axis", ["", "x", "y"])
def test_things_do_not_touch(unseen, clear_axis):
  for seed in range(25):
    scene = graph.sample(
      random.Random(seed), unseen=unseen, clear_axis=clear_axis
    )
    assert graph.FEWEST <= len(scene.things) <= graph.MOST
    drawn = [rendering.render(alone(t, 0), 64).max(-1) for t in scene.things]
    masks = np.stack(drawn) > 0
    assert masks.sum(0).max() == 1
    # The image's border has their smooth edges at most: it does not cut them.
    solid = np.stack(drawn) > 150
    assert not solid[:, [0, -1]].any() and not solid[:, :, [0, -1]].any()
    if clear_axis:
      halves = masks if clear_axis == "y" else masks.swapaxes(1, 2)
      both = halves[:, :32].any((1, 2)) & halves[:, 32:].any((1, 2))
      assert not both.any()
    for a, b in itertools.combinations(scene.things, 2):
      assert abs(a.x - b.x) >= 0.059 and abs(a.y - b.y) >= 0.059
    assert any(t.unseen for t in scene.things) == unseen


@pytest.mark.parametrize("side", graph.COVERS)
def test_a_cover_hides(side):
  axis = "x" if side in ("left", "right") else "y"
  scene = graph.sample(random.Random(5), clear_axis=axis)
  full = rendering.render(scene, 64)
  image = rendering.render(scene._replace(cover=side), 64)
  hidden = np.zeros((64, 64), bool)
  part = slice(None, 32) if side in ("left", "top") else slice(32, None)
  hidden[(part, slice(None)) if axis == "y" else (slice(None), part)] = True
  np.testing.assert_array_equal(image[~hidden], full[~hidden])
  # The same cover over whatever there is.
  other = graph.Scene(
    scene.background,
    tuple(t for t in scene.things if not graph.half_of(t, side)),
    side,
  )
  assert len(other.things) < len(scene.things)
  np.testing.assert_array_equal(rendering.render(other, 64), image)
  greys = image[hidden]
  assert (greys == greys[:, :1]).all()
  named = [
    grey
    for low, high in graph.BACKGROUNDS.values()
    for grey in range(low, high + 1)
  ]
  assert not set(greys[:, 0].tolist()) & set(named)


def test_a_scene_is_the_same_at_every_size():
  for task in generation.TASKS:
    small, large = (
      list(
        generation.rows(scenes.SceneSettings(image_size=side), task, "test", 3)
      )
      for side in (64, 112)
    )
    assert small == large
  scene = small[0].scenes[0]
  means = [
    rendering.render(scene, side).mean((0, 1)) for side in (64, 112, 200)
  ]
  np.testing.assert_allclose(means[0], means[1], atol=4)
  np.testing.assert_allclose(means[1], means[2], atol=4)
  assert rendering.render(scene, 33).shape == (33, 33, 3)


def test_json_and_shades():
  scene = graph.sample(random.Random(0))._replace(cover="top")
  assert graph.loads(scene.dumps()) == scene
  assert scene._replace(background=40).shade == "dark"
  assert scene._replace(background=125).shade == "grey"
  assert scene._replace(background=230).shade == "light"
  assert graph.half_of(thing(x=0.2), "left") is True
  assert graph.half_of(thing(x=0.2), "right") is False
  assert graph.half_of(thing(x=0.4), "left") is None


def test_unique_descriptions():
  rng = random.Random(0)
  for seed in range(50):
    scene = graph.sample(random.Random(seed))
    for index, item in enumerate(scene.things):
      said = phrases.unique_description(scene, index, rng, without=("size",))
      everyone = {name: getattr(item, name) for name in phrases.SUBSETS[-1][1:]}
      twins = phrases.count(scene.things, everyone)
      assert (said is None) == (twins > 1)
      if said is not None:
        assert phrases.fits(item, said) and "size" not in said
        assert phrases.count(scene.things, said) == 1


def test_records_follow_from_the_settings(monkeypatch):
  first = digest(SETTINGS)
  assert digest(SETTINGS) == first
  assert digest(scenes.SceneSettings(seed=1)) != first
  assert digest(SETTINGS, "test") != first
  # Nor from how a process hashes texts.
  monkeypatch.setenv("PYTHONHASHSEED", "12345")
  program = (
    "from tests.data import scene_sets as s; print(s.digest(s.SETTINGS))"
  )
  done = prepared.run_python("-c", program)
  assert done.returncode == 0, done.stderr
  assert done.stdout.split()[-1] == first


def test_the_version_names_these_texts():
  """A change of the texts needs a new `settings.VERSION` and a new digest."""
  out = hashlib.sha256()
  for task in generation.TASKS:
    for row in generation.rows(SETTINGS, task, "train", generation.BLOCK):
      out.update(json.dumps([row.scenes, row.texts]).encode())
  assert out.hexdigest()[:16] == "85bfcc7782c5def8"


@pytest.mark.parametrize("task", generation.TASKS)
def test_a_larger_set_begins_as_a_smaller_one(task):
  few, many = (
    list(generation.rows(SETTINGS, task, "train", stop)) for stop in (10, 70)
  )
  assert many[:10] == few and len(many) == 70
  assert len({row.scenes for row in many}) == 70


def test_fingerprint():
  changes = {
    "image_size": 65,
    "sizes": scenes.Sizes(train=21),
    "seed": 1,
    "captions_per_image": 4,
    "questions_per_image": 7,
    "statements_per_pair": 3,
    "hypotheses_per_image": 4,
    "private": (),
  }
  found = {
    scenes.SceneSettings(**{k: v}).fingerprint for k, v in changes.items()
  }
  found.add(scenes.SceneSettings().fingerprint)
  assert len(found) == len(changes) + 1
  one = scenes.SceneSettings(private=("rotation", "texture"))
  two = scenes.SceneSettings(private=("texture", "rotation"))
  assert one == two and one.fingerprint == two.fingerprint


def test_pairs(data):
  pairs = data.pairs
  assert pairs.name == "scenes" and pairs.languages == (sources.ANY_LANGUAGE,)
  assert pairs.fingerprint == SETTINGS.fingerprint
  assert {k: len(v) for k, v in pairs.splits.items()} == {
    "train": 20,
    "validation": 3,
    "test": 4,
    "test_unseen_pairs": 5,
  }
  for name, split in pairs.splits.items():
    rows = generation.rows(SETTINGS, "captions", name, len(split))
    for number, (record, row) in enumerate(zip(records(split), rows)):
      assert record["index"] == record["concept_id"] == number
      scene = graph.loads(record["scene"])
      assert (scene,) == row.scenes
      np.testing.assert_array_equal(
        record["image"], rendering.render(scene, 64)
      )
      assert record["captions"] == tuple(
        sources.Caption(text["text"], "name", "") for text in row.texts
      )
      assert record["label"] == phrases.some(len(scene.things), "thing")


@pytest.mark.parametrize("task", TASKS)
def test_tasks(data, task):
  loaded = data.tasks[task]
  assert isinstance(loaded, tasks.TaskData)
  assert (loaded.name, loaded.task) == ("scenes", task)
  assert loaded.fingerprint == SETTINGS.fingerprint
  text = {"vqa": "question", "nlvr2": "statement", "entailment": "hypothesis"}
  for name in scenes.SPLITS:
    size = getattr(SIZES, name)
    expected = [
      (image_id, row.scenes, fields)
      for image_id, row in enumerate(
        generation.rows(SETTINGS, task, name, size)
      )
      for fields in row.texts
    ]
    found = records(loaded.splits[name])
    assert len(found) == len(expected)
    assert {record["image_id"] for record in found} == set(range(size))
    for number, (record, (image_id, shown, fields)) in enumerate(
      zip(found, expected)
    ):
      # Records of one image come one after the other.
      assert record["index"] == number and record["image_id"] == image_id
      assert record[text[task]] == fields[text[task]]
      assert record["kind"] == fields["kind"]
      keys = ["", "second_"] if task == "nlvr2" else [""]
      for key, scene in zip(keys, shown, strict=True):
        assert graph.loads(record[f"{key}scene"]) == scene
        image = record[f"{key}image"]
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, rendering.render(scene, 64))
      if task == "vqa":
        assert record["answers"] == (tasks.Answer(fields["answer"]),)
        assert record["attributes"] == tuple(
          part for part in fields["attributes"].split(",") if part
        )
        assert fields["answer"] in loaded.answers
      else:
        assert record["label"] == fields["label"] and not loaded.answers
    first = loaded.splits[name].fields(0)
    assert "image" not in first and "second_image" not in first


def test_images_are_shared(data):
  split = data.tasks["vqa"].splits["train"]
  assert len(split.images) == 20 and len(split) == 160
  assert np.shares_memory(split[0]["image"], split[7]["image"])


def test_questions_are_about_the_images_of_captions(data):
  for name in scenes.SPLITS:
    pairs, vqa = data.pairs.splits[name], data.tasks["vqa"].splits[name]
    for record in records(vqa):
      assert record["scene"] == pairs.fields(record["image_id"])["scene"]


def test_tokenizer(data):
  """One vocabulary for all: no word of any text is in pieces."""
  tokenizer = data.pairs.tokenizer
  many = generation.training_texts(SETTINGS, 20)
  assert "yes" in many and any(text.endswith("?") for text in many)
  longest = max(len(text.split()) for text in many)
  ids = tokenizer.encode(many, 64)
  # With a start, an end and some commas.
  assert (ids > 0).sum(-1).max() < longest + 10
  for text, row in zip(many[::50], ids[::50]):
    assert tokenizer.decode(row.tolist()) == text
  again = scenes.load_tokenizer(
    data.root, settings=SETTINGS, report=data.lines.append
  )
  np.testing.assert_array_equal(again.encode(many, 64), ids)
  assert again.vocab_size == tokenizer.vocab_size < 1024


def test_is_prepared_once(data):
  before = list(data.lines)
  assert sum("Preparing scenes" in line for line in before) == 4
  assert sum("Learning the words" in line for line in before) == 1
  for name, split in data.load_pairs().splits.items():
    first = data.pairs.splits[name]
    np.testing.assert_array_equal(split.images, first.images)
    assert split.records == first.records
  data.load_task("vqa")
  assert data.lines == before


def test_one_image(tmp_path):
  settings = scenes.SceneSettings(image_size=70, sizes=scenes.Sizes(1, 1, 1, 1))
  folder = str(tmp_path)
  lines = []
  pairs = scenes.load_pairs(folder, settings=settings, report=lines.append)
  assert [len(split) for split in pairs.splits.values()] == [1] * 4
  assert pairs.splits["test"][0]["image"].shape == (70, 70, 3)
  nlvr2 = scenes.load_task(
    "nlvr2", folder, settings=settings, report=lines.append
  )
  assert all(
    record["second_image"].shape == (70, 70, 3) and record["image_id"] == 0
    for split in nlvr2.splits.values()
    for record in records(split)
  )
  assert all(map(len, nlvr2.splits.values()))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (
      {"image_size": 31},
      "^image_size .* 32 .* 512; got 31",
    ),
    ({"image_size": 64.0}, "^image_size .*got 64.0"),
    ({"seed": -1}, "^seed .*got -1"),
    ({"seed": True}, "^seed .*got True"),
    ({"captions_per_image": 0}, "^captions_per_image .*got 0"),
    ({"questions_per_image": 17}, "^questions_per_image .*got 17"),
    ({"statements_per_pair": 1}, "^statements_per_pair .*got 1"),
    ({"hypotheses_per_image": 9}, "^hypotheses_per_image .*got 9"),
    ({"private": ("mood",)}, "^private .*size, .*got 'mood'"),
    ({"private": "size"}, "^private .*got 'size'"),
    ({"sizes": 100}, "^sizes .*got 100"),
  ],
)
def test_wrong_settings(arguments, message):
  with pytest.raises(ValueError, match=message):
    scenes.SceneSettings(**arguments)


def test_wrong_sizes_and_tasks(tmp_path):
  with pytest.raises(ValueError, match="^sizes.train .*got 0"):
    scenes.Sizes(train=0)
  with pytest.raises(ValueError, match="^sizes.test_unseen_pairs .*-1"):
    scenes.Sizes(test_unseen_pairs=-1)
  with pytest.raises(
    ValueError, match="^task .*vqa, nlvr2, entailment; got 'qa'"
  ):
    scenes.load_task("qa", str(tmp_path))


@pytest.mark.parametrize("task", ["captions", "nlvr2"])
def test_what_a_run_asks_for(tmp_path, task, monkeypatch):
  """A data set has the settings that its fields and the request say."""
  asked = []

  def load(*arguments, settings, **options):
    asked.append((*arguments, settings))
    return tasks.TaskData("scenes", task, {}, tokenizer="own")

  name = "load_task" if task == "nlvr2" else "load_pairs"
  monkeypatch.setattr(scenes, name, load)
  chosen = scenes.Scenes(scenes=7, private=("size",), data_dir=str(tmp_path))
  own = chosen.open(Request(task=task, image_size=40))
  given = chosen.open(Request(task=task, image_size=40, tokenizer="given"))
  settings = scenes.SceneSettings(40, scenes.Sizes(train=7), private=("size",))
  start = ("nlvr2",) if task == "nlvr2" else ()
  assert asked == [(*start, str(tmp_path), settings)] * 2
  assert (own.tokenizer, given.tokenizer) == ("own", "given")
  with pytest.raises(ValueError, match="^image_size .*got 16"):
    chosen.open(Request(task=task, image_size=16))
