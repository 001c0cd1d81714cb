"""Questions and their answers in the files of three data sets."""

import collections
import pathlib
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from contrastive_jax.answers import normalize_answer
from contrastive_jax.data import tasks
from contrastive_jax.data.sets.folder.folder_rows import DataError, RowError
from contrastive_jax.data.sets.official import _files, _rows

_QUESTIONS = (
  '{"questions": [{"question_id": 1, "image_id": 9, "question": "How many?"}]}'
)
_ANNOTATIONS = (
  '{"annotations": [{"question_id": 1, "answer_type": "number",'
  ' "answers": [{"answer": "2"}]}]}'
)
FORMATS: Mapping[str, _files.Format] = {
  "vqa_v2": _files.Format(
    {
      "train": ("*OpenEnded_mscoco_train*_questions.json",),
      "validation": ("*OpenEnded_mscoco_val*_questions.json",),
      "test": ("*OpenEnded_mscoco_test2*_questions.json",),
      "test_dev": ("*OpenEnded_mscoco_test-dev*_questions.json",),
    },
    f"{_QUESTIONS} with {_ANNOTATIONS}",
  ),
  "visual_genome": _files.Format(
    {"train": ("question_answers.json",)},
    '[{"id": 9, "qas": [{"qa_id": 1, "question": "How many?",'
    ' "answer": "Two."}]}]',
  ),
  "albef": _files.Format(
    {
      "train": ("vqa_train.json", "vg_qa.json"),
      "validation": ("vqa_val.json",),
      "test": ("vqa_test.json",),
    },
    '[{"image": "val2014/a.jpg", "dataset": "vqa", "question_id": 1,'
    ' "question": "How many?", "answer": ["2", "2", "two"]}]',
  ),
}
_ANNOTATORS = 10
_GENOME_WEIGHT = 0.5
_SUBSET = re.compile(r"(train|val|test)(?:-dev)?(\d{4})")


class Answers:
  """Makes `Answer`s: many questions share theirs."""

  def __init__(self) -> None:
    self._texts: dict[str, str] = {}
    self._known: dict[tuple[str, float, int], tasks.Answer] = {}

  def normalize(self, text: str) -> str:
    """The form in which answers are scored."""
    if text not in self._texts:
      # "a" is an article to the rules, but also the answer to some questions.
      self._texts[text] = normalize_answer(text) or _files.clean(text).lower()
    return self._texts[text]

  def of_annotators(
    self, texts: Sequence[Any], most_common: str | None = None
  ) -> tuple[tasks.Answer, ...]:
    """What annotators gave, `most_common` first, then by frequency."""
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
      if not isinstance(text, str):
        raise RowError("wrong type", "an answer is no text")
      if text.strip():
        counts[self.normalize(_files.clean(text))] += 1
    if not counts:
      raise RowError("no answer", "every answer is empty")
    first = None if most_common is None else self.normalize(most_common)
    ordered = sorted(
      counts.items(), key=lambda item: (item[0] != first, -item[1])
    )
    n = len(texts)
    return tuple(
      self._answer(text, count / n, max(1, round(_ANNOTATORS * count / n)))
      for text, count in ordered
    )

  def of_genome(self, text: str) -> tuple[tasks.Answer, ...]:
    """What the one person gave who wrote the question."""
    text = self.normalize(_files.clean(text))
    return (self._answer(text, _GENOME_WEIGHT, _ANNOTATORS),)

  def _answer(self, text: str, weight: float, count: int) -> tasks.Answer:
    key = text, weight, count
    return self._known.setdefault(key, tasks.Answer(*key))


def _fields(
  row: Any,
  question_id: int | str | None,
  answers: tuple[tasks.Answer, ...],
  dataset: str,
  kind: str = "",
) -> dict[str, Any]:
  return {
    "question_id": question_id,
    "question": _files.text_of(row, "question"),
    "answers": answers,
    "kind": kind,
    "dataset": dataset,
  }


def _optional(row: Mapping[str, Any], key: str) -> int | str | None:
  return _files.identifier(row, key) if row.get(key) is not None else None


def annotations_of(questions: pathlib.Path) -> pathlib.Path | None:
  """The official annotations beside a file of questions, if they are there."""
  name = questions.name.replace("OpenEnded_", "")
  name = name.replace("_questions", "_annotations")
  path = questions.with_name(name)
  return path if name != questions.name and path.is_file() else None


