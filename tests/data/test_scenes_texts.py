"""Texts about scenes: that they are true, say what they may, and tell nothing."""

import collections
import itertools
import json
import re

import pytest

from contrastive_jax.data.sets import scenes
from contrastive_jax.data.sets.scenes import generation, graph, questions
from tests.data import scenes_oracle as oracle

SETTINGS = scenes.SceneSettings()
SEEN = ("train", "validation", "test")
_PAIR = re.compile(
  rf"\b({'|'.join(oracle.COLOURS)}) ({'|'.join(oracle.SHAPES)})(?:e?s)?\b"
)


def rows(task, split, stop, settings=SETTINGS):
  """Scenes as JSON says them, with the fields of each text."""
  return [
    ([json.loads(s.dumps()) for s in row.scenes], row.texts)
    for row in generation.rows(settings, task, split, stop)
  ]


@pytest.fixture(name="made", scope="module")
def fixture_made():
  """Some blocks of each task and split; more of those that are counted."""
  stops = {
    "captions": dict.fromkeys(scenes.SPLITS, 128),
    "vqa": {"train": 1600, "validation": 64, "test": 512},
    "nlvr2": {"train": 512, "validation": 64, "test": 192},
    "entailment": {"train": 512, "validation": 64, "test": 192},
  }
  return {
    (task, split): rows(task, split, stops[task].get(split, 128))
    for task, split in itertools.product(generation.TASKS, scenes.SPLITS)
  }


def flat(made, task, split):
  return [(s, text) for s, texts in made[task, split] for text in texts]


def is_held_out(thing):
  return (thing["colour"], thing["shape"]) in graph.HELD_OUT


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_answers(made, split):
  kinds = set()
  for (scene,), text in flat(made, "vqa", split):
    assert oracle.answer(text["question"], scene) == text["answer"], text
    kinds.add(text["kind"])
    assert text["answer"] in questions.ANSWERS
  expected = {"existence", "count", "comparison", "relation", "multihop"}
  expected |= {"colour", "shape", "size", "texture"}
  # No background is of an unseen pair.
  expected |= {"background"} if split in SEEN else set()
  assert kinds == expected
  assert len(set(questions.ANSWERS)) == len(questions.ANSWERS)


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_truths(made, split):
  kinds = set()
  for (left, right), text in flat(made, "nlvr2", split):
    found = oracle.truth(text["statement"], left, right)
    assert found == text["label"], text
    kinds.add(text["kind"])
  assert kinds == {"both", "side", "count", "comparison", "relation"}


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_labels(made, split):
  kinds = set()
  some = flat(made, "entailment", split)[:600]
  for (scene,), text in some:
    assert oracle.judge(text["hypothesis"], scene) == text["label"], text
    kinds.add(text["kind"])
    if region := oracle.region_of(text["hypothesis"]):
      for thing in scene["things"]:
        if not (scene["cover"] and oracle.inside(thing, scene["cover"])):
          place = thing["x" if region in ("left", "right") else "y"]
          assert abs(place - 0.5) >= graph.Thing(**thing).radius
  assert kinds == {
    "existence",
    "count",
    "universal",
    "comparison",
    "relation",
  }


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_captions(made, split):
  """Captions tell the truth; numbers are those of all such things."""
  number = "|".join((*oracle.NUMBERS, "an?"))
  said = re.compile(rf"\b({number}) {oracle.NOUN}(?= |,|$)")
  for (scene,), texts in made["captions", split]:
    things = scene["things"]
    assert len(texts) == SETTINGS.captions_per_image
    for text in (text["text"] for text in texts):
      found = said.findall(text)
      for count, noun in found:
        fitting = len(oracle.matching(things, noun))
        if count.startswith("a"):
          assert fitting, text
        elif "of the" not in text:
          assert fitting == oracle.NUMBERS.index(count), text
      share = re.fullmatch(r"(\w+) of the (\w+) things (?:is|are) (\w+)", text)
      if share:
        assert oracle.NUMBERS[len(things)] == share[2]
        fitting = len(oracle.matching(things, f"{share[3]} thing"))
        assert oracle.NUMBERS[fitting] == share[1]
      every = re.fullmatch(
        r"(?:all things are|everything is) (\w+)|only (.*)", text
      )
      if every:
        noun = every[2] or f"{every[1]} things"
        assert oracle.matching(things, noun) == things, text
      if where := re.search(oracle.WHERE, text):
        (_, one), (_, two) = found
        assert oracle.related(things, one, where[1], two), text
      assert found or share or every, text


