"""Visual question answering: VQA v2, Visual Genome, ALBEF's own files."""

import collections
import functools
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from contrastive_jax.answers import normalize_answer
from contrastive_jax.data import sources, tasks
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
_SUBSET = re.compile(r"(train|val|test)(?:-dev)?(\d{4})")
_ANSWERS = '["yes", "no"]'


def load_vqa(
  opening: _rows.Opening,
  *,
  annotations: Mapping[str, Any] | None = None,
  visual_genome: _files.Path | None = None,
  image_data: _files.Path | None = None,
  answers: Sequence[str] | _files.Path | None = None,
  min_count: int = 9,
  answer_splits: Sequence[str] = (sources.TRAIN,),
) -> tasks.TaskData:
  """Opens questions about images that others publish.

  Beside the fields of its task a record has `question_id` (the data set's, or
  else the record's `index`), `image_id` (the number of its image in all of the
  data: records of an image follow each other, so that it need be encoded but
  once) and `dataset` ("vqa" or "vg"). `index` is the number of the question
  among all rows. The `kind` of a question of VQA v2 is the type of its answer
  ("yes_no", "number" or "other"), else "". Answers are as the official scoring
  takes them; the most common one, as VQA v2 names it, comes first. The weight
  of one is the share of the annotators who gave it, and `count` is that share
  of ten. An answer of Visual Genome is one person's: its weight is 0.5, as in
  ALBEF, and its count 10, so that scoring takes it for the right one. Questions
  without annotations, as those of a test split, have no answers.

  ALBEF trains on the validation questions too: its `path` is
  `{"train": ["vqa_train.json", "vqa_val.json", "vg_qa.json"]}`. COCO's images
  are in the folder of the images or in folders such as `train2014`, Visual
  Genome's in it, in `VG_100K` or in `VG_100K_2`. Or each data set has a folder,
  as {"vqa": FOLDER, "vg": FOLDER}.

  Args:
    opening: what is opened.
    annotations: of VQA v2, the files of a split if they are elsewhere, as many
      as those of its questions.
    visual_genome: of VQA v2, a `question_answers.json` to train on as well.
    image_data: `image_data.json` of Visual Genome, if it is elsewhere.
    answers: the candidates, or a JSON list of them such as ALBEF's
      `answer_list.json`, which is also found beside the training file. Without
      one they are counted.
    min_count: how many questions a candidate is the first answer of. With 9,
      train and validation of VQA v2 together give the 3,129 that are usual.
    answer_splits: where candidates are counted. Visual Genome is left out where
      there are other questions.

  Raises:
    DataError: a file cannot be used, or too many rows.
    ValueError: an argument is wrong, or is not for the format.
  """
  format = opening.format
  if min_count < 1:
    raise ValueError(f"min_count must be at least 1, got {min_count}.")
  for name, value, formats in (
    ("annotations", annotations, ("vqa_v2",)),
    ("visual_genome", visual_genome, ("vqa_v2",)),
    ("image_data", image_data, ("vqa_v2", "visual_genome")),
  ):
    if value is not None and format not in formats:
      raise ValueError(
        f"{name} is for the format {' or '.join(formats)}, got {format!r}."
      )
  if format == "albef":
    parts = opening.json_parts("a list", _albef)
    first = next(iter(opening.files.values()))[0]
    answers = _beside(first, "answer_list.json") if answers is None else answers
  elif format == "visual_genome":
    parts = opening.parts(lambda path: _genome(path, image_data))
  else:
    parts = _all_vqa_v2(opening.files, annotations)
    if visual_genome is not None:
      part = _genome(pathlib.Path(visual_genome), image_data)
      parts.setdefault(sources.TRAIN, []).append(part)
  rows = opening.read(_files.in_order(parts))
  for split, found in rows.items():
    unanswered = sum(not row.fields["answers"] for row in found)
    if split == sources.TRAIN and unanswered:
      raise DataError(
        f"{unanswered:,} of {len(found):,} training questions have no answers:"
        " their annotations are missing."
      )
    if unanswered:
      opening.report(
        f"Note: {unanswered:,} of {len(found):,} questions of the split"
        f" {split!r} have no answers: they cannot be scored here."
      )
  return opening.task_data(
    rows,
    task="vqa",
    name=format,
    answers=_counted(rows, answer_splits, min_count)
    if answers is None
    else _given(answers),
    record=_record,
  )


def _record(row: _rows.UsableRow) -> dict[str, Any]:
  record = _rows.labelled(row)
  if record["question_id"] is None:
    record["question_id"] = row.index
  return record