def vqa_v2(
  questions: pathlib.Path,
  annotations: pathlib.Path | None,
  make: Answers,
) -> list[_rows.Part]:
  """The questions of VQA v2, with their annotations unless they have none."""
  expected = f"questions of VQA v2, {_QUESTIONS}"
  value = _files.load_json(questions, expected)
  rows = _files.listed(value, "questions", questions, expected)
  subset = _SUBSET.search(str(value.get("data_subtype", ""))) or _SUBSET.search(
    questions.name
  )
  if subset is None:
    raise DataError(
      f'{questions} has no "data_subtype" such as "train2014", and no such'
      " name: the names of its images are not known."
    )
  # test-dev2015 is about images of test2015.
  images = subset.group(1) + subset.group(2)
  known, bad = _annotations(annotations)

  def parse(row: Any) -> _rows.Named:
    question_id = _files.identifier(row, "question_id")
    number = _files.member(row, "image_id", int)
    name = f"COCO_{images}_{number:012d}.jpg"
    answers: tuple[tasks.Answer, ...] = ()
    kind = ""
    if annotations is not None:
      if question_id not in known:
        raise RowError("no annotation", f"of question {question_id!r}")
      annotation = known[question_id]
      common = annotation.get("multiple_choice_answer")
      answers = make.of_annotators(
        [
          _files.member(answer, "answer", str)
          for answer in _files.member(annotation, "answers", list)
        ],
        common if isinstance(common, str) else None,
      )
      kind = _files.text_of(annotation, "answer_type").replace("/", "_")
    fields = _fields(row, question_id, answers, "vqa", kind)
    return _rows.Named(([f"{images}/{name}", name],), fields, "vqa")

  parts = [_rows.Part(questions, list(enumerate(rows, 1)), parse)]
  if annotations is not None and bad:
    parts.append(_rows.Part(annotations, bad, parse))
  return parts


def _annotations(
  path: pathlib.Path | None,
) -> tuple[dict[int | str, Any], _files.Rows]:
  """Annotations by their question, and rows that are none."""
  if path is None:
    return {}, []
  expected = f"annotations of VQA v2, {_ANNOTATIONS}"
  known: dict[int | str, Any] = {}
  bad: _files.Rows = []
  value = _files.load_json(path, expected)
  rows = _files.listed(value, "annotations", path, expected)
  for number, row in enumerate(rows, 1):
    try:
      known[_files.identifier(row, "question_id")] = row
    except RowError as error:
      bad.append((number, error))
  return known, bad


def genome(
  path: pathlib.Path, image_data: _files.Path | None, make: Answers
) -> _rows.Part:
  """The questions of Visual Genome."""
  example = FORMATS["visual_genome"].example
  expected = f"Visual Genome's questions, {example}"
  beside = path.with_name("image_data.json")
  if image_data is None and beside.is_file():
    image_data = beside
  names = _genome_names(pathlib.Path(image_data)) if image_data else {}
  rows: _files.Rows = []
  for number, image in _files.load_rows(path, expected):
    try:
      key = "id" if isinstance(image, dict) and "id" in image else "image_id"
      image_id = _files.member(image, key, int)
      # The number of a question is not known before all of them are.
      rows += [
        (number, (image_id, qa)) for qa in _files.member(image, "qas", list)
      ]
    except RowError as error:
      rows.append((number, error))

  def parse(row: Any) -> _rows.Named:
    image_id, qa = row
    answers = make.of_genome(_files.member(qa, "answer", str))
    places = [f"VG_100K/{image_id}.jpg", f"VG_100K_2/{image_id}.jpg"]
    if image_id in names:
      places.insert(0, names[image_id])
    fields = _fields(qa, _optional(qa, "qa_id"), answers, "vg")
    return _rows.Named(([*places, f"{image_id}.jpg"],), fields, "vg")

  return _rows.Part(path, rows, parse)


def _genome_names(path: pathlib.Path) -> dict[int, str]:
  """Folder and file of each image, as the end of its URL says."""
  expected = 'a list, [{"image_id": 9, "url": "https://host/VG_100K_2/9.jpg"}]'
  names = {}
  for number, row in _files.load_rows(path, expected):
    try:
      key = "image_id" if isinstance(row, dict) and "image_id" in row else "id"
      url = urllib.parse.urlsplit(_files.text_of(row, "url")).path
      names[_files.member(row, key, int)] = "/".join(url.split("/")[-2:])
    except RowError as error:
      raise DataError(
        f"Row {number:,} of {path} is wrong ({error}); expected {expected}."
      ) from error
  return names


def albef(row: Any, make: Answers) -> _rows.Named:
  """A row of ALBEF's questions on both data sets."""
  image = _files.text_of(row, "image")
  dataset = _files.member(row, "dataset", str)
  if dataset not in ("vqa", "vg"):
    raise RowError("unknown dataset", f'{dataset!r} is neither "vqa" nor "vg"')
  answers: tuple[tasks.Answer, ...] = ()
  if "answer" in row:  # Test questions have none.
    given = _files.member(row, "answer", (str, list))
    texts = given if isinstance(given, list) else [given]
    if dataset == "vqa":
      answers = make.of_annotators(texts)
    elif len(texts) == 1 and isinstance(texts[0], str):
      answers = make.of_genome(texts[0])
    else:
      raise RowError("wrong type", "a question of Visual Genome has 1 answer")
  question_id = _optional(row, "question_id")
  fields = _fields(row, question_id, answers, dataset)
  return _rows.Named(([image],), fields, dataset)
