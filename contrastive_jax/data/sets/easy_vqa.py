"""Easy-VQA: 48,248 questions about 5,000 pictures of a single shape.

It does not ship here; the package `easy-vqa` (1.0, MIT) has it. A question asks
for the shape, for its colour, or whether there is one of a kind. There are but
107 different questions, and two of three are right without the picture: what a
model scores means something against `evaluation.text_only` alone.
"""

import dataclasses
import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from contrastive_jax.data import sources
from contrastive_jax.data import tasks as tasks_lib
from contrastive_jax.data.sets.choices import VOCAB_SIZE, Request
from contrastive_jax.data.sets.folder.folder_rows import DataError, RowError

if TYPE_CHECKING:
  import numpy as np

_PACKAGE = "easy_vqa"
_INSTALL = "run `pip install easy-vqa`"
_EXAMPLE = '[["what is the blue shape?", "rectangle", 0]]'
# The last training images: no image is then in two splits.
_VALIDATION = 10
_KINDS = {
  "yes_no": ("yes", "no"),
  "shape": ("circle", "rectangle", "triangle"),
  "colour": (
    *("black", "blue", "brown", "gray", "green", "red", "teal", "yellow"),
  ),
}


class Question(NamedTuple):
  """A row of `questions.json`."""

  text: str
  answer: str
  image: int


@dataclasses.dataclass(frozen=True)
class EasyVqa:
  """Questions on drawn shapes, of the package easy-vqa."""

  vocab_size: int = VOCAB_SIZE

  tasks = ("vqa",)
  licence = "MIT"

  def open(self, request: Request) -> tasks_lib.TaskData:
    """Opens what the installed package `easy-vqa` has; none of its code runs.

    The questions about the last tenth of the training images are for validation.
    Questions about one image follow each other. Beside the fields of its task a
    record has `image_id` (the number of its image among all of them) and
    `question_id` (equal to `index`: the number of the question, those of the
    training file first). `kind` is "yes_no", "shape" or "colour". Images are
    drawn at 64 pixels.

    Raises:
      DataError: the package is not installed, or not as expected.
    """
    root = _data_folder()
    parts = {split: _questions(root / split) for split in ("train", "test")}
    request.report(
      f"Reading easy-vqa: {sum(map(len, parts.values())):,} questions on"
      f" {sum(len({q.image for q in part}) for part in parts.values()):,} images."
    )
    splits: dict[str, sources.Source] = {}
    index = first = 0
    digest = hashlib.sha256()
    answers = set()
    for part, questions in parts.items():
      numbers = sorted({question.image for question in questions})
      images = _images(root / part / "images", numbers, request.image_size)
      rows = {number: row for row, number in enumerate(numbers)}
      records = [
        {
          "index": index + i,
          "image_id": first + rows[question.image],
          "question_id": index + i,
          "question": question.text,
          "answers": (tasks_lib.Answer(question.answer),),
          "kind": _kind(question.answer),
          "image_row": rows[question.image],
        }
        for i, question in enumerate(questions)
      ]
      index, first = index + len(records), first + len(numbers)
      records.sort(key=lambda record: record["image_row"])
      if part == "test":
        splits[sources.TEST] = _source(images, records)
        continue
      held_out = len(numbers) - len(numbers) // _VALIDATION
      train = [r for r in records if r["image_row"] < held_out]
      validation = [r for r in records if r["image_row"] >= held_out]
      if not train or not validation:
        raise DataError(
          f"{root / part} has {len(numbers)} images, too few to hold out a tenth."
        )
      digest.update(json.dumps(train).encode())
      answers = {record["answers"][0].text for record in train}
      splits[sources.TRAIN] = _source(images, train)
      splits[sources.VALIDATION] = _source(images, validation)
    data = tasks_lib.TaskData(
      name="easy_vqa",
      task="vqa",
      splits=splits,
      answers=tuple(sorted(answers)),
      fingerprint=digest.hexdigest()[:16],
    )
    tokenizer = request.learned(tasks_lib.training_texts(data), self.vocab_size)
    return dataclasses.replace(data, tokenizer=tokenizer)


def _source(
  images: "np.ndarray", records: list[dict[str, Any]]
) -> sources.ArraySource:
  rows = [record.pop("image_row") for record in records]
  return sources.ArraySource(images, records, rows=rows)


def _data_folder() -> pathlib.Path:
  # Finding the package does not import it, nor what it depends on.
  spec = importlib.util.find_spec(_PACKAGE)
  if spec is None or not spec.submodule_search_locations:
    raise DataError(f"easy-vqa is not installed: {_INSTALL}.")
  root = pathlib.Path(spec.submodule_search_locations[0]) / "data"
  if not root.is_dir():
    raise DataError(f"{root} does not exist: {_INSTALL} again.")
  return root


def _questions(part: pathlib.Path) -> list[Question]:
  path = part / "questions.json"
  try:
    rows = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise DataError(
      f"{path} cannot be read ({error}): {_INSTALL} again."
    ) from error
  if not (isinstance(rows, list) and rows) or any(
    not isinstance(row, list) or [type(v) for v in row] != [str, str, int]
    for row in rows
  ):
    raise DataError(f"{path} must hold rows such as {_EXAMPLE}.")
  return [Question(*row) for row in rows]


def _images(
  root: pathlib.Path, numbers: Sequence[int], image_size: int
) -> "np.ndarray":
  """The pictures of these numbers, in their order."""
  import numpy as np

  from contrastive_jax.data.sets.folder import folder_images

  images = np.empty((len(numbers), image_size, image_size, 3), np.uint8)
  resolved = root.resolve()
  try:
    paths = [
      str(folder_images.locate(resolved, f"{number}.png")) for number in numbers
    ]
    for error in folder_images.decode_each(paths, image_size, into=images):
      if error is not None:
        raise error
  except RowError as error:
    raise DataError(
      f"A picture in {root} cannot be read ({error}): {_INSTALL} again."
    ) from error
  return images


def _kind(answer: str) -> str:
  return next((kind for kind, known in _KINDS.items() if answer in known), "")
