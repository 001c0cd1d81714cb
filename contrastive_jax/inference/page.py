"""A page in a browser on which one tries a trained model; needs Gradio."""

import contextlib
import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from contrastive_jax.data import tasks
from contrastive_jax.data.sets.folder import folder_images
from contrastive_jax.data.sets.folder.folder_rows import RowError
from contrastive_jax.inference import search
from contrastive_jax.inference.description import IMAGE_TOWER, ModelError
from contrastive_jax.inference.fusion import Fusion
from contrastive_jax.inference.model import Model

gr: Any = None
with contextlib.suppress(ImportError):
  gr = importlib.import_module("gradio")  # The extra demo; see `check`.

# Pixels of the longer side of a picture that was found.
_SHOWN = 320
_MOST = 48  # Pictures that a search shows at most.
# Finds the k embeddings that are nearest to each row.
Search = Callable[[np.ndarray, int], list[list[search.Hit]]]


def check() -> None:
  """Raises `ModelError` if Gradio is not installed."""
  if gr is None:
    raise ModelError(
      "The page needs Gradio, which is not installed: install the extra demo, pip"
      ' install "contrastive_jax[demo]".'
    )


def build(
  model: Model,
  find: Search | None = None,
  *,
  head: str = "shared",
  title: str = "contrastive_jax",
) -> Any:
  """The page of a model: a tab for each thing that it can do.

  Args:
    model: opened; a fusion model has tabs for its task.
    find: searches pictures that the model has embedded; None has no such tabs.
    head: of the model, which embedded them.
    title: heading of the page.

  Returns:
    The page, a `gradio.Blocks`, which `launch` shows.

  Raises:
    ModelError: if Gradio is not installed.
  """
  check()
  page = _Page(model, find, head)
  task = model.description.task
  with gr.Blocks(title=title, analytics_enabled=False) as blocks:
    gr.Markdown(f"# {title}")
    if find is not None:
      if model.tokenizer is not None:
        with gr.Tab("Search"):
          page.search_tab()
      with gr.Tab("Find alike"):
        page.alike_tab()
    if not task and model.description.kind != IMAGE_TOWER:
      with gr.Tab("Classify"):
        page.classify_tab()
    if isinstance(model, Fusion):
      with gr.Tab(_TASKS[task][0]):
        page.task_tab(model)
  return blocks


def launch(blocks: Any, **options: Any) -> str:
  """Shows a page while this process goes on.

  Args:
    blocks: as of `build`.
    options: of `gradio.Blocks.launch`.

  Returns:
    The page's address.

  Raises:
    OSError: if there is no such port, or it is taken.
  """
  blocks.launch(
    prevent_thread_lock=True,
    quiet=True,
    # Fonts of the reader's system: no other host is asked for anything.
    theme=gr.themes.Default(font=["system-ui", "sans-serif"]),
    css=_CSS,
    footer_links=[],
    **options,
  )
  return blocks.local_url


# A row holds as many pictures as there is room for.
_CSS = """
.found .grid-wrap { max-height: none !important; }
.found .grid-container {
  grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)) !important;
}
"""
# By task: what its tab is called, and what is typed there.
_TASKS = {
  "pretrain": ("Match", "Text", "a red cup"),
  "vqa": ("Ask", "Question", "what colour is the cup?"),
  "entailment": ("Judge", "Hypothesis", "a dog sleeps"),
  "nlvr2": ("Compare", "Statement", "both pictures show a dog"),
}