def test_corners():
  settings = scenes.SceneSettings(captions_per_image=16, private=("texture",))
  places = collections.Counter()
  for (scene,), texts in rows("captions", "train", 64, settings):
    for text in (text["text"] for text in texts):
      where = re.search(
        r"an? ((?:upright |tilted )?)([a-z ]+?) (?:in|at|on) the (top|bottom|"
        r"left|right)( left| right)?( corner)?$",
        text,
      )
      if where:
        words = [w for w in where.groups()[2:4] if w]
        for thing in oracle.matching(scene["things"], where[2]):
          if all(oracle.inside(thing, word.strip()) for word in words):
            break
        else:
          raise AssertionError(text)
        places.update(word.strip() for word in words)
  assert min(places[half] for half in graph.COVERS) > 5


WORDS = {
  "size": oracle.SIZES,
  "texture": oracle.TEXTURES,
  "colour": oracle.COLOURS,
  "shape": (*oracle.SHAPES, *(f"{shape}s" for shape in oracle.SHAPES)),
  "rotation": ("tilted", "upright"),
  "position": ("left", "right", "above", "below", "top", "bottom", "middle"),
  "background": ("background",),
}


@pytest.mark.parametrize("fact", scenes.FACTS)
def test_private_facts_are_not_said(fact):
  def words(private):
    settings = scenes.SceneSettings(private=private)
    made = rows("captions", "train", 64, settings)
    return {w for _, texts in made for t in texts for w in t["text"].split()}

  assert set(WORDS[fact]) & words(())
  assert not set(WORDS[fact]) & words((fact,))
  others = tuple(other for other in scenes.FACTS if other != fact)
  alone = words(others)
  for other in others:
    assert not set(WORDS[other]) & alone


def test_with_everything_private_things_are_counted():
  settings = scenes.SceneSettings(private=scenes.FACTS, captions_per_image=16)
  for (scene,), texts in rows("captions", "train", 64, settings):
    number = oracle.NUMBERS[len(scene["things"])]
    assert len(texts) == 16
    assert all(re.search(f"{number} things", t["text"]) for t in texts)


def test_questions_of_an_image_differ(made):
  for split in scenes.SPLITS:
    for _, texts in made["vqa", split]:
      assert len({t["question"] for t in texts}) == len(texts) == 8
  most = scenes.SceneSettings(questions_per_image=16)
  for split in ("train", "test_unseen_pairs"):
    for (scene,), texts in rows("vqa", split, 64, most):
      assert len({t["question"] for t in texts}) == len(texts) == 16
      for text in texts:
        assert oracle.answer(text["question"], scene) == text["answer"]


def test_attributes_of_questions(made):
  """A study of what captions leave out relies on them."""
  for _, text in flat(made, "vqa", "train"):
    question, named = text["question"], text["attributes"].split(",")
    for word, name in oracle.ATTRIBUTES.items():
      if re.search(rf"\b{word}", question) and name != "texture":
        assert name in named, text
    if text["kind"] in (*graph.ATTRIBUTES, "background"):
      assert text["kind"] in named
    if re.search(r"\b(striped|dotted)\b|texture", question):
      assert "texture" in named
    where = f"{oracle.WHERE}|most thing|lowest"
    assert bool(re.search(where, question)) == ("position" in named), text


def test_unseen_pairs(made):
  for task, split in made:
    for found, texts in made[task, split]:
      held_out = [any(map(is_held_out, scene["things"])) for scene in found]
      assert all(held_out) if split not in SEEN else not any(held_out)
      for text in texts:
        named = {
          pair
          for value in text.values()
          if isinstance(value, str)
          for pair in _PAIR.findall(value)
        }
        if split in SEEN:
          assert not named & graph.HELD_OUT, text
        elif task in ("nlvr2", "entailment"):
          assert named & graph.HELD_OUT, text
      if split not in SEEN and task == "captions":
        assert set(_PAIR.findall(texts[0]["text"])) & graph.HELD_OUT
  colours, shapes = map(sorted, zip(*graph.HELD_OUT))
  assert colours == sorted(oracle.COLOURS) and shapes == sorted(oracle.SHAPES)
  seen = {
    (thing["colour"], thing["shape"])
    for (scene,), _ in made["vqa", "train"]
    for thing in scene["things"]
  }
  assert len(seen) == 56 and not seen & graph.HELD_OUT


def test_questions_about_unseen_pairs(made):
  """By name, or by what the answer or another word of it is about."""
  named = 0
  for (scene,), text in flat(made, "vqa", "test_unseen_pairs"):
    pairs = set(_PAIR.findall(text["question"]))
    if pairs & graph.HELD_OUT:
      named += 1
      continue
    nouns = re.findall(
      rf"the ((?:\w+most |lowest )?{oracle.NOUN})", text["question"]
    )
    nouns = [noun for noun, _ in nouns]
    hop = re.search(
      rf"thing {oracle.WHERE} the {oracle.NOUN}", text["question"]
    )
    # The question is about one of these things, or about one next to them.
    nouns = (
      [hop[0], hop[2]] if hop and "the thing" in text["question"] else nouns
    )
    about = [oracle.the(scene["things"], noun) for noun in nouns]
    assert any(map(is_held_out, about)), text
  assert named > 300


