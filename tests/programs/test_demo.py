"""The page of a model: by its interface, and in a browser where there is one.

Needs the extra demo; the browser needs Playwright and Chromium as well.
"""

import contextlib
import functools
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

gr = pytest.importorskip("gradio")
pytestmark = pytest.mark.filterwarnings("ignore")

from contrastive_jax import inference  # noqa: E402
from contrastive_jax.inference import (  # noqa: E402
  embedding_files,
  fusion,
  page,
  search,
)
from contrastive_jax.programs import demo  # noqa: E402
from contrastive_jax.training.config import errors  # noqa: E402
from tests.inference import tiny_model  # noqa: E402
from tests.programs.calling import run  # noqa: E402


@pytest.fixture(scope="module", name="home")
def fixture_home(tmp_path_factory):
  home = tmp_path_factory.mktemp("home")
  tiny_model.write(home / "model")
  tiny_model.pictures(home / "pictures", 12)
  return home


@pytest.fixture(scope="module", name="url")
def fixture_url(home):
  """The page of a model with pictures, at work."""
  model = inference.load(home / "model")
  embedding_files.embed(model, [str(home / "pictures")], str(home / "out"))
  find = functools.partial(search.in_folder, home / "out")
  blocks = page.build(model, find, title="tiny")
  yield page.launch(blocks)
  blocks.close(verbose=False)


@pytest.fixture(scope="module", name="client")
def fixture_client(url):
  return pytest.importorskip("gradio_client").Client(url, verbose=False)


@pytest.mark.parametrize("text", ["a red cup", "赤いカップ", "cup " * 500])
def test_a_sentence_finds_pictures(client, text):
  found = client.predict(text, 5, api_name="/search")
  assert len(found) == 5
  scores = [float(each["caption"].split()[0]) for each in found]
  assert scores == sorted(scores, reverse=True)


def test_a_picture_finds_itself(client, home):
  from gradio_client import handle_file

  picture = handle_file(home / "pictures" / "007.png")
  found = client.predict(picture, 3, api_name="/alike")
  assert found[0]["caption"] == "1.000 007.png"


def test_labels_have_probabilities(client, home):
  from gradio_client import handle_file

  picture = handle_file(home / "pictures" / "003.png")
  found = client.predict(picture, "cup, dog,, cup ", api_name="/classify")
  parts = {x["label"]: x["confidence"] for x in found["confidences"]}
  assert set(parts) == {"cup", "dog"}
  assert sum(parts.values()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
  "name, arguments",
  [
    ("/search", (" ", 3)),
    ("/alike", (None, 3)),
    ("/classify", (None, "cup")),
  ],
)
def test_what_is_missing_is_said_on_the_page(client, name, arguments):
  from gradio_client.exceptions import AppError

  with pytest.raises(AppError, match="(?i)type|upload"):
    client.predict(*arguments, api_name=name)


class Asked(fusion.Fusion):
  """A fusion model of which the page alone is looked at."""

  def __init__(self, task):
    self.description = inference.Description(kind="fusion", task=task)
    self.tokenizer = None

  def answer(self, images, questions):
    return [f"{questions} {images.size}"]

  def entails(self, images, hypotheses):
    return inference.Classified(["neutral"], np.array([[0.25, 0.5, 0.25]]))

  def compare(self, first, second, statements):
    assert first[0].size != second[0].size
    return np.array([0.75])

  def match(self, images, texts):
    return np.array([0.125])


@pytest.mark.parametrize(
  "task, name, expected",
  [
    ("vqa", "/ask", "what? (24, 20)"),
    ("entailment", "/judge", {"neutral": 0.5}),
    ("nlvr2", "/compare", {"true": 0.75, "false": 0.25}),
    ("pretrain", "/match", {"belong together": 0.125}),
  ],
)
def test_a_fusion_model_is_asked_what_it_was_trained_for(
  home, tmp_path, task, name, expected
):
  from gradio_client import Client, handle_file

  first = home / "pictures" / "000.png"
  second = tmp_path / "square.png"
  Image.new("RGB", (9, 9)).save(second)
  blocks = page.build(Asked(task))
  boxes = [b for b in blocks.blocks.values() if isinstance(b, gr.Textbox)]
  assert len(boxes) == (2 if task == "vqa" else 1)  # None that nothing fills.
  try:
    client = Client(page.launch(blocks), verbose=False)
    pictures = [first, second] if task == "nlvr2" else [first]
    found = client.predict("what?", *map(handle_file, pictures), api_name=name)
  finally:
    blocks.close(verbose=False)
  if isinstance(expected, dict):
    found = {x["label"]: x["confidence"] for x in found["confidences"]}
    assert found.items() >= expected.items()
  else:
    assert found == expected


def test_mistakes_are_named(home, monkeypatch):
  with pytest.raises(errors.UserError, match="/none"):
    run(monkeypatch, demo, model="/none")
  monkeypatch.setattr(page, "gr", None)
  with pytest.raises(errors.UserError, match="demo"):
    run(monkeypatch, demo, model=home / "model")


@contextlib.contextmanager
def _browser():
  """A page of headless Chromium."""
  sync_api = pytest.importorskip("playwright.sync_api")
  chromium = shutil.which("chromium")
  if chromium is None:
    pytest.skip("there is no Chromium")
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=chromium, args=["--no-sandbox"]
    )
    yield browser.new_page()
    browser.close()


def test_the_page_in_a_browser(url, home):
  with _browser() as tab:
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(url)
    for text, pictures in (("赤いカップ", 12), ("a red cup", 12)):
      tab.get_by_label("Sentence").fill(text)
      tab.get_by_role("button", name="Search").click()
      tab.wait_for_function(
        f"document.querySelectorAll('.grid-wrap img').length == {pictures}"
      )
    tab.get_by_label("Sentence").fill("")
    tab.get_by_role("button", name="Search").click()
    tab.get_by_text("type something").wait_for()
    tab.get_by_role("tab", name="Find alike").click()
    picture = str(home / "pictures" / "007.png")
    tab.locator("input[type=file]").first.set_input_files(picture)
    tab.get_by_role("button", name="Find").click()
    tab.get_by_text("1.000 007.png").first.wait_for()
    # Nothing is asked of another host.
    own = pathlib.PurePosixPath(url).parts[1]
    others = [
      x for x in asked if own not in x and not x.startswith(("data:", "blob:"))
    ]
    assert not others