class _Page:
  """The tabs, and what they do."""

  def __init__(self, model: Model, find: Search | None, head: str):
    self._model, self._find, self._head = model, find, head

  def search_tab(self) -> None:
    with gr.Row():
      text = gr.Textbox(
        label="Sentence", placeholder="a red cup", autofocus=True, scale=4
      )
      count = _count()
    button = gr.Button("Search", variant="primary")
    found = _gallery()
    for event in (button.click, text.submit):
      event(self.search, [text, count], found, api_name="search")

  def alike_tab(self) -> None:
    with gr.Row():
      picture = _picture()
      count = _count()
    button = gr.Button("Find", variant="primary")
    found = _gallery()
    button.click(self.alike, [picture, count], found, api_name="alike")

  def classify_tab(self) -> None:
    with gr.Row():
      picture = _picture()
      labels = gr.Textbox(
        label="Labels, separated by commas", placeholder="cup, dog, red heart"
      )
    button = gr.Button("Classify", variant="primary")
    found = gr.Label(label="Probabilities", num_top_classes=10)
    for event in (button.click, labels.submit):
      event(self.classify, [picture, labels], found, api_name="classify")

  def task_tab(self, model: Fusion) -> None:
    task = model.description.task
    name, asked, example = _TASKS[task]
    with gr.Row():
      first = _picture()
      second = _picture("Second picture") if task == "nlvr2" else None
      text = gr.Textbox(label=asked, placeholder=example)
    button = gr.Button(name, variant="primary")
    if task == "vqa":
      found = gr.Textbox(label="Answer", interactive=False)
    else:
      found = gr.Label(label="Probabilities")
    inputs = [text, first, *([second] if second else [])]

    def run(text: str, *pictures: Any) -> Any:
      return _of_task(model, _text(text, asked), *map(_given, pictures))

    for event in (button.click, text.submit):
      event(run, inputs, found, api_name=name.lower())

  def search(self, text: str, count: float) -> list[tuple[Any, str]]:
    """The pictures that a sentence finds."""
    text = _text(text, "Sentence")
    return self._shown(
      self._model.encode_text([text], head=self._head), int(count)
    )

  def alike(self, picture: Any, count: float) -> list[tuple[Any, str]]:
    """The pictures that another is like."""
    images = [_given(picture)]
    return self._shown(
      self._model.encode_image(images, head=self._head), int(count)
    )

  def classify(self, picture: Any, labels: str) -> dict[str, float]:
    """The probabilities of labels, separated by commas."""
    names = list(dict.fromkeys(filter(None, map(str.strip, labels.split(",")))))
    if not names:
      raise gr.Error("Type the names of classes, separated by commas.")
    found = self._model.classify([_given(picture)], names)
    return dict(zip(names, found.probabilities[0].tolist()))

  def _shown(self, query: np.ndarray, count: int) -> list[tuple[Any, str]]:
    assert self._find is not None
    (hits,) = self._find(query, count)
    return [
      (_thumbnail(hit.key), f"{hit.score:.3f} {os.path.basename(hit.key)}")
      for hit in hits
    ]


def _of_task(model: Fusion, text: str, *pictures: Any) -> Any:
  """The output of a fusion model for a text and pictures."""
  task = model.description.task
  if task == "vqa":
    return model.answer(pictures[0], text)[0]
  if task == "entailment":
    found = model.entails(pictures[0], text)
    return dict(zip(tasks.ENTAILMENT_LABELS, found.probabilities[0].tolist()))
  if task == "nlvr2":
    value = float(model.compare([pictures[0]], [pictures[1]], text)[0])
    return {"true": value, "false": 1 - value}
  value = float(model.match(pictures[0], text)[0])
  return {"belong together": value, "do not": 1 - value}


def _count() -> Any:
  return gr.Slider(
    1, _MOST, value=12, step=1, label="Pictures", scale=1, min_width=220
  )


def _gallery() -> Any:
  return gr.Gallery(
    label="Found", columns=4, height="auto", elem_classes=["found"]
  )


def _picture(label: str = "Picture") -> Any:
  return gr.Image(type="pil", label=label, sources=["upload", "clipboard"])


def _text(text: str | None, name: str) -> str:
  """A text that was typed, or an error on the page."""
  text = (text or "").strip()
  if not text:
    raise gr.Error(f"{name} is empty: type something.")
  return text


def _given(picture: Any) -> Image.Image:
  """A picture that was uploaded, or an error on the page."""
  if picture is None:
    raise gr.Error("There is no picture: upload one.")
  return picture


def _thumbnail(key: str) -> Image.Image:
  """A picture that was found, small; grey where it is no file of this machine."""
  if os.path.isfile(key):
    try:
      image, _ = folder_images.load(key, _SHOWN)
    except RowError:
      pass
    else:
      image.thumbnail((_SHOWN, _SHOWN), Image.Resampling.BICUBIC)
      return image
  return Image.new("RGB", (_SHOWN, _SHOWN), (238, 238, 238))