def template(text):
  """The text with its words for attributes replaced by their kinds."""
  for word, name in oracle.ATTRIBUTES.items():
    text = re.sub(rf"\b{word}(e?s)?\b", name.upper(), text)
  return re.sub(r"\ban\b", "a", text)


def guessed(train, test, form):
  """Accuracy of the commonest training answer to a text, or its template."""
  by_form = collections.defaultdict(collections.Counter)
  by_template = collections.defaultdict(collections.Counter)
  for text, label in train:
    by_form[form(text)][label] += 1
    by_template[template(text)][label] += 1
  right = 0
  for text, label in test:
    known = by_form.get(form(text)) or by_template.get(template(text))
    right += known is not None and known.most_common(1)[0][0] == label
  return right / len(test)


@pytest.mark.parametrize(
  ("task", "name", "label", "most"),
  [
    ("vqa", "question", "answer", 0.42),
    ("nlvr2", "statement", "label", 0.53),
    ("entailment", "hypothesis", "label", 0.37),
  ],
)
def test_texts_do_not_tell(made, task, name, label, most):
  train, test = (
    [(t[name], t[label]) for _, t in flat(made, task, split)]
    for split in ("train", "test")
  )
  assert guessed(train, test, lambda text: text) <= most
  assert guessed(train, test, template) <= most


@pytest.mark.parametrize(
  ("kinds", "answers", "most"),
  [
    (("existence", "comparison", "relation"), ("yes", "no"), 0.56),
    (("colour",), oracle.COLOURS, 0.23),
    (("shape",), oracle.SHAPES, 0.23),
    (("size",), oracle.SIZES, 0.58),
    (("texture",), oracle.TEXTURES, 0.43),
    (("count",), tuple("012345"), 0.37),
  ],
)
def test_no_kind_of_question_tells(made, kinds, answers, most):
  train, test = (
    [
      (t["question"], t["answer"])
      for _, t in flat(made, "vqa", split)
      if t["kind"] in kinds
    ]
    for split in ("train", "test")
  )
  counts = collections.Counter(answer for _, answer in train)
  assert set(counts) == set(answers)
  if kinds != ("count",):  # Not everything can be there five times.
    assert min(counts.values()) > 0.85 * max(counts.values())
  assert guessed(train, test, lambda text: text) <= most
  assert guessed(train, test, template) <= most


@pytest.mark.parametrize("split", scenes.SPLITS)
@pytest.mark.parametrize(
  ("task", "name", "labels"),
  [("nlvr2", "statement", (0, 1)), ("entailment", "hypothesis", (0, 1, 2))],
)
def test_each_text_has_every_label_as_often(made, task, name, labels, split):
  found = collections.defaultdict(collections.Counter)
  for _, text in flat(made, task, split):
    found[text[name]][text["label"]] += 1
  for text, counts in found.items():
    assert len({counts[label] for label in labels}) == 1, text
  numbers = [len(texts) for _, texts in made[task, split]]
  mean = 4 if task == "nlvr2" else 3
  assert sum(numbers) >= (mean - 0.05) * len(numbers)
  assert mean - 1 <= min(numbers) and max(numbers) <= mean + 2


def test_scenes_are_varied(made):
  counts, numbers = collections.Counter(), collections.Counter()
  for (scene,), _ in made["vqa", "train"]:
    numbers[len(scene["things"])] += 1
    for thing in scene["things"]:
      counts.update(thing[name] for name in graph.ATTRIBUTES)
  assert set(numbers) == {2, 3, 4, 5}
  assert min(numbers.values()) > 0.8 * max(numbers.values())
  for values in graph.VALUES.values():
    found = [counts[value] for value in values]
    assert min(found) > 0.8 * max(found)


def test_no_scene_is_in_two_splits(made):
  homes = collections.defaultdict(set)
  for (task, split), found in made.items():
    for shown, _ in found:
      for scene in shown:
        homes[json.dumps(scene["things"])].add((split, task))
  assert all(len({split for split, _ in home}) == 1 for home in homes.values())
  # Captions and questions are about the same images.
  shared = [home for home in homes.values() if len(home) > 1]
  assert len(shared) == 128 + 64 + 128 + 128
  assert all({task for _, task in h} == {"captions", "vqa"} for h in shared)