def _given(answers: Sequence[str] | _files.Path) -> tuple[str, ...]:
  """Candidates from a list or a file, each once."""
  what = "answers"
  listed: Any = answers
  if isinstance(answers, (str, os.PathLike)):
    path = pathlib.Path(answers)
    what, listed = str(path), _files.load_json(path, _ANSWERS)
  if not isinstance(listed, (list, tuple)) or not all(
    isinstance(text, str) and text.strip() for text in listed
  ):
    raise DataError(f"{what} must be a list of texts, {_ANSWERS}.")
  if not listed:
    raise DataError(f"{what} must have at least one answer, {_ANSWERS}.")
  return tuple(dict.fromkeys(_normalized(text) for text in listed))


def _counted(
  rows: Mapping[str, Iterable[_rows.UsableRow]],
  splits: Sequence[str],
  min_count: int,
) -> tuple[str, ...]:
  """The first answers of enough questions, the most frequent one first."""
  answered = [
    row.fields
    for split in splits
    for row in rows.get(split, ())
    if row.fields["answers"]
  ]
  # Visual Genome's answers are whole phrases, which VQA's scoring never meets.
  mixed = len({fields["dataset"] for fields in answered}) > 1
  counts = collections.Counter(
    fields["answers"][0].text
    for fields in answered
    if not (mixed and fields["dataset"] == "vg")
  )
  if not counts:
    return ()  # Nothing is to be ranked, as in a test split alone.
  ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
  candidates = tuple(text for text, count in ordered if count >= min_count)
  if not candidates:
    raise DataError(
      f"No answer is the first one of {min_count} questions (min_count); the"
      f" most frequent, {ordered[0][0]!r}, is of {ordered[0][1]}."
    )
  return candidates


def _beside(path: pathlib.Path, name: str) -> pathlib.Path | None:
  """Another file of the same folder, if it is there."""
  other = path.with_name(name)
  return other if other.is_file() and other != path else None


# Many questions share their answers.
@functools.lru_cache(2**16)
def _normalized(text: str) -> str:
  """The form in which answers are scored."""
  # "a" is an article to the rules, but also the answer to some questions.
  return normalize_answer(text) or _files.clean(text).lower()


_answer = functools.lru_cache(2**16)(tasks.Answer)


def _of_annotators(
  texts: Sequence[Any], most_common: str | None = None
) -> tuple[tasks.Answer, ...]:
  """The annotators' answers, `most_common` first, then by frequency."""
  counts: collections.Counter[str] = collections.Counter()
  for text in texts:
    if not isinstance(text, str):
      raise RowError("wrong type", "an answer is no text")
    if text.strip():
      counts[_normalized(_files.clean(text))] += 1
  if not counts:
    raise RowError("no answer", "every answer is empty")
  first = None if most_common is None else _normalized(most_common)
  ordered = sorted(
    counts.items(), key=lambda item: (item[0] != first, -item[1])
  )
  n = len(texts)
  return tuple(
    _answer(text, count / n, max(1, round(_ANNOTATORS * count / n)))
    for text, count in ordered
  )


def _of_genome(text: str) -> tuple[tasks.Answer, ...]:
  """The answer of the one person who wrote the question."""
  return (_answer(_normalized(_files.clean(text)), 0.5, _ANNOTATORS),)


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


def _all_vqa_v2(
  files: Mapping[str, list[pathlib.Path]],
  annotations: Mapping[str, Any] | None,
) -> _rows.Parts:
  named = {} if annotations is None else _files.find(annotations, {})
  if not named.keys() <= files.keys():
    raise ValueError(
      f"annotations must be of the splits {', '.join(files)}, got"
      f" {', '.join(named)}."
    )
  parts: _rows.Parts = {}
  for split, questions in files.items():
    beside: Sequence[pathlib.Path | None] = named.get(split) or [
      _beside(
        path,
        path.name.replace("OpenEnded_", "").replace(
          "_questions", "_annotations"
        ),
      )
      for path in questions
    ]
    if len(beside) != len(questions):
      raise ValueError(
        f"annotations must have {len(questions)} file(s) for the split"
        f" {split!r}, got {len(beside)}."
      )
    parts[split] = []
    for question_file, annotation_file in zip(questions, beside):
      parts[split] += _vqa_v2(question_file, annotation_file)
  return parts


def _vqa_v2(
  questions: pathlib.Path, annotations: pathlib.Path | None
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
      answers = _of_annotators(
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


def _genome(path: pathlib.Path, image_data: _files.Path | None) -> _rows.Part:
  """The questions of Visual Genome."""
  example = FORMATS["visual_genome"].example
  expected = f"Visual Genome's questions, {example}"
  image_data = image_data or _beside(path, "image_data.json")
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
    answers = _of_genome(_files.member(qa, "answer", str))
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


def _albef(row: Any) -> _rows.Named:
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
      answers = _of_annotators(texts)
    elif len(texts) == 1 and isinstance(texts[0], str):
      answers = _of_genome(texts[0])
    else:
      raise RowError("wrong type", "a question of Visual Genome has 1 answer")
  question_id = _optional(row, "question_id")
  fields = _fields(row, question_id, answers, dataset)
  return _rows.Named(([image],), fields, dataset)
